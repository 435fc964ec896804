#!/usr/bin/env bash
# Builds the wheel and the source archive into dist/, checks their metadata as an index would, and uses the wheel
# outside of this repository: what is installed alone has to train its examples.

# shellcheck source=scripts/common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"
bootstrap all

away=$(mktemp -d)
trap 'rm -rf "$away"' EXIT

say "installing build and twine into a folder of their own"
.venv/bin/python -m venv "$away/tools"
"$away/tools/bin/python" -m pip install -qq --no-input build twine

rm -rf dist
"$away/tools/bin/python" -m build --outdir dist . >"$away/log" 2>&1 || { cat "$away/log"; fail "the build failed"; }
"$away/tools/bin/python" -m twine check --strict dist/*

.venv/bin/python -m pip install -qq --no-input --no-deps --target "$away/site" dist/*.whl
cd "$away"
hetfed() { PYTHONPATH="$away/site" "$root/.venv/bin/python" -m hetfed_lightning "$@"; }
[[ $(hetfed doctor) == *"$away/site/hetfed_lightning/configs"* ]] || fail "the wheel lacks its examples"
hetfed --version
hetfed examples digits -o mine.yaml
for config in mine.yaml hetfed:digits; do
    hetfed fit -c "$config" --trainer.fast_dev_run 1 >"$away/log" 2>&1 || { cat "$away/log"; fail "it did not train"; }
done
say "packed, checked and used: $(cd "$root" && echo dist/*)"
