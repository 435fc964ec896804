#!/usr/bin/env bash
# Trains the federation of configs/digits.yaml and says where its curves and checkpoints lie.
# Options go to hetfed: scripts/demo.sh --trainer.max_epochs 2

# shellcheck source=scripts/common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"
bootstrap all

started=$(mktemp)
trap 'rm -f "$started"' EXIT

.venv/bin/hetfed fit -c configs/digits.yaml "$@"

# Where a run writes is the configuration's choice: look for what is newer than the start.
written() { find "$root" \( -name .venv -o -name .git \) -prune -o -name "$1" -newer "$started" -print | sort; }

checkpoints=$(written '*.ckpt')
logs=$(written 'events.out.tfevents.*')

echo
if [[ -n $checkpoints ]]; then
    echo "Checkpoints:"
    while IFS= read -r path; do echo "  $path"; done <<<"$checkpoints"
    echo "On data that nobody trained on, and beside training alone (two minutes):"
    printf '  %q test -c configs/digits.yaml --ckpt_path %q\n' "$root/.venv/bin/hetfed" "$(head -n 1 <<<"$checkpoints")"
    printf '  %q compare -c configs/digits.yaml\n' "$root/.venv/bin/hetfed"
fi
if [[ -n $logs ]]; then
    echo "Curves, one chart per metric with a line per participant:"
    while IFS= read -r path; do
        printf '  %q --logdir %q\n' "$root/.venv/bin/tensorboard" "$(dirname -- "$path")"
    done <<<"$logs"
fi
