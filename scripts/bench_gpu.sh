#!/usr/bin/env bash
# What one GPU tells in ten minutes, in one file: bash scripts/bench_gpu.sh [FILE [CHECKOUT of neuraptic/cpe-clip]]
# DEVICE=cpu: the same with small numbers, to see that it runs.
set -u
cd "$(dirname "$0")/.."
file=${1:-outputs/bench_gpu.txt} official=${2:+--official $2} device=${DEVICE:-cuda}
python=${PYTHON:-.venv/bin/python}
mkdir -p "$(dirname "$file")"
places="paths.outputs=$(mktemp -d) logger=none"
failed=0

part() {  # title, seconds, command: what it prints goes into the file; a part that fails ends no other
  printf '\n## %s\n\n' "$1"
  timeout "$2" "${@:3}" || { echo "FAILED with code $?: ${*:3}"; failed=1; }
}

parts() {
  if [ "$device" = cuda ]; then
    part "GPU" 20 nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv
    for precision in fp32 bf16; do
      part "CPE-CLIP's steps, $precision" 120 $python scripts/bench_cpe_clip.py --device cuda --precision $precision $official
      part "launches, $precision" 60 $python scripts/bench_launches.py --device cuda --precision $precision
    done
    for size in 4 32 64; do
      part "steps of methods, batch $size" 60 $python scripts/bench_methods.py --methods cpe_clip zscl lora --batch-size $size
    done
    for precision in 32-true bf16-mixed; do
      part "default run, $precision" 60 $python -m everclip.commands.run trainer=gpu trainer.precision=$precision $places
    done
    part "tests" 120 $python -m pytest -q -m gpu tests
  else
    part "CPE-CLIP's steps" 300 $python scripts/bench_cpe_clip.py --only 0 --repeats 1 --no-memory $official
    part "launches" 120 $python scripts/bench_launches.py --model ViT-S-32 --batch-sizes 4 --repeats 2 --blocks plain
    part "steps of methods" 300 $python scripts/bench_methods.py --methods cpe_clip zscl --backbone tiny --batch-size 4 --repeats 1
    part "default run" 300 $python -m everclip.commands.run trainer=cpu max_sessions=1 train.max_steps=2 $places
    part "tests" 300 env EVERCLIP_TEST_ACCELERATOR=cpu $python -m pytest -q -m gpu tests
  fi
}

$python -c 'import torch; print("torch", torch.__version__)' > "$file"
parts >> "$file" 2>&1
cat "$file"
exit $failed
