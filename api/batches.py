"""All images of a run, a bounded number at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from ..queries.factors import head_contribution, head_factors
from ..schema.components import Neuron, Token, layer_terms
from ..schema.errors import BadQuestion
from ..schema.shards import RowArray
from .named_components import Components, addresses_of
from .open_run import KeptHead, OpenRun
from .values import Values

Kind: TypeAlias = Literal[
    "head", "representation", "layer", "token", "neuron_norm", "neuron_coefficient"
]


def run_batches(run: OpenRun, kind: Kind, *, heads: Components, size: int) -> Iterator[Values]:
    """Check what is asked for, then give the batches one by one."""
    if kind not in get_args(Kind):
        msg = f"there are no batches of {kind!r}; choose one of {', '.join(get_args(Kind))}."
        raise BadQuestion(msg)
    if size < 1:
        msg = f"size = {size}: a batch holds 1 image or more."
        raise BadQuestion(msg)
    if heads is not None and kind != "head":
        msg = f"heads= goes with batches of 'head', not of {kind!r}."
        raise BadQuestion(msg)
    if kind == "head":
        named = _all_heads(run) if heads is None else addresses_of(run, heads)
        kept = [run.head(address) for address in named]
        return _heads(run, kept, size)
    if kind in ("neuron_norm", "neuron_coefficient"):
        return _neurons(run, run.neurons.array(kind), size)
    components = None
    if kind == "token":
        run.need_tokens()
        components = [str(Token(token)) for token in range(run.shape.patches)]
    elif kind == "layer":
        components = layer_terms(run.shape.layers)
    return _stored(run, kind, size, components)


def _stored(run: OpenRun, kind: str, size: int, components: list[str] | None) -> Iterator[Values]:
    for rows, image_ids in _rows(run, size):
        yield Values(run.arrays[kind].read(rows), image_ids=image_ids, components=components)


def _heads(run: OpenRun, heads: list[KeptHead], size: int) -> Iterator[Values]:
    names = [str(head.address) for head in heads]
    for rows, image_ids in _rows(run, size):
        out = np.empty((len(rows), len(heads), run.shape.embed_dim), np.float32)
        scale = run.arrays["scale"].read(rows)
        for place, head in enumerate(heads):
            value = run.arrays["head_value"].read(rows, head.place, head.address.head)
            factors = head_factors(value, scale, dtype=np.float32)
            out[:, place] = head_contribution(factors, run.basis(head))
        yield Values(out, image_ids=image_ids, components=names)


def _neurons(run: OpenRun, array: RowArray, size: int) -> Iterator[Values]:
    names = [
        str(Neuron(layer, number))
        for layer in run.neurons.layers()
        for number in range(run.neurons.count)
    ]
    for rows, image_ids in _rows(run, size):
        found = array.read(rows).reshape(len(rows), len(names))
        yield Values(found, image_ids=image_ids, components=names)


def _rows(run: OpenRun, size: int) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    everything = run.images.select()
    for start in range(0, len(everything), size):
        part = slice(start, start + size)
        yield everything.rows[part], everything.image_ids[part]


def _all_heads(run: OpenRun) -> list[str]:
    return [
        f"L{layer}.H{head}" for layer in run.shape.head_layers for head in range(run.shape.heads)
    ]
