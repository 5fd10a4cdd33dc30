"""What the heads of the embedded world's CLIP do, against the scenes' known attributes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from lensbase.api import open_store
from lensbase.api.run import RunView
from lensbase.ingest.world.attributes import ATTRIBUTES
from lensbase.ingest.world.pool import text_attribute, text_pool

LATE = 4  # the last half of the model's eight layers
OF_EACH = 30  # texts of each attribute, so that none is favored
TOP, MOSTLY = 5, 3


@pytest.fixture(scope="module")
def clip(evaluation_store: Path) -> RunView:
    return open_store(evaluation_store).run()


def balanced_pool() -> list[str]:
    rng = np.random.default_rng(0)
    about: dict[str, list[str]] = {name: [] for name in ATTRIBUTES}
    for text in text_pool():
        if (attribute := text_attribute(text)) is not None:
            about[attribute].append(text)
    return [text for texts in about.values() for text in rng.permutation(texts)[:OF_EACH]]


def share_of_variance(values: npt.NDArray[np.float64], labels: npt.NDArray[np.str_]) -> float:
    """Between-class over total variance: how much knowing the attribute explains."""
    centered = values - values.mean(0)
    within = [
        len(part) * part.mean(0) @ part.mean(0)
        for part in (centered[labels == value] for value in np.unique(labels))
    ]
    return float(np.sum(within) / np.square(centered).sum())


def mostly_of_one(picks: dict[str, list[str]], attribute: dict[str, str]) -> dict[str, str]:
    """Heads of whose first texts most are about one attribute, and that attribute."""
    found: dict[str, str] = {}
    for head, texts in picks.items():
        name, count = Counter(attribute[text] for text in texts).most_common(1)[0]
        if count >= MOSTLY:
            found[head] = name
    return found


def test_texts_of_late_heads_say_what_varies_in_them(clip: RunView) -> None:
    """At least a third of the late heads have a top 5 that is mostly of one attribute.

    And that attribute carries the largest share of the head's variance in the scenes. With the
    texts' labels permuted, the control, less than half as many heads look like that.
    """
    pool = balanced_pool()
    heads = [row["component"] for row in clip.heads.rows() if row["layer"] >= LATE]
    assert len(heads) == 32
    picks = {
        head: [row["text"] for row in clip.head(head).textspan(pool=pool, m=TOP).rows()]
        for head in heads
    }
    about = {text: str(text_attribute(text)) for text in pool}
    told = mostly_of_one(picks, about)

    scenes = clip.images.df()
    truth: dict[str, str] = {}
    for head in told:
        values = clip.head(head).contribution().values.astype(np.float64)
        shares = {
            name: share_of_variance(values, scenes[name].to_numpy().astype(str))
            for name in ATTRIBUTES
        }
        truth[head] = max(shares, key=lambda name: shares[name])
    agreeing = [head for head, name in told.items() if truth[head] == name]
    apart = {head: (name, truth[head]) for head, name in told.items() if truth[head] != name}

    controls: list[int] = []
    for seed in range(20):
        order = np.random.default_rng(seed).permutation(len(pool))
        permuted = {text: about[pool[other]] for text, other in zip(pool, order, strict=True)}
        controls.append(len(mostly_of_one(picks, permuted)))
    control = float(np.mean(controls))

    message = (
        f"{len(told)} of {len(heads)} late heads have a top {TOP} mostly of one attribute, in "
        f"{len(agreeing)} of them it carries the most variance (apart: {apart}); with permuted "
        f"labels {control:.1f}"
    )
    assert len(agreeing) >= len(heads) / 3, message
    assert control < len(agreeing) / 2, message
    # L6.H6 tells shapes apart, and is described by "a small shape" and "a large shape".
    assert len(apart) <= 1, message
