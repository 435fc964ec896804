"""Seeds of all random streams of a federation, derived from names instead of from earlier draws.

An exact resume needs no saved generator if every stream has a name: its seed is a hash of (federation seed, round,
participant, batch, ...). So the hundredth batch draws the same numbers in a fresh process as after 99 batches.
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
    """Seed of the stream named by ``parts``.

    Args:
        parts: Names and numbers, outermost first, e.g. ``(seed, round, "hospital_a", batch)``.

    Returns:
        An integer in [0, 2**63), equal in every process and on every platform.
    """
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> (64 - _SEED_BITS)


def stream_generator(*parts: int | str) -> torch.Generator:
    """CPU generator at the start of the stream named by ``parts``."""
    return torch.Generator().manual_seed(stream_seed(*parts))


def seed_torch(seed: int, device: torch.device) -> None:
    """Seed torch's default generators of the CPU and of ``device``.

    ``torch.manual_seed`` visits every backend and costs hundreds of microseconds. This runs before each local step, so
    it seeds the one or two generators of the step.

    Args:
        seed: Seed in [0, 2**63).
        device: Device of the step.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        index = device.index if device.index is not None else torch.cuda.current_device()
        torch.cuda.default_generators[index].manual_seed(seed)


def seed_all(seed: int, device: torch.device) -> None:
    """Seed torch on the CPU and on ``device``, ``random`` and NumPy.

    Args:
        seed: Seed in [0, 2**63).
        device: Device of the computation.
    """
    seed_sample(seed)
    seed_torch(seed, device)


@contextmanager
def streams_kept(device: torch.device) -> Iterator[None]:
    """Context after which torch (on the CPU and on ``device``), ``random`` and NumPy have their states of before."""
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
    """Seed torch on the CPU, ``random`` and NumPy before a sample's transform."""
    torch.default_generator.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)  # noqa: NPY002 - seeds the legacy generator that users' transforms draw from
