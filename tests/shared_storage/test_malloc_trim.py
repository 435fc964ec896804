import os
from pathlib import Path

import pytest
import torch

from hetfed_lightning.shared_storage import malloc_trim as memory


def megabytes() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


@pytest.mark.skipif(memory._trim() is None or not Path("/proc/self/statm").exists(), reason="glibc on Linux alone")
def test_what_was_freed_between_other_blocks_is_handed_back() -> None:
    blocks = [torch.ones(2**14) for _ in range(2000)]  # 64 KB each, below what the library maps by itself.
    kept = blocks[::20]
    del blocks
    before = megabytes()
    memory.hand_back()
    assert before - megabytes() > 60  # Of 119 MB.
    assert all(bool((block == 1).all()) for block in kept)
