#!/usr/bin/env bash
# Runs the tests; options go to pytest: scripts/test.sh -m slow, scripts/test.sh tests/aggregation -x

# shellcheck source=scripts/common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"
bootstrap dev

exec .venv/bin/python -m pytest "$@"
