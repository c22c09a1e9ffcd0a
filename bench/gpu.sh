#!/usr/bin/env bash
# One command for a machine with an NVIDIA card and nothing to download: builds for that card, runs the GPU tests, measures
# synthetic models of real shapes beside what the card could do, and prints a table. Under ten minutes on a current card.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
folder=${TMPDIR:-/tmp}/halfbyte-gpu
mkdir -p "$folder"

nvidia-smi -L >/dev/null 2>&1 || { echo "nvidia-smi finds no NVIDIA card here; bench/gpu.py --dry-run tries the steps without one." >&2; exit 1; }
command -v nvcc >/dev/null || { echo "nvcc is not on the PATH: install the CUDA toolkit." >&2; exit 1; }
"$python" -c "import pybind11, numpy, pytest" || { echo "pip install pybind11 numpy pytest first." >&2; exit 1; }

cmake -S . -B build/gpu -DCMAKE_BUILD_TYPE=Release -DHALFBYTE_CUDA=ON -DHALFBYTE_CUDA_ARCHITECTURES=native \
  -DPython_EXECUTABLE="$(command -v "$python")" -Dpybind11_DIR="$("$python" -m pybind11 --cmakedir)" \
  -DCMAKE_LIBRARY_OUTPUT_DIRECTORY="$PWD/python/halfbyte" -DSKBUILD_PROJECT_VERSION=0.1.0 >"$folder/cmake.log"
cmake --build build/gpu --parallel "$(nproc)" >"$folder/build.log" || { tail -20 "$folder/build.log" >&2; exit 1; }
nvcc -O3 -std=c++20 -arch=native -Icsrc --expt-relaxed-constexpr bench/gpu_rates.cu csrc/base/error.cpp -o "$folder/rates"

export PYTHONPATH="$PWD/python"
"$python" -m halfbyte doctor
"$python" -m pytest -q -p no:cacheprovider tests/cuda -k "card or without or broken"
"$python" bench/gpu.py --rates "$folder/rates" --folder "$folder" "$@"
