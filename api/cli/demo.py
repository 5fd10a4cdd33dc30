"""`demo`: from nothing to answers, with the embedded world's scenes and CLIP."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from ..progress import run_progress
from .guide import Guide
from .tour import take_tour

_MINING = """lensbase rosetta mine {store} --zoo world \\
  --model generator=world:generator --model clip=world:clip \\
  --model resnet=world:resnet --model mae=world:mae"""


def demo(
    directory: Annotated[Path, typer.Argument(metavar="[DIR]", help="Where it all goes.")] = Path(
        "demo"
    ),
    images: Annotated[int, typer.Option(min=16, help="How many scenes to draw.")] = 4000,
    zoo: Annotated[
        bool,
        typer.Option("--zoo", help="Mine the four models that come with lensbase as well."),
    ] = False,
) -> None:
    """Draw scenes, ingest them with the CLIP that comes with lensbase, and ask about them."""
    from ...ingest.demo import POOL, make_scenes

    guide = Guide()
    scenes, store = directory / "scenes", directory / "demo.lens"
    guide.say(f"{images:,} scenes with captions and full ground truth, drawn into {scenes}.")
    manifest = make_scenes(scenes, count=images)
    line = (
        f"lensbase ingest {_quoted(store)} {_quoted(manifest)} --model world\n"
        f"  --heads all --tokens --head-tokens all --neurons all --neuron-input\n"
        f"  --reference 1000 --pool {_quoted(scenes / POOL)}"
    ).replace("\n", " \\\n")
    if _is_complete(store):
        guide.say(f"{store} is there already, made by this line:")
        guide.show(line)
        typer.echo()
    else:
        guide.say("The CLIP over all of them once, after a fit of its neurons, keeping every part:")
        guide.shell(line)
    guide.say("Are all files as they were written, and do all parts add up to what the model says?")
    guide.shell(f"lensbase verify {_quoted(store)}")
    if zoo:
        guide.say("The units that this CLIP shares with three models that never saw it:")
        guide.shell(_MINING.format(store=_quoted(store)))
    take_tour(guide, store, picture=directory / "heatmap.png")


def _is_complete(store: Path) -> bool:
    return store.exists() and all(one.complete for one in run_progress(store))


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))
