#!/usr/bin/env bash
# Builds the documentation into site/, strictly and without a network, and opens nothing; options go to mkdocs build.

# shellcheck source=scripts/common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"
bootstrap dev

# The theme advertises its successor.
NO_MKDOCS_2_WARNING=1 .venv/bin/python -m mkdocs build --quiet --strict --clean "$@"
say "the pages are in $root/site: open site/index.html"
