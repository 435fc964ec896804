"""Methods of a user's own, which no file of the package knows: prototypes, and control variates."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hetfed_lightning import (
    About,
    BackboneAveraging,
    Combined,
    Context,
    Exchange,
    Message,
    Method,
    Participant,
    ParticipantData,
    ServerMemory,
    Work,
)


class Prototypes(Method):
    """Class means of features travel; each participant's features are pulled towards everyone's (Tan et al. 2022).

    Args:
        pull: Weight of the squared distance, at least 0.
        classes: Number of classes, C.
    """

    def __init__(self, pull: float = 1.0, classes: int = 3) -> None:
        self.pull, self.classes = pull, classes

    def describe(self, participant: Participant, data: ParticipantData) -> Message:
        return {"width": torch.empty(data.features.shape[1], device="meta")}

    def send(self, participant: Participant, data: ParticipantData, work: Work, context: Context) -> Message:
        members = torch.nn.functional.one_hot(data.targets, self.classes).to(data.features)
        return {"sums": members.T @ data.features, "counts": members.sum(0)}

    def combine(
        self,
        sent: Mapping[str, Message],
        asked: Sequence[str],
        about: About,
        server: ServerMemory,
        round_index: int,
    ) -> Combined:
        sums = torch.stack([one["sums"] for one in sent.values()]).sum(0)
        counts = torch.stack([one["counts"] for one in sent.values()]).sum(0)
        means = sums / counts.clamp(min=1).unsqueeze(1)
        return Combined({"prototypes": means, "known": (counts > 0).to(sums)}, {"classes": float((counts > 0).sum())})

    def example_loss(
        self,
        own: Tensor,
        inputs: Any,
        features: Tensor,
        outputs: Tensor,
        target: Tensor,
        on: Literal["own", "public"],
        context: Context,
    ) -> Tensor:
        if not context.received:
            return own
        apart = (features - context.received["prototypes"][target]).square().mean(1)
        return own + self.pull * context.received["known"][target] * apart


class Census(Prototypes):
    """Prototypes beside which each participant describes how many examples of each class it has."""

    def describe(self, participant: Participant, data: ParticipantData) -> Message:
        counts = torch.bincount(data.targets, minlength=self.classes)
        return {**super().describe(participant, data), "counts": counts, "share": counts / counts.sum()}

    def combine(self, sent: Mapping[str, Message], asked: Sequence[str], about: About, *rest: Any) -> Combined:
        weights = {name: one["share"].sum() for name, one in about.items()}
        weighted = {name: {key: one * weights[name] for key, one in own.items()} for name, own in sent.items()}
        found = super().combine(weighted, asked, about, *rest)
        total = torch.stack([one["counts"] for one in about.values()]).sum()
        return Combined(found.state, {**found.figures, "described": float(total)})


class ControlVariates(Method):
    """SCAFFOLD with option II (Karimireddy et al. 2020, Algorithm 1), of participants that share everything.

    The correction ``c - c_k`` of the gradient is the gradient of the linear term ``(c - c_k) . w``.
    """

    replaces_state = True

    def describe(self, participant: Participant, data: ParticipantData) -> Message:
        return {key: torch.empty_like(one, device="meta") for key, one in _weights(participant).items()}

    def weight_term(self, parameters: Mapping[str, Tensor], context: Context) -> Tensor:
        terms = []
        for key, weight in parameters.items():
            towards = context.received.get(f"control/{key}")
            mine = context.memory.get(f"control/{key}")
            for sign, one in ((1, towards), (-1, mine)):
                if one is not None:
                    terms.append(sign * (one * weight).sum())
        return torch.stack(terms).sum() if terms else next(iter(parameters.values())).sum() * 0

    def send(self, participant: Participant, data: ParticipantData, work: Work, context: Context) -> Message:
        message = {}
        for key, weight in _weights(participant).items():
            began = context.received.get(key, context.memory.get(f"began/{key}", torch.zeros_like(weight)))
            control = context.memory.get(f"control/{key}", torch.zeros_like(weight))
            everyone = context.received.get(f"control/{key}", torch.zeros_like(weight))
            updated = control - everyone + (began - weight) / work.rates
            message[key], message[f"control/{key}"] = weight, updated - control
            context.memory[f"control/{key}"] = updated
        return message

    def combine(
        self,
        sent: Mapping[str, Message],
        asked: Sequence[str],
        about: About,
        server: ServerMemory,
        round_index: int,
    ) -> Combined:
        state = {}
        for key in next(iter(sent.values())):
            mean = torch.stack([one[key] for one in sent.values()]).mean(0)
            if key.startswith("control/"):
                mean = server.last.get(key, torch.zeros_like(mean)) + mean * (len(sent) / len(about))
            state[key] = mean
        return Combined(state)


class Rumour(Method):
    """One noisy number of each participant's shared weights travels as a round begins; each remembers what it heard.

    Everybody who has joined sends, its own draw and count beside the sum of its weights, and the server adds a draw.
    """

    exchanges: Sequence[Exchange] = (Exchange("start", "joined"),)

    def send(self, participant: Participant, data: ParticipantData, work: Work, context: Context) -> Message:
        weights = torch.stack([one.sum() for one in _weights(participant).values()]).sum()
        context.memory["told"] = context.memory.get("told", torch.zeros(())) + 1
        return {"number": weights + torch.rand(()), "told": context.memory["told"]}

    def combine(
        self,
        sent: Mapping[str, Message],
        asked: Sequence[str],
        about: About,
        server: ServerMemory,
        round_index: int,
    ) -> Combined:
        rumour = torch.stack([one["number"] for one in sent.values()]).mean() + torch.rand(())
        return Combined({"rumour": rumour}, {"told": float(sum(one["told"] for one in sent.values()))})

    def receive(self, participant: Participant, data: ParticipantData, state: Message, context: Context) -> None:
        heard = context.memory.get("heard", torch.zeros(()))
        context.memory["heard"] = heard / 2 + state["rumour"] + context.round_index + torch.rand(())

    def weight_term(self, parameters: Mapping[str, Tensor], context: Context) -> Tensor:
        heard = context.memory.get("heard", torch.zeros(()))
        return 0.01 * heard * torch.stack([one.sum() for one in parameters.values()]).sum()


def _weights(participant: Participant) -> dict[str, Tensor]:
    return participant.view_of(participant.averaged_keys())


class Mutual(Method):
    """A small common model, averaged, and each participant's own learn from each other (Shen et al. 2020)."""

    def modules(self, participant: Participant) -> dict[str, nn.Module]:
        width = next(one.in_features for one in participant.backbone.modules() if isinstance(one, nn.Linear))
        return {"common": nn.Linear(width, 3)}

    def send(self, participant: Any, data: Any, work: Any, context: Any) -> dict[str, Tensor]:
        return {key: one.detach() for key, one in context.modules["common"].state_dict().items()}

    def combine(self, sent: Any, *args: Any) -> Combined:
        return Combined(
            {key: torch.stack([one[key] for one in sent.values()]).mean(0) for key in next(iter(sent.values()))}
        )

    def receive(self, participant: Any, data: Any, state: Any, context: Any) -> None:
        context.modules["common"].load_state_dict(state)

    def example_loss(
        self, own: Tensor, inputs: Any, features: Tensor, outputs: Tensor, target: Tensor, on: Any, context: Any
    ) -> Tensor:
        common = context.modules["common"](inputs)
        towards = F.kl_div(outputs.log_softmax(1), common.detach().softmax(1), reduction="none").sum(1)
        back = F.kl_div(common.log_softmax(1), outputs.detach().softmax(1), reduction="none").sum(1)
        return own + towards + F.cross_entropy(common, target, reduction="none") + back


class InBall(Prototypes):
    """Each parameter stays in a ball around zero."""

    exchanges = ()

    def __init__(self, radius: float) -> None:
        super().__init__()
        self.radius = radius

    def after_step(self, parameters: Any, context: Any) -> None:
        for one in parameters.values():
            one.mul_((self.radius / one.norm()).clamp(max=1.0))

    def example_loss(self, own: Tensor, *args: Any) -> Tensor:
        return own


class ClippedMean(BackboneAveraging):
    """Averages of which no coordinate moves further than a bound in a round.

    Args:
        most: Largest change of a coordinate, above 0.
        settings: Further arguments of averaging.
    """

    def __init__(self, most: float = 0.1, **settings: Any) -> None:
        super().__init__(**settings)
        self.most = most

    def combine(
        self, sent: Mapping[str, Message], asked: Sequence[str], about: About, server: ServerMemory, round_index: int
    ) -> Combined:
        found = super().combine(sent, asked, about, server, round_index)
        whole: Mapping[str, Any] = found.state or {}
        moves = {key: (one - server.last[key]).clamp(-self.most, self.most) for key, one in whole.items()}
        return Combined({key: server.last[key] + move for key, move in moves.items()}, {"clipped": 1.0})


class Nearest(Prototypes):
    """Prototypes by which participants predict: the nearest one's class (Tan et al. 2022, equation 6).

    The network's own outputs are measured beside.
    """

    def answers(self, inputs: Any, features: Tensor, outputs: Tensor, context: Context) -> dict[str, Tensor]:
        if not context.received:
            return {}
        apart = (features.unsqueeze(1) - context.received["prototypes"]).square().sum(2)
        return {"prediction": -apart, "network": outputs}


class Common(Mutual):
    """The common model is measured beside each participant's own, surer from round to round."""

    def answers(self, inputs: Any, features: Tensor, outputs: Tensor, context: Context) -> dict[str, Tensor]:
        return {"common": context.modules["common"](inputs) * (1 + context.round_index)}
