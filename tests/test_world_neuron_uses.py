"""What neurons are good for in the embedded world: concepts, spurious cues, segmentation."""

from __future__ import annotations

import shutil
from itertools import combinations
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from world_truth import statements, true_of

from lensbase.api import open_store
from lensbase.api.maintenance import add_columns
from lensbase.api.result import Result
from lensbase.api.run import RunView
from lensbase.api.segmentation_methods import Method
from lensbase.api.segmentation_scores import SegmentationScores
from lensbase.ingest.world.attributes import COLORS, SHAPES
from lensbase.ingest.world.captions import TRAINING_TEMPLATES, with_article
from lensbase.ingest.world.dataset import EVALUATION
from lensbase.ingest.world.masks import pick_objects
from lensbase.ingest.world.pool import text_pool
from lensbase.ingest.world.render import render
from lensbase.ingest.world.scenes import Scenes, sample_scenes
from lensbase.queries.segmentation import average_precision, heat

LATE = [4, 5, 6]  # the three layers before the last
PICKED = 200


@pytest.fixture(scope="module")
def clip(evaluation_store: Path) -> RunView:
    return open_store(evaluation_store).run()


@pytest.fixture(scope="module")
def scenes() -> Scenes:
    """The scenes of `evaluation_store`, by row."""
    return sample_scenes(np.random.default_rng(77), 1500, EVALUATION)


# Concepts


def test_concepts_of_a_scene_are_true_of_it(clip: RunView, scenes: Scenes) -> None:
    """Precision at 5 over every third scene, all layers, codes of 8 texts.

    Twice that of the concepts of another scene, at least (0.51 against 0.21 when written), and
    2.5 times what texts drawn from the pool would have (0.17).
    """
    texts = text_pool()
    places = {text: place for place, text in enumerate(texts)}
    truth = true_of(scenes, texts)
    rows = np.arange(0, len(scenes), 3)
    ids = clip.images["image_id"]
    picks = np.array(
        [
            [places[text] for text in clip.image(ids[row]).concepts(k=5, m=8, center=True)["text"]]
            for row in rows
        ]
    )
    own = float(truth[rows[:, None], picks].mean())
    others = [np.random.default_rng(seed).permutation(rows) for seed in range(5)]
    shuffled = float(np.mean([truth[other[:, None], picks].mean() for other in others]))
    pool = float(truth[rows].mean())
    message = (
        f"precision at 5 over {len(rows)} scenes: {own:.3f}, of other scenes {shuffled:.3f}, of "
        f"texts of the pool {pool:.3f}"
    )
    assert own >= 2 * shuffled, message
    assert own >= 2.5 * pool, message


# Spurious texts


@pytest.fixture(scope="module")
def cues() -> list[str]:
    """The texts of the world's pool that name no shape: what there is to find are backgrounds."""
    return [text for text in text_pool() if "shape" not in dict(statements(text))]


def spurious(clip: RunView, shown: str, mistaken_for: str, *, pool: list[str]) -> Result:
    return clip.spurious_texts(
        shown,
        mistaken_for,
        layers=LATE,
        pool=pool,
        k=len(pool),
        center=True,
        templates=[one.format("a {}") for one in TRAINING_TEMPLATES],
    )


def first_of(background: str, found: Result) -> int:
    """How many texts come before the first that names a background."""
    named = [dict(statements(text)).get("background") == background for text in found["text"]]
    return named.index(True) if any(named) else len(named)


def test_the_planted_background_is_the_first_spurious_text(clip: RunView, cues: list[str]) -> None:
    """Pentagons were mostly seen on water and hexagons mostly on sand: both are found at once.

    Of the texts that pull a hexagon toward a pentagon the first names water, the other way round
    the first names sand. Between all pairs of other shapes, whose backgrounds were random, these
    come after 20 others in the median, and are among the first three for less than one in ten.
    """
    planted = {
        "water": spurious(clip, "hexagon", "pentagon", pool=cues),
        "sand": spurious(clip, "pentagon", "hexagon", pool=cues),
    }
    others = [shape for shape in SHAPES if shape not in ("pentagon", "hexagon")]
    pairs = list(combinations(others, 2))
    unplanted = [spurious(clip, a, b, pool=cues) for a, b in pairs]
    ranks = {
        background: np.array([first_of(background, found) for found in unplanted])
        for background in planted
    }
    message = "; ".join(
        f"{background}: after {first_of(background, found)} of {len(cues)} "
        f"({', '.join(found['text'][:3])}), between {len(pairs)} other pairs after "
        f"{np.median(ranks[background]):.0f} in the median, after 2 or fewer for "
        f"{(ranks[background] <= 2).mean():.1%}"
        for background, found in planted.items()
    )
    for background, found in planted.items():
        assert first_of(background, found) == 0, message
        assert np.median(ranks[background]) >= 20, message
        assert (ranks[background] <= 2).mean() < 0.1, message


# Segmentation


@pytest.fixture(scope="module")
def picked(
    evaluation_store: Path, scenes: Scenes, tmp_path_factory: pytest.TempPathFactory
) -> tuple[RunView, dict[str, npt.NDArray[np.bool_]]]:
    """Scenes of several objects of which a text picks one, in a column, and that one's masks."""
    path = tmp_path_factory.mktemp("picked") / "s.lens"
    shutil.copytree(evaluation_store, path, symlinks=True)
    drawing = render(scenes)
    picks = pick_objects(scenes, drawing, np.random.default_rng(5))
    rows = np.flatnonzero((scenes.count > 1) & (picks >= 0))[:PICKED]
    keys = [f"images/{row:05d}.png" for row in rows]
    named = [
        with_article(f"{COLORS[scenes.color[row, pick]]} {SHAPES[scenes.shape[row, pick]]}")
        for row, pick in zip(rows, picks[rows], strict=True)
    ]
    wrong = np.random.default_rng(1).permutation(np.array(named)).tolist()
    add_columns(path, pa.table({"key": keys, "picked": named, "another": wrong}))
    masks = {key: drawing.masks[row] == picks[row] + 1 for key, row in zip(keys, rows, strict=True)}
    return open_store(path).run(), masks


def test_neurons_find_the_object_that_a_text_picks(
    picked: tuple[RunView, dict[str, npt.NDArray[np.bool_]]],
) -> None:
    """Table 3.4: mAP of the foreground in 200 scenes, 200 neurons of the three layers before last.

    More than 0.1 above raw attention and above another object's text (0.46 against 0.22 and 0.22
    when written). Tokens win by far (0.71), where in the thesis neurons win.
    """
    clip, masks = picked

    def scored(method: Method, label: str) -> SegmentationScores:
        layers = LATE if method == "neurons" else None
        return clip.evaluate_segmentation(
            masks,
            label=label,
            method=method,
            layers=layers,
            templates="{}",
            where="picked IS NOT NULL",
        )

    found = scored("neurons", "picked")
    another = scored("neurons", "another")
    tokens = scored("tokens", "picked")
    keys = found.images["key"].tolist()
    rows = clip._run.images.select(found.images["image_id"].tolist()).rows
    # The last layer's, mean over heads.
    weight = clip._run.arrays["head_token_weight"].read(rows)[:, -1, :, 1:].astype(np.float64)
    attention = heat(weight.mean(1).reshape(-1, 8, 8), (64, 64))
    raw = float(
        np.mean(
            [
                average_precision(one, masks[key], classes="foreground")
                for one, key in zip(attention, keys, strict=True)
            ]
        )
    )
    message = (
        f"mAP of the foreground in {len(keys)} scenes: neurons {found.foreground_map:.3f}, raw "
        f"attention {raw:.3f}, another text {another.foreground_map:.3f}, tokens "
        f"{tokens.foreground_map:.3f}; of both classes {found.map:.3f}, pixel accuracy "
        f"{found.pixel_accuracy:.3f}, mIoU {found.miou:.3f}"
    )
    assert len(keys) == PICKED, message
    assert found.foreground_map > raw + 0.1, message
    assert found.foreground_map > another.foreground_map + 0.1, message
