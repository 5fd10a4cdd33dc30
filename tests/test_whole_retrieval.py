"""Images by their whole representation, against a sort of all products."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from fabricated_store import REJECTED, TEXTS, Truth, fabricate

from lensbase.api import Store, open_store
from lensbase.schema.errors import (
    BadQuestion,
    BadSelection,
    RejectedRow,
    TextNotStored,
    UnknownImage,
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Store, Truth]]:
    root = tmp_path_factory.mktemp("whole") / "x.lens"
    truth = fabricate(root)
    with open_store(root) as store:
        yield store, truth


def ranked(truth: Truth, scores: np.ndarray, rows: np.ndarray) -> np.ndarray:
    order = np.lexsort((rows, -scores[rows].astype(np.float32)))
    return rows[order]


@pytest.mark.parametrize("normalize", [False, True])
def test_top_images_are_a_sort_of_the_products(
    made: tuple[Store, Truth], normalize: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lensbase.api.ranking._BLOCK", 9)
    monkeypatch.setattr("lensbase.api.ranking._CACHED", 4)
    store, truth = made
    whole = truth.arrays["representation"]
    scores = whole @ truth.pools["general"][2]
    if normalize:
        scores = scores / np.linalg.norm(whole, axis=1)
    rows = ranked(truth, scores, np.sort(truth.rows_by_id))
    found = store.run().top_images("sand", 7, normalize=normalize)
    assert found.columns == ["rank", "image_id", "key", "label", "score"]
    assert found["image_id"].tolist() == truth.image_ids[rows[:7]].tolist()
    np.testing.assert_allclose(found["score"], scores[rows[:7]], rtol=1e-5)
    odd = rows[rows % 2 == 1]
    found = store.run().top_images("sand", where="label = 'odd'", normalize=normalize)
    assert found["image_id"].tolist() == truth.image_ids[odd[:10]].tolist()
    every = store.run().top_images("sand", 1000, normalize=normalize)
    assert every["image_id"].tolist() == truth.image_ids[rows].tolist()


@pytest.mark.parametrize("normalize", [False, True])
def test_nearest_images_are_a_sort_of_the_products(
    made: tuple[Store, Truth], normalize: bool
) -> None:
    store, truth = made
    whole = truth.arrays["representation"]
    if normalize:
        whole = whole / np.linalg.norm(whole, axis=1, keepdims=True)
    scores = whole @ whole[17]
    rows = ranked(truth, scores, np.sort(truth.rows_by_id))
    image = int(truth.image_ids[17])
    for name in (image, truth.keys[17]):
        found = store.run().nearest_images(name, 6, normalize=normalize)
        assert found["image_id"].tolist() == truth.image_ids[rows[:6]].tolist()
    if normalize:
        assert found["image_id"][0] == image
        assert abs(found["score"][0] - 1) < 1e-6


def test_wrong_questions_are_named_errors(made: tuple[Store, Truth]) -> None:
    store, truth = made
    clip: Any = store.run()
    for k in (-1, -7):
        with pytest.raises(BadQuestion):
            clip.top_images(TEXTS[0], k)
    with pytest.raises(TextNotStored):
        clip.top_images("never seen")
    with pytest.raises(UnknownImage):
        clip.nearest_images(7)
    with pytest.raises(RejectedRow):
        clip.nearest_images(int(truth.image_ids[next(iter(REJECTED))]))
    with pytest.raises(BadSelection):
        clip.nearest_images(truth.image_ids[:2])
