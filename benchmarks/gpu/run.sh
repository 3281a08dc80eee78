#!/usr/bin/env bash
# The tests and benchmarks of a GPU in one call: publishes them self-contained (the machine needs PyTorch, no .NET), packs them
# with the references, and runs there.sh on the machine, or here without one.
# Usage: benchmarks/gpu/run.sh [--host SSH_HOST] [tests] [check] [train] [decode]
set -euo pipefail
host=
if [ "${1:-}" = --host ]; then
  host=${2:?usage: run.sh [--host SSH_HOST] [tests] [check] [train] [decode]}
  shift 2
fi
root=$(cd "$(dirname "$0")/../.." && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$root/benchmarks/gpu/pack.sh" "$folder/pack.tar.xz" tests/LoraSharp.Tests benchmarks/LoraSharp.Benchmarks
if [ -n "$host" ]; then
  ssh "$host" 'rm -rf lorasharp-gpu && mkdir lorasharp-gpu && tar xJ -C lorasharp-gpu' < "$folder/pack.tar.xz"
  ssh "$host" lorasharp-gpu/there.sh "$@"
else
  mkdir "$folder/there"
  tar xJf "$folder/pack.tar.xz" -C "$folder/there"
  "$folder/there/there.sh" "$@"
fi
