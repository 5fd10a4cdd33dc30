"""`image`: where in an image a text is written."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, cast

import typer

from ...queries.segmentation import Threshold
from ...schema.components import slug
from ..store import open_store
from .heads import image_named
from .options import Run, Store

images = typer.Typer(help="Images: where in one a text is written.")

Address = Annotated[str, typer.Argument(metavar="IMAGE", help="The image: its id, key or path.")]
RelativeTo = Annotated[str | None, typer.Option(metavar="TEXT", help="Take this text's map away.")]
Debias = Annotated[bool, typer.Option(help="Take the mean map over the run's default pool away.")]


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
    threshold: Annotated[
        str,
        typer.Option(metavar="NUMBER", help="The heat to pass, from 0 to 1, or mean: its mean."),
    ] = "mean",
    debias: Debias = True,
    run: Run = None,
) -> None:
    """Write a mask of where in an image a text is."""
    with open_store(store) as opened:
        view = opened.run(run).image(image_named(image))
        found = view.segment(
            text, threshold=_threshold(threshold), relative_to=relative_to, debias=debias
        )
        path = output or Path(f"{slug(Path(view.key).stem)}-{slug(text)}-mask.png")
        found.save(path)
        typer.echo(f"Wrote {path}: {found}.")


def _threshold(word: str) -> Threshold:
    """A number, where that is what a word is; else the word, which `segment` checks."""
    try:
        return float(word)
    except ValueError:
        return cast("Threshold", word)


@images.callback()
def group() -> None:
    """Images: where in one a text is written."""
