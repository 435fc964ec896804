"""The sum of a generic and a personal answer: who learns from what."""

from typing import Any

import pytest
import torch
from torch import nn

from hetfed_lightning import BinaryTask, GenericAndPersonal

INPUTS = {"common": torch.tensor([[1.0], [2.0]]), "private": torch.tensor([[3.0], [-1.0]])}
TARGETS = torch.tensor([1, 0])


def linear(weight: float, bias: float) -> nn.Linear:
    layer = nn.Linear(1, 1)
    nn.init.constant_(layer.weight, weight)
    nn.init.constant_(layer.bias, bias)
    return layer


class Silent(GenericAndPersonal):
    """Logs nothing, having no Trainer."""

    def log(self, *_: Any, **__: Any) -> None:
        return None


def participant(**settings: Any) -> GenericAndPersonal:
    return Silent(linear(0.5, 0.1), linear(-1.0, 0.2), task="binary", **settings)


def values(module: nn.Module) -> list[float]:
    """Its parameters, each a single number."""
    return [parameter.item() for parameter in module.parameters()]


def weight_gradient(module: nn.Module) -> float:
    gradient = module.get_parameter("weight").grad
    assert gradient is not None
    return float(gradient)


def test_the_outputs_are_the_sum() -> None:
    # 0.5 * 1 + 0.1 - 3 + 0.2 and 0.5 * 2 + 0.1 + 1 + 0.2
    torch.testing.assert_close(participant()(INPUTS), torch.tensor([[-2.2], [2.3]]))


def test_the_backbone_learns_to_answer_alone_and_the_head_what_is_left() -> None:
    one = participant()
    one.training_step((INPUTS, TARGETS), 0).backward()
    # d BCE / d logit = (sigmoid - target) / 2; the generic logits are 0.6 and 1.1, the sums -2.2 and 2.3.
    alone = (torch.tensor([0.6, 1.1]).sigmoid() - TARGETS) / 2
    whole = (torch.tensor([-2.2, 2.3]).sigmoid() - TARGETS) / 2
    assert weight_gradient(one.backbone) == pytest.approx(float((alone * torch.tensor([1.0, 2.0])).sum()))
    assert weight_gradient(one.head) == pytest.approx(float((whole * torch.tensor([3.0, -1.0])).sum()))


def test_the_task_weighs_classes_in_both_losses() -> None:
    task = BinaryTask(positive_weight=3.0)
    one = participant()
    one.task = task
    generic, personal = one.both(INPUTS)
    expected = task.loss(generic, TARGETS) + task.loss(generic + personal, TARGETS)
    torch.testing.assert_close(one.training_step((INPUTS, TARGETS), 0), expected)


def test_weight_decay_leaves_biases_alone() -> None:
    one = participant(optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.5, weight_decay=1.0))
    optimizer = one.configure_optimizers()
    for parameter in one.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    # w - 0.5 * 1.0 * w
    assert values(one.backbone) == pytest.approx([0.25, 0.1])
    assert values(one.head) == pytest.approx([-0.5, 0.2])


def test_only_the_backbone_may_be_shared_unless_said_otherwise() -> None:
    assert participant().shared_keys() == ["backbone.weight", "backbone.bias"]


def test_a_batch_without_an_input_is_refused() -> None:
    with pytest.raises(KeyError, match="reads private, and the batch has common"):
        participant()({"common": torch.zeros(1, 1)})
