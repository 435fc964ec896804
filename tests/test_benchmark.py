"""The benchmark measures what it says: one training on both sides, pairs of rounds, figures worked out right."""

import argparse
import mmap
import runpy
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from scripts.benchmark import command, memory, picture, rounds
from scripts.benchmark.configured import train_configured
from scripts.benchmark.hardware import (
    describe,
    flops_of_round,
    forget_peak,
    held,
    matmul_peak,
    most_held,
    resident,
    resident_together,
)
from scripts.benchmark.ours import How, train_pair
from scripts.benchmark.peers.environments import LEFT_OUT, PEERS
from scripts.benchmark.plain import Group, PlainLoop, shuffled
from scripts.benchmark.processes import MeasurementError, measure
from scripts.benchmark.report import Row, read_csv, row_of, table, write_csv
from scripts.benchmark.rounds import PairClock, Record
from scripts.benchmark.workloads import SMALLEST, WORKLOADS, Workload, named

ROOT = Path(__file__).resolve().parents[1]


def small(name: str) -> Workload:
    """A workload with two batches, the second incomplete, and no more than four participants."""
    workload = WORKLOADS[name]
    return replace(workload, participants=min(4, workload.participants), examples=40)


def options(**given: Any) -> argparse.Namespace:
    """Options of the script, as they are when nothing else is said."""
    usual: dict[str, Any] = {"workloads": None, "quick": True, "peers": None, "config": None, "participants": None}
    usual |= {"soak": None, "no_memory": True, "rounds": None, "threads": 1, "device": "cpu", "processes": 1}
    usual |= {"engine": None, "bare": True, "csv": None, "plot": None, "from_csv": None}
    return argparse.Namespace(**(usual | given))


# The script


@pytest.mark.slow
def test_the_script_measures_the_smallest_workload(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["bench.py", "--quick", "--no-memory", "--csv", str(tmp_path / "bench.csv")])
    runpy.run_path(str(ROOT / "scripts" / "bench.py"), run_name="__main__")
    ours, plain = read_csv(tmp_path / "bench.csv")
    assert (ours["program"], plain["program"]) == ("hetfed", "plain")
    assert int(ours["rounds"]) == SMALLEST.rounds
    assert float(ours["seconds"]) > 0
    assert float(ours["started"]) > 0
    assert float(ours["difference"]) < 1e-5
    assert ours["accuracy"] == plain["accuracy"]
    assert float(ours["accuracy"]) > 0.8
    printed = capsys.readouterr().out
    assert "3 x 96, 32" in printed


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"quick": False, "workloads": ["tabular-21"]}, "no workload 'tabular-21'; there are tabular-20"),
        ({"peers": ["petals"]}, "no peer 'petals'; there are pfl"),
        ({"peers": ["pfl"], "device": "cuda"}, "on the CPU alone"),
        ({"soak": 60}, "at least 100 rounds"),
        ({"from_csv": Path("bench.csv")}, "with --plot"),
    ],
)
def test_options_that_cannot_be_used_are_refused(
    given: dict[str, Any], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "describe", lambda *_: "a machine")  # There may be no GPU to name.
    with pytest.raises(ValueError, match=words):
        command.run(options(**given))


def test_a_measurement_that_ends_without_result_says_what_it_said_last() -> None:
    with pytest.raises(MeasurementError, match=r"(?s)scripts.benchmark.nothing ended with 1.*No module named"):
        measure({"threads": 1}, "scripts.benchmark.nothing")


def test_a_peer_that_fails_is_a_row_with_its_reason() -> None:
    failing = lambda *_, **__: (_ for _ in ()).throw(MeasurementError("it ended"))  # noqa: E731
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "measure", failing)
        row = command.beside(SMALLEST, "pfl", sys.executable, options())
    assert (row.seconds, row.note) == (None, "it ended")
    assert "not measured" in table([row])
    assert "smallest, pfl: it ended" in table([row])


def test_every_peer_has_an_adapter() -> None:
    folder = ROOT / "scripts" / "benchmark" / "peers"
    assert [name for name in PEERS if not (folder / f"{name}.py").exists()] == []
    assert not set(PEERS) & set(LEFT_OUT)


# One training on both sides


@pytest.mark.parametrize("name", ["tabular-20", "gru-4", pytest.param("four", marks=pytest.mark.slow)])
def test_the_plain_loop_trains_what_the_federation_trains(name: str) -> None:
    record = train_pair(small(name), How(rounds=2, bare=True))
    assert len(record.seconds) == len(record.plain) == 2
    assert record.difference is not None
    assert record.difference < 1e-5
    assert record.accuracy == record.plain_accuracy


@pytest.mark.slow
def test_a_configuration_is_compared_on_the_same_batches(tmp_path: Path) -> None:
    config = tmp_path / "few.yaml"
    text = (ROOT / "configs" / "digits_fedavg.yaml").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.strip().startswith(tuple(f"p{i}: *" for i in range(3, 20)))]
    config.write_text("\n".join(lines), encoding="utf-8")
    participants, record = train_configured(str(config), How(rounds=1, warm=0, bare=True))
    assert participants == 3
    assert record.difference is not None
    assert record.difference < 1e-5


def test_other_batches_give_another_result() -> None:
    # What the agreement above is worth.
    workload = small("tabular-20")
    one, other = PlainLoop.of(workload), PlainLoop.of(workload, order=lambda stream, count: torch.arange(count))
    one.round(0)
    other.round(0)
    assert not torch.equal(weights(one, "p0"), weights(other, "p0"))


def weights(loop: PlainLoop, name: str) -> Tensor:
    return next(loop.networks[name].parameters())


def test_the_plain_loop_averages_by_examples() -> None:
    networks = {"a": nn.Linear(1, 2, bias=False), "b": nn.Linear(1, 2, bias=False)}
    data = {"a": (torch.zeros(1, 1), torch.zeros(1, dtype=torch.long)), "b": (torch.zeros(3, 1), torch.zeros(3).long())}
    loop = PlainLoop(
        networks,
        data,
        optimizers=dict.fromkeys(networks, lambda parameters: torch.optim.SGD(parameters, lr=0.0)),
        batch_sizes=dict.fromkeys(networks, 2),
        groups=[Group(("a", "b"), ("weight",))],
    )
    assert torch.equal(weights(loop, "a"), weights(loop, "b"))  # They begin as the first does.
    with torch.no_grad():
        weights(loop, "a").fill_(4.0)
        weights(loop, "b").fill_(8.0)
    loop.round(0)
    assert weights(loop, "a").tolist() == weights(loop, "b").tolist() == [[7.0], [7.0]]  # (1 * 4 + 3 * 8) / 4


def test_orders_are_the_streams_own() -> None:
    first = shuffled(("order", 0, "p0", 0), 50)
    assert torch.equal(first, shuffled(("order", 0, "p0", 0), 50))
    assert not torch.equal(first, shuffled(("order", 1, "p0", 0), 50))
    assert sorted(first.tolist()) == list(range(50))


@pytest.mark.parametrize("name", [*WORKLOADS, "smallest"])
def test_a_workload_can_be_made_and_is_always_the_same(name: str) -> None:
    workload = replace(named(name), examples=8)
    workload = replace(workload, participants=min(5, workload.participants))
    inputs, targets = workload.data()["p1"]
    again, _ = workload.data()["p1"]
    assert torch.equal(inputs, again)
    assert workload.networks()["p1"](inputs).shape == (8, workload.classes)
    assert int(targets.max()) < workload.classes
    alike = workload.networks()
    assert torch.equal(next(alike["p0"].parameters()), next(alike["p1"].parameters()))


# Clocks and figures


def test_a_clock_leaves_out_what_warms_up_and_hands_every_round_to_the_plain_loop() -> None:
    trained: list[int] = []
    loop = cast("PlainLoop", SimpleNamespace(round=trained.append))
    clock = PairClock(Record(), warm=1, loop=loop)
    clock.close()  # None is open.
    clock.open()
    clock.open()  # Ends the first.
    clock.close()
    assert trained == [0, 1]
    assert len(clock.record.seconds) == len(clock.record.plain) == 1


def test_operations_are_counted() -> None:
    # 10-64-2: 2 * (10 * 64 + 64 * 2) = 1536 per example, forward; 3 participants x 96 examples, times three.
    assert flops_of_round(SMALLEST) == 3 * 1536 * 96 * 3
    # A GRU of 64 over 28 rows of 28 numbers, three gates: 28 * 2 * 3 * 64 * (28 + 64), and a head of 64 x 10.
    gru = replace(WORKLOADS["gru-4"], participants=1, examples=32)
    assert flops_of_round(gru) == 3 * 32 * (28 * 2 * 3 * 64 * (28 + 64) + 2 * 64 * 10)


def test_a_row_has_the_median_of_the_pairs() -> None:
    record = Record(seconds=[2.0, 2.0, 4.0], plain=[1.0, 4.0, 1.0], accuracy=0.9, plain_accuracy=0.8)
    row = row_of(SMALLEST, "somebody", record, peak=3 * 1536 * 96 * 3.0)
    assert (row.seconds, row.ratio) == (2.0, 2.0)  # Not 2 / 1 of the medians by chance: pairs are 2, 0.5 and 4.
    assert (row.ratio_q1, row.ratio_q3) == (1.25, 3.0)
    assert row.samples == 3 * 96 / 2
    assert row.peak == 0.5
    assert "2.000 (1.250-3.000)" in table([row])


def test_a_faster_program_is_said_to_be_faster() -> None:
    row = row_of(SMALLEST, "somebody", Record(seconds=[1.0], plain=[8.0]), peak=None)
    assert "0.125 (0.125-0.125) 8.0x faster" in table([row])


def test_rows_survive_the_file_and_can_be_drawn(tmp_path: Path) -> None:
    rows = [
        row_of(SMALLEST, "somebody", Record(seconds=[1.0, 2.0], plain=[4.0, 4.0]), peak=None),
        Row("smallest", "3 x 96, 32", "nobody", note="it ended, with a comma"),
    ]
    write_csv(rows, tmp_path / "deep" / "bench.csv")
    read = read_csv(tmp_path / "deep" / "bench.csv")
    assert (read[0]["ratio"], read[1]["ratio"], read[1]["note"]) == ("0.375", "", "it ended, with a comma")
    picture.draw(read, tmp_path / "bench.png")
    assert (tmp_path / "bench.png").stat().st_size > 1000


def test_the_machine_is_measured() -> None:
    assert matmul_peak(repeats=1) > 1e8
    before = forget_peak()
    pages = mmap.mmap(-1, 50 * 2**20)  # Pages of its own: torch would find room in what it has.
    pages.write(b"x" * len(pages))
    assert held() - before > 40
    pages.close()
    assert most_held() - before > 40
    assert resident() - before < 40
    assert resident_together() > 50


# On a GPU, of which the machine may have none


def noted(notes: list[str], what: str, value: float) -> float:
    """``value``, once it is noted that somebody asked for it."""
    notes.append(what)
    return value


def test_a_gpu_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"--device cuda: torch .* finds no GPU\. Use --device cpu"):
        command.run(options(device="cuda"))


def test_what_a_gpu_may_round_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "A GPU")
    told = describe("cuda", 1)
    assert told.startswith("A GPU, 1 thread(s), Python")
    assert told.endswith("matrix products in highest precision, convolutions in TF32 and not tuned")


def test_rounds_are_timed_from_an_idle_gpu_to_an_idle_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    monkeypatch.setattr(rounds, "synchronise", lambda device: seen.append(f"wait for {device}"))
    monkeypatch.setattr(rounds, "time", SimpleNamespace(perf_counter=lambda: noted(seen, "clock", 0.0)))
    loop = cast("PlainLoop", SimpleNamespace(round=lambda _: seen.append("plain")))
    clock = PairClock(Record(), warm=0, device="cuda", loop=loop)
    clock.open()
    seen.append("ours")
    clock.close()
    wait = "wait for cuda"
    assert seen == [wait, "clock", "ours", wait, "clock", "clock", "plain", wait, "clock"]


def test_memory_of_a_gpu_is_what_its_tensors_take(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(torch.cuda, "init", lambda: asked.append("init"))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: asked.append("reset"))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: 3 * 2**20)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 8 * 2**20)
    assert forget_peak("cuda") == held("cuda") == 3
    assert most_held("cuda") == 8
    assert asked == ["init", "reset"]


@pytest.mark.parametrize("measured", [memory.measure_ours, memory.measure_plain])
def test_both_programs_train_and_are_measured_on_the_device(measured: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    where: list[str] = []
    made = PlainLoop.of

    def of(workload: Workload, *, device: str, data: Any) -> PlainLoop:
        where.append(device)
        return made(workload, data=data)

    def trained(federation: Any, data: Any, callbacks: Any, how: How) -> Any:
        where.append(how.device)
        return SimpleNamespace(record=Record())

    monkeypatch.setattr(memory, "PlainLoop", SimpleNamespace(of=of))
    monkeypatch.setattr(memory, "train", trained)
    monkeypatch.setattr(memory, "forget_peak", lambda device: noted(where, device, 2.0))
    monkeypatch.setattr(memory, "most_held", lambda device: noted(where, device, 7.0))
    assert measured(SMALLEST, How(rounds=1, device="cuda")).memory == 5
    assert where == ["cuda"] * 3


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_memory_is_measured_of_both_programs(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs: list[tuple[str, str]] = []

    def measured(job: dict[str, Any]) -> dict[str, Any]:
        jobs.append((job["kind"], job["how"]["device"]))
        return Record(seconds=[1.0], plain=[1.0], memory=float(len(jobs))).as_dict()

    monkeypatch.setattr(command, "measure", measured)
    ours, plain = command.pair(SMALLEST, options(device=device, no_memory=False))
    assert jobs == [("pair", device), ("memory", device), ("plain-memory", device)]
    assert (ours.memory, plain.memory) == (2, 3)


def test_the_plain_loop_has_everything_on_the_device() -> None:
    loop = PlainLoop.of(small("four"), device="meta")
    tensors = [tensor for network in loop.networks.values() for tensor in network.state_dict().values()]
    tensors += [tensor for pair in loop.data.values() for tensor in pair]
    assert loop.public is not None
    assert {tensor.device.type for tensor in [*tensors, loop.public]} == {"meta"}
    loop.round(0)  # Nothing is asked of the host in between, or this would fail.


# Memory


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["memory", "plain-memory"])
def test_memory_holds_at_least_the_parameters(kind: str) -> None:
    found = measure({"kind": kind, "workload": "mlp-20", "threads": 1, "how": {"rounds": 1, "warm": 0}})["memory"]
    assert found > 20 * 159_010 * 4 / 2**20


@pytest.mark.slow
def test_a_crowd_trains_a_share_of_itself() -> None:
    found = memory.crowd(120, How(rounds=1, warm=1))
    assert (found["participants"], found["active"]) == (120, 100)
    assert found["peak_mb"] > found["parameters_mb"] > 0


@pytest.mark.slow
def test_memory_settles() -> None:
    found = memory.soak(How(rounds=150, warm=1))
    assert len(found["megabytes"]) == 151
    assert found["growth"] < 0.01
