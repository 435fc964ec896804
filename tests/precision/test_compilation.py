"""``Participant(compile=...)``: the same federation, run through ``torch.compile``."""

import copy
import pickle
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from hetfed_lightning import BackboneAveraging, EnsembleDistillation, Federation, Participant
from hetfed_lightning.participants.compilation import compile_backbone
from tests.federations import equal, examples, fit, sgd, state_of, tiny_data, tiny_federation, tiny_participant, trainer

pytestmark = [
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks:UserWarning"),
    # Compiling a function may look at names that torch is about to drop.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.*"),
]


class Counting:
    """A backend of ``torch.compile`` that compiles nothing and counts the graphs it is given."""

    def __init__(self) -> None:
        self.graphs = 0
        self.calls = 0

    def __call__(self, graph: torch.fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
        self.graphs += 1

        def run(*args: Any) -> Any:
            self.calls += 1
            return graph.forward(*args)

        return run


@pytest.fixture(autouse=True)
def afresh() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def together() -> list[Any]:
    return [EnsembleDistillation(batch_size=5), BackboneAveraging()]


@pytest.mark.parametrize("where", [pytest.param("backbone", marks=pytest.mark.slow), "backbone.0"])
@pytest.mark.parametrize("removed", [False, True])
def test_hooks_that_come_and_go_are_heard(where: str, removed: bool) -> None:
    """Dynamo looks for hooks when it compiles, and then no more."""
    ends = []
    for settings in (False, {"backend": "eager"}):

        class Hooks(L.Callback):
            def on_train_batch_start(self, trainer: L.Trainer, federation: Any, batch: Any, batch_idx: int) -> None:
                if batch_idx == 1:
                    module = federation["a"].get_submodule(where)
                    self.handle = module.register_forward_hook(lambda *given: 0.5 * given[-1])
                if batch_idx == 2 and removed:
                    self.handle.remove()

        federation = tiny_federation("ab", engine="sequential", participant={"compile": settings})
        fit(federation, tiny_data("ab", count=16), 1, Hooks())
        ends.append(state_of(federation))
    assert all(torch.allclose(ends[0][key], ends[1][key], atol=1e-6) for key in ends[0])


def test_the_same_federation_in_few_graphs() -> None:
    names = "abcdefghij"
    plain, counting = tiny_federation(names, engine="sequential"), Counting()
    compiled = tiny_federation(names, engine="sequential", participant={"compile": {"backend": counting}})
    ends = []
    for federation in (plain, compiled):
        data = tiny_data(names, global_val=None, global_test=None)
        ends.append(fit(federation, data, 2, *together(), num_sanity_val_steps=2).callback_metrics)
    assert equal(state_of(plain), state_of(compiled))
    assert {key: float(value) for key, value in ends[0].items() if "seconds" not in key} == {
        key: float(value) for key, value in ends[1].items() if "seconds" not in key
    }
    assert counting.calls > 50
    # One architecture; training with a batch of 4 and with others; evaluation, and the teachers' without gradients.
    assert counting.graphs <= 8


def test_every_architecture_is_compiled() -> None:
    # Passing through one function, the first few would fill the limit on its graphs.
    counting = Counting()
    hidden = {f"h{width}": width for width in range(3, 13)}
    made = {
        name: tiny_participant(hidden=width, compile={"backend": counting}, shared=()) for name, width in hidden.items()
    }
    federation = Federation({name: made[name] for name in hidden})
    fit(federation, tiny_data(list(hidden), evaluated=False), 1)
    before = counting.calls
    for participant in federation.members().values():
        assert participant.backbone(torch.randn(4, 4)).shape[0] == 4
    assert counting.calls == before + len(hidden)


def test_checkpoints_are_those_of_a_federation_that_is_not_compiled(tmp_path: Path) -> None:
    # "auto" chooses an engine by time, and runs of unlike engines differ in the last digits.
    compiled = tiny_federation("ab", engine="sequential", participant={"compile": {"backend": Counting()}})
    fit(compiled, tiny_data("ab"), 1, *together()).save_checkpoint(tmp_path / "compiled.ckpt")
    plain = tiny_federation("ab", engine="sequential")
    fit(plain, tiny_data("ab"), 1, *together()).save_checkpoint(tmp_path / "plain.ckpt")
    assert list(state_of(plain)) == list(state_of(compiled))
    ends = []
    for path, settings in (("compiled.ckpt", False), ("plain.ckpt", {"backend": Counting()})):
        federation = tiny_federation("ab", engine="sequential", participant={"compile": settings})
        fit(federation, tiny_data("ab"), 2, *together(), ckpt_path=tmp_path / path)
        ends.append(state_of(federation))
    assert equal(ends[0], ends[1])


@pytest.mark.slow
def test_copies_and_pickles_of_what_was_compiled() -> None:
    counting = Counting()
    federation = tiny_federation("ab", participant={"compile": {"backend": "eager"}, "optimizer": None})
    federation["a"].compile_settings = {"backend": counting}
    fit(federation, tiny_data("ab"), 1)
    inputs = torch.randn(3, 4)
    outputs = federation["a"].predict(inputs)
    federation["a"].compile_settings = {"backend": "eager"}
    calls = counting.calls
    for other in (copy.deepcopy(federation), pickle.loads(pickle.dumps(federation))):
        assert torch.equal(other["a"].predict(inputs), outputs)
        assert counting.calls == calls
        fit(other, tiny_data("ab"), 1)


def test_parameters_may_move_to_other_memory() -> None:
    counting = Counting()
    network = nn.Sequential(nn.Linear(4, 5), nn.ReLU())
    compile_backbone(network, {"backend": counting}, "it", torch.device("cpu"))
    inputs = torch.randn(3, 4)
    network(inputs)
    stacks = {key: torch.randn(2, *parameter.shape) for key, parameter in network.named_parameters()}
    for index in range(2):
        for key, parameter in network.named_parameters():
            parameter.data = stacks[key][index]
        expected = torch.relu(inputs @ stacks["0.weight"][index].T + stacks["0.bias"][index])
        torch.testing.assert_close(network(inputs), expected)
    assert counting.graphs == 1


def test_a_participant_alone_is_compiled_too() -> None:
    counting = Counting()
    participant = tiny_participant(compile={"backend": counting})
    trainer(1).fit(participant, DataLoader(examples(8), 4), DataLoader(examples(4), 4))
    assert counting.calls == 3


@pytest.mark.parametrize("stage", ["training", "evaluation"])
def test_a_compiler_that_fails_is_told_by_the_participants_name(stage: str) -> None:
    def failing(graph: torch.fx.GraphModule, inputs: list[Any]) -> Any:
        raise ValueError("no such machine")

    made = tiny_participant(seed=1)
    broken = Participant(made.backbone, made.head, optimizer=sgd(), compile={"backend": failing})
    federation = Federation({"a": tiny_participant(), "b": broken})
    with pytest.raises(Exception, match="no such machine") as caught:
        fit(federation, tiny_data("ab"), 1, num_sanity_val_steps=0 if stage == "training" else 1)
    notes = "\n".join(caught.value.__notes__)
    assert "in the compiled backbone of participant 'b'; Participant(compile=False) runs it as it is" in notes


def test_a_missing_compiler_is_told_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    federation = tiny_federation("ab", participant={"compile": True})
    words = "participant 'a': compile needs a C++ compiler where it runs on a CPU, and there is no 'no-such-compiler'"
    with pytest.raises(RuntimeError, match=re.escape(words)):
        fit(federation, tiny_data("ab"), 1)


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ("yes", TypeError, "compile: expected True, False or settings such as"),
        (
            {"backend": {"class_path": "os.system"}},
            TypeError,
            "compile: expected a backend by name, such as 'inductor'",
        ),
        ({"made": "fast"}, ValueError, "compile: expected settings out of backend, dynamic, fullgraph, mode, options"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=re.escape(words)):
        tiny_participant(compile=settings)


def test_settings_that_torch_refuses_are_told_by_the_participants_name() -> None:
    federation = tiny_federation(
        "ab", participant={"compile": {"backend": "eager", "mode": "fast", "options": {"a": 1}}}
    )
    with pytest.raises(RuntimeError, match="mode or options") as caught:
        fit(federation, tiny_data("ab"), 1)
    assert any("participant 'a': compile=" in note for note in caught.value.__notes__)


def test_in_another_precision() -> None:
    ends = []
    for settings in (False, {"backend": Counting()}):
        federation = tiny_federation("ab", participant={"compile": settings})
        fit(federation, tiny_data("ab"), 1, *together(), precision="bf16-mixed")
        ends.append(state_of(federation))
    assert equal(ends[0], ends[1])


def test_vmap_over_a_compiled_backbone_is_vmap_over_it() -> None:
    network = nn.Sequential(nn.Linear(4, 5), nn.ReLU())
    stacks = {key: torch.randn(2, *parameter.shape) for key, parameter in network.named_parameters()}
    inputs = torch.randn(2, 3, 4)

    def loss(parameters: dict[str, Tensor], own: Tensor) -> Tensor:
        outputs: Tensor = torch.func.functional_call(network, parameters, (own,))
        return outputs.square().sum()

    step = torch.func.vmap(torch.func.grad(loss))
    expected = step(stacks, inputs)
    compile_backbone(network, {"backend": Counting()}, "it", torch.device("cpu"))
    counting = Counting()
    for found in (step(stacks, inputs), torch.compile(step, backend=counting)(stacks, inputs)):
        assert equal(expected, found)
    assert counting.graphs == 1


@pytest.mark.slow
def test_with_torchs_own_compiler() -> None:
    ends = []
    for settings in (False, True):
        federation = tiny_federation("ab", participant={"compile": settings})
        fit(federation, tiny_data("ab"), 2, *together())
        ends.append(state_of(federation))
    for key, tensor in ends[0].items():
        torch.testing.assert_close(ends[1][key], tensor, rtol=1e-5, atol=1e-6)
