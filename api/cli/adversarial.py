"""`adversarial`: words, prompt, descriptions and score of semantic adversarial examples."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ...schema.errors import BadQuestion, SourceUnreadable
from ..result import Result
from ..run import RunView
from ..store import open_store
from .classes import Templates
from .options import Csv, Json, Run, Store
from .rows import print_rows


def adversarial(
    store: Store,
    shown: Annotated[str, typer.Argument(metavar="SHOWN", help="The class that images show.")],
    mistaken_for: Annotated[
        str, typer.Argument(metavar="MISTAKEN_FOR", help="The class to take them for.")
    ],
    words: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE", help="Words, one a line; by default those that the neurons give."
        ),
    ] = None,
    k: Annotated[int, typer.Option("-k", help="How many words the neurons give.")] = 25,
    pool: Annotated[
        str | None, typer.Option(help="The pool of those words; by default the run's own.")
    ] = None,
    count: Annotated[int, typer.Option(help="How many descriptions to ask for.")] = 50,
    describe: Annotated[
        bool, typer.Option("--describe", help="Send the prompt to the language model configured.")
    ] = False,
    score: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Classify this folder's images.")
    ] = None,
    templates: Templates = None,
    run: Run = None,
    as_json: Json = False,
    as_csv: Csv = False,
) -> None:
    """Images of one class that the model takes for another: the words, the prompt, the score."""
    if score is not None and (describe or words):
        msg = "--score classifies images that are there; leave out --describe and --words."
        raise BadQuestion(msg)
    with open_store(store) as opened:
        view = opened.run(run)
        if score is not None:
            _score(view, score, shown, mistaken_for, templates, as_json=as_json, as_csv=as_csv)
            return
        found = _words(view, shown, mistaken_for, files=words, k=k, pool=pool)
    from ..adversarial import describe as ask
    from ..adversarial import prompt

    text = prompt(shown, mistaken_for, list(found["text"]), count=count)
    if describe:
        kept = ask(text, shown=shown, mistaken_for=mistaken_for)
        typer.echo(f"{kept}.", err=True)
        if as_json or as_csv:
            rows = Result.of({"description": kept.kept})
            print_rows(rows, as_json=as_json, as_csv=as_csv)
        else:
            typer.echo("\n".join(kept))
    elif as_json or as_csv:
        print_rows(found, as_json=as_json, as_csv=as_csv)
    else:
        print_rows(found, as_json=False, as_csv=False, shown=None)
        typer.echo(f"\n{text}", nl=False)


def _words(
    view: RunView,
    shown: str,
    mistaken_for: str,
    *,
    files: list[Path] | None,
    k: int,
    pool: str | None,
) -> Result:
    """The words of files, or those that pull an image of one class toward the other."""
    if not files:
        return view.spurious_texts(shown, mistaken_for, pool=pool, k=k)
    listed = [line.strip() for file in files for line in _lines(file)]
    return Result.of({"text": [word for word in dict.fromkeys(listed) if word]})


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        msg = f"{path} is no UTF-8 text ({error.reason}); write one word a line."
        raise SourceUnreadable(msg) from error


def _score(
    view: RunView,
    folder: Path,
    shown: str,
    mistaken_for: str,
    templates: list[str] | None,
    *,
    as_json: bool,
    as_csv: bool,
) -> None:
    named = templates[0] if templates and len(templates) == 1 else templates or None
    found = view.fooled(folder, shown, mistaken_for, templates=named)
    if as_json or as_csv:
        print_rows(found.rows, as_json=as_json, as_csv=as_csv)
    else:
        print_rows(found.rows, as_json=False, as_csv=False)
        typer.echo(f"\n{str(found).splitlines()[0]}")
