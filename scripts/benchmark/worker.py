"""One measurement in a process of its own: ``python -m scripts.benchmark.worker '{"kind": "pair", ...}'``.

Prints its result as one line of JSON after ``RESULT``; everything else that is printed is no result.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from typing import Any

import torch

from scripts.benchmark import memory
from scripts.benchmark.hardware import matmul_peak
from scripts.benchmark.ours import How, train_pair
from scripts.benchmark.processes import MARK
from scripts.benchmark.workloads import named


def carry_out(job: dict[str, Any]) -> dict[str, Any]:
    """The result of a job.

    Raises:
        ValueError: If there is no such kind of job.
    """
    how = How(**job["how"])
    match job["kind"]:
        case "pair":
            record = train_pair(named(job["workload"]), how)
            record.peak = matmul_peak(how.device)
            return record.as_dict()
        case "memory":
            return memory.measure_ours(named(job["workload"]), how).as_dict()
        case "plain-memory":
            return memory.measure_plain(named(job["workload"]), how).as_dict()
        case "config":
            from scripts.benchmark.configured import train_configured  # the command line takes a second to load

            participants, record = train_configured(job["config"], how)
            return record.as_dict() | {"participants": participants}
        case "crowd":
            return memory.crowd(job["participants"], how)
        case "soak":
            return memory.soak(how)
        case other:
            raise ValueError(f"kind: no job {other!r}.")


def main() -> None:
    """Do what the argument says."""
    job = json.loads(sys.argv[1])
    torch.set_num_threads(job["threads"])
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    result = carry_out(job)
    if int(os.environ.get("LOCAL_RANK", "0")) == 0:
        sys.stdout.write(f"\n{MARK}{json.dumps(result)}\n")


if __name__ == "__main__":
    main()
