#!/usr/bin/env bash
# Puts the experiments' rows together: all training rows, and an even sample of the others, so that every part of a
# sorted file is in it. Usage: prepare.sh DATA OUT; DATA holds e2e_nlg/ and wikisql/ as gzipped JSON lines.
set -euo pipefail
data=${1:?usage: prepare.sh DATA OUT}
out=${2:?usage: prepare.sh DATA OUT}
mkdir -p "$out"
every() { zcat "$1" | awk -v n="$2" 'NR % n == 0' | gzip -9n > "$3"; }
cp "$data/e2e_nlg/train.jsonl.gz" "$out/e2e-train.jsonl.gz"
every "$data/e2e_nlg/valid.jsonl.gz" 2 "$out/e2e-valid.jsonl.gz"
every "$data/e2e_nlg/test.jsonl.gz" 2 "$out/e2e-test.jsonl.gz"
cp "$data/wikisql/train.jsonl.gz" "$out/wikisql-train.jsonl.gz"
every "$data/wikisql/dev.jsonl.gz" 30 "$out/wikisql-valid.jsonl.gz"
every "$data/wikisql/test.jsonl.gz" 50 "$out/wikisql-test.jsonl.gz"
