"""What sparse codes hold for any targets and any pool, twins and sums of atoms among it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from hypothesis import given, settings
from hypothesis import strategies as st
from literal_pursuit import make_atoms, make_targets, reconstructed, unit

from lensbase.queries.sparse_text import sparse_codes

F64 = npt.NDArray[np.float64]


@st.composite
def problems(draw: st.DrawFn) -> tuple[F64, F64, int]:
    """Targets, atoms (some of them twins, near twins or sums of others) and m."""
    seed = draw(st.integers(0, 2**32 - 1))
    width, count = draw(st.integers(1, 24)), draw(st.integers(1, 60))
    rng = np.random.default_rng(seed)
    atoms = make_atoms(seed, count, width, cone=draw(st.sampled_from([0.0, 1.0, 4.0])))
    for _ in range(draw(st.integers(0, 4))):
        a, b, c = rng.integers(count, size=3)
        kind = draw(st.sampled_from(["twin", "near", "sum"]))
        added = {
            "twin": -atoms[a],
            "near": atoms[a] + 1e-4 * rng.normal(size=width),
            "sum": atoms[b] + 0.7 * atoms[c],
        }[kind]
        if np.linalg.norm(added) > 0.1:
            atoms[rng.integers(count)] = unit(added[None])[0]
    targets = make_targets(seed, draw(st.integers(1, 8)), width)
    if draw(st.booleans()):
        targets[0] = atoms[0] - 0.5 * atoms[-1]
    return targets, atoms, draw(st.integers(1, 28))


@settings(max_examples=150, deadline=None)
@given(problems())
def test_what_is_left_is_orthogonal_to_the_texts_and_never_grows(
    problem: tuple[F64, F64, int],
) -> None:
    targets, atoms, m = problem
    found = sparse_codes(targets, atoms, m=m)
    left = targets - reconstructed(found, atoms)
    for i, count in enumerate(found.counts):
        picked = found.picks[i, :count]
        assert len(set(picked.tolist())) == count
        size = 1 + np.abs(found.coefficients[i]).sum()
        assert np.abs(atoms[picked] @ left[i]).max(initial=0) < 1e-14 * size
        if count < m:
            assert np.abs(atoms @ left[i]).max() < 1e-7
        assert abs(np.linalg.norm(left[i]) - found.residual[i, -1]) < 1e-14 * size
    lengths = np.linalg.norm(targets, axis=1)
    assert (np.diff(found.residual, axis=1, prepend=lengths[:, None]) <= 1e-15).all()
    shares = (found.residual / np.where(lengths, lengths, 1)[:, None]) ** 2 + found.cosine**2
    assert np.abs(shares[lengths > 0] - 1).max(initial=0) < 1e-13


@settings(max_examples=100, deadline=None)
@given(problems(), st.data())
def test_prefixes_are_shorter_runs(problem: tuple[F64, F64, int], data: st.DataObject) -> None:
    targets, atoms, m = problem
    steps = data.draw(st.integers(1, m))
    found = sparse_codes(targets, atoms, m=m).prefix(steps)
    alone = sparse_codes(targets, atoms, m=steps)
    assert (found.picks == alone.picks).all()
    assert (found.counts == alone.counts).all()
    size = 1 + np.abs(alone.coefficients).max()
    assert np.abs(found.coefficients - alone.coefficients).max() < 1e-12 * size**2
    assert np.abs(found.residual - alone.residual).max() < 1e-12


@settings(max_examples=60, deadline=None)
@given(problems(), st.data())
def test_each_target_has_its_own_code_in_any_company(
    problem: tuple[F64, F64, int], data: st.DataObject
) -> None:
    targets, atoms, m = problem
    order = data.draw(st.permutations(range(len(targets))))
    found = sparse_codes(targets, atoms, m=m)
    turned = sparse_codes(targets[order], atoms, m=m)
    assert (turned.picks == found.picks[order]).all()
    size = 1 + np.abs(found.coefficients).max()
    off = np.abs(turned.coefficients - found.coefficients[order]).max()
    assert off < 1e-12 * size**2
