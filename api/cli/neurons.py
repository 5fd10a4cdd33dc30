"""`neuron` and `find`: what a neuron does, and which neurons or heads a text is about."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from ...schema.components import split_run
from ...schema.errors import BadQuestion
from ..neuron import NeuronView
from ..run_neurons import Layers
from ..store import open_store
from .options import Count, Csv, Json, Run, Store, Where
from .rows import print_rows

neurons = typer.Typer(
    help="MLP neurons: their images, the texts that their effects are made of, their likes."
)

Address = Annotated[str, typer.Argument(metavar="NEURON", help="The neuron, such as L9.N391.")]
Pool = Annotated[str | None, typer.Option(help="The pool; by default the run's own.")]
Texts = Annotated[int, typer.Option("-m", help="Texts of each neuron's sparse code.")]
Center = Annotated[bool, typer.Option("--center", help="Take the pool's mean from its texts.")]
LayersOption = Annotated[
    str | None, typer.Option(metavar="LAYERS", help="Neurons of these layers, such as 8,9.")
]
Signed = Annotated[bool, typer.Option("--signed", help="Rank by the signed product, not its size.")]


@neurons.command("texts")
def texts(
    store: Store,
    neuron: Address,
    m: Texts = 16,
    pool: Pool = None,
    center: Center = False,
    run: Run = None,
    as_json: Json = False,
    as_csv: Csv = False,
) -> None:
    """A neuron's direction as a sparse sum of texts."""
    with _opened(store, neuron, run) as view:
        found = view.texts(pool, m, center=center)
        print_rows(found, as_json=as_json, as_csv=as_csv, shown=None)


@neurons.command("images")
def images(
    store: Store,
    neuron: Address,
    k: Count = 10,
    where: Where = None,
    run: Run = None,
    as_json: Json = False,
    as_csv: Csv = False,
) -> None:
    """The images in which a neuron's second-order effect is longest."""
    with _opened(store, neuron, run) as view:
        found = view.top_images(k, where=where)
        print_rows(found, as_json=as_json, as_csv=as_csv, shown=None)


@neurons.command("similar")
def similar(
    store: Store,
    neuron: Address,
    k: Count = 10,
    layers: LayersOption = None,
    run: Run = None,
    as_json: Json = False,
    as_csv: Csv = False,
) -> None:
    """The neurons whose directions are most like another one's."""
    named, _ = split_run(neuron)
    with open_store(store) as opened:
        found = opened.run(run or named).neuron_similarity(neuron, k, layers=layers_of(layers))
        print_rows(found, as_json=as_json, as_csv=as_csv, shown=None)


def find(
    store: Store,
    text: Annotated[str, typer.Argument(metavar="TEXT", help="The text.")],
    heads: Annotated[bool, typer.Option("--heads", help="Heads instead of neurons.")] = False,
    k: Count = 10,
    layers: LayersOption = None,
    signed: Signed = False,
    run: Run = None,
    as_json: Json = False,
    as_csv: Csv = False,
) -> None:
    """The neurons, or heads, that a text is about."""
    if heads and (layers is not None or signed):
        msg = "--layers and --signed choose neurons; heads are found among all that are kept."
        raise BadQuestion(msg)
    with open_store(store) as opened:
        view = opened.run(run)
        if heads:
            found = view.find_heads(text, k)
        else:
            found = view.find_neurons(text, k, layers=layers_of(layers), signed=signed)
        print_rows(found, as_json=as_json, as_csv=as_csv, shown=None)


def layers_of(text: str | None) -> Layers:
    """Layers as the command line names them: `8,9`; raises `BadQuestion` for anything else."""
    if text is None:
        return None
    words = text.replace(" ", "").split(",")
    if not all(word.isascii() and word.isdigit() for word in words):
        msg = f"layers {text!r} are no numbers; write them with commas, such as 8,9."
        raise BadQuestion(msg)
    return [int(word) for word in words]


@contextmanager
def _opened(store: Path, neuron: str, run: str | None) -> Generator[NeuronView]:
    named, _ = split_run(neuron)
    with open_store(store) as opened:
        yield opened.run(run or named).neuron(neuron)
