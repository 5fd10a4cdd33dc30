"""Sparse codes of many targets at once are those of scikit-learn's orthogonal matching pursuit."""

from __future__ import annotations

import tracemalloc
import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from literal_pursuit import dense, literal, make_atoms, make_targets, reconstructed, unit
from sklearn.linear_model import orthogonal_mp, orthogonal_mp_gram

from lensbase.queries import sparse_text
from lensbase.queries.sparse_text import (
    SparseCodes,
    centered_atoms,
    sparse_codes,
)

Numbers = npt.NDArray[np.floating[Any]]
F64 = npt.NDArray[np.float64]


def sklearn_path(targets: F64, atoms: F64, m: int) -> F64:
    """Coefficients [n, steps, M] after each step of scikit-learn's pursuit, one target a call."""
    gram, products = atoms @ atoms.T, atoms @ targets.T
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # it says so where it stops early
        return np.stack(
            [
                np.asarray(orthogonal_mp_gram(gram, column, n_nonzero_coefs=m, return_path=True))
                .reshape(len(atoms), -1)
                .T
                for column in products.T
            ]
        )


def assert_as_sklearn(
    codes: SparseCodes, targets: F64, atoms: F64, *, within: float = 1e-10
) -> None:
    m = codes.picks.shape[1]
    path = sklearn_path(targets, atoms, m)
    assert path.shape[1] == m
    for steps in range(1, m + 1):
        found = dense(codes.prefix(steps), len(atoms))
        wanted = path[:, steps - 1]
        assert ((found != 0) == (wanted != 0)).all(), f"supports differ after {steps} texts"
        off = np.abs(found - wanted).max() / np.abs(wanted).max()
        assert off < within, f"coefficients of {steps} texts off by {off:.1e}"


POOLS = {  # atoms, width, m, common direction
    "more texts than dimensions": (600, 64, 40, 1.0),
    "texts all around": (600, 64, 40, 0.0),
    "a narrow cone": (600, 64, 40, 6.0),
    "fewer texts than dimensions": (40, 64, 20, 1.0),
    "one text": (300, 32, 1, 1.0),
}


@pytest.mark.parametrize("case", POOLS)
def test_supports_and_coefficients_of_every_prefix_are_scikit_learns(case: str) -> None:
    count, width, m, cone = POOLS[case]
    atoms, targets = make_atoms(1, count, width, cone=cone), make_targets(1, 30, width)
    assert_as_sklearn(sparse_codes(targets, atoms, m=m), targets, atoms)


def test_as_scikit_learn_without_a_gram_matrix_and_as_its_encoder() -> None:
    from sklearn.decomposition import SparseCoder

    atoms, targets = make_atoms(2, 500, 48), 7.5 * make_targets(2, 25, 48)
    found = dense(sparse_codes(targets, atoms, m=24), 500)
    plain = np.asarray(orthogonal_mp(atoms.T, targets.T, n_nonzero_coefs=24)).T
    encoder = SparseCoder(atoms, transform_algorithm="omp", transform_n_nonzero_coefs=24)
    for wanted in (plain, encoder.transform(targets)):
        assert ((found != 0) == (wanted != 0)).all()
        off = np.abs(found - wanted).max() / np.abs(wanted).max()
        assert off < 1e-10, f"off by {off:.1e}"


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_stored_embeddings_are_taken_as_they_are(dtype: type[np.floating[Any]]) -> None:
    atoms = make_atoms(3, 500, 64).astype(dtype)
    targets = make_targets(3, 20, 64).astype(np.float32)
    found = sparse_codes(targets, atoms, m=30)
    assert_as_sklearn(found, targets.astype(np.float64), atoms.astype(np.float64))


def test_picks_and_coefficients_are_the_literal_ones_in_order() -> None:
    atoms, targets = make_atoms(4, 400, 48), make_targets(4, 40, 48)
    found = sparse_codes(targets, atoms, m=32)
    for i, target in enumerate(targets):
        picks, path = literal(target, atoms, 32)
        assert found.picks[i].tolist() == picks
        for steps in (1, 5, 32):
            values = found.prefix(steps).coefficients[i]
            assert np.abs(values - path[steps - 1]).max() < 1e-11
        left = [np.linalg.norm(target - x @ atoms[picks[: len(x)]]) for x in path]
        assert np.abs(found.residual[i] - left).max() < 1e-13
        cosine = [
            float(np.dot(x @ atoms[picks[: len(x)]], target))
            / np.linalg.norm(x @ atoms[picks[: len(x)]])
            for x in path
        ]
        assert np.abs(found.cosine[i] - cosine).max() < 1e-13


@pytest.mark.parametrize("gap", [1e-6, 2e-7, 1e-8, 1e-10])
def test_atoms_that_float32_cannot_tell_apart_are_told_apart(gap: float) -> None:
    # Every atom has a twin whose product with the target of the same number is larger by `gap`.
    rng = np.random.default_rng(5)
    targets = make_targets(5, 200, 64)
    base = unit(targets + rng.normal(size=(200, 64)) / 8)
    product = np.einsum("ne,ne->n", targets, base)[:, None]
    across = unit(targets - product * base)
    ahead = unit(base + gap * across)
    order = rng.permutation(400)
    atoms = np.vstack([base, ahead])[order]
    found = sparse_codes(targets, atoms, m=3)
    assert order[found.picks[:, 0]].tolist() == list(range(200, 400))
    assert found.picks.tolist() == [literal(target, atoms, 3)[0] for target in targets]
    rounded = np.abs(targets.astype(np.float32) @ atoms.astype(np.float32).T)
    misled = np.sum(rounded.argmax(axis=1) != found.picks[:, 0])
    assert misled >= 20 or gap > 1e-7, f"float32 would have erred in {misled} of 200"


@pytest.mark.parametrize("apart", [1e-3, 1e-4, 1e-5])
def test_nearly_collinear_atoms(apart: float) -> None:
    rng = np.random.default_rng(6)
    base = make_atoms(6, 40, 48)
    atoms = unit(np.repeat(base, 5, axis=0) + apart * rng.normal(size=(200, 48)))
    targets = make_targets(6, 30, 48)
    found = sparse_codes(targets, atoms, m=44)
    # scikit-learn squares the condition number: coefficients as far as it can have them.
    assert_as_sklearn(found, targets, atoms, within=1e-15 / apart**2 * 100)
    for i, target in enumerate(targets):
        picks, path = literal(target, atoms, 44)
        assert found.picks[i].tolist() == picks
        off = np.abs(found.coefficients[i] - path[-1]).max() / np.abs(path[-1]).max()
        assert off < 1e-13 / apart, f"off by {off:.1e}"


def test_of_duplicates_the_first_is_picked_and_no_other() -> None:
    single, targets = make_atoms(7, 120, 48), make_targets(7, 30, 48)
    alone = sparse_codes(targets, single, m=40)
    rng = np.random.default_rng(7)
    order = rng.permutation(np.repeat(np.arange(120), 4))
    sign = rng.choice([-1.0, 1.0], size=480)
    atoms = single[order] * sign[:, None]
    first = np.array([np.flatnonzero(order == text)[0] for text in range(120)])
    found = sparse_codes(targets, atoms, m=40)
    assert (found.picks == first[alone.picks]).all()
    assert np.abs(found.coefficients * sign[found.picks] - alone.coefficients).max() < 1e-11
    # scikit-learn reorders atoms as it goes, so it may name another of the four.
    path = sklearn_path(targets, atoms, 40)[:, -1]
    merged = np.zeros((30, 120))
    for text in range(120):
        merged[:, text] = (path * sign)[:, order == text].sum(axis=1)
    assert np.abs(merged - dense(alone, 120)).max() < 1e-10


def test_a_target_halfway_between_two_atoms_takes_the_first() -> None:
    atoms = np.eye(6)[[3, 1, 4, 2]]
    target = np.array([[0, 1, 1, 1, 1, 0.5]])
    found = sparse_codes(target, atoms, m=3)
    assert found.picks.tolist() == [[0, 1, 2]]
    assert found.coefficients.tolist() == [[1, 1, 1]]
    assert np.allclose(found.residual, np.sqrt([[3.25, 2.25, 1.25]]), rtol=1e-15)


def test_targets_stop_where_nothing_is_left_and_say_so() -> None:
    atoms = make_atoms(8, 300, 64)
    targets = np.zeros((4, 64))
    targets[0] = 3 * atoms[17]
    targets[1] = 2 * atoms[5] - atoms[250] + 0.5 * atoms[40]
    targets[3] = make_targets(8, 1, 64)[0]
    found = sparse_codes(targets, atoms, m=50)
    assert found.counts.tolist()[::2] == [1, 0]
    assert found.counts[3] == 50
    assert found.picks[0].tolist() == [17] + [-1] * 49
    assert abs(found.coefficients[0, 0] - 3) < 1e-14
    assert {5, 250, 40} <= set(found.picks[1].tolist())
    stopped = np.arange(50) >= found.counts[:, None]
    assert (found.picks[stopped] == -1).all()
    assert (found.coefficients[stopped] == 0).all()
    assert (found.residual[:2, -1] < 1e-14).all()
    assert (found.cosine[2] == 0).all()
    assert (found.cosine[:2, -1] > 1 - 1e-14).all()
    assert np.abs(reconstructed(found, atoms) - targets)[:3].max() < 1e-14
    for m in (1, 2, 20):
        fewer = found.prefix(m)
        assert fewer.counts.tolist() == np.minimum(found.counts, m).tolist()
        again = sparse_codes(targets, atoms, m=m)
        assert np.abs(fewer.coefficients - again.coefficients).max() < 1e-14


def test_without_a_tolerance_rounding_is_still_nothing() -> None:
    atoms = make_atoms(8, 300, 64)
    targets = 3 * atoms[[17, 5]] - np.array([[0.0], [1.0]]) * atoms[250]
    wanted = sparse_codes(targets, atoms, m=50)
    found = sparse_codes(targets, atoms, m=50, tolerance=0)
    assert found.counts.tolist() == wanted.counts.tolist()
    assert found.residual[:, -1].max() < 1e-14


def test_an_atom_that_those_picked_span_ends_the_code() -> None:
    # The second differs from the first by 1e-9: its product is real, and it is no direction.
    atoms = np.array([[1.0, 0.0, 0.0], [1.0, 1e-9, 0.0]])
    found = sparse_codes(np.array([[2.0, -1.0, 0.0]]), atoms, m=2, tolerance=0)
    assert found.counts.tolist() == [1]
    assert found.coefficients.tolist() == [[2.0, 0.0]]
    assert found.residual.tolist() == [[1.0, 1.0]]


def test_more_texts_than_dimensions_or_than_the_pool_has() -> None:
    targets = make_targets(9, 12, 16)
    wide = sparse_codes(targets, make_atoms(9, 200, 16), m=30)
    assert wide.counts.tolist() == [16] * 12
    assert wide.residual[:, -1].max() < 1e-13
    small = sparse_codes(targets, make_atoms(9, 6, 16), m=30)
    assert small.counts.tolist() == [6] * 12
    assert np.abs(small.residual[:, 5:] - small.residual[:, 5:6]).max() < 1e-14
    few = np.repeat(make_atoms(9, 3, 16), 5, axis=0)
    found = sparse_codes(targets, few, m=10)
    assert found.counts.tolist() == [3] * 12
    assert {tuple(sorted(row[:3])) for row in found.picks.tolist()} == {(0, 5, 10)}
    for codes in (wide, small, found):
        assert (
            np.abs(codes.prefix(codes.picks.shape[1]).coefficients - codes.coefficients).max()
            < 1e-14
        )
    none = sparse_codes(targets[:0], few, m=10)
    assert none.picks.shape == (0, 10)


def test_a_pool_of_few_dimensions_is_used_up() -> None:
    # 400 atoms within 5 dimensions of 64: afterwards every product is rounding.
    rng = np.random.default_rng(10)
    atoms = unit(rng.normal(size=(400, 5)) @ rng.normal(size=(5, 64)))
    for tolerance in (1.5e-8, 0):
        found = sparse_codes(make_targets(10, 20, 64), atoms, m=12, tolerance=tolerance)
        assert found.counts.tolist() == [5] * 20


def test_a_tolerance_stops_sooner() -> None:
    atoms, targets = make_atoms(11, 500, 48), make_targets(11, 30, 48)
    whole = sparse_codes(targets, atoms, m=30)
    found = sparse_codes(targets, atoms, m=30, tolerance=0.1)
    assert 1 < found.counts.min() < found.counts.max() < 30
    for i, count in enumerate(found.counts):
        assert found.picks[i, :count].tolist() == whole.picks[i, :count].tolist()
        left = targets[i] - found.coefficients[i, :count] @ atoms[found.picks[i, :count]]
        before = whole.prefix(int(count) - 1)
        last = targets[i] - reconstructed(before, atoms)[i]
        assert np.abs(atoms @ left).max() <= 0.1 < np.abs(atoms @ last).max()


@pytest.mark.parametrize("factor", [1e-30, 1e-3, 1e20])
def test_the_length_of_a_target_only_scales_its_code(factor: float) -> None:
    atoms, targets = make_atoms(12, 300, 48), make_targets(12, 20, 48)
    found, scaled = (sparse_codes(rows, atoms, m=20) for rows in (targets, factor * targets))
    assert (found.picks == scaled.picks).all()
    for name in ("coefficients", "residual", "along"):
        ratio = getattr(scaled, name) / getattr(found, name)
        assert np.abs(ratio / factor - 1).max() < 1e-9, name
    assert np.abs(found.cosine - scaled.cosine).max() < 1e-14


# Memory


def test_blocks_and_the_path_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    atoms, targets = make_atoms(13, 400, 48), make_targets(13, 50, 48)
    whole = sparse_codes(targets, atoms, m=20)
    monkeypatch.setattr(sparse_text, "_TARGETS", 7)
    parts = sparse_codes(targets, atoms, m=20, path=False)
    assert (whole.picks == parts.picks).all()
    assert np.abs(whole.coefficients - parts.coefficients).max() < 1e-12
    assert parts.triangle is None
    with pytest.raises(ValueError, match="path=True"):
        parts.prefix(3)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("megabytes", [12, 30, 100])
def test_memory_stays_within_what_is_allowed(megabytes: int, dtype: type[np.floating[Any]]) -> None:
    atoms = make_atoms(14, 6000, 64).astype(dtype)
    targets, memory = make_targets(14, 300, 64), megabytes << 20
    tracemalloc.start()
    try:
        found = sparse_codes(targets, atoms, m=16, memory=memory)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found.triangle is not None
    results = [getattr(found, name) for name in found.__dataclass_fields__]
    used = peak - sum(array.nbytes for array in results)
    assert used <= memory, f"{used / 2**20:.1f} MiB of {megabytes}"
    assert (found.picks == sparse_codes(targets, atoms, m=16).picks).all()


# Centering


def test_centered_atoms_are_unit_and_without_the_mean() -> None:
    atoms = make_atoms(15, 200, 32).astype(np.float32)
    found = centered_atoms(atoms)
    centered = np.float64(atoms) - np.float64(atoms).mean(axis=0)
    wanted = np.stack([row / np.sqrt((row * row).sum()) for row in centered])
    assert np.abs(found - wanted).max() < 1e-15
    targets = make_targets(15, 10, 32)
    assert_as_sklearn(sparse_codes(targets, found, m=12), targets, found)
    with pytest.raises(ValueError, match="Text 0 of the pool is the pool's mean"):
        centered_atoms(atoms[:1])
    with pytest.raises(ValueError, match="Text 2 of the pool is the pool's mean"):
        centered_atoms(np.array([[1.0, 1.0, 0.0], [1.0, -1.0, 0.0], [1.0, 0.0, 0.0]]))


def test_wrong_questions_are_refused_with_what_would_be_right() -> None:
    atoms, targets = make_atoms(16, 100, 32), make_targets(16, 5, 32)
    with pytest.raises(ValueError, match=r"m = 0 .* ask for 1 or more"):
        sparse_codes(targets, atoms, m=0)
    with pytest.raises(ValueError, match="tolerance of -1"):
        sparse_codes(targets, atoms, m=3, tolerance=-1)
    with pytest.raises(ValueError, match="tolerance of nan"):
        sparse_codes(targets, atoms, m=3, tolerance=float("nan"))
    with pytest.raises(ValueError, match=r"\(5, 16\) .* width 32"):
        sparse_codes(targets[:, :16], atoms, m=3)
    with pytest.raises(ValueError, match=r"\(32,\)"):
        sparse_codes(targets[0], atoms, m=3)
    with pytest.raises(ValueError, match="no atoms"):
        sparse_codes(targets, atoms[:0], m=3)
    with pytest.raises(ValueError, match="pool's embeddings hold NaN or infinity, first in row 7"):
        sparse_codes(targets, np.where(np.arange(100)[:, None] == 7, np.nan, atoms), m=3)
    with pytest.raises(ValueError, match="targets hold NaN or infinity, first in row 4"):
        sparse_codes(np.where(np.arange(5)[:, None] == 4, np.inf, targets), atoms, m=3)
    longer = np.where(np.arange(100)[:, None] >= 98, 1.5 * atoms, atoms)
    with pytest.raises(ValueError, match=r"2 of 100 atoms .* row 98, of length 1.5"):
        sparse_codes(targets, longer, m=3)
    with pytest.raises(ValueError, match=r"1000 bytes are too few .* at least memory="):
        sparse_codes(targets, atoms, m=3, memory=1000)
    with pytest.raises(ValueError, match="1 to 3 texts, not m = 4"):
        sparse_codes(targets, atoms, m=3).prefix(4)
    with pytest.raises(ValueError, match="not m = 0"):
        sparse_codes(targets, atoms, m=3).prefix(0)
