#!/usr/bin/env bash
# Publishes programs for a GPU machine that has PyTorch but no .NET, without libtorch, as one archive: program/ with them, the
# references of the tests, there.sh.
# Usage: benchmarks/gpu/pack.sh OUT.tar.xz [PROJECT...]; benchmarks/LoraSharp.Benchmarks by default; src/LoraSharp.Cli gives lora.
set -euo pipefail
out=$(realpath -m "${1:?usage: pack.sh OUT.tar.xz [PROJECT...]}")
shift
[ $# -gt 0 ] || set -- benchmarks/LoraSharp.Benchmarks
cd "$(dirname "$0")/../.."
root=$PWD
folder=$(mktemp -d)
trap 'rm -rf "$folder"; git -C "$root" checkout -q -- "*packages.lock.json"' EXIT
for project in "$@"; do
  dotnet publish "$project" -c Release -r linux-x64 --self-contained -v q -o "$folder/program"
done
cp benchmarks/gpu/there.sh "$folder"
if [[ " $* " == *" tests/"* ]]; then
  # What the tests look for above themselves.
  mkdir "$folder/tests"
  cp LoraSharp.slnx "$folder"
  cp -r tests/Fixtures "$folder/tests"
  rm -rf "$folder/tests/Fixtures/tokenizers"
fi
cd "$folder/program"
# The machine's own libtorch is used; the rest of what goes is never loaded there.
rm -rf libtorch* libc10* libgomp* libcapstone.so Microsoft.CodeAnalysis* Microsoft.Diagnostics* ./*.pdb ./*.xml assets/tiny-base \
  libclrgc*.so libmscordbi.so libmscordaccore.so createdump System.Private.DataContract* Microsoft.VisualBasic* \
  cs de es fr it ja ko pl pt-BR ru tr zh*
if [[ " $* " != *" src/LoraSharp.Cli "* ]]; then
  rm -rf Microsoft.AspNetCore* libSkiaSharp.so libHarfBuzz*
fi
cd ..
tar c . | xz -T0 -9 > "$out"
ls -l "$out"
