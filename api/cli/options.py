"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Store = Annotated[Path, typer.Argument(metavar="STORE", help="The store, NAME.lens.")]
Run = Annotated[str | None, typer.Option(help="The run, where the store holds several.")]
Where = Annotated[
    str | None, typer.Option(help="Only images for which this SQL expression over `images` holds.")
]
Json = Annotated[bool, typer.Option("--json", help="Print the rows as JSON.")]
Csv = Annotated[bool, typer.Option("--csv", help="Print the rows as CSV.")]
Count = Annotated[int, typer.Option("-k", help="How many rows.")]
Normalize = Annotated[bool, typer.Option("--normalize", help="Divide by the length of M(I).")]
