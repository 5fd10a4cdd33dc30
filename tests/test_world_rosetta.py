"""Concepts of the embedded zoo against what its scenes are known to show, pixel by pixel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from world_tracking import (
    READERS,
    WORDS,
    Tracked,
    Tracking,
    Truth,
    dealt_anew,
    draw,
    drawn,
    iou,
    maps_by_unit,
    only_one,
    pointed_at,
    readers_of,
    thresholds,
)
from world_truth import statements

from lensbase.api import open_store
from lensbase.api.mining import mine_rosetta
from lensbase.api.rosetta import RosettaView
from lensbase.api.store import Store
from lensbase.ingest.rosetta.sources import load_member
from lensbase.ingest.rosetta.units import GeneratorMember
from lensbase.ingest.world.attributes import COLORS
from lensbase.ingest.world.companions.latents import drawable, parameters_of
from lensbase.ingest.world.scenes import Sampling
from lensbase.schema.unit_addresses import parse_unit

# Drawn as for training, a little more crowded; the zoo's own scenes have other seeds.
MIXED = Sampling((0.3, 0.2, 0.2, 0.1, 0.1, 0.1))
CROWDED = Sampling((0, 0, 0.4, 0.3, 0.2, 0.1))
HALF = 200
DISSECTION = 0.04  # IoU from which Network Dissection calls a unit a detector
DETECTOR = 0.15
DEALS = range(5)


@pytest.fixture(scope="module")
def store(world_zoo: Path) -> Store:
    return open_store(world_zoo)


@pytest.fixture(scope="module")
def zoo(store: Store) -> RosettaView:
    return store.rosetta("scenes")


@pytest.fixture(scope="module")
def halves() -> tuple[Truth, Truth]:
    return draw(HALF, 901, MIXED), draw(HALF, 902, MIXED)


@pytest.fixture(scope="module")
def tuples(zoo: RosettaView) -> list[tuple[str, ...]]:
    """The strongest tuple of each concept: a unit of the CLIP, of the ResNet and of the MAE."""
    return [readers_of(row) for row in zoo.concepts().rows()]


@pytest.fixture(scope="module")
def tracking(halves: tuple[Truth, Truth], tuples: list[tuple[str, ...]]) -> Tracking:
    return Tracking(*halves, sorted({unit for units in tuples for unit in units}))


@pytest.fixture(scope="module")
def found(tracking: Tracking, tuples: list[tuple[str, ...]]) -> dict[tuple[str, ...], Tracked]:
    """What the units of each tuple track together."""
    return {units: tracking.of(units) for units in tuples}


def listed(found: dict[tuple[str, ...], Tracked], least: float) -> dict[tuple[str, ...], Tracked]:
    """Those whose word every model's map overlaps by so much."""
    return {units: one for units, one in found.items() if one.iou.min() >= least}


def test_the_measure_is_intersection_over_union(halves: tuple[Truth, Truth]) -> None:
    truth, rng = halves[0], np.random.default_rng(0)
    maps = torch.from_numpy(rng.random((HALF, 64, 64)))
    values, cuts = truth.values(), thresholds(maps)
    got = iou(maps, values, cuts)
    for q, cut in enumerate(cuts):
        above = maps.numpy() > cut
        for word in (0, 9, 10, 18):
            mask = values[word // 10] == word
            literal = (above & mask).sum() / (above | mask).sum()
            assert got[q, word] == pytest.approx(literal, rel=1e-12)


def test_maps_of_more_than_ten_concepts_track_a_color(
    found: dict[tuple[str, ...], Tracked], tracking: Tracking, tuples: list[tuple[str, ...]]
) -> None:
    detectors, words = listed(found, DETECTOR), listed(found, DISSECTION)
    chance = max(one.chance.max() for one in words.values())
    dealt = [{units: tracking.of(units) for units in dealt_anew(tuples, seed)} for seed in DEALS]
    strangers = [len(listed(one, DETECTOR)) for one in dealt]
    message = (
        f"{len(tuples)} concepts; in all of {READERS} at IoU {DISSECTION}: {len(words)}, "
        f"at {DETECTOR}: {len(detectors)} ({sorted(one.word for one in detectors.values())}), "
        f"with units dealt anew {strangers}; the least IoU of each "
        f"{sorted(round(float(one.iou.min()), 2) for one in words.values())}, with the masks of "
        f"other scenes at most {chance:.3f}"
    )
    assert len(detectors) >= 10, message
    assert len({one.word for one in detectors.values()}) >= 5, message
    assert chance < DISSECTION, message
    assert max(strangers) <= 3, message


def together(
    maps: dict[str, torch.Tensor], units: tuple[str, ...], truth: Truth, word: str
) -> tuple[float, float]:
    """Shares of scenes where all units point at one object, and at the one of that word."""
    rows, wanted = only_one(truth, word)
    points = np.stack([pointed_at(maps[unit], truth)[rows] for unit in units])
    return (points == points[0]).all(0).mean(), (points == wanted).all(0).mean()


def test_units_of_a_concept_point_at_the_same_object(
    found: dict[tuple[str, ...], Tracked],
) -> None:
    detectors = listed(found, DETECTOR)
    truth = draw(HALF, 903, CROWDED)
    maps = maps_by_unit(truth.pictures, sorted({unit for units in detectors for unit in units}))
    own = np.array([together(maps, units, truth, one.word) for units, one in detectors.items()])
    words = {units[0]: one.word for units, one in detectors.items()}
    strangers = np.array(
        [
            together(maps, units, truth, words[units[0]])
            for seed in DEALS
            for units in dealt_anew(list(detectors), seed)
        ]
    )
    chance = float((1 / truth.seen.sum(1) ** 2).mean())
    message = (
        f"{len(detectors)} concepts: same object {own[:, 0].mean():.2f} "
        f"{sorted(own[:, 0].round(2).tolist())}, that of the color {own[:, 1].mean():.2f}; "
        f"with units dealt anew {strangers[:, 0].mean():.2f} and {strangers[:, 1].mean():.2f}; "
        f"by chance {chance:.2f}"
    )
    assert (own[:, 0] > 0.4).sum() >= 10, message
    assert own[:, 0].mean() > 0.5, message
    assert own[:, 1].mean() > 0.5, message
    assert own[:, 0].mean() > 2.5 * strangers[:, 0].mean(), message


def generator_iou(generator: GeneratorMember, unit: str, word: str) -> float:
    """A generator's unit with what its own samples show: held out, at a cut of other samples."""
    module, channel = parse_unit(unit).module, parse_unit(unit).channel
    maps: list[torch.Tensor] = []
    truths: list[Truth] = []
    for seed in (11, 12):
        latents = generator.sample(HALF, seed)
        truths.append(drawn(drawable(parameters_of(latents))[1]))
        with torch.no_grad():
            maps.append(generator.generate_with_maps(latents, [module])[1][module][:, channel])
    cuts = thresholds(maps[0])
    place = WORDS.index(word)
    decided = iou(maps[0], truths[0].values(), cuts)[:, place].argmax()
    return float(iou(maps[1], truths[1].values(), cuts)[decided, place])


@pytest.mark.slow
def test_concepts_of_all_four_models_track_colors_through_the_generator(
    halves: tuple[Truth, Truth], tmp_path: Path
) -> None:
    """Fewer and less exact: each pair matches on samples of a lone object.

    A concept counts if all three readers overlap one word in real scenes, and the generator's unit
    overlaps it in samples, whose latents say what they show, by what Network Dissection asks for.
    """
    models = [f"{name}=world:{name}" for name in ("generator", *READERS)]
    zoo = mine_rosetta(
        None, tmp_path / "z.lens", models=models, samples=300, batch_size=50, examples=0
    )
    rows = {readers_of(row): row["unit"] for row in zoo.concepts().rows()}
    tracking = Tracking(*halves, sorted({unit for units in rows for unit in units}))
    found = listed({units: tracking.of(units) for units in rows}, DISSECTION)
    generator = load_member("generator=world:generator")
    assert isinstance(generator, GeneratorMember)
    made = {units: generator_iou(generator, rows[units], one.word) for units, one in found.items()}
    both = {units: one for units, one in found.items() if made[units] >= DISSECTION}
    chance = max(one.chance.max() for one in found.values())
    message = (
        f"{len(rows)} concepts, {len(found)} track a word in the readers, {len(both)} in the "
        f"generator too: "
        + ", ".join(f"{one.word} {one.iou.min():.2f}/{made[u]:.2f}" for u, one in found.items())
        + f"; by chance at most {chance:.3f}"
    )
    assert len(both) >= 10, message
    assert chance < DISSECTION, message


TRANSLATED = """
    SELECT t.text, t.coefficient FROM rosetta_pairs p
    JOIN rosetta_neurons n ON n.zoo = p.zoo AND n.unit = p.unit_b
    JOIN neuron_texts t ON t.run = n.run AND t.component = n.component
    WHERE p.zoo = 'scenes' AND p.unit_a = ? AND p.unit_b = ? AND NOT t.centered ORDER BY t.rank
"""


def test_words_of_the_neuron_that_a_channel_translates_to_name_its_color(
    store: Store, found: dict[tuple[str, ...], Tracked]
) -> None:
    """Which words describe the CLIP neuron that this ResNet channel translates to?

    The color of largest summed coefficient, whatever its sign: a direction r has none of its own.
    """
    detectors = listed(found, DETECTOR)
    tracked: list[str] = []
    named: list[str] = []
    for (clip, resnet, _), one in detectors.items():
        rows = store.sql(TRANSLATED, [resnet, clip]).rows()
        assert len(rows) == 16
        weight: dict[str, float] = dict.fromkeys(COLORS, 0.0)
        for row in rows:
            for attribute, value in statements(row["text"]):
                if attribute == "color":
                    weight[value] += abs(row["coefficient"])
        tracked.append(one.word)
        named.append(max(weight, key=lambda color: weight[color]))
    hits = sum(a == b for a, b in zip(tracked, named, strict=True))
    rng = np.random.default_rng(0)
    shuffled = [int((rng.permutation(named) == np.array(tracked)).sum()) for _ in range(2000)]
    p = float((np.array(shuffled) >= hits).mean())
    message = (
        f"{hits} of {len(named)} neurons name the color that the maps track "
        f"({list(zip(tracked, named, strict=True))}); shuffled {np.mean(shuffled):.1f}, p = {p}"
    )
    assert p < 0.01, message
    assert hits >= 2 * np.mean(shuffled), message
