"""What every peer's adapter has in common: read the job, train, write the result.

An adapter trains a workload in its framework's own way, with the framework's own defaults for what the workload
does not say, and tells the clock when rounds begin and end. Batches have the size of everybody's; their order is
the framework's.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable

import torch
from torch import nn

from scripts.benchmark.hardware import forget_peak, matmul_peak, resident
from scripts.benchmark.plain import PlainLoop
from scripts.benchmark.processes import MARK
from scripts.benchmark.rounds import PairClock, Record
from scripts.benchmark.workloads import Data, Workload, named

WARM = 1

Adapter = Callable[[Workload, dict[str, Data], int, PairClock], nn.Module]
"""Trains a workload on everybody's data for so many rounds, and returns the shared network."""


def carry_out(adapter: Adapter, memory: Callable[[], float] | None = None) -> None:
    """Do the job that the command line names, and print its result.

    Args:
        adapter: The peer's.
        memory: Megabytes held by whatever trains, where that is not this process alone; asked at every round's end.
    """
    job = json.loads(sys.argv[1])
    torch.set_num_threads(job["threads"])
    workload = named(job["workload"])
    if workload.distils or len(workload.architectures) > 1:
        raise SystemExit("one network for all is what it averages: four architectures that distil are none of its")
    data = workload.data()
    record = Record()
    loop = None if job["alone"] else PlainLoop.of(workload, data=data)
    clock = PairClock(record, WARM, loop=loop, memory=memory)
    before = forget_peak()
    network = adapter(workload, data, job["rounds"] + WARM, clock)
    if job["alone"]:
        record.memory = max([*clock.held, resident("VmHWM")]) - before
    record.accuracy = workload.accuracy([network.eval()])
    if loop is not None:
        record.plain_accuracy = workload.accuracy(list(loop.networks.values())[:1])
    record.peak = matmul_peak()
    sys.stdout.write(f"\n{MARK}{json.dumps(record.as_dict())}\n")
