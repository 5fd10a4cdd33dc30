"""Printing rows: as a table, or whole as JSON or CSV."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import typer

from ...schema.errors import BadQuestion
from ..printing import SHOWN, to_text
from ..result import Result


def print_rows(result: Result, *, as_json: bool, as_csv: bool, shown: int | None = SHOWN) -> None:
    """Print a result; the table ends after `shown` rows (None: never), JSON and CSV do not.

    Raises `BadQuestion` where both formats are asked for.
    """
    if as_json and as_csv:
        msg = "--json and --csv exclude each other; give one."
        raise BadQuestion(msg)
    if as_json or as_csv:
        with TemporaryDirectory() as folder:
            path = result.save(Path(folder) / f"rows.{'json' if as_json else 'csv'}")
            typer.echo(path.read_text(encoding="utf-8"), nl=False)
    else:
        typer.echo(to_text(result, shown=len(result) if shown is None else shown))
