#!/usr/bin/env bash
# One command for a machine with an NVIDIA card and nothing to download: builds for that card, runs the GPU tests, measures
# synthetic models of real shapes beside what the card could do, and prints a table. Ten minutes in all: each phase has a
# limit of its own, and one that fails is named while the others go on. Everything it leaves lies in one folder.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
python=${PYTHON:-python3}
folder=${TMPDIR:-/tmp}/halfbyte-gpu
limit=${HALFBYTE_GPU_SECONDS:-600}
mkdir -p "$folder"
failed=()

fail() {
  echo "$1" >&2
  exit 1
}
left() { echo $((limit - SECONDS)); }
# phase SECONDS NAME COMMAND...: the command's output goes to the terminal and into NAME.log; false when it fails.
phase() {
  local most=$1 name=$2
  shift 2
  [ "$most" -le "$(left)" ] || most=$(left)
  echo "=== $name (at $SECONDS s, at most $most s)"
  [ "$most" -gt 5 ] || { echo "Left out: the time is over."; failed+=("$name"); return 1; }
  timeout --kill-after=10 "$most" "$@" 2>&1 | tee "$folder/$name.log"
  local status=${PIPESTATUS[0]}
  [ "$status" -eq 0 ] && return 0
  [ "$status" -eq 124 ] && echo "Stopped after $most s." || echo "Failed with $status; see $folder/$name.log."
  failed+=("$name")
  return 1
}
missing_of() {
  "$python" - "$@" <<'PYTHON'
import importlib.util, sys
print(*(name for name in sys.argv[1:] if importlib.util.find_spec(name) is None))
PYTHON
}

nvidia-smi -L >/dev/null 2>&1 || fail "nvidia-smi finds no NVIDIA card here, so there is nothing to measure; bench/gpu.py --dry-run tries the steps without one."
for place in /usr/local/cuda/bin /usr/lib/cuda/bin /opt/cuda/bin; do
  command -v nvcc >/dev/null || [ ! -x "$place/nvcc" ] || PATH=$place:$PATH
done
for tool in nvcc cmake timeout "$python"; do
  command -v "$tool" >/dev/null || fail "$tool is not on the PATH: the CUDA toolkit, CMake, coreutils and Python are needed."
done
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || fail "$python is older than 3.11; set PYTHON to a later one."
missing=$(missing_of pybind11 numpy pytest)
[ -z "$missing" ] || fail "$python lacks: $missing. Install them first (pip install $missing)."

{ nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm,clocks.max.mem --format=csv; nvcc --version | tail -2; } 2>&1 | tee "$folder/machine.log"

rates() { nvcc -O3 -std=c++20 -arch=native -Icsrc --expt-relaxed-constexpr bench/gpu_rates.cu csrc/base/error.cpp -o "$folder/rates"; }
build() {
  local ninja=()
  ! command -v ninja >/dev/null || ninja=(-G Ninja)
  cmake -S . -B build/gpu "${ninja[@]}" -DCMAKE_BUILD_TYPE=Release -DHALFBYTE_CUDA=ON -DHALFBYTE_CUDA_ARCHITECTURES=native \
    -DPython_EXECUTABLE="$(command -v "$python")" -Dpybind11_DIR="$("$python" -m pybind11 --cmakedir)" \
    -DCMAKE_LIBRARY_OUTPUT_DIRECTORY="$PWD/python/halfbyte" -DSKBUILD_PROJECT_VERSION=0.1.0 &&
    cmake --build build/gpu --parallel "$(nproc)"
}
export -f rates build
export folder python
phase 60 rates bash -c rates
phase 300 build bash -c build >/dev/null || { tail -20 "$folder/build.log"; fail "Without the build there is nothing to test or measure; all of its words are in $folder/build.log."; }

export PYTHONPATH="$PWD/python" PYTHONUNBUFFERED=1
tests=(tests/cuda)
missing=$(missing_of tokenizers jinja2 rich huggingface_hub safetensors)
if [ -n "$missing" ]; then
  echo "Tests of whole models are left out: $python lacks $missing."
  tests=(tests/cuda/test_kernels.py)
fi
# The settings of pyproject.toml want plugins that only whole test runs need.
pytest=("$python" -m pytest -q -c /dev/null --rootdir "$PWD" --import-mode=importlib -p no:cacheprovider)
phase 120 tests "${pytest[@]}" "${tests[@]}" -k card
if [ -x "$folder/rates" ]; then
  phase "$(left)" speed "$python" bench/gpu.py --rates "$folder/rates" --seconds "$(($(left) - 15))" --out "$folder/gpu.json" "$@"
else
  echo "Nothing is measured: the program that measures the card's own rates did not compile."
fi
echo "=== Done after $SECONDS s; logs and figures are in $folder."
[ ${#failed[@]} -eq 0 ] || fail "Not everything went well: ${failed[*]}."
