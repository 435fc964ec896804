#!/usr/bin/env bash
# Checks style, format and types. All three run, so that one look shows everything there is to mend.

# shellcheck source=scripts/common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"
bootstrap dev

status=0
for check in "ruff check" "ruff format --check" "mypy"; do
    say "$check"
    # shellcheck disable=SC2086 # a command and its options, to be split
    .venv/bin/python -m $check || status=1
done
exit "$status"
