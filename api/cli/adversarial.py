"""`adversarial`: words, prompt, descriptions and score of semantic adversarial examples."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from ...schema.errors import BadQuestion, SourceUnreadable
from ..chat import ChatEndpoint
from ..descriptions import check_classes
from ..result import Result
from ..store import open_store
from ..whole_numbers import whole
from .classes import Templates
from .neurons import Center, LayersOption, layers_of
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
    k: Annotated[
        int | None, typer.Option("-k", help="How many words the neurons give; by default 25.")
    ] = None,
    pool: Annotated[
        str | None, typer.Option(help="The pool of those words; by default the run's own.")
    ] = None,
    layers: LayersOption = None,
    center: Center = False,
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
    of_neurons = k is not None or pool is not None or layers is not None or center
    if score is not None and (describe or words or of_neurons):
        msg = (
            "--score classifies images that are there; leave out --describe and what chooses words."
        )
        raise BadQuestion(msg)
    if words and of_neurons:
        msg = (
            "--words names all words; leave out -k, --pool, --layers and --center, which choose "
            "those of the neurons."
        )
        raise BadQuestion(msg)
    named = templates[0] if templates and len(templates) == 1 else templates or None
    # What needs no store and no model is refused before either is opened.
    check_classes(shown, mistaken_for)
    whole(count, "count", least=1, of="descriptions")
    endpoint = ChatEndpoint.from_environment() if describe else None
    with open_store(store) as opened:
        view = opened.run(run)
        if score is not None:
            fooled = view.fooled(score, shown, mistaken_for, templates=named)
            print_rows(fooled.rows, as_json=as_json, as_csv=as_csv)
            if not (as_json or as_csv):
                typer.echo(f"\n{str(fooled).splitlines()[0]}")
            return
        found = (
            _listed(words)
            if words
            else view.spurious_texts(
                shown,
                mistaken_for,
                k=25 if k is None else k,
                pool=pool,
                layers=layers_of(layers),
                center=center,
                templates=named,
            )
        )
    from ..adversarial import describe as ask
    from ..adversarial import prompt

    text = prompt(shown, mistaken_for, list(found["text"]), count=count)
    if describe:
        kept = ask(text, shown=shown, mistaken_for=mistaken_for, endpoint=endpoint)
        typer.echo(f"{kept}.", err=True)
        if as_json or as_csv:
            rows = Result.of({"description": kept.kept})
            print_rows(rows, as_json=as_json, as_csv=as_csv)
        else:
            typer.echo("\n".join(kept))
    elif as_json and not as_csv:
        typer.echo(
            json.dumps({"words": found.rows(), "prompt": text}, ensure_ascii=False, indent=1)
        )
    else:
        print_rows(found, as_json=as_json, as_csv=as_csv, shown=None)
        if not as_csv:
            typer.echo(f"\n{text}", nl=False)


def _listed(files: list[Path]) -> Result:
    """The words of files, one a line."""
    listed = [line.strip() for file in files for line in _lines(file)]
    return Result.of({"text": [word for word in dict.fromkeys(listed) if word]})


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        msg = f"{path} is no UTF-8 text ({error.reason}); write one word a line."
        raise SourceUnreadable(msg) from error
