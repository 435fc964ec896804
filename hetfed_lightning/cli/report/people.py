"""Sections on participants and the course of a run: sizes, labels, architectures, shared bytes, curves, outputs."""

from __future__ import annotations

from hetfed_lightning import plots
from hetfed_lightning.cli.report.markup import grid, paragraph, picture, section, table
from hetfed_lightning.cli.report.sources import Subject
from hetfed_lightning.logs.run_record import Record
from hetfed_lightning.logs.text import listed, readable_bytes

REFERENCES = {"local_only": "local only, mean", "centralised": "centralised, mean"}


def participants(record: Record) -> str:
    """Section with a table of all participants, and their numbers of examples per label."""
    if not record.participants:
        return ""
    rows = [
        [
            name,
            str(role.get("architecture", "")),
            str(role.get("optimizer", "")),
            f"{int(role.get('weights') or 0):,}",
            _shared(role),
            f"{role['examples']:,}" if role.get("examples") else "-",
            str(role.get("local_epochs", "")),
            str(role.get("joins_at", "")),
        ]
        for name, role in record.participants.items()
    ]
    header = [
        "participant",
        "architecture",
        "optimizer",
        "weights",
        "averages, with",
        "examples",
        "local epochs",
        "joins",
    ]
    more = record.total - len([name for name in record.participants if name != "student"])
    pieces = [
        table(header, rows, caption="Participants", words=True),
        paragraph(f"and {more:,} more" if more > 0 else ""),
    ]
    counts = {name: values for name, values in record.label_counts.items() if values}
    if counts:
        pieces.append(grid([picture(
            plots.label_distribution(counts),
            "Training examples per class: " + "; ".join(
                f"{name}: {', '.join(map(str, values[:20]))}" for name, values in list(counts.items())[:12]
            ),
        )]))  # fmt: skip
    return section("Who took part", *pieces)


def _shared(role: dict[str, object]) -> str:
    size, others = role.get("shared_bytes"), role.get("shared_with")
    if not isinstance(size, int) or not size or not isinstance(others, list):
        return "nothing"
    return f"{readable_bytes(size)} with {listed([str(other) for other in others])}"


def curves(subject: Subject) -> str:
    """Section with the headline metric over rounds, own and global, beside the final figures of other trainings."""
    record = subject.main
    pieces = []
    for metric in dict.fromkeys(str(role.get("headline", "")) for role in record.participants.values()):
        for base, title in ((f"val_{metric}", f"own {metric}"), (f"val_global_{metric}", f"global {metric}")):
            series = record.series(base)
            if not series:
                continue
            references = {}
            for arm, label in REFERENCES.items():
                of_arm = [points for one in subject.records.get(arm, []) for points in one.series(base).values()]
                if of_arm and record.arm != arm:
                    references[label] = plots.mean_over(of_arm)
            figure = plots.over_rounds(
                series, metric=metric, title=f"{title[0].upper()}{title[1:]}, validation", references=references
            )
            ends = ", ".join(f"{name} {points[-1][1]:.3f}" for name, points in list(series.items())[:12])
            pieces.append(picture(figure, f"{title} over {record.rounds} rounds; in the end: {ends}"))
    seeds = len(subject.records.get(record.arm, []))
    note = (
        f"Lines of seed {record.seed}; the dashed ones are means over participants and all seeds." if seeds > 1 else ""
    )
    if not pieces:
        note = "Nobody was measured after the rounds: the run had no validation sets."
    return section("Over rounds", paragraph(note), grid(pieces))


def left_out(record: Record) -> str:
    """Section with the participants left out of rounds, and the reasons; empty without any."""
    rows = [[str(one["round"]), one["participant"], one["reason"]] for one in record.left_out]
    caption = "Rounds that went on without a participant; it returned to the state it began them with"
    return (
        section("Left out", table(["round", "participant", "reason"], rows, caption=caption, words=True))
        if rows
        else ""
    )


def traffic(record: Record) -> str:
    """Section with bytes per round, divergence before averaging, and numbers of quarantined participants."""
    pieces = []
    up, down = record.points("federation/bytes_up"), record.points("federation/bytes_down")
    if up or down:
        sums = [readable_bytes(sum(value for _, value in points)) for points in (up, down)]
        figure = plots.bytes_per_round(up, down)
        pieces.append(
            picture(
                figure,
                f"Bytes per round; in all {sums[0]} up and {sums[1]} down",
                f"In all {sums[0]} up, {sums[1]} down.",
            )
        )
    for tag, title in (
        ("divergence", "Divergence of what is shared, before averaging"),
        ("quarantined", "Quarantined"),
    ):
        points = record.points(f"federation/{tag}")
        if points and any(value for _, value in points):
            figure = plots.over_rounds({tag: points}, metric=tag, title=title)
            pieces.append(picture(figure, f"{title}, by round; in the end {points[-1][1]:.3g}"))
    return section("What travelled", grid(pieces))


def answers(record: Record) -> str:
    """Section with teachers' agreement, confusion matrices, and predicted against true values."""
    pieces = []
    names = [str(name) for name in record.agreement.get("names", [])]
    if len(names) > 1:
        matrix = record.agreement["matrix"]
        pairs = ", ".join(f"{names[0]} and {name} {matrix[0][index]:.2f}" for index, name in enumerate(names[1:9], 1))
        pieces.append(picture(plots.teacher_agreement(names, matrix), f"Agreement of the teachers: {pairs}"))
    for name, counts in record.confusions.items():
        total = sum(map(sum, counts)) or 1
        right = sum(row[index] for index, row in enumerate(counts)) / total
        figure = plots.confusion_matrix(counts, name=name, where=record.where)
        pieces.append(picture(figure, f"Confusion matrix of {name} on {record.where}: {right:.1%} of {total} right"))
    for name, (true, predicted) in record.residuals.items():
        figure = plots.residuals({name: (true, predicted)}, where=f"{record.where}, {len(true)} examples")
        error = sum(abs(a - b) for a, b in zip(true, predicted, strict=True)) / max(1, len(true))
        pieces.append(picture(figure, f"Predicted against true values of {name}: mean absolute error {error:.3g}"))
    return section("Agreement and answers", grid(pieces))
