"""Contribution scores of texts by T3.4 written out, their baselines, and a planted cue."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lensbase.queries.neuron_ranking import direction_products, rank_neurons
from lensbase.queries.sparse_text import sparse_codes
from lensbase.queries.spurious_texts import (
    class_difference,
    contribution_scores,
    random_neurons,
    similar_texts,
    synonyms,
)
from lensbase.queries.text_votes import TextCodes, top_texts

F64 = npt.NDArray[np.float64]


def unit(rows: F64) -> F64:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


@given(seed=st.integers(0, 10**6), neurons=st.integers(0, 20), k=st.integers(0, 30))
def test_scores_are_those_of_the_formula(seed: int, neurons: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    directions = unit(rng.normal(size=(2, 15, 8)))
    picks = np.argsort(rng.random((2, 15, 25)), axis=2)[:, :, :4]
    gamma = rng.normal(size=picks.shape)
    gone = rng.random(picks.shape) < 0.2
    picks, gamma = np.where(gone, -1, picks), np.where(gone, 0, gamma)
    shown, mistaken_for = unit(rng.normal(size=(2, 8)))

    v = class_difference(shown, mistaken_for)
    chosen = rank_neurons(direction_products(directions, v), neurons)
    codes = TextCodes(chosen.of(picks), chosen.of(gamma), 25)
    found = contribution_scores(chosen.scores, codes)

    products = {
        place: float(directions[place] @ (mistaken_for - shown)) for place in np.ndindex(2, 15)
    }
    best = sorted(products, key=lambda place: (-abs(products[place]), place))[:neurons]
    scores, voters = np.zeros(25), np.zeros(25)
    for place in best:
        for text, weight in zip(picks[place], gamma[place], strict=True):
            if text >= 0:
                scores[text] += weight * products[place]
                voters[text] += 1
    assert np.allclose(found.scores, scores, rtol=0, atol=1e-6)
    assert found.neurons.tolist() == voters.tolist()

    top = top_texts(found, k)
    held = np.flatnonzero(voters)
    assert np.allclose(top.scores, np.sort(scores[held])[::-1][:k], rtol=0, atol=1e-6)


def test_a_planted_cue_is_found_and_the_class_itself_is_filtered() -> None:
    # Neurons read "cue" and "class 2" alike, as polysemantic ones do: r ~ t(c2) + t(cue).
    rng = np.random.default_rng(1)
    pool = unit(rng.normal(size=(300, 64)))
    shown, other, again, cue = 10, 20, 21, 30
    pool[again] = unit(pool[other] + 0.2 * pool[40])  # c2 by another name
    directions = rng.normal(size=(2, 100, 64))
    directions[1, :12] = pool[other] + pool[again] + pool[cue]
    directions[1, 6:12] *= -1  # the sign of a direction is a convention
    directions = unit(directions)
    v = class_difference(pool[shown], pool[other])
    products = direction_products(directions, v)

    chosen = rank_neurons(products, 12)
    assert set(zip(chosen.layers.tolist(), chosen.neurons.tolist(), strict=True)) == {
        (1, neuron) for neuron in range(12)
    }
    found = sparse_codes(chosen.of(directions), pool, m=8)
    codes = TextCodes(found.picks, found.coefficients, len(pool))
    votes = contribution_scores(chosen.scores, codes)
    filtered = synonyms(pool, pool[other], 0.9)
    assert np.flatnonzero(filtered).tolist() == [other, again]
    assert set(top_texts(votes, 2).texts.tolist()) <= {other, again, cue}
    best = top_texts(votes, 5, left_out=filtered)
    assert best.texts[0] == cue
    assert best.neurons[0] == 12
    # No neuron: the cue has nothing to do with v, and is nowhere near the top.
    assert cue not in similar_texts(pool, v, 25, left_out=filtered).rows
    # Random neurons seldom are those that hold it.
    drawn = random_neurons(products, 12, seed=0)
    codes = sparse_codes(drawn.of(directions), pool, m=8)
    random_votes = contribution_scores(
        drawn.scores, TextCodes(codes.picks, codes.coefficients, len(pool))
    )
    assert random_votes.scores[cue] < votes.scores[cue] / 2


def test_synonyms_are_near_any_of_the_names() -> None:
    pool = unit(np.random.default_rng(2).normal(size=(50, 6)))
    names = 5 * pool[[3, 8]]
    wanted = [
        any(pool[text] @ name / np.linalg.norm(name) >= 0.5 for name in names) for text in range(50)
    ]
    assert synonyms(pool, names, 0.5).tolist() == wanted
    assert 2 < sum(wanted) < 50
    assert synonyms(pool, names[0], 0.5).sum() <= sum(wanted)
    assert synonyms(pool, names, -1).all()
    assert not synonyms(pool, names, 1.01).any()


def test_random_neurons_are_drawn_by_seed_without_replacement() -> None:
    products = np.random.default_rng(3).normal(size=(3, 20)).astype(np.float32)
    products[1, 4] = np.nan
    drawn = random_neurons(products, 30, seed=7)
    places = list(zip(drawn.layers.tolist(), drawn.neurons.tolist(), strict=True))
    assert places == sorted(set(places))
    assert len(places) == 30
    assert np.array_equal(drawn.scores, products[drawn.layers, drawn.neurons])
    again = random_neurons(products, 30, seed=7)
    assert all(np.array_equal(a, b) for a, b in zip(drawn, again, strict=True))
    other = random_neurons(products, 30, seed=8)
    assert places != list(zip(other.layers.tolist(), other.neurons.tolist(), strict=True))
    whole = random_neurons(products, 1000, seed=7)
    assert len(whole.scores) == 59
    assert not np.isnan(whole.scores).any()
    with pytest.raises(ValueError, match="k = -2 neurons cannot be drawn"):
        random_neurons(products, -2, seed=0)


def test_random_neurons_come_from_everywhere() -> None:
    products = np.ones((2, 10), np.float32)
    counts = np.zeros((2, 10))
    for seed in range(400):
        drawn = random_neurons(products, 5, seed=seed)
        counts[drawn.layers, drawn.neurons] += 1
    # 100 expected of each, standard deviation 8.7.
    assert counts.min() > 60
    assert counts.max() < 140


def test_similar_texts_are_ranked_by_their_product_alone() -> None:
    pool = unit(np.random.default_rng(4).normal(size=(40, 8)))
    v = np.random.default_rng(5).normal(size=8)
    wanted = sorted(range(40), key=lambda text: -float(pool[text] @ v))
    assert similar_texts(pool, v, 40).rows.tolist() == wanted
    left_out = np.isin(np.arange(40), wanted[:3])
    found = similar_texts(pool, v, 5, left_out=left_out)
    assert found.rows.tolist() == wanted[3:8]
    assert np.allclose(found.scores, pool[wanted[3:8]] @ v, atol=1e-6)


def test_codes_and_products_of_different_neurons_are_refused() -> None:
    codes = TextCodes(np.zeros((3, 2), np.int64), np.ones((3, 2)), 4)
    with pytest.raises(ValueError, match="5 products and codes of 3 neurons"):
        contribution_scores(np.ones(5), codes)
    with pytest.raises(ValueError, match="NaN or infinity"):
        contribution_scores(np.array([1, np.nan, 1]), codes)
