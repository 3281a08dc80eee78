#!/usr/bin/env bash
# The paper's tables: one `lora sweep` a data set. Results (sweep.json, sweep.csv) are written anew after each trial, so
# a run that is cut off leaves what it has. Before each sweep a trial of two steps tells whether everything fits.
# Usage: tables.sh MODEL DATA OUT [STEPS] [DATA_SET...]
#   MODEL  SmolLM2-135M-Instruct, a folder or .gguf    DATA  what prepare.sh made    STEPS  optimizer steps a trial
#   LORA   the command (default: lora)                 MORE  further --set settings, e.g. "sweep.test_rows=8"
set -uo pipefail
model=${1:?usage: tables.sh MODEL DATA OUT [STEPS] [DATA_SET...]}
data=$(realpath "${2:?}")
out=$(realpath -m "${3:?}")
steps=${4:-200}
sets=("${@:5}")
[ ${#sets[@]} -gt 0 ] || sets=(e2e wikisql)
here=$(cd "$(dirname "$0")" && pwd)
lora=${LORA:-lora}
mkdir -p "$out"
failed=0
for name in "${sets[@]}"; do
  settings=(--set "model=$model" --set overwrite=true)
  for part in train validation; do
    settings+=(--set "data.$part=$data/$name-${part/validation/valid}.jsonl.gz")
  done
  for more in ${MORE:-}; do
    settings+=(--set "$more")
  done
  test=(--set "sweep.test=$data/$name-test.jsonl.gz")
  if ! $lora sweep "$here/$name.yaml" "${settings[@]}" "${test[@]}" --set training.max_steps=2 --set sweep.ranks=8 --set sweep.targets=q_proj \
      --set 'sweep.full_learning_rates=[]' --set sweep.test_rows=4 --set "output=$out/trial-$name" > "$out/trial-$name.log" 2>&1; then
    echo "$name: generating test answers does not work here (trial-$name.log); going on with losses alone"
    test=(--set "sweep.test=$data/$name-test.jsonl.gz" --set sweep.test_tokens=0)
  fi
  $lora sweep "$here/$name.yaml" "${settings[@]}" "${test[@]}" --set "training.max_steps=$steps" --set "output=$out/$name" 2>&1 | tee "$out/$name.log" || failed=1
  rm -rf "$out/$name/adapters" "$out/trial-$name"
done
exit $failed
