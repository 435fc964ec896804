"""Our rules beside another implementation's, where that is installed (scripts/cross_check.py installs it)."""

import pytest

from scripts.rules.against_flower import FLOWER, FOLDER, differences, random_case

PYTHON = FOLDER / "bin" / "python"


@pytest.mark.slow
@pytest.mark.skipif(not PYTHON.exists(), reason=f"no environment with {FLOWER}; scripts/cross_check.py makes it")
def test_rules_agree_with_flowers() -> None:
    found = differences([random_case(seed) for seed in range(1000)], PYTHON)
    assert found.keys() == {"median", "trimmed mean", "Krum", "Multi-Krum"}
    # Values reach some hundreds, and the order of sums differs.
    assert all(apart < 1e-12 for apart in found.values()), found
