"""Scores of masks: by loops, as sets, and what must not change them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from literal_segmentation import literal_precision

from lensbase.queries.segmentation import (
    average_precision,
    confusion,
    foreground,
    heat,
    intersection_over_union,
    pixel_accuracy,
)

masks_8 = arrays(np.bool_, (4, 5))
heats_8 = arrays(np.float64, (4, 5), elements=st.sampled_from([0, 0.125, 0.25, 0.5, 0.875, 1]))


@given(heats_8, masks_8)
def test_average_precision_ranks_both_classes_together(h: np.ndarray, truth: np.ndarray) -> None:
    positive = [*(~truth).ravel().tolist(), *truth.ravel().tolist()]
    background = (1 - h if h.any() else h).ravel().tolist()
    wanted = literal_precision(positive, [*background, *h.ravel().tolist()])
    assert average_precision(h, truth) == pytest.approx(wanted, abs=1e-12)
    if truth.any():
        alone = literal_precision(truth.ravel().tolist(), h.ravel().tolist())
        found = average_precision(h, truth, classes="foreground")
        assert found == pytest.approx(alone, abs=1e-12)
    # the two classes are alike: swapping them and the heat changes nothing
    if h.any() and (h < 1).any():
        assert average_precision(1 - h, ~truth) == pytest.approx(average_precision(h, truth))


def test_without_heat_all_is_background_and_precision_is_one_half() -> None:
    flat = heat(np.full((3, 3), -2.0), (6, 6))
    assert not flat.any()
    truth = np.zeros((6, 6), np.bool_)
    truth[0, 0] = True
    assert not foreground(flat).any()
    assert average_precision(flat, truth) == 0.5
    assert np.isnan(average_precision(flat, truth & False, classes="foreground"))
    assert np.isnan(average_precision(flat, truth, valid=truth & False))


@given(masks_8, masks_8, masks_8, masks_8)
def test_counts_are_those_of_sets_and_add_up(
    predicted: np.ndarray, truth: np.ndarray, other: np.ndarray, valid: np.ndarray
) -> None:
    counts = confusion(predicted, truth)
    assert counts.sum() == 20
    assert pixel_accuracy(counts) == np.mean(predicted == truth)
    for kind, (p, t) in enumerate(((~predicted, ~truth), (predicted, truth))):
        wanted = (p & t).sum() / (p | t).sum() if (p | t).any() else 0
        assert intersection_over_union(counts)[kind] == pytest.approx(wanted)
    pair = np.stack([predicted, other]), np.stack([truth, truth])
    np.testing.assert_array_equal(confusion(*pair)[0], counts)
    np.testing.assert_array_equal(confusion(*pair).sum(0), counts + confusion(other, truth))
    # a void pixel counts as if it were not there
    kept = confusion(predicted[valid][None], truth[valid][None])
    np.testing.assert_array_equal(confusion(predicted, truth, valid=valid), kept)
    perfect = confusion(truth, truth)
    assert pixel_accuracy(perfect) == 1
    assert intersection_over_union(perfect).tolist() == [float((~truth).any()), float(truth.any())]


@given(arrays(np.float64, (3, 4), elements=st.floats(-5, 5)), st.floats(0.1, 10))
def test_heat_is_from_0_to_1_whatever_the_scale(scores: np.ndarray, scale: float) -> None:
    found = heat(scores, (9, 8))
    assert found.min() >= 0
    assert found.max() <= 1
    # subnormal scores have no digits left to scale
    if scores.max() > 1e-6 and np.ptp(np.maximum(scores, 0)) > 1e-6 and found.any():
        np.testing.assert_allclose(heat(scale * scores, (9, 8)), found, atol=1e-6)
        assert found.max() == 1
    if (scores < 0).all():
        assert not found.any()
