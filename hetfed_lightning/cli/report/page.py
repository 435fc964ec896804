"""The whole page: head, style, a part per run, and a table of several runs side by side."""

from __future__ import annotations

from collections.abc import Sequence

from hetfed_lightning.cli.outcomes import TITLES, Arm, by_seed, mean_of, of_metric, spread
from hetfed_lightning.cli.report.markup import folded, paragraph, section, table, text
from hetfed_lightning.cli.report.people import answers, curves, left_out, participants, traffic
from hetfed_lightning.cli.report.results import LABELS, results
from hetfed_lightning.cli.report.sources import Subject, members

STYLE = """
:root{color-scheme:light}*{box-sizing:border-box}
body{font:16px/1.5 system-ui,"Segoe UI",Roboto,Helvetica,Arial,sans-serif;color:#1a1a1a;background:#fff;margin:0}
main,header,footer{max-width:1120px;margin:0 auto;padding:0 16px}
h1{font-size:1.7rem;margin:1.2rem 0 .3rem}h2{font-size:1.35rem;margin:2.2rem 0 .4rem;padding-top:.8rem;
border-top:2px solid #0072b2;overflow-wrap:anywhere}h3{font-size:1.1rem;margin:1.6rem 0 .4rem}p{margin:.4rem 0}
nav a{margin-right:1rem;color:#0072b2}
.scroll{overflow-x:auto;margin:.6rem 0}.scroll:focus-visible{outline:2px solid #0072b2}
table{border-collapse:collapse;font-size:.875rem;width:100%}caption{text-align:left;color:#555;padding-bottom:.3rem}
th,td{padding:.3rem .6rem;border-bottom:1px solid #ddd;text-align:right;font-variant-numeric:tabular-nums;
vertical-align:top}td{white-space:nowrap}thead th{border-bottom:2px solid #888;vertical-align:bottom}
th:first-child{text-align:left;position:sticky;left:0;background:#fff}tbody th{font-weight:600}
.words td,.words th{text-align:left}tbody th{white-space:nowrap}
.marked th,.marked td{background:#fdf1ee}.mark{font-size:.75rem;font-weight:400;color:#b2182b;border:1px solid #b2182b;
border-radius:3px;padding:0 .3rem}
.grid{display:grid;grid-template-columns:repeat(2,minmax(0,1fr));gap:20px 28px;align-items:start}
figure{margin:0;break-inside:avoid}figure svg{display:block;width:100%;max-width:540px;height:auto;margin:0 auto}
figure svg image{image-rendering:pixelated}
figcaption{font-size:.85rem;color:#555;text-align:center}
details{margin:.6rem 0}summary{cursor:pointer;color:#0072b2}
pre{overflow-x:auto;background:#f6f6f6;padding:.8rem;font-size:.8rem;line-height:1.35}
footer{color:#666;font-size:.85rem;margin-top:2rem;padding-bottom:2rem}
@media(max-width:720px){.grid{grid-template-columns:minmax(0,1fr)}body{font-size:15px}th,td{padding:.3rem .4rem}}
@media print{@page{margin:14mm}body{font-size:10.5pt}main,header,footer{max-width:none;padding:0}nav{display:none}
h2{break-before:auto}h2,h3,caption{break-after:avoid}tr,.scroll{break-inside:avoid}.scroll{overflow:visible}
table{font-size:7.5pt}th,td{padding:.15rem .3rem}th:first-child{position:static}td{white-space:normal}
.marked th,.marked td{print-color-adjust:exact;-webkit-print-color-adjust:exact}}
"""


def page(subjects: Sequence[Subject], *, title: str = "Federation report") -> str:
    """Complete HTML document.

    Args:
        subjects: Runs and comparisons, in order; equal names are numbered.
        title: Title of the document.

    Raises:
        ValueError: If there is no subject.
        ModuleNotFoundError: If matplotlib is missing.
    """
    if not subjects:
        raise ValueError("page: expected at least one run to report on, got none.")
    names = _headings(subjects)
    links = "".join(f'<a href="#run-{index}">{text(name)}</a> ' for index, name in enumerate(names))
    parts = [_run(one, name, index) for index, (one, name) in enumerate(zip(subjects, names, strict=True))]
    versions = ", ".join(dict.fromkeys(one.main.version for one in subjects))
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{text(title)}: {text(', '.join(names))}</title><style>{STYLE}</style></head><body>"
        f"<header><h1>{text(title)}</h1>{f'<nav>{links}</nav>' if len(names) > 1 else ''}</header>"
        f"<main>{_side_by_side(subjects, names)}{''.join(parts)}</main>"
        f"<footer>Written by hetfed-lightning; runs of version {text(versions)}.</footer></body></html>\n"
    )


def _headings(subjects: Sequence[Subject]) -> list[str]:
    names = [one.name for one in subjects]
    return [
        f"{name} ({names[: index + 1].count(name)})" if names.count(name) > 1 else name
        for index, name in enumerate(names)
    ]


def _side_by_side(subjects: Sequence[Subject], names: Sequence[str]) -> str:
    if len(subjects) < 2:
        return ""
    rows = []
    for one, name in zip(subjects, names, strict=True):
        found = of_metric(one.outcomes, None) if any(each.headline for each in one.outcomes) else []
        people = members(one)
        arm: Arm = one.main.arm  # type: ignore[assignment]  # as it was written
        cells = [spread(list(by_seed(found, arm, scope, people, mean_of).values())) for scope in TITLES]
        metrics = ", ".join(dict.fromkeys(each.metric for each in found))
        rows.append([name, str(one.main.total), str(one.main.rounds), f"{metrics} ({one.measured})", *cells])
    header = ["run", "participants", "rounds", "metric", "own, mean", "global, mean"]
    return section("Side by side", table(header, rows, caption="Mean over participants"), level=2)


def _run(subject: Subject, name: str, index: int) -> str:
    record = subject.main
    seeds = ", ".join(map(str, dict.fromkeys(one.seed for one in subject.outcomes))) or str(record.seed)
    state = (
        ""
        if record.finished or not record.rounds
        else f" It had not come to its end: {len(record.history)} rounds are here."
    )
    told = f"{record.total} participants, {record.rounds} rounds, seed{'s' * (',' in seeds)} {seeds}.{state}"
    if subject.is_comparison:
        told += " Compared: " + ", ".join(LABELS.get(arm, arm) for arm in subject.records) + "."
    config = folded("Configuration", record.config.strip()) if record.config.strip() else ""
    return (
        f'<article id="run-{index}"><h2>{text(name)}</h2>'
        + section("What was run", paragraph(told), config)
        + participants(record)
        + results(subject)
        + curves(subject)
        + left_out(record)
        + traffic(record)
        + answers(record)
        + "</article>"
    )
