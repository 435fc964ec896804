"""Seeds for every random stream of a federation, derived from names instead of from what ran before.

Resuming exactly does not need a saved generator if every stream can be named: the seed of a stream is a hash
of (federation seed, round, participant, batch, ...), so the hundredth batch draws the same numbers whether 99
batches ran before it in this process or none did.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

_SEED_BITS = 63


def stream_seed(*parts: int | str) -> int:
    """Seed of the stream that ``parts`` name.

    Args:
        parts: What the stream belongs to, outermost first, e.g. ``(seed, round, "hospital_a", batch)``.

    Returns:
        An integer in [0, 2**63), equal in every process and on every platform.
    """
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> (64 - _SEED_BITS)


def stream_generator(*parts: int | str) -> torch.Generator:
    """CPU generator at the start of the stream that ``parts`` name."""
    return torch.Generator().manual_seed(stream_seed(*parts))


def seed_torch(seed: int, device: torch.device) -> None:
    """Seed the default generators that a step on ``device`` draws from.

    ``torch.manual_seed`` visits every backend and costs hundreds of microseconds; this runs before each local
    step, so it touches the one or two generators that matter.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        index = device.index if device.index is not None else torch.cuda.current_device()
        torch.cuda.default_generators[index].manual_seed(seed)


def seed_all(seed: int, device: torch.device) -> None:
    """Seed everything that a user's code may draw from: torch on the CPU and on ``device``, ``random`` and NumPy."""
    seed_sample(seed)
    seed_torch(seed, device)


@contextmanager
def streams_kept(device: torch.device) -> Iterator[None]:
    """A context after which torch (on the CPU and on ``device``), ``random`` and NumPy go on where they stood."""
    theirs, own, array = torch.get_rng_state(), random.getstate(), np.random.get_state()  # noqa: NPY002 - as below
    on_device = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    try:
        yield
    finally:
        torch.set_rng_state(theirs)
        random.setstate(own)
        np.random.set_state(array)  # noqa: NPY002 - as below
        if on_device is not None:
            torch.cuda.set_rng_state(on_device, device)


def seed_sample(seed: int) -> None:
    """Seed what a sample's transform may draw from: torch on the CPU, ``random`` and NumPy."""
    torch.default_generator.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)  # noqa: NPY002 - seeds the legacy generator that users' transforms draw from
