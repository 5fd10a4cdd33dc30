"""Concepts of an image are the sums over its active neurons' codes, literally."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lensbase.queries.concepts import Concepts, Effects, active_neurons, image_concepts
from lensbase.queries.text_votes import TextCodes, count_votes, top_texts

F64 = npt.NDArray[np.float64]


def make(
    seed: int, *, images: int = 4, neurons: int = 60, m: int = 5, size: int = 40
) -> tuple[Effects, TextCodes]:
    rng = np.random.default_rng(seed)
    coefficients = rng.normal(size=(images, neurons))
    effects = Effects(
        np.abs(coefficients) + rng.random((images, neurons)),
        coefficients,
        rng.uniform(1, 2, size=neurons),
    )
    picks = np.argsort(rng.random((neurons, size)), axis=1)[:, :m]
    gamma = rng.normal(size=(neurons, m))
    ended = np.arange(m) >= rng.integers(0, m + 1, size=neurons)[:, None]
    return effects, TextCodes(np.where(ended, -1, picks), np.where(ended, 0, gamma), size)


def of_image(effects: Effects, image: int) -> Effects:
    return Effects(effects.norms[image], effects.coefficients[image], effects.thresholds)


def concepts(effects: Effects, codes: TextCodes, k: int, *, signed: bool = True) -> Concepts:
    """Those of one layer."""
    return image_concepts([effects], [codes], k, signed=signed)


def literal(effects: Effects, codes: TextCodes, *, signed: bool) -> tuple[F64, list[int]]:
    """Scores and voters of every text, one neuron and one text after the other."""
    scores, voters = np.zeros(codes.size), [0] * codes.size
    for neuron, norm in enumerate(effects.norms):
        if norm > effects.thresholds[neuron]:
            weight = effects.coefficients[neuron] if signed else norm
            for text, gamma in zip(codes.picks[neuron], codes.coefficients[neuron], strict=True):
                if text >= 0:
                    scores[text] += gamma * weight
                    voters[text] += 1
    return scores, voters


@given(seed=st.integers(0, 10**6), signed=st.booleans(), k=st.integers(0, 50))
def test_concepts_are_the_sums_over_active_neurons(seed: int, signed: bool, k: int) -> None:
    effects, codes = make(seed)
    for image in range(4):
        own = of_image(effects, image)
        scores, voters = literal(own, codes, signed=signed)
        found = concepts(own, codes, k, signed=signed)
        held = [text for text in range(codes.size) if voters[text]]
        wanted = sorted(held, key=lambda text: (-scores[text], text))[:k]
        assert np.allclose(found.texts.scores, scores[wanted], rtol=0, atol=1e-12)
        assert found.texts.neurons.tolist() == [voters[text] for text in found.texts.texts]
        assert set(found.texts.texts.tolist()) <= set(held)
        assert len(found.texts.texts) == min(k, len(held))
        assert found.active[0].tolist() == [
            n for n in range(60) if own.norms[n] > own.thresholds[n]
        ]


def test_equal_scores_come_by_ascending_text() -> None:
    codes = TextCodes(np.array([[7, 3], [5, -1]]), np.array([[1.0, 1.0], [2.0, 0.0]]), 9)
    effects = Effects(np.array([2.0, 2.0]), np.array([1.0, 0.5]), np.zeros(2))
    found = concepts(effects, codes, 5).texts
    assert found.texts.tolist() == [3, 5, 7]
    assert found.scores.tolist() == [1, 1, 1]


def test_a_neuron_that_writes_backward_votes_against_its_texts() -> None:
    codes = TextCodes(np.array([[0], [1]]), np.array([[0.8], [0.5]]), 2)
    effects = Effects(np.array([3.0, 2.0]), np.array([-3.0, 2.0]), np.ones(2))
    assert concepts(effects, codes, 2).texts.texts.tolist() == [1, 0]
    assert concepts(effects, codes, 2, signed=False).texts.texts.tolist() == [0, 1]
    assert np.allclose(concepts(effects, codes, 2).texts.scores, [1.0, -2.4])


def test_a_norm_at_its_threshold_is_not_active() -> None:
    assert active_neurons(np.array([1.0, 1.5, 2.0]), np.array([1.0, 1.0, 3.0])).tolist() == [1]


def test_an_image_without_active_neurons_has_no_concepts() -> None:
    effects, codes = make(3)
    quiet = effects._replace(thresholds=np.full(60, 1e6))
    found = concepts(of_image(quiet, 0), codes, 5)
    assert len(found.active[0]) == len(found.texts.texts) == len(found.texts.scores) == 0


@pytest.mark.parametrize("name", ["norms", "coefficients", "thresholds"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_refused(name: str, bad: float) -> None:
    effects, codes = make(4)
    broken = getattr(effects, name).copy()
    broken.flat[0] = bad
    with pytest.raises(ValueError, match=f"The {name} of neurons hold NaN or infinity"):
        concepts(of_image(effects._replace(**{name: broken}), 0), codes, 5)


def test_codes_that_cannot_be_are_refused() -> None:
    _, codes = make(5)
    neurons, weights = np.arange(60), np.ones(60)
    with pytest.raises(ValueError, match="pool of 12; give the pool"):
        count_votes(neurons, weights, codes._replace(size=12))
    with pytest.raises(ValueError, match="Coefficients of sparse codes hold NaN"):
        count_votes(neurons, weights, codes._replace(coefficients=codes.coefficients * np.nan))
    with pytest.raises(ValueError, match="Weights of neurons hold NaN"):
        count_votes(neurons, weights * np.inf, codes)


def test_texts_left_out_are_not_returned() -> None:
    effects, codes = make(6)
    votes = count_votes(np.arange(60), effects.coefficients[0], codes)
    best = top_texts(votes, 6).texts
    left_out = np.isin(np.arange(codes.size), best[:2])
    assert top_texts(votes, 4, left_out=left_out).texts.tolist() == best[2:].tolist()


def test_stored_half_precision_is_added_up_in_double() -> None:
    effects, codes = make(7, neurons=3000, m=2, size=3)
    halves = Effects(*(numbers.astype(np.float16) for numbers in effects))
    stored = codes._replace(coefficients=codes.coefficients.astype(np.float16))
    found = concepts(of_image(halves, 1), stored, 3).texts
    scores, _ = literal(
        Effects(*(n.astype(np.float64) for n in of_image(halves, 1))),
        stored._replace(coefficients=stored.coefficients.astype(np.float64)),
        signed=True,
    )
    assert np.allclose(found.scores, np.sort(scores)[::-1], rtol=0, atol=1e-10)


def test_layers_vote_together() -> None:
    layers = [make(seed) for seed in (8, 9)]
    effects = [of_image(effects, 0) for effects, _ in layers]
    codes = [codes for _, codes in layers]
    found = image_concepts(effects, codes, 40).texts
    scores = sum(
        literal(one, code, signed=True)[0] for one, code in zip(effects, codes, strict=True)
    )
    assert isinstance(scores, np.ndarray)
    assert np.allclose(found.scores, scores[found.texts], rtol=0, atol=1e-12)
    assert np.all(np.diff(found.scores) <= 0)
