#!/usr/bin/env bash
# Publishes the benchmarks for a GPU machine that has PyTorch but no .NET, without libtorch, as one archive.
# Usage: benchmarks/gpu/pack.sh OUT.tar.xz; there: tar xJf, set LORASHARP_TORCH, run ./LoraSharp.Benchmarks gpu-train check.
set -euo pipefail
out=$(realpath -m "${1:?usage: pack.sh OUT.tar.xz}")
cd "$(dirname "$0")/../.."
folder=$(mktemp -d)
trap 'rm -rf "$folder"; git checkout -q -- "*packages.lock.json"' EXIT
dotnet publish benchmarks/LoraSharp.Benchmarks -c Release -r linux-x64 --self-contained -v q -o "$folder"
cd "$folder"
# The machine's own libtorch is used; the rest of what goes is never loaded by gpu-train.
rm -rf libtorch* libc10* libgomp* libcapstone.so libSkiaSharp.so Microsoft.CodeAnalysis* Microsoft.Diagnostics* Microsoft.AspNetCore* ./*.pdb ./*.xml
tar c . | xz -T0 -3 > "$out"
ls -l "$out"
