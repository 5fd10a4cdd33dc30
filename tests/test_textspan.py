"""TEXTSPAN from moments picks what Algorithm 1, run literally on contributions, picks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from lensbase.queries.factors import head_contribution, head_factors, moments
from lensbase.queries.textspan import TextSpan, head_span, textspan, textspans
from lensbase.schema.errors import BadSelection

F32 = npt.NDArray[np.float32]
Numbers = npt.NDArray[np.floating[Any]]
F64 = npt.NDArray[np.float64]

LAYERS, HEADS = 12, 8


@dataclass
class Head:
    """A head: what is stored of it, and its contributions straight from the formula."""

    u: Numbers  # [K, e], unrounded
    scale: F32  # [K, 4]
    basis: F64  # [e+3, E], before rounding
    contribution: F64  # [K, E], from the weights, not from the basis

    def moment(self) -> F64:
        return moments(head_factors(self.u, self.scale), self.scale[:, 2])

    @property
    def stored_basis(self) -> F32:
        return self.basis.astype(np.float32)


def make_head(
    seed: int,
    *,
    width: int,
    joint: int,
    images: int = 2000,
    bias: float = 0.1,
    beta: float = 0.1,
) -> Head:
    rng = np.random.default_rng(seed)
    depth = 2 * joint
    projection = rng.normal(size=(depth, joint)) / depth**0.5
    out = rng.normal(size=(width, depth)) / depth**0.5
    gamma = 1 + 0.2 * rng.normal(size=depth)
    out_bias, shift = bias * rng.normal(size=depth), beta * rng.normal(size=depth)
    # A late head: few strong directions, a long tail, a mean that is not zero.
    mixing = rng.normal(size=(width, width)) * np.geomspace(1, 0.03, width)[:, None]
    u = rng.normal(size=(images, width)) @ mixing + rng.normal(size=width)
    scale = np.stack(
        [
            0.05 + 0.02 * rng.normal(size=images),
            1 + 0.1 * rng.uniform(-1, 1, images),
            1 + 0.2 * rng.uniform(-1, 1, images),
            np.zeros(images),
        ],
        axis=1,
    )
    u, scale = u.astype(np.float32), scale.astype(np.float32)
    mean, sigma = np.float64(scale[:, :1]), np.float64(scale[:, 1:2])
    share = (2 * LAYERS + 1) * HEADS
    # c_head = P^T (gamma (W_O u + b_O/H) / sigma + (beta - mu gamma / sigma) / ((2L+1) H))
    residual = gamma * (np.float64(u) @ out + out_bias / HEADS) / sigma
    contribution = (residual + (shift - mean * gamma / sigma) / share) @ projection
    basis = np.vstack(
        [
            (out * gamma) @ projection,
            -(gamma @ projection) / share,
            ((gamma * out_bias) @ projection) / HEADS,
            (shift @ projection) / share,
        ]
    )
    return Head(u, scale, basis, contribution)


def make_texts(seed: int, count: int, joint: int) -> F32:
    """Unit texts that share a strong common direction, as CLIP's do (mean cosine 0.5)."""
    rng = np.random.default_rng([seed, 1])
    texts = rng.normal(size=(count, joint)) + rng.normal(size=joint)
    return (texts / np.linalg.norm(texts, axis=1, keepdims=True)).astype(np.float32)


def algorithm_1(
    contribution: Numbers, texts: F32, m: int, *, span: F64, loops: bool = False
) -> tuple[list[int], list[float]]:
    """Algorithm 1 as the thesis prints it, on contributions [K, E], in float64.

    `span`: rows that span what the head can write to; the texts are projected onto it ("projected
    to the head output space"), and c is centered first, as T2.7 asks. Stops where nothing is left.
    The printed loops over images and texts are one outer product each, unless `loops` is set.
    """
    length = np.linalg.norm(span, axis=1)
    _, singular, right = np.linalg.svd(span[length > 0] / length[length > 0, None])
    right = right[: np.count_nonzero(singular > 1e-12)]
    r = np.float64(texts) @ right.T @ right
    c = contribution - contribution.mean(0)
    total = c.var(0).sum()
    explained_by = np.zeros_like(c)
    picks: list[int] = []
    cumulative: list[float] = []
    for _ in range(m):
        products = r @ c.T
        j = int(np.argmax(products.std(axis=1)))
        pick = r[j].copy()
        squared = pick @ pick
        if squared < 1e-24 or (c @ pick).var() / squared < 1e-12 * total:
            break
        picks.append(j)
        if loops:
            for k in range(len(c)):
                along = c[k] @ pick / squared
                explained_by[k] += along * pick
                c[k] -= along * pick
            for k in range(len(r)):
                r[k] -= (r[k] @ pick / squared) * pick
        else:
            part = np.outer(c @ pick / squared, pick)
            explained_by += part
            c -= part
            r -= np.outer(r @ pick / squared, pick)
        cumulative.append(float(explained_by.var(0).sum() / total))
    return picks, cumulative


def assert_identical(found: TextSpan, wanted: tuple[list[int], list[float]], m: int) -> None:
    picks, cumulative = wanted
    same = sum(a == b for a, b in zip(found.picks, picks, strict=False))
    assert found.picks.tolist() == picks, f"{same} of {len(picks)} picks agree"
    assert np.allclose(found.cumulative, cumulative, rtol=0, atol=1e-6)
    assert np.allclose(np.cumsum(found.explained), found.cumulative, rtol=0, atol=1e-12)
    assert found.exhausted == (len(picks) < m)


CASES = [(seed, 16, 64, 20) for seed in range(6)] + [(seed, 64, 128, 60) for seed in range(6, 8)]


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize(("seed", "width", "joint", "m"), CASES)
def test_picks_are_those_of_algorithm_1_on_unrounded_contributions(
    seed: int, width: int, joint: int, m: int, normalize: bool
) -> None:
    head = make_head(seed, width=width, joint=joint)
    texts = make_texts(seed, 500, joint)
    found = textspan(head.moment(), head.stored_basis, texts, m=m, normalize=normalize)
    c = head.contribution / np.float64(head.scale[:, 2:3]) if normalize else head.contribution
    assert_identical(found, algorithm_1(c, texts, m, span=head.basis), m)
    assert len(found.picks) == min(m, width + 3)


@pytest.mark.parametrize(("width", "joint", "m"), [(16, 64, 20), (64, 80, 25)])
def test_picks_are_those_of_algorithm_1_loop_by_loop(width: int, joint: int, m: int) -> None:
    head = make_head(15, width=width, joint=joint)
    texts = make_texts(15, 500, joint)
    wanted = algorithm_1(head.contribution, texts, m, span=head.basis, loops=True)
    assert_identical(textspan(head.moment(), head.stored_basis, texts, m=m), wanted, m)


@pytest.mark.parametrize("seed", range(20, 24))
def test_picks_on_stored_float16_values_are_algorithm_1_on_these(seed: int) -> None:
    head = make_head(seed, width=16, joint=48)
    chosen = np.random.default_rng(seed).permutation(2000)[:700]
    head.u, head.scale = head.u[chosen].astype(np.float16), head.scale[chosen]
    texts = make_texts(seed, 500, 48)
    c = head_contribution(head_factors(head.u, head.scale), head.stored_basis.astype(np.float64))
    found = textspan(head.moment(), head.stored_basis, texts, m=19)
    assert_identical(found, algorithm_1(c, texts, 19, span=head.basis), 19)


DEPENDENT = {  # output bias, LayerNorm shift
    "no output bias": (0.0, 0.1),
    "no LayerNorm shift": (0.1, 0.0),
    "neither": (0.0, 0.0),
    "a ten thousandth of the columns": (1e-4, 1e-4),
}


@pytest.mark.parametrize("case", DEPENDENT)
def test_small_biases_count_and_absent_ones_do_not(case: str) -> None:
    bias, beta = DEPENDENT[case]
    head = make_head(31, width=16, joint=64, bias=bias, beta=beta)
    texts = make_texts(31, 500, 64)
    found = textspan(head.moment(), head.stored_basis, texts, m=30)
    assert_identical(found, algorithm_1(head.contribution, texts, 30, span=head.basis), 30)
    assert len(head_span(head.stored_basis).directions) == 17 + (bias > 0) + (beta > 0)


def test_rows_that_only_rounding_keeps_apart_are_one_direction() -> None:
    # gamma, bias and shift through P within the span of the head's own columns: rank 16, but the
    # float32 rows have rank 19, and texts projected on those differ in what is left after a pick.
    head = make_head(32, width=16, joint=64)
    inside = np.random.default_rng(32).normal(size=(3, 16))
    head.basis[-3:] = 0.01 * inside @ head.basis[:-3]
    assert np.linalg.matrix_rank(np.float64(head.stored_basis), tol=0) == 19
    span = head_span(head.stored_basis)
    assert len(span.directions) == 16
    c = head_factors(head.u, head.scale) @ head.basis
    texts = make_texts(32, 500, 64)
    found = textspan(head.moment(), head.stored_basis, texts, m=16)
    assert_identical(found, algorithm_1(c, texts, 16, span=head.basis), 16)


def test_the_span_is_orthonormal_and_holds_the_basis() -> None:
    head = make_head(33, width=64, joint=128)
    directions, coordinates = head_span(head.stored_basis)
    assert np.allclose(directions @ directions.T, np.eye(67), rtol=0, atol=1e-13)
    left = np.float64(head.stored_basis) - coordinates @ directions
    assert np.abs(left).max() < 1e-14


def test_a_joint_space_narrower_than_the_head() -> None:
    head = make_head(34, width=64, joint=40)
    texts = make_texts(34, 300, 40)
    found = textspan(head.moment(), head.stored_basis, texts, m=60)
    assert_identical(found, algorithm_1(head.contribution, texts, 60, span=head.basis), 60)
    assert len(found.picks) == 40
    assert found.exhausted


def test_fewer_images_than_dimensions() -> None:
    head = make_head(35, width=64, joint=128, images=9)
    texts = make_texts(35, 300, 128)
    found = textspan(head.moment(), head.stored_basis, texts, m=60)
    wanted = algorithm_1(head.contribution, texts, 60, span=head.basis)
    assert_identical(found, wanted, 60)


def test_everything_is_explained_once_the_span_is_used_up() -> None:
    head = make_head(36, width=16, joint=64)
    found = textspan(head.moment(), head.stored_basis, make_texts(36, 500, 64), m=60)
    assert len(found.picks) == 19
    assert found.exhausted
    assert abs(found.cumulative[-1] - 1) < 1e-9
    assert len(set(found.picks.tolist())) == 19
    exact = textspan(head.moment(), head.stored_basis, make_texts(36, 500, 64), m=19)
    assert not exact.exhausted


def test_directions_are_orthonormal_and_span_the_projected_texts() -> None:
    head = make_head(37, width=16, joint=64)
    texts = make_texts(37, 500, 64)
    found = textspan(head.moment(), head.stored_basis, texts, m=10)
    assert np.allclose(found.directions @ found.directions.T, np.eye(10), rtol=0, atol=1e-12)
    span = head_span(head.stored_basis).directions
    seen = np.float64(texts[found.picks]) @ span.T @ span
    for i in range(1, 11):
        within = seen[:i] @ found.directions[:i].T @ found.directions[:i]
        assert np.allclose(within, seen[:i], rtol=0, atol=1e-9)
    # V_explained of T2.7, from its definition
    centered = head.contribution - head.contribution.mean(0)
    share = ((centered @ found.directions.T) ** 2).sum() / (centered**2).sum()
    assert abs(share - found.cumulative[-1]) < 1e-6


def test_ties_and_duplicates_go_to_the_first_index() -> None:
    head = make_head(38, width=16, joint=64)
    texts = make_texts(38, 120, 64)
    single = textspan(head.moment(), head.stored_basis, texts, m=19)
    # Every text four times, two of them with the sign turned: same variance, same direction.
    order = np.random.default_rng(38).permutation(np.repeat(np.arange(120), 4))
    sign = np.random.default_rng(39).choice([-1, 1], size=480).astype(np.float32)
    found = textspan(head.moment(), head.stored_basis, texts[order] * sign[:, None], m=19)
    first = np.array([np.flatnonzero(order == text)[0] for text in range(120)])
    assert found.picks.tolist() == first[single.picks].tolist()
    for score in ("variance", "explained"):
        few = np.repeat(texts[:3], 5, axis=0)
        found = textspan(head.moment(), head.stored_basis, few, m=10, score=score)
        assert sorted(found.picks) == [0, 5, 10]
        assert found.exhausted


def test_duplicates_but_for_rounding_are_picked_once() -> None:
    head = make_head(40, width=16, joint=64)
    texts = make_texts(40, 4, 64)
    noise = np.random.default_rng(40).normal(size=(40, 64)).astype(np.float32)
    near = np.repeat(texts, 10, axis=0) * (1 + 1e-8 * noise)
    for score in ("variance", "explained"):
        found = textspan(
            head.moment(), head.stored_basis, near.astype(np.float32), m=19, score=score
        )
        assert sorted(pick // 10 for pick in found.picks) == [0, 1, 2, 3]
        assert found.exhausted


def literal_explained(contribution: F64, seen: F64, m: int) -> list[int]:
    """Greedy maximizer of V_explained (T2.7), each candidate set projected on from scratch."""
    centered = contribution - contribution.mean(0)
    picks: list[int] = []
    for _ in range(m):
        gains: list[float] = []
        for j in range(len(seen)):
            if j in picks:
                gains.append(-1)
                continue
            frame, _ = np.linalg.qr(seen[[*picks, j]].T)
            gains.append(float(((centered @ frame) ** 2).sum(1).mean()))
        picks.append(int(np.argmax(gains)))
    return picks


@pytest.mark.parametrize("seed", [50, 51, 52])
def test_the_explained_score_is_greedy_for_explained_variance(seed: int) -> None:
    head = make_head(seed, width=8, joint=32, images=300)
    texts = make_texts(seed, 80, 32)
    span = head_span(head.basis).directions
    wanted = literal_explained(head.contribution, np.float64(texts) @ span.T @ span, 8)
    found = textspan(head.moment(), head.stored_basis, texts, m=8, score="explained")
    assert found.picks.tolist() == wanted
    longer = textspan(head.moment(), head.stored_basis, texts, m=8)
    assert longer.explained[0] <= found.explained[0] + 1e-12


def test_many_heads_are_each_their_own() -> None:
    heads = [make_head(seed, width=16, joint=64, images=400) for seed in range(60, 66)]
    texts = make_texts(60, 200, 64)
    moment = np.stack([head.moment() for head in heads], axis=1).reshape(2, 2, 3, 20, 20)
    basis = np.stack([head.stored_basis for head in heads]).reshape(2, 3, 19, 64)
    found = textspans(moment, basis, texts, m=12)
    assert len(found) == 6
    for head, span in zip(heads, found, strict=True):
        alone = textspan(head.moment(), head.stored_basis, texts, m=12)
        assert span.picks.tolist() == alone.picks.tolist()


def test_a_head_that_never_varies_has_nothing_to_explain() -> None:
    head = make_head(70, width=16, joint=64, images=50)
    head.u[:], head.scale[:] = head.u[0], head.scale[0]
    found = textspan(head.moment(), head.stored_basis, make_texts(70, 100, 64), m=5)
    assert found.picks.tolist() == []
    assert found.exhausted
    nothing = textspan(head.moment(), 0 * head.stored_basis, make_texts(70, 100, 64), m=5)
    assert nothing.picks.tolist() == []


def test_wrong_questions_are_refused_with_what_would_be_right() -> None:
    head = make_head(80, width=16, joint=64, images=50)
    texts = make_texts(80, 100, 64)
    moment, basis = head.moment(), head.stored_basis
    with pytest.raises(ValueError, match="ask for 1 or more"):
        textspan(moment, basis, texts, m=0)
    with pytest.raises(ValueError, match="choose one of variance, explained"):
        textspan(moment, basis, texts, score="length")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="run's own model"):
        textspan(moment, basis, texts[:, :32])
    with pytest.raises(ValueError, match="NaN"):
        textspan(moment, basis, np.where(np.arange(100)[:, None] == 7, np.nan, texts))
    with pytest.raises(BadSelection):
        textspan(np.zeros_like(moment), basis, texts)
