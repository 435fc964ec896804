"""Pieces of HTML. Values from files pass through :func:`text`, so that nothing in them can become a tag."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Iterable, Sequence
from itertools import count
from typing import TYPE_CHECKING, TypeGuard

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.text import Text

_numbers = count()
_ID = re.compile(r'(\bid="|url\(#|xlink:href="#)')
_METADATA = re.compile(r"<metadata>.*?</metadata>", re.DOTALL)


def text(value: object) -> str:
    """Any value as text that no browser takes for markup, quotes included."""
    return html.escape(str(value), quote=True)


def table(
    header: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    caption: str,
    marks: dict[int, str] | None = None,
    words: bool = False,
) -> str:
    """HTML table in a box that scrolls by itself if the screen is too narrow; all cells are text.

    Args:
        header: Names of the columns.
        rows: Cells; the first of each row is its heading.
        caption: Caption of the table.
        marks: Word shown beside a row's heading, such as ``"worst"``, by number of row.
        words: True if the cells are words, flush left, and no numbers.
    """
    head = "".join(f'<th scope="col">{text(cell)}</th>' for cell in header)
    lines = []
    for index, (first, *rest) in enumerate(rows):
        mark = (marks or {}).get(index)
        badge = f' <span class="mark">{text(mark)}</span>' if mark else ""
        cells = "".join(f"<td>{text(cell)}</td>" for cell in rest)
        lines.append(f'<tr{" class=marked" if mark else ""}><th scope="row">{text(first)}{badge}</th>{cells}</tr>')
    kind = " class=words" if words else ""
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{text(caption)}"><table{kind}>'
        f"<caption>{text(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def picture(figure: Figure, alt: str, caption: str = "") -> str:
    """Figure as inline SVG with real letters.

    Args:
        figure: Figure of matplotlib.
        alt: Content of the figure in words.
        caption: Text below the figure.
    """
    import matplotlib as mpl

    number = next(_numbers)
    buffer = io.StringIO()
    # `$` in the name of a run is no formula. A fixed salt gives equal pages for equal records.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "hetfed", "text.parse_math": False}):
        for letters in filter(_is_text, figure.findobj()):
            letters.set_parse_math(False)
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    drawn = buffer.getvalue()
    drawn = _METADATA.sub("", drawn[drawn.index("<svg") :])
    drawn = _ID.sub(rf"\g<1>f{number}-", drawn)  # Several figures stand in one page, and an id only once.
    drawn = re.sub(r' (width|height)="[\d.]+pt"', "", drawn, count=2)
    drawn = drawn.replace("<svg ", f'<svg role="img" aria-label="{text(alt)}" ', 1)
    below = f"<figcaption>{text(caption)}</figcaption>" if caption else ""
    return f"<figure>{drawn}{below}</figure>"


def grid(pieces: Iterable[str]) -> str:
    """Figures side by side, as far as there is room."""
    found = list(pieces)
    return f'<div class="grid">{"".join(found)}</div>' if found else ""


def section(title: str, *pieces: str, level: int = 3) -> str:
    """Section with its heading; empty without content.

    Args:
        title: Heading.
        pieces: HTML of the content.
        level: Level of the heading.
    """
    content = "".join(pieces)
    return f"<section><h{level}>{text(title)}</h{level}>{content}</section>" if content else ""


def paragraph(words: str) -> str:
    """Paragraph of text."""
    return f"<p>{text(words)}</p>" if words else ""


def folded(title: str, content: str) -> str:
    """Preformatted text that opens on a click.

    Args:
        title: Text to click on.
        content: The text.
    """
    return f"<details><summary>{text(title)}</summary><pre>{text(content)}</pre></details>"


def _is_text(artist: object) -> TypeGuard[Text]:
    from matplotlib.text import Text

    return isinstance(artist, Text)
