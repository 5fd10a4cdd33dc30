"""`image`: what an image shows, and where in it a text is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, cast

import typer

from ...queries.segmentation import Threshold
from ...schema.components import slug
from ..segmentation_methods import Method
from ..store import open_store
from .heads import image_named
from .neurons import Center, LayersOption, Pool, Texts, layers_of
from .options import Count, Csv, Json, Run, Store
from .rows import print_rows

images = typer.Typer(help="Images: what one shows, and where in it a text is.")

Address = Annotated[str, typer.Argument(metavar="IMAGE", help="The image: its id, key or path.")]
RelativeTo = Annotated[str | None, typer.Option(metavar="TEXT", help="Take this text's map away.")]
Debias = Annotated[bool, typer.Option(help="Take the mean map over the run's default pool away.")]
Unsigned = Annotated[
    bool, typer.Option("--unsigned", help="Weigh votes by norms, as the thesis does.")
]


@images.command("heatmap")
def heatmap(
    store: Store,
    image: Address,
    text: Annotated[
        str, typer.Argument(metavar="TEXT", help='The text; with --head also "top" or "bottom".')
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="A .png, .webp or .jpg, or .npy for the scores."
        ),
    ] = None,
    head: Annotated[
        str | None, typer.Option(metavar="HEAD", help="Only what this head writes.")
    ] = None,
    relative_to: RelativeTo = None,
    debias: Debias = True,
    image_root: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where the original images lie now.")
    ] = None,
    run: Run = None,
) -> None:
    """Write a picture of where in an image a text is."""
    with open_store(store, image_root=image_root) as opened:
        view = opened.run(run).image(image_named(image))
        found = view.heatmap(text, head=head, relative_to=relative_to, debias=debias)
        path = output or Path(f"{slug(Path(view.key).stem)}-{slug(text)}.png")
        found.save(path)
        typer.echo(f"Wrote {path}: {found}.")


@images.command("segment")
def segment(
    store: Store,
    image: Address,
    text: Annotated[str, typer.Argument(metavar="TEXT", help="The text.")],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="A .png for the mask, a .webp or .jpg for a picture, or .npy for the heat.",
        ),
    ] = None,
    relative_to: RelativeTo = None,
    method: Annotated[
        str, typer.Option(help="tokens, or neurons: where those along the text are active.")
    ] = "tokens",
    layers: LayersOption = None,
    neurons: Annotated[
        int | None, typer.Option(help="How many neurons, with --method neurons; by default 200.")
    ] = None,
    signed: Annotated[
        bool, typer.Option("--signed", help="Turn neurons around that write against the text.")
    ] = False,
    threshold: Annotated[
        str | None,
        typer.Option(
            metavar="NUMBER",
            help="The heat to pass, from 0 to 1, or mean; by default mean, 0.5 with neurons.",
        ),
    ] = None,
    debias: Debias = True,
    run: Run = None,
) -> None:
    """Write a mask of where in an image a text is."""
    with open_store(store) as opened:
        view = opened.run(run).image(image_named(image))
        found = view.segment(
            text,
            method=cast("Method", method),
            layers=layers_of(layers),
            neurons=neurons,
            signed=signed,
            threshold=None if threshold is None else _threshold(threshold),
            relative_to=relative_to,
            debias=None if debias else False,
        )
        path = output or Path(f"{slug(Path(view.key).stem)}-{slug(text)}-mask.png")
        found.save(path)
        typer.echo(f"Wrote {path}: {found}.")


@images.command("concepts")
def concepts(
    store: Store,
    image: Address,
    k: Count = 10,
    layers: LayersOption = None,
    m: Texts = 16,
    pool: Pool = None,
    center: Center = False,
    unsigned: Unsigned = False,
    run: Run = None,
    as_json: Json = False,
    as_csv: Csv = False,
) -> None:
    """What an image shows, in the words of its active neurons."""
    with open_store(store) as opened:
        view = opened.run(run).image(image_named(image))
        found = view.concepts(layers_of(layers), pool, k, m=m, center=center, signed=not unsigned)
        print_rows(found, as_json=as_json, as_csv=as_csv, shown=None)


@images.command("explain")
def explain(
    store: Store,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="An image that is in no store.")],
    k: Count = 10,
    layers: LayersOption = None,
    m: Texts = 16,
    pool: Pool = None,
    center: Center = False,
    unsigned: Unsigned = False,
    run: Run = None,
    as_json: Json = False,
    as_csv: Csv = False,
) -> None:
    """What an image that is not in the store shows; loads the run's model."""
    with open_store(store) as opened:
        found = opened.run(run).explain(
            file, layers_of(layers), pool, k=k, m=m, center=center, signed=not unsigned
        )
        print_rows(found, as_json=as_json, as_csv=as_csv, shown=None)


def _threshold(word: str) -> Threshold:
    """A number, where that is what a word is; else the word, which `segment` checks."""
    try:
        return float(word)
    except ValueError:
        return cast("Threshold", word)
