"""What the machine can do, and what a process holds."""

from __future__ import annotations

import ctypes
import gc
import os
import platform
import resource
import sys
import time
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from scripts.benchmark.workloads import Workload

STATUS = Path("/proc/self/status")
REFERENCES = Path("/proc/self/clear_refs")
MEGABYTE = 2**20


def synchronise(device: str) -> None:
    """Wait for what was queued on a GPU, so that clocks measure work, not queueing."""
    if device == "cuda":
        torch.cuda.synchronize()


def matmul_peak(device: str = "cpu", repeats: int = 12) -> float:
    """FLOP/s of a large float32 matrix product, the best of ``repeats``, with the threads now set."""
    size = 8192 if device == "cuda" else 1024  # a GPU is not filled by less
    left, right = (torch.randn(size, size, device=device) for _ in range(2))
    best = float("inf")
    for _ in range(repeats):
        synchronise(device)
        started = time.perf_counter()
        torch.mm(left, right)
        synchronise(device)
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best


def flops_of_round(workload: Workload) -> float:
    """Floating-point operations of the local steps of a round: three times those of the forward passes.

    Matrix products and convolutions alone; distillation counts its forward passes and as many steps as it makes.
    """
    total = 0.0
    networks = workload.networks()
    inputs = workload.drawn(workload.batch_size, 0)[0]
    counted: dict[str, float] = {}
    for network in networks.values():
        kind = repr(network)
        if kind not in counted:
            counter = FlopCounterMode(display=False)
            with counter, torch.no_grad():
                network(inputs)
            counted[kind] = counter.get_total_flops() / workload.batch_size
        examples = 3.0 * workload.examples
        if workload.distils:
            examples += 4.0 * len(workload.public())
        total += counted[kind] * examples
    return total


def resident(field: str = "VmRSS") -> float:
    """Megabytes of memory that the process holds now (``VmRSS``) or held at most (``VmHWM``)."""
    if not STATUS.exists():  # Only the most is known elsewhere, in bytes on macOS.
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most / (MEGABYTE if sys.platform == "darwin" else 1024)
    line = next(line for line in STATUS.read_text(encoding="ascii").splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1024


def resident_together() -> float:
    """Megabytes that the process and all below it hold now, memory that several share counted once."""
    total, waiting = 0.0, [os.getpid()]
    while waiting:
        folder = Path(f"/proc/{waiting.pop()}")
        try:
            lines = (folder / "smaps_rollup").read_text(encoding="ascii").splitlines()
            below = [
                int(pid) for task in (folder / "task").iterdir() for pid in (task / "children").read_text().split()
            ]
        except OSError:  # It has ended meanwhile, or this is no Linux.
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024
        waiting += below
    return total


def held(device: str = "cpu") -> float:
    """Megabytes held now: of the process, or of a GPU's memory by tensors."""
    return torch.cuda.memory_allocated() / MEGABYTE if device == "cuda" else resident()


def most_held(device: str = "cpu") -> float:
    """Megabytes held at most since :func:`forget_peak`; of a GPU's memory by tensors."""
    return torch.cuda.max_memory_allocated() / MEGABYTE if device == "cuda" else resident("VmHWM")


def forget_peak(device: str = "cpu") -> float:
    """Let :func:`most_held` begin anew; returns the megabytes held now, without what could be used again."""
    gc.collect()
    if device == "cuda":
        torch.cuda.init()  # Before it there is no peak to forget, which is an error.
        torch.cuda.reset_peak_memory_stats()
        return held(device)
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's; others have none
    if trim is not None:
        trim(0)
    if REFERENCES.exists():
        REFERENCES.write_text("5", encoding="ascii")
    return resident()


def describe(device: str, threads: int) -> str:
    """The machine in a line, and on a GPU what torch may round; both programs of a pair run in one process with it.

    Raises:
        ValueError: If there is no such device.
    """
    software = f"{threads} thread(s), Python {platform.python_version()}, torch {torch.__version__}"
    if device != "cuda":
        return f"{platform.machine()}, {software}"
    if not torch.cuda.is_available():
        raise ValueError(
            f"--device cuda: torch {torch.__version__} finds no GPU. Use --device cpu, or a build of torch for this "
            "machine's driver."
        )
    products = torch.get_float32_matmul_precision()
    convolutions = "TF32" if torch.backends.cudnn.allow_tf32 else "float32"
    tuned = "tuned" if torch.backends.cudnn.benchmark else "not tuned"
    return (
        f"{torch.cuda.get_device_name()}, {software}, matrix products in {products} precision, convolutions in "
        f"{convolutions} and {tuned}"
    )
