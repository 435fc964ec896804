"""Batches as users make them: pairs by ``collate_fn``, dictionaries for another library's model, and their errors."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from jsonargparse import ArgumentParser
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from hetfed_lightning import BackboneAveraging, EnsembleDistillation, Federation, FederationMonitor, Participant
from hetfed_lightning.cli.allowlist import restricted_imports
from hetfed_lightning.data import DataError, Examples, FederatedDataModule
from tests.federations import examples, fit, sgd, state_of, tiny_federation


class Tokens(Dataset[Any]):
    """Texts as tokenisers give them: lists of numbers of different lengths, and a label."""

    def __init__(self, count: int, seed: int = 0, grown_from: int = 0) -> None:
        self.count, self.seed, self.grown_from = count, seed, grown_from

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Any]:
        if index >= self.count:
            raise IndexError(index)
        length = 3 + (index % 4 if index >= self.grown_from else 0)
        tokens = [1 + (self.seed + index * place) % 6 for place in range(length)]
        return {"input_ids": tokens, "attention_mask": [1] * length, "labels": index % 2}


def batched(samples: list[dict[str, Any]]) -> dict[str, Tensor]:
    padded = {key: [torch.tensor(one[key]) for one in samples] for key in ("input_ids", "attention_mask")}
    labels = torch.tensor([one["labels"] for one in samples])
    return {key: pad_sequence(values, batch_first=True) for key, values in padded.items()} | {"labels": labels}


def paired(samples: list[dict[str, Any]]) -> tuple[dict[str, Tensor], Tensor]:
    batch = batched(samples)
    return batch, batch.pop("labels")


@dataclass
class Output:
    logits: Tensor
    loss: Tensor | None = None


class Model(nn.Module):
    """Called as transformers' models are, by keywords; what comes back has a loss where labels were given."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.classifier = nn.Embedding(7, 4), nn.Linear(4, 2)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor | None = None) -> Output:
        mask = attention_mask.unsqueeze(-1).float()
        logits = self.classifier((self.embedding(input_ids) * mask).sum(1) / mask.sum(1))
        return Output(logits, None if labels is None else nn.functional.cross_entropy(logits, labels))


class Classifier(Participant):
    """Hands its batches on as they are."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        super().__init__(Model(), optimizer=sgd())

    def forward(self, inputs: Any) -> Tensor:
        output: Output = self.backbone(**inputs)
        return output.logits

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        output: Output = self.backbone(**batch)
        self.log("train_loss", output.loss)
        return output.loss

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        self.log("val_loss", self.backbone(**batch).loss)


class Pairs(Classifier):
    """The same by the participant's usual steps."""

    training_step = Participant.training_step
    validation_step = Participant.validation_step


def texts(collate_fn: Any, **settings: Any) -> FederatedDataModule:
    return FederatedDataModule(
        {"a": Tokens(6), "b": Tokens(5, 3)}, {"a": Tokens(4, 9)}, batch_size=4, collate_fn=collate_fn, **settings
    )


def test_a_batch_of_names_reaches_a_model_that_takes_keywords() -> None:
    by_name, by_pair = (
        Federation({name: kind() for name in "ab"}, engine="sequential") for kind in (Classifier, Pairs)
    )
    runs = [
        fit(federation, texts(collate), 2, BackboneAveraging(), FederationMonitor())
        for federation, collate in ((by_name, batched), (by_pair, paired))
    ]
    for name in "ab":
        one, other = state_of(by_name[name]), state_of(by_pair[name])
        assert all(torch.equal(one[key], other[key]) for key in one)
        assert not torch.equal(one["backbone.classifier.weight"], state_of(Classifier())["backbone.classifier.weight"])
    assert runs[0].callback_metrics["val_loss/a"] == runs[1].callback_metrics["val_loss/a"]


def test_a_public_set_passes_through_collate_fn_whole() -> None:
    seen = []

    def noted(samples: list[Any]) -> Any:
        seen.append(samples[0])
        return paired(samples)

    federation = Federation({name: Pairs() for name in "ab"})
    data = texts(noted, public=Tokens(7, 5))
    fit(federation, data, 1, EnsembleDistillation(epochs=1))
    assert all(set(one) == {"input_ids", "attention_mask", "labels"} for one in seen)
    assert set(data.public_inputs(torch.arange(2))) == {"input_ids", "attention_mask"}
    assert data.train_targets("b").tolist() == [0, 1, 0, 1, 0]


def test_who_gives_no_pairs_and_has_no_steps_of_its_own_is_told() -> None:
    with pytest.raises(ValueError, match=r"participant 'a': its training set yields dict, .* Let collate_fn"):
        fit(Federation({name: Pairs() for name in "ab"}), texts(batched))


def sequences(count: int, grown_from: int) -> Dataset[Any]:
    class Sequences(Tokens):
        def __getitem__(self, index: int) -> Any:
            found = super().__getitem__(index)
            return torch.tensor(found["input_ids"]).float(), found["labels"]

    return Sequences(count, grown_from=grown_from)


@pytest.mark.parametrize("grown_from", [0, 5], ids=["at once", "in a later batch"])
def test_samples_that_do_not_go_into_one_batch_are_told_by_participant(grown_from: int) -> None:
    data = FederatedDataModule({"a": Examples(torch.ones(8, 3), torch.zeros(8).long()), "b": sequences(8, grown_from)})
    data.batch_size = 8
    members = {name: Participant(nn.Linear(3, 2)) for name in "ab"}
    words = r"participant 'b': its samples do not go into one batch, .* tensor of shape \(\d,\).*give collate_fn"
    with pytest.raises((DataError, ValueError), match=words):
        fit(Federation(members), data)


def test_a_collate_fn_that_fails_is_told_with_what_it_got() -> None:
    def broken(samples: list[Any]) -> Any:
        return samples[0].missing

    with pytest.raises(
        ValueError, match=r"collate_fn cannot make a batch of its 1 samples, each \{input_ids: list, .*Attr"
    ):
        fit(Federation({name: Pairs() for name in "ab"}), texts(broken))


def test_data_sets_with_arguments_are_made_from_a_configuration() -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(FederatedDataModule, "data")
    kind = f"{__name__}.Tokens"
    arguments = {
        "train": {"a": {"class_path": kind, "init_args": {"count": 6}}},
        "val": {"a": {"class_path": kind, "init_args": {"count": 4, "seed": 9}}},
        "public": {"class_path": kind, "init_args": {"count": 7}},
        "global_val": "pooled",
        "collate_fn": f"{__name__}.paired",
    }
    settings = {"class_path": "hetfed_lightning.FederatedDataModule", "init_args": arguments}
    with restricted_imports([__name__]):  # As `--allow_import` does, whatever the tests before have allowed.
        made = parser.instantiate(parser.parse_object({"data": settings})).data
    assert (len(made.data.train["a"]), len(made.data.val["a"]), made.num_public) == (6, 4, 7)
    assert made.collate_fn is paired


# Batches of one


def normalised(**settings: Any) -> dict[str, Participant]:
    backbone = {name: nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5)) for name in "ab"}
    return {name: Participant(backbone[name], nn.Linear(5, 3), **settings) for name in "ab"}


@pytest.mark.parametrize(("size", "batch_size", "fails"), [(9, 4, True), (8, 4, False), (5, 1, True), (4, 8, False)])
@pytest.mark.parametrize("mode", ["phase", "mixed"])
def test_a_public_batch_of_one_is_refused_before_training(size: int, batch_size: int, fails: bool, mode: Any) -> None:
    data = FederatedDataModule({name: examples(8) for name in "ab"}, public=examples(size), batch_size=4)
    distillation = EnsembleDistillation(mode=mode, batch_size=batch_size, start_round=0)
    if not fails:
        fit(Federation(normalised()), data, 1, distillation)
        return
    words = rf"participant 'a': {size} public examples in batches of {batch_size} leave a batch of one, .*Ensemble"
    with pytest.raises(ValueError, match=words):
        fit(Federation(normalised()), data, 1, distillation)


def test_who_does_not_learn_on_the_public_set_may_normalise() -> None:
    data = FederatedDataModule({name: examples(8) for name in "ab"}, public=examples(9), batch_size=4)
    student = tiny_federation("a")["a"]
    student.detach()
    fit(Federation(normalised(), student), data, 1, EnsembleDistillation(batch_size=4, students="student"))
