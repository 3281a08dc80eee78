#!/usr/bin/env bash
# Publishes a program for a GPU machine that has PyTorch but no .NET, without libtorch, as one archive.
# Usage: benchmarks/gpu/pack.sh OUT.tar.xz [PROJECT]; PROJECT is benchmarks/LoraSharp.Benchmarks (the default) or
# src/LoraSharp.Cli (without what serving and the quickstart need).
# There: tar xJf, set LORASHARP_TORCH, run ./LoraSharp.Benchmarks gpu-train check, or ./lora doctor.
set -euo pipefail
out=$(realpath -m "${1:?usage: pack.sh OUT.tar.xz [PROJECT]}")
project=${2:-benchmarks/LoraSharp.Benchmarks}
cd "$(dirname "$0")/../.."
root=$PWD
folder=$(mktemp -d)
trap 'rm -rf "$folder"; git -C "$root" checkout -q -- "*packages.lock.json"' EXIT
dotnet publish "$project" -c Release -r linux-x64 --self-contained -v q -o "$folder"
cd "$folder"
# The machine's own libtorch is used; the rest of what goes is never loaded by training, evaluation and sweeps.
rm -rf libtorch* libc10* libgomp* libcapstone.so Microsoft.CodeAnalysis* Microsoft.Diagnostics* Microsoft.AspNetCore* ./*.pdb ./*.xml assets/tiny-base \
  libclrgc*.so libmscordbi.so libmscordaccore.so createdump System.Private.DataContract* Microsoft.VisualBasic* System.Private.Xml* \
  cs de es fr it ja ko pl pt-BR ru tr zh*
if [ "$project" != src/LoraSharp.Cli ]; then
  rm -rf libSkiaSharp.so
fi
tar c . | xz -T0 -9 > "$out"
ls -l "$out"
