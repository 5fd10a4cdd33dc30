"""Results as people read them: tables in a terminal, tables with pictures in a notebook."""

from __future__ import annotations

import sys
from base64 import b64encode
from datetime import datetime
from html import escape
from io import StringIO
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from rich.table import Table
    from rich.text import Text

    from .result import Result

SHOWN = 20
PLAIN_WIDTH = 160
_LONGEST = 60  # of one value in a table
_LONGEST_HTML = 300


def counted(number: int, thing: str) -> str:
    """So many of something: `1 image`, `2,031 images`; for things whose plural ends in s."""
    return f"{number:,} {thing}" if number == 1 else f"{number:,} {thing}s"


def layers_named(layers: Sequence[int]) -> str:
    """Ascending layers: `layers 0 to 7` where they follow on each other, else `layers 2, 5`."""
    if not layers:
        return "no layer"
    if len(layers) > 2 and layers[-1] - layers[0] == len(layers) - 1:
        return f"layers {layers[0]} to {layers[-1]}"
    return f"layer{'s' if len(layers) > 1 else ''} {', '.join(map(str, layers))}"


def keeping(option: str, layers: Iterable[int] | str = ()) -> str:
    """How to get what a run did not keep: an option of another ingest, with layers or a value."""
    value = layers if isinstance(layers, str) else ",".join(map(str, sorted(layers)))
    return (
        f"An ingest into a new run, `--run NEW_NAME {option}{value and ' '}{value}`, keeps them: "
        "a run's settings are fixed when it begins."
    )


def renderables(result: Result, width: int, *, shown: int = SHOWN) -> Iterator[Table | Text]:
    """What rich prints: the first rows as a table no wider than `width`, and what it leaves out.

    A single row too wide for that is turned on its side.
    """
    from rich.text import Text

    rows = [[cell(value) for value in row.values()] for row in result[:shown].rows()]
    if len(result) == 1 and sum(map(len, [*rows[0], *result.columns])) > width:
        yield _record(result.columns, rows[0])
        kept = len(result.columns)
    else:
        rows = [[_short(text) for text in row] for row in rows]
        kept = _fitting(result.columns, rows, width)
        yield _table(result, rows, kept)
    left_out = ", ".join(result.columns[kept:])
    notes = [f"further columns: {left_out}" if left_out else "", footer(result, shown) or ""]
    if any(notes):
        yield Text("; ".join(filter(None, notes)))


def to_text(result: Result, *, shown: int = SHOWN) -> str:
    """The table as text, in colors and the terminal's width only where that is a terminal."""
    from rich.console import Console

    terminal = sys.stdout.isatty()
    console = Console(
        file=StringIO(),
        force_terminal=terminal,
        # In a notebook rich would show a table of its own beside the text that is asked for.
        force_jupyter=False,
        width=None if terminal else PLAIN_WIDTH,
    )
    with console.capture() as capture:
        console.print(*renderables(result, console.width, shown=shown), sep="\n")
    return "\n".join(line.rstrip() for line in capture.get().splitlines()).strip("\n")


def _table(result: Result, rows: list[list[str]], kept: int) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in result.columns[:kept]:
        right = result.is_number(name)
        table.add_column(Text(name), justify="right" if right else "left", overflow="fold")
    for row in rows:
        # As Text: what is in brackets is a value, not rich's markup.
        table.add_row(*map(Text, row[:kept]))
    return table


def _record(names: list[str], values: list[str]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in zip(names, values, strict=True):
        table.add_row(Text(name, "bold"), Text(value))
    return table


def _fitting(names: list[str], rows: list[list[str]], width: int) -> int:
    """How many columns, from the left, stand side by side; one at least."""
    from rich.cells import cell_len

    used = 0
    for place, name in enumerate(names):
        used += max(map(cell_len, [name, *(row[place] for row in rows)])) + 3
        if used > width and place:
            return place
    return len(names)


def _short(text: str) -> str:
    return _clipped(" ".join(text.split()) if "\n" in text else text, _LONGEST)


def _clipped(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def to_html(result: Result) -> str:
    """The table as HTML that needs nothing else: thumbnails are inside it."""
    first = result[:SHOWN].rows()
    pictures = result.pictures(SHOWN)
    names = [*([""] if pictures else []), *result.columns]
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    body: list[str] = []
    for place, row in enumerate(first):
        cells = [escape(_clipped(cell(row[name]), _LONGEST_HTML)) for name in result.columns]
        if pictures:
            cells.insert(0, _picture(pictures[place]))
        body.append("<tr>" + "".join(f"<td>{one}</td>" for one in cells) + "</tr>")
    note = footer(result)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>" + (
        f"<p>{escape(note)}</p>" if note else ""
    )


def footer(result: Result, shown: int = SHOWN) -> str | None:
    """What stands below a table: rows left out, and the result's note."""
    more = len(result) - shown
    parts = [f"{more:,} more rows" if more > 0 else "no rows" if not len(result) else ""]
    return "; ".join(part for part in [*parts, result.note or ""] if part) or None


def cell(value: Any) -> str:
    """One value, short: four digits of a fraction, lists as comma-separated texts."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}"
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    if isinstance(value, list):
        return ", ".join(cell(one) for one in value)
    return str(value)


def human_bytes(size: float) -> str:
    """A size with its unit: `391.0 KiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def _picture(webp: bytes | None) -> str:
    if webp is None:
        return ""
    return f'<img height="64" alt="" src="data:image/webp;base64,{b64encode(webp).decode()}">'
