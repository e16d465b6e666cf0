#!/usr/bin/env bash
# Everything that wants a GPU, in under 9 minutes: the tests that need CUDA, then one table of
# figures, and the same as JSON. `benchmarks/gpu.sh OUTPUT_FOLDER [cuda|cpu [--mini]]`
# It needs `pip install -e '.[bench,test]'`. On a CPU with --mini it tests itself, in a quarter of a
# minute on an idle machine (`tests/test_benchmarks.py`).
set -euo pipefail
output="${1:?give a folder for the results}" device="${2:-cuda}" mini="${3:-}"
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python="${PYTHON:-python}"
mkdir -p "$output"
if [ "$device" = cuda ]; then
  "$python" -m pytest -q -p no:cacheprovider -k cuda tests/clipping tests/privacy | tee "$output/tests.txt"
fi
"$python" benchmarks/gpu.py --device "$device" --json "$output/gpu.json" $mini | tee "$output/gpu.md"
