"""Texts that pull an image of one class toward another, by way of neurons (T3.4, section 3.5)."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from ..queries.neuron_ranking import NeuronRanking, direction_products, rank_neurons
from ..queries.sparse_text import sparse_codes
from ..queries.spurious_texts import (
    class_difference,
    contribution_scores,
    random_neurons,
    similar_texts,
    synonyms,
)
from ..queries.text_votes import TextCodes, Votes, top_texts
from ..schema.errors import BadQuestion
from .candidates import Pool
from .classifier import Templates, classifier
from .given_directions import Directions, GivenDirections, given_directions
from .neuron_codes import CodeQuestion
from .open_run import OpenRun
from .printing import counted, layers_named
from .result import Result
from .run_neurons import Layers
from .whole_numbers import whole

Source: TypeAlias = Literal["second-order", "random", "similar"]
"""Which texts: of the neurons that write along v, of random ones, or those most like v itself."""


def spurious_texts(
    run: OpenRun,
    shown: str,
    mistaken_for: str,
    *,
    layers: Layers = None,
    pool: Pool = None,
    neurons: int = 100,
    k: int = 25,
    m: int = 16,
    center: bool = False,
    synonym: float | None = 0.9,
    templates: Templates = None,
    source: Source = "second-order",
    seed: int = 0,
    directions: Directions | None = None,
) -> Result:
    """Words that make `shown` look like `mistaken_for`; see `RunView.spurious_texts`."""
    if source not in get_args(Source):
        msg = f"source={source!r} names no texts; choose one of {', '.join(get_args(Source))}."
        raise BadQuestion(msg)
    k = whole(k, "k", least=0, of="texts")
    neurons = whole(neurons, "neurons", least=1, of="neurons")
    seed = whole(seed, "seed", least=0, of="a random sequence")
    chosen = run.neurons.layers(layers)
    others = None if directions is None else _others(run, directions, layers, source)
    question = CodeQuestion.of(run, pool, m=m, center=center)
    weights = classifier(run, [shown, mistaken_for], templates=templates).weights
    v = class_difference(weights[0], weights[1])
    names = np.stack([weights[1], run.texts.encode([mistaken_for])[0]])
    left_out = _synonyms(question, names, synonym)
    if source == "similar":
        best = similar_texts(question.candidates.vectors, v, k, left_out=left_out)
        texts, scores, held = best.rows, best.scores, np.zeros(len(best.rows), np.int64)
    else:
        drawn = seed if source == "random" else None
        if others is None:
            votes = _votes(question, v, layers=chosen, neurons=neurons, drawn=drawn)
        else:
            votes = _votes_of(others, question, v, neurons=neurons, drawn=drawn)
        texts, scores, held = top_texts(votes, k, left_out=left_out)
    columns = {
        "rank": np.arange(1, len(texts) + 1),
        "text": question.candidates.texts_at(texts.tolist()),
        "score": scores,
    }
    if source != "similar":
        columns["neurons"] = held
    notes = [
        f"texts that pull {shown!r} toward {mistaken_for!r}",
        question.texts_note if source == "similar" else question.note,
    ]
    if source != "similar":
        if others is None:
            notes.insert(1, f"{neurons:,} neurons of {layers_named(chosen)}")
        else:
            count = len(others.neurons)
            notes.insert(1, f"{min(neurons, count):,} of {count:,} neurons by the directions given")
    if left_out is not None and left_out.any():
        notes.append(
            f"{counted(int(left_out.sum()), 'text')} of cosine {synonym} or more with "
            f"{mistaken_for!r} left out"
        )
    return Result.of(columns, note="; ".join(notes))


def _votes(
    question: CodeQuestion,
    v: npt.NDArray[np.float64],
    *,
    layers: list[int],
    neurons: int,
    drawn: int | None,
) -> Votes:
    """The votes of the neurons that write most along v, or of random ones, drawn with a seed."""
    own = question.run.neurons
    found = _found(own.direction[own.places(layers)], v, neurons, drawn)
    by_layer = [question.codes(layer) for layer in layers]
    picks = np.stack([np.asarray(codes.picks) for codes in by_layer])
    coefficients = np.stack([np.asarray(codes.coefficients) for codes in by_layer])
    codes = TextCodes(found.of(picks), found.of(coefficients), by_layer[0].size)
    return contribution_scores(found.scores, codes)


def _votes_of(
    others: GivenDirections,
    question: CodeQuestion,
    v: npt.NDArray[np.float64],
    *,
    neurons: int,
    drawn: int | None,
) -> Votes:
    """The same of neurons whose directions are given, coded for those that vote alone."""
    found = _found(others.vectors[None], v, neurons, drawn)
    atoms = question.atoms
    made = sparse_codes(others.vectors[found.neurons], atoms, m=question.m, path=False)
    return contribution_scores(found.scores, TextCodes(made.picks, made.coefficients, len(atoms)))


def _found(
    directions: npt.NDArray[Any], v: npt.NDArray[np.float64], neurons: int, drawn: int | None
) -> NeuronRanking:
    products = direction_products(directions, v)
    if drawn is None:
        return rank_neurons(products, neurons)
    return random_neurons(products, neurons, seed=drawn)


def _others(
    run: OpenRun, directions: Directions, layers: Layers, source: Source
) -> GivenDirections:
    if layers is not None:
        layer = run.neurons.layers(layers)[-1]
        msg = (
            "directions= names its neurons itself; leave layers= out, or choose the layer in "
            f"clip.neuron_effects(clip.classifier(CLASSES), layer={layer}).directions."
        )
        raise BadQuestion(msg)
    if source == "similar":
        msg = "source='similar' asks no neuron, so directions= would change nothing; leave it out."
        raise BadQuestion(msg)
    return given_directions(run, directions)


def _synonyms(
    question: CodeQuestion, names: npt.NDArray[np.float32], threshold: float | None
) -> npt.NDArray[np.bool_] | None:
    """Texts of the pool that are the other class by another name; None where none is to go."""
    if threshold is None:
        return None
    given: Any = threshold
    number = isinstance(given, int | float) and not isinstance(given, bool)
    if not number or not -1 <= given <= 1:
        msg = f"synonym={threshold!r} is no cosine from -1 to 1; None keeps all texts."
        raise BadQuestion(msg)
    return synonyms(question.candidates.vectors, names, threshold)
