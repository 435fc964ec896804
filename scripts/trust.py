"""What is promised, which faults were injected, and how many of them each promise stood.

    python scripts/trust.py                        # a few faults of each kind, in minutes
    python scripts/trust.py --full                 # all of them, hours; writes docs/trust.md
    python scripts/trust.py --mutations            # takes each defence out and looks whether a test fails
    python scripts/trust.py --cost                 # the defences' share of a round when nothing is wrong
    python scripts/trust.py --only finite killed   # some promises

Ends with 1 where a promise did not hold, or a defence can be taken out without a test that fails.
"""

from __future__ import annotations

import argparse
import datetime as dt
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # `scripts.promises`, from wherever this is started

from scripts.benchmark.hardware import describe
from scripts.promises.cost import cost
from scripts.promises.mutating import unseen_mutations
from scripts.promises.promise import Promise
from scripts.promises.running import ROOT, run_tests
from scripts.promises.table import Tally, chosen, rows

HEAD = """# Trust: what is promised, and what it stood

Every row is a promise. Its tests inject the fault as often as the third column says; the fourth counts how often the
promise held. The tests of a promise carry `@pytest.mark.promise`, and for each at least one change of the source takes
the defence out, upon which they fail (`python scripts/trust.py --mutations`).
"""


def main() -> None:
    """Read the options and do what they ask for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="Inject all faults, and write docs/trust.md.")
    parser.add_argument("--mutations", action="store_true", help="Take the defences out, one after another.")
    parser.add_argument("--cost", action="store_true", help="Time the defences in rounds in which nothing is wrong.")
    parser.add_argument("--only", nargs="+", default=[], metavar="KEY", help="Promises by the key of their markers.")
    parser.add_argument("--output", type=Path, help="Where to write the table; docs/trust.md with --full.")
    options = parser.parse_args()
    promises = chosen(options.only)
    if options.cost:
        print("\n".join(cost()))
        return
    if options.mutations:
        count, unseen = unseen_mutations(one for found in promises.values() for one in found)
        print(f"{count} defences taken out, {count - len(unseen)} seen missing by a test.")
        sys.exit(bool(unseen))
    tallies = run_tests([one.key for found in promises.values() for one in found], full=options.full)
    page = _page(promises, tallies, full=options.full)
    print(page)
    output = options.output or (ROOT / "docs" / "trust.md" if options.full and not options.only else None)
    if output is not None:
        output.write_text(page, encoding="utf-8")
    sys.exit(not _all_held(promises, tallies))


def _page(promises: dict[str, list[Promise]], tallies: dict[str, Tally], *, full: bool) -> str:
    command = "python scripts/trust.py --full" if full else "python scripts/trust.py"
    machine = f"{os.cpu_count()} cores, {describe('cpu', 1)}"
    when = dt.datetime.now(dt.UTC).date().isoformat()
    parts = [HEAD, f"Made by `{command}` on {when}: {machine}.\n"]
    for area, found in promises.items():
        parts += [f"## {area}\n", *rows(found, tallies), ""]
        told = [f"- {one.says}: {line}." for one in found if one.key in tallies for line in tallies[one.key].measured]
        parts += ["Measured beside:\n", *told, ""] if told else []
    if full:
        parts += ["## What it costs when nothing is wrong\n", *(f"- {line}." for line in cost()), ""]
    if skipped := sorted({name for tally in tallies.values() for name in tally.skipped}):
        parts += ["Not run on this machine:\n", *(f"- `{name}`" for name in skipped), ""]
    return "\n".join(parts)


def _all_held(promises: dict[str, list[Promise]], tallies: dict[str, Tally]) -> bool:
    found = [tallies.get(one.key, Tally()) for area in promises.values() for one in area]
    return all(tally.tried > 0 and tally.held == tally.tried and not tally.failed for tally in found)


if __name__ == "__main__":
    main()
