#!/usr/bin/env bash
# Runs on the GPU machine, in the folder that run.sh unpacked: the tests against the references in float32 on the GPU, the
# checks of the kernels, then the timings. Prints one JSON line a figure and, last, what failed. Arguments: tests, check,
# train, decode (all of them by default).
set -uo pipefail
cd "$(dirname "$0")"
export LORASHARP_TORCH=${LORASHARP_TORCH:-$(python3 -c 'import torch; print(torch.__path__[0] + "/lib")')}
failed=()
step() { echo "## $*"; "$@" || failed+=("$*"); }
has() { [ $# -eq 1 ] || [[ " ${*:2} " == *" $1 "* ]]; }
nvidia-smi --query-gpu=name,driver_version --format=csv,noheader
if has tests "$@"; then
  step env LORASHARP_TEST_DEVICE=cuda ./program/LoraSharp.Tests -class '*GoldenModelTests' -class '*AdapterModelTests' -class '*TrajectoryTests' \
    -class '*FamilyTrainingTests' -class '*QloraTests' -class '*GpuNumbersTests' -parallel none
fi
if has check "$@"; then
  step ./program/LoraSharp.Benchmarks gpu-train check
  step ./program/LoraSharp.Benchmarks gpu-decode check
fi
if has train "$@"; then
  for work in "1b 8" "1b 8 packed" "0.5b 8" "8b 8" "8b 8 nf4" "8b 6 nf4 ckpt batch=4" "65b 3 nf4 ckpt"; do
    step ./program/LoraSharp.Benchmarks gpu-train $work
  done
fi
if has decode "$@"; then
  for work in "1b adapters=0" "1b adapters=8" "1b adapters=32" "1b requests=128 adapters=8" "8b adapters=0" "8b adapters=8" "8b adapters=32"; do
    step ./program/LoraSharp.Benchmarks gpu-decode $work
  done
fi
echo "failed: ${failed[*]:-nothing}"
[ ${#failed[@]} -eq 0 ]
