"""What a site has spent of its examples' privacy: counted whatever is asked, by an account that never goes back."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from hetfed_lightning import BackboneAveraging, EnsembleDistillation
from hetfed_lightning.checkpointing.reading import read_checkpoint
from hetfed_lightning.flower.coordinator.coordinator import STATE
from hetfed_lightning.flower.protocol.orders import Order, Reply
from hetfed_lightning.flower.site.account_file import (
    ACCOUNT,
    HEAD,
    AccountError,
    AccountFile,
    begin_account,
    check_account,
)
from hetfed_lightning.flower.site.site import Site
from hetfed_lightning.flower.site.site_store import SiteStore
from hetfed_lightning.privacy import DPSGD, PrivacyAccount
from tests.federations import equal
from tests.flower.federating import Callbacks, Deployed

pytestmark = pytest.mark.promise("account")

KEYS = {0: ("backbone.0.weight", "backbone.0.bias")}
BEGIN = Order("run", begin=0, messages=KEYS)


def averaging() -> list[BackboneAveraging | EnsembleDistillation]:
    return [BackboneAveraging()]


def distilling() -> list[BackboneAveraging | EnsembleDistillation]:
    return [BackboneAveraging(), EnsembleDistillation(start_round=1)]


def federation(folder: Path, callbacks: Callbacks = averaging, **privacy: Any) -> Deployed:
    settings = DPSGD(**({"noise_multiplier": 4.0, "max_grad_norm": 1.0, "delta": 1e-3} | privacy))
    return Deployed("ab", callbacks, folder, participants={"privacy": settings})


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return federation(tmp_path).grid.sites["a"]


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "a" / ACCOUNT).read_text().splitlines()]


def spent(folder: Path) -> int:
    """Steps that the account of a knows of."""
    return AccountFile(folder / "a", "a").ledger.releases


def in_newest_state(folder: Path, run: str = "run") -> int:
    newest = max((folder / "a" / run).glob("*.ckpt"), key=lambda path: path.stat().st_mtime_ns)
    return PrivacyAccount(read_checkpoint(newest)["federation"]["privacy"]["a"]).releases


def same(one: Reply, other: Reply) -> bool:
    return equal(one.shared[0], other.shared[0]) and replace(one, shared={}) == replace(other, shared={})


# Whatever is asked


def test_the_same_order_has_the_same_reply_and_costs_nothing(site: Site, tmp_path: Path) -> None:
    first = site.carry_out(BEGIN)
    steps = spent(tmp_path)
    assert steps > 0
    for _ in range(3):
        assert same(site.carry_out(BEGIN), first)
    again = federation(tmp_path).grid.sites["a"]  # Another process.
    assert same(again.carry_out(BEGIN), first)
    assert spent(tmp_path) == in_newest_state(tmp_path) == steps
    following = Order("run", finish=0, begin=1, messages=KEYS, shared={0: first.shared[0]})
    second = site.carry_out(following)
    assert second.metrics["val_accuracy/a"] >= 0
    assert same(site.carry_out(following), second)
    assert len(lines(tmp_path)) == 2


def test_any_other_order_counts(site: Site, tmp_path: Path) -> None:
    first = site.carry_out(BEGIN)
    orders = [
        replace(BEGIN, messages={0: KEYS[0][:1]}),
        replace(BEGIN, shared={0: first.shared[0]}),
        replace(BEGIN, run="another"),
        replace(BEGIN, begin=1),
        BEGIN,
    ]
    replies = [site.carry_out(order) for order in orders]
    assert [line["round"] for line in lines(tmp_path)] == [0, 0, 0, 0, 1, 0]
    assert [line["run"] for line in lines(tmp_path)].count("another") == 1
    bias = [reply.shared[0]["backbone.0.bias"] for reply in [first, *replies] if "backbone.0.bias" in reply.shared[0]]
    assert len({tuple(one.tolist()) for one in bias}) == 5  # Noise is drawn anew.
    assert spent(tmp_path) == in_newest_state(tmp_path) == 6 * spent_in_a_round(tmp_path)


def spent_in_a_round(folder: Path) -> int:
    return int(lines(folder)[0]["releases"][0][2])


def test_what_changed_since_is_no_reason_to_say_it_again(site: Site, tmp_path: Path) -> None:
    """The site's data is another: what is said of it would be refused by the coordinator."""
    site.carry_out(BEGIN)
    made = site._make

    def smaller() -> Any:
        parts = made()
        whole: Any = parts.data.data
        parts.data.replace_data(replace(whole, train={"a": torch.utils.data.Subset(whole.train["a"], range(8))}))
        return parts

    reply = Site(smaller, tmp_path / "a").carry_out(BEGIN)
    assert reply.samples == 8
    assert len(lines(tmp_path)) == 2


# Whenever it is killed


class Killed(BaseException):
    """The site's process ends."""


@pytest.mark.parametrize(
    ("owner", "step"), [(AccountFile, "note"), (AccountFile, "_write_head"), (SiteStore, "_settle")]
)
def test_killed_around_the_account_a_round_counts_once(
    owner: type, step: str, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.carry_out(Order("run", messages=KEYS))  # The account is there.

    def end(*args: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(owner, step, end)
        with pytest.raises(Killed):
            site.carry_out(BEGIN)
    first = site.carry_out(BEGIN)
    assert len(lines(tmp_path)) == 1
    assert spent(tmp_path) == in_newest_state(tmp_path)
    assert same(site.carry_out(BEGIN), first)


def test_killed_between_the_account_and_the_state_the_state_is_taken_up(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted = AccountFile.note

    def end(self: AccountFile, *args: Any) -> None:
        noted(self, *args)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(AccountFile, "note", end)
        with pytest.raises(Killed):
            site.carry_out(BEGIN)
    assert not list((tmp_path / "a" / "run").glob("*.ckpt"))
    reply = site.carry_out(BEGIN)
    assert len(lines(tmp_path)) == 1
    assert not list((tmp_path / "a" / "run").glob("*.pending"))
    (path,) = (tmp_path / "a" / "run").glob("*.ckpt")
    kept = read_checkpoint(path)["state_dict"]["participants.a.backbone.0.bias"]
    assert torch.equal(reply.shared[0]["backbone.0.bias"], kept)


@pytest.mark.parametrize(
    ("callbacks", "place"),
    [
        (averaging, 4),
        (distilling, 7),
        *(
            pytest.param(callbacks, place, marks=pytest.mark.slow)
            for callbacks in (averaging, distilling)
            for place in (5, 6)
        ),
    ],
)
def test_a_coordinator_that_is_killed_costs_no_round_twice(callbacks: Callbacks, place: int, tmp_path: Path) -> None:
    deployed = federation(tmp_path, callbacks)
    orders: list[Order] = []

    def kill(name: str, order: Order) -> None:
        del name
        orders.append(order)
        if len(orders) == place:
            raise Killed

    deployed.grid.hooks.append(kill)
    with pytest.raises(Killed):
        deployed.lead()
    assert (tmp_path / STATE).is_file()
    leader = deployed.lead(resume=True)
    assert not any(deployed.notes.left_out)
    assert [(line["run"], line["round"]) for line in lines(tmp_path)] == [(leader.run_id, one) for one in range(3)]
    assert spent(tmp_path) == in_newest_state(tmp_path, leader.run_id)


# What is told


def test_epsilon_is_that_of_all_runs(tmp_path: Path) -> None:
    deployed = federation(tmp_path)
    deployed.rounds = 2
    deployed.lead()
    once = deployed.notes.metrics[-1]["epsilon/a"]
    (tmp_path / STATE).unlink()
    deployed.lead()
    releases, twice = AccountFile(tmp_path / "a", "a").ledger, deployed.notes.metrics[-1]["epsilon/a"]
    assert len(lines(tmp_path)) == 4
    assert twice == pytest.approx(releases.epsilon(1e-3))
    assert twice > once


def test_a_budget_holds_over_runs_and_leaves_the_site_out_by_name(tmp_path: Path) -> None:
    limit = PrivacyAccount([(1 / 3, 4.0, 12)]).epsilon(1e-3) + 1e-6  # Four rounds of three steps.
    deployed = federation(tmp_path, max_epsilon=limit)
    deployed.own = {"b": {"privacy": None}}
    deployed.lead()
    (tmp_path / STATE).unlink()
    deployed.lead()
    left = deployed.notes.left_out
    assert [list(one) for one in left] == [[], [], [], [], ["a"], ["a"]]
    assert "participant 'a' takes no step: its privacy is spent: epsilon is" in left[4]["a"]
    assert f"after the 3 steps of this round; max_epsilon={limit:g}" in left[4]["a"]
    assert spent(tmp_path) == 12
    assert not (tmp_path / "b" / ACCOUNT).exists()
    assert "val_accuracy/a" in deployed.notes.metrics[-1]  # It receives what the others make.


# An account that cannot be relied on


def cut(path: Path) -> None:
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))


def altered(path: Path) -> None:
    path.write_text(path.read_text().replace(", 3]]", ", 1]]", 1))


def swapped(path: Path) -> None:
    path.write_text("".join(reversed(path.read_text().splitlines(keepends=True))))


def nonsense(path: Path) -> None:
    path.write_bytes(b"\xff[" * 10_000 + b"\n")


def emptied(path: Path) -> None:
    path.write_text("")


def without_count(path: Path) -> None:
    path.with_name(HEAD).unlink()


def miscounted(path: Path) -> None:
    path.with_name(HEAD).write_text("many")


def removed(path: Path) -> None:
    path.unlink()
    path.with_name(HEAD).unlink()


FAULTS: dict[Callable[[Path], None], str] = {
    Path.unlink: "it has 0 lines, and had 2",
    emptied: "it has 0 lines, and had 2",
    cut: "it has 1 lines, and had 2",
    altered: "line 2 was altered, or does not follow",
    swapped: "line 1 was altered, or does not follow",
    nonsense: "it has 1 lines, and had 2",
    without_count: "privacy.head, which says how many lines it has",
    miscounted: "privacy.head cannot be read",
    removed: "there is none, though states",
}


def test_nothing_is_trained_without_a_reliable_account(tmp_path: Path) -> None:
    deployed = federation(tmp_path)
    site, folder = deployed.grid.sites["a"], tmp_path / "a"
    site.carry_out(BEGIN)
    site.carry_out(following := Order("run", finish=0, begin=1, messages=KEYS))
    files = {path: path.read_bytes() for path in (folder / ACCOUNT, folder / HEAD)}
    states = sorted(path.name for path in (folder / "run").glob("*.ckpt"))
    for damage, found in FAULTS.items():
        damage(folder / ACCOUNT)
        said = f"participant 'a': the account of its privacy, .*: {found}.* from a backup"
        for order in (following, Order("run", finish=1, begin=2, messages=KEYS), replace(BEGIN, run="another")):
            with pytest.raises(AccountError, match=said):
                site.carry_out(order)
        assert sorted(path.name for path in (folder / "run").glob("*.ckpt")) == states, damage
        for path, content in files.items():
            path.write_bytes(content)
    assert site.carry_out(following).shared


def test_another_participants_account(site: Site, tmp_path: Path) -> None:
    site.carry_out(BEGIN)
    with pytest.raises(AccountError, match="is the account of 'a', and the site's participant is 'b'"):
        check_account(tmp_path / "a", "b")
    check_account(tmp_path / "a", "a")


def test_an_older_copy_of_the_account_is_told_by_the_states(site: Site, tmp_path: Path) -> None:
    site.carry_out(BEGIN)
    older = {path: path.read_bytes() for path in (tmp_path / "a" / ACCOUNT, tmp_path / "a" / HEAD)}
    site.carry_out(Order("run", finish=0, begin=1, messages=KEYS))
    for path, content in older.items():
        path.write_bytes(content)
    with pytest.raises(AccountError, match="a state in this folder tells of 3 releases that are not in it"):
        site.carry_out(Order("run", finish=1, begin=2, messages=KEYS))


def test_a_line_that_was_never_written_whole_is_none(site: Site, tmp_path: Path) -> None:
    site.carry_out(BEGIN)
    with (tmp_path / "a" / ACCOUNT).open("ab") as file:
        file.write(b'{"participant": "a", "run": "run", "rou')
    site.carry_out(Order("run", finish=0, begin=1, messages=KEYS))
    assert [line["round"] for line in lines(tmp_path)] == [0, 1]


@pytest.mark.parametrize("damage", [removed, cut, nonsense])
def test_an_account_begins_anew_with_what_is_known(damage: Callable[[Path], None], site: Site, tmp_path: Path) -> None:
    folder = tmp_path / "a"
    site.carry_out(BEGIN)
    site.carry_out(Order("run", finish=0, begin=1, messages=KEYS))
    damage(folder / ACCOUNT)
    assert begin_account(folder, "a").releases == 6
    assert (len(list(folder.glob(f"{ACCOUNT}.*"))) == 1) == (damage is not removed)
    site.carry_out(Order("run", finish=1, begin=2, messages=KEYS))
    assert [line["round"] for line in lines(tmp_path)] == [-1, 2]
    assert spent(tmp_path) == in_newest_state(tmp_path) == 9


def test_a_site_that_becomes_private_says_what_is_not_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Deployed("ab", averaging, tmp_path).grid.sites["a"].carry_out(BEGIN)
    assert not (tmp_path / "a" / ACCOUNT).exists()
    site = federation(tmp_path).grid.sites["a"]
    for run in ("another", "third"):
        site.carry_out(replace(BEGIN, run=run))
    assert spent(tmp_path) == 6
    assert caplog.text.count("participant 'a': 1 earlier runs in") == 1
    # With the account there, no round without noise.
    open_site = Deployed("ab", averaging, tmp_path).grid.sites["a"]
    with pytest.raises(AccountError, match=r"site\.yaml trains it without privacy, and .* Put privacy"):
        open_site.carry_out(replace(BEGIN, run="fourth"))
