"""Neurons and heads by a text, and neurons by another one: what is near in the joint space."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ..queries.neuron_ranking import cosines, direction_products, rank_neurons
from ..queries.retrieval import top_k
from ..schema.codes import CODE_LENGTH, CODE_VERSION
from ..schema.components import Neuron
from ..schema.errors import BadQuestion
from .open_run import OpenRun
from .result import Result
from .run_neurons import Layers
from .spans import spans_of
from .textspans import kept_heads
from .whole_numbers import whole

_SHOWN = 4  # texts of a neuron beside it
_HEAD_TEXTS = 5


def find_neurons(
    run: OpenRun, text: str, k: int = 20, *, layers: Layers = None, signed: bool = False
) -> Result:
    """Neurons whose directions are most along a text; see `RunView.find_neurons`."""
    k = whole(k, "k", least=0, of="neurons")
    _check_text(text)
    chosen = run.neurons.layers(layers)
    (vector,) = run.texts.encode([text])
    directions = run.neurons.direction
    if len(chosen) < len(directions):
        directions = directions[run.neurons.places(chosen)]
    found = rank_neurons(direction_products(directions, vector), k, signed=signed)
    addresses = [
        Neuron(chosen[place], number)
        for place, number in zip(found.layers.tolist(), found.neurons.tolist(), strict=True)
    ]
    columns = _described(run, addresses) | {"score": found.scores}
    how = "<r, text>" if signed else "|<r, text>|"
    return Result.of(columns, note=f"by {how} of their directions with {text!r}")


def similar_neurons(run: OpenRun, address: str, k: int = 10, *, layers: Layers = None) -> Result:
    """Neurons with directions like another one's; see `RunView.neuron_similarity`."""
    k = whole(k, "k", least=0, of="neurons")
    own = run.neurons.find(getattr(address, "address", address))
    chosen = run.neurons.layers(layers)
    target = run.neurons.direction[own.place, own.address.neuron]
    directions = run.neurons.direction[run.neurons.places(chosen)]
    scores = cosines(target[None], directions.reshape(-1, len(target)))[0]
    if own.address.layer in chosen:
        itself = chosen.index(own.address.layer) * run.neurons.count + own.address.neuron
        scores[itself] = np.nan
    best = top_k(np.abs(scores), k)
    places, numbers = np.divmod(best.rows, run.neurons.count)
    addresses = [
        Neuron(chosen[place], number)
        for place, number in zip(places.tolist(), numbers.tolist(), strict=True)
    ]
    columns = _described(run, addresses) | {"cosine": scores[best.rows]}
    return Result.of(columns, note=f"by |cosine| of their directions with that of {own.address}")


def find_heads(run: OpenRun, text: str, k: int = 5) -> Result:
    """Heads whose texts are most like a text; see `RunView.find_heads`."""
    k = whole(k, "k", least=0, of="heads")
    _check_text(text)
    heads = kept_heads(run, None)
    (vector,) = run.texts.encode([text])
    mean = run.texts.pool().mean
    spans = spans_of(run, heads, m=_HEAD_TEXTS)
    target = _unit(np.asarray(vector, np.float64) - mean)
    scores = np.full(len(heads), np.nan, np.float32)
    for place, span in enumerate(spans):
        if len(span.texts) and (total := float(span.explained.sum())) > 0:
            alike = _unit(span.vectors - mean) @ target
            scores[place] = float(span.explained @ alike) / total
    best = top_k(scores, k)
    columns = {
        "rank": np.arange(1, len(best.rows) + 1),
        "component": [str(heads[place].address) for place in best.rows],
        "layer": [heads[place].address.layer for place in best.rows],
        "head": [heads[place].address.head for place in best.rows],
        "score": best.scores,
        "texts": [spans[place].texts for place in best.rows],
    }
    note = f"by the likeness of their first {_HEAD_TEXTS} TEXTSPAN texts to {text!r}"
    return Result.of(columns, note=note)


def _check_text(text: str) -> None:
    # What is no text at all is for the encoder to say.
    if isinstance(text, str) and not text.strip():  # pyright: ignore[reportUnnecessaryIsInstance]
        msg = f"{text!r} is blank, and no neuron or head is about that; write a text."
        raise BadQuestion(msg)


def _unit(vectors: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.where(length > 0, length, 1), np.float64)


def _described(run: OpenRun, addresses: Sequence[Neuron]) -> dict[str, object]:
    """Columns that say which neurons, how far one direction explains them, and their texts."""
    texts = _first_texts(run, addresses)
    explained = [
        float(run.neurons.explained[run.neurons.place(one.layer), one.neuron]) for one in addresses
    ]
    columns: dict[str, object] = {
        "rank": np.arange(1, len(addresses) + 1),
        "component": [str(one) for one in addresses],
        "layer": [one.layer for one in addresses],
        "neuron": [one.neuron for one in addresses],
        "explained_variance": np.array(explained, np.float32),
    }
    if any(texts):
        columns["texts"] = texts
    return columns


def _first_texts(run: OpenRun, addresses: Sequence[Neuron]) -> list[list[str]]:
    """The first texts of the codes that the ingest kept, each with its sign."""
    rows = run.console.rows(
        """SELECT n.layer, n.neuron, if(n.coefficient < 0, '-', '+') || t.text
           FROM neuron_text n JOIN pool p ON p.pool_id = n.pool_id AND p.name = ?
           JOIN text t ON t.pool_id = n.pool_id AND t.position = n.position
           WHERE n.run_id = ? AND n.m = ? AND NOT n.centered AND n.version = ? AND n.rank <= ?
             AND n.layer IN (SELECT unnest(?::INTEGER[]))
             AND n.neuron IN (SELECT unnest(?::INTEGER[]))
           ORDER BY n.layer, n.neuron, n.rank""",
        [
            run.row["default_pool"],
            run.row["run_id"],
            CODE_LENGTH,
            CODE_VERSION,
            _SHOWN,
            sorted({one.layer for one in addresses}),
            sorted({one.neuron for one in addresses}),
        ],
    )
    found: dict[tuple[int, int], list[str]] = {}
    for layer, neuron, text in rows:
        found.setdefault((layer, neuron), []).append(text)
    return [found.get((one.layer, one.neuron), []) for one in addresses]
