#!/usr/bin/env bash
# One command for a machine with an NVIDIA card and nothing to download: builds for that card, runs the GPU tests, measures
# synthetic models of real shapes beside what the card could do, and prints a table. Ten minutes in all: what is left when
# they are over is named and left out.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
folder=${TMPDIR:-/tmp}/halfbyte-gpu
mkdir -p "$folder"

fail() {
  echo "$1" >&2
  exit 1
}
missing_of() {
  "$python" - "$@" <<'PYTHON'
import importlib.util, sys
print(*(name for name in sys.argv[1:] if importlib.util.find_spec(name) is None))
PYTHON
}

nvidia-smi -L >/dev/null 2>&1 || fail "nvidia-smi finds no NVIDIA card here, so there is nothing to measure; bench/gpu.py --dry-run tries the steps without one."
[ -n "$(command -v nvcc)" ] || [ ! -x /usr/local/cuda/bin/nvcc ] || PATH=/usr/local/cuda/bin:$PATH
for tool in nvcc cmake "$python"; do
  command -v "$tool" >/dev/null || fail "$tool is not on the PATH: the CUDA toolkit, CMake and Python are needed."
done
missing=$(missing_of pybind11 numpy pytest)
[ -z "$missing" ] || fail "$python lacks: $missing. Install them first (pip install $missing)."

ninja=$(command -v ninja >/dev/null && echo "-G Ninja" || true)
build() {
  # shellcheck disable=SC2086
  cmake -S . -B build/gpu $ninja -DCMAKE_BUILD_TYPE=Release -DHALFBYTE_CUDA=ON -DHALFBYTE_CUDA_ARCHITECTURES=native \
    -DPython_EXECUTABLE="$(command -v "$python")" -Dpybind11_DIR="$("$python" -m pybind11 --cmakedir)" \
    -DCMAKE_LIBRARY_OUTPUT_DIRECTORY="$PWD/python/halfbyte" -DSKBUILD_PROJECT_VERSION=0.1.0
  cmake --build build/gpu --parallel "$(nproc)"
  nvcc -O3 -std=c++20 -arch=native -Icsrc --expt-relaxed-constexpr bench/gpu_rates.cu csrc/base/error.cpp -o "$folder/rates"
}
build >"$folder/build.log" 2>&1 || { tail -20 "$folder/build.log" >&2; fail "The build failed; all of it is in $folder/build.log."; }
echo "Built for this card in $SECONDS s."

export PYTHONPATH="$PWD/python"
tests=(tests/cuda)
missing=$(missing_of tokenizers jinja2 rich huggingface_hub)
if [ -n "$missing" ]; then
  echo "Tests of whole models are left out: $python lacks $missing."
  tests=(tests/cuda/test_kernels.py)
fi
# The settings of pyproject.toml want plugins that only whole test runs need.
"$python" -m pytest -q -c /dev/null --rootdir "$PWD" --import-mode=importlib -p no:cacheprovider "${tests[@]}" -k card
"$python" bench/gpu.py --rates "$folder/rates" --seconds "$((600 - SECONDS))" "$@"
