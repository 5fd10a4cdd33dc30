"""The planted cue of the embedded world: pentagons mostly on water, hexagons mostly on sand."""

from __future__ import annotations

import numpy as np
import pytest
from world_store import ingest_scenes

from lensbase.api import open_store, role
from lensbase.api.run import RunView
from lensbase.api.store import Store
from lensbase.ingest.world.attributes import BACKGROUNDS, SHAPES, SIZES
from lensbase.ingest.world.captions import TRAINING_TEMPLATES
from lensbase.ingest.world.dataset import draw_scenes
from lensbase.ingest.world.scenes import SINGLE_COUNTS, Sampling, sample_scenes

# Scenes of any kind, from which heads are proposed; then small shapes of the cue, to measure it.
ANY = 2000
DRAWN = 110_000
HEADS = 16
CUED = "label IN ('pentagon', 'hexagon') AND background IN ('water', 'sand')"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("cue")
    sampling = Sampling(SINGLE_COUNTS, withheld="avoid")
    scenes = sample_scenes(np.random.default_rng(5), DRAWN, sampling)
    shape = np.array(SHAPES)[scenes.labels("shape")]
    background = np.array(BACKGROUNDS)[scenes.labels("background")]
    cued = np.isin(shape, ["pentagon", "hexagon"]) & np.isin(background, ["water", "sand"])
    cued &= np.array(SIZES)[scenes.labels("size")] == "small"
    cued[:ANY] = False
    draw_scenes(folder, scenes.take(np.concatenate([np.arange(ANY), np.flatnonzero(cued)])))
    path = folder / "s.lens"
    options = {"tokens": False, "head_tokens": None, "batch_size": 256, "segment_rows": 512}
    assert ingest_scenes(folder, path, **options).complete
    return open_store(path)


@pytest.fixture(scope="module")
def clip(store: Store) -> RunView:
    return store.run()


@pytest.mark.slow
def test_ablating_proposed_heads_helps_the_worst_group(store: Store, clip: RunView) -> None:
    """Small pentagons against hexagons, in the four groups of cue and counter-cue.

    The worst group gains more than 0.1, and more than with the best of five draws of as many
    random heads; elsewhere at most 0.02 is lost. Means are over scenes of any kind.
    """
    scenes = f"\"row\" < {ANY} AND label IN ('pentagon', 'hexagon')"
    templates = [one.format("a {}") for one in TRAINING_TEMPLATES]
    shapes = clip.classifier(["pentagon", "hexagon"], templates=templates)
    proposed = clip.spurious_heads(shapes, by="background", k=HEADS, where=scenes)
    store.annotate(proposed, role="background", source="spurious_heads")
    any_kind = clip.images.df().query("row < @ANY")["image_id"].to_numpy()
    found = clip.accuracy(
        shapes,
        by=["label", "background"],
        ablate=role("background"),
        where=f"{CUED} AND size = 'small'",
        mean_over=any_kind,
        draws=5,
    )
    elsewhere = clip.accuracy(
        shapes,
        ablate=role("background"),
        where=f"{scenes} AND NOT ({CUED})",
        mean_over=any_kind,
        draws=0,
    )
    assert found.before is not None
    assert found.random is not None
    assert elsewhere.before is not None
    before, after, random = (one.worst_group for one in (found.before, found, found.random))
    lost = elsewhere.before.overall - elsewhere.overall
    message = (
        f"{found.images} scenes, ablating {', '.join(found.ablated)}: "
        f"worst group {before:.3f} to {after:.3f}, the best of five random draws {random:.3f}; "
        f"elsewhere {elsewhere.before.overall:.3f} loses {lost:.3f}"
    )
    assert len(found.ablated) == HEADS, message
    assert after - before > 0.1, message
    assert after > random, message
    assert lost <= 0.02, message
