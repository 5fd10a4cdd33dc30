"""Asking a zoo: matches, concepts, partners, texts; and what it cannot answer."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from synthetic_zoo import (
    CLIP,
    CLIP_MODULE,
    GAN,
    MAE,
    NEIGHBORS,
    RESNET,
    ZOO,
    Model,
    Module,
    correlation,
    keep,
    write_zoo,
    zoo_of,
)

from lensbase.api import Store, open_store
from lensbase.api.rosetta import RosettaView
from lensbase.ingest.rosetta.publishing import publish_zoo
from lensbase.schema.catalog import create_store
from lensbase.schema.errors import BadAddress, BadQuestion, NeuronsNotStored
from lensbase.schema.zoo_errors import (
    AmbiguousZoo,
    MapsNotStored,
    NoMatches,
    UnknownMember,
    UnknownUnit,
    UnknownZoo,
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    layout = write_zoo(tmp_path_factory.mktemp("zoo") / "z.lens")
    with open_store(layout.root) as opened:
        yield opened


@pytest.fixture(scope="module")
def zoo(store: Store) -> RosettaView:
    return store.rosetta("zoo")


def address(model: Model, unit: int) -> str:
    for module in model.modules:
        if unit < module.channels:
            return f"{model.name}:{module.name}/{unit}"
        unit -= module.channels
    raise AssertionError


def literal_buddies(one: Model, other: Model, k: int) -> dict[tuple[int, int], float]:
    """T4.3 by a search over all pairs of float64 correlations."""
    found = correlation(one, other)

    def near(numbers: Any, value: float) -> bool:
        return bool(np.sum(numbers > value) < k)

    return {
        (i, j): float(found[i, j])
        for i, j in product(range(one.units), range(other.units))
        if found[i, j] > 0 and near(found[i], found[i, j]) and near(found[:, j], found[i, j])
    }


def literal_tuples(
    others: tuple[Model, ...], k: int, least: float | None = None
) -> dict[tuple[str, ...], float]:
    """T4.4: the tuples' addresses, and the lowest correlation of each."""
    pairs = [literal_buddies(GAN, other, k) for other in others]
    found: dict[tuple[str, ...], float] = {}
    for units in product(range(GAN.units), *(range(other.units) for other in others)):
        said = [pair.get((units[0], unit)) for pair, unit in zip(pairs, units[1:], strict=True)]
        if None not in said and (least is None or min(said) >= least):  # type: ignore[type-var]
            named = zip((GAN, *others), units, strict=True)
            found[tuple(address(model, unit) for model, unit in named)] = min(said)  # type: ignore
    return found


# Tuples and concepts


@pytest.mark.parametrize("k", [None, 1, 2])
@pytest.mark.parametrize("least", [None, 0.6])
@pytest.mark.parametrize("models", [None, ["clip"], ("clip", "resnet"), "resnet"])
def test_matches_are_the_tuples_of_a_literal_search(
    zoo: RosettaView, k: int | None, least: float | None, models: Any
) -> None:
    by_name = {model.name: model for model in ZOO}
    names = [models] if isinstance(models, str) else list(models or ("resnet", "clip"))
    wanted = literal_tuples(tuple(by_name[name] for name in names), k or NEIGHBORS, least)
    found = zoo.matches(models, least, k)
    said = {(row["unit"], *(row[name] for name in names)): row["min_correlation"] for row in found}
    assert len(said) == len(found)
    assert said.keys() == wanted.keys()
    assert said == pytest.approx(wanted, abs=1e-6)
    assert (np.diff(found["min_correlation"]) <= 0).all()
    for row in found:
        assert row["min_correlation"] == min(row[f"correlation_{name}"] for name in names)


def test_the_hidden_concepts_are_found(zoo: RosettaView) -> None:
    """Every tuple of a correlation above 0.6 shows one hidden concept in all models."""
    found = zoo.matches(min_correlation=0.6)
    numbers = {address(model, unit): unit for model in ZOO for unit in range(model.units)}
    shown = [
        {numbers[row[name]] % 6 for name in ("unit", "resnet", "clip")} for row in found.rows()
    ]
    assert all(len(one) == 1 for one in shown)
    assert set.union(*shown) == {0, 1, 2, 3, 4}
    # Of a concept's handful of units in the anchor, more neighbors are those of other concepts.
    concepts = zoo.concepts(min_correlation=0.6, neighbors=2)
    assert len(concepts) == 5
    assert {numbers[row["unit"]] % 6 for row in concepts} == {0, 1, 2, 3, 4}
    assert concepts.note is not None
    assert "5 concepts" in concepts.note
    assert f"the largest of {max(concepts['size'])}" in concepts.note


def test_concepts_count_what_matches_lists(zoo: RosettaView) -> None:
    matches, concepts = zoo.matches(), zoo.concepts()
    for row in concepts:
        own = [one for one in matches if one["concept"] == row["concept"]]
        assert row["tuples"] == len(own)
        assert row["size"] == len({one["unit"] for one in own})
        shared = ("unit", "resnet", "clip", "correlation_resnet", "min_correlation")
        assert {name: row[name] for name in shared} == {name: own[0][name] for name in shared}
    assert concepts["size"].sum() == len(set(matches["unit"]))


def test_concepts_of_all_models_are_the_view(store: Store, zoo: RosettaView) -> None:
    view = store.sql("SELECT concept, count(*) AS n FROM rosetta_concepts GROUP BY ALL ORDER BY 1")
    assert view["n"].tolist() == zoo.concepts()["size"].tolist()


def test_statistics_describe_each_pair(zoo: RosettaView) -> None:
    found = {(row["model_a"], row["model_b"]): row for row in zoo.statistics()}
    assert len(found) == 6
    for one, other in product(ZOO, ZOO):
        row = found.get((one.name, other.name))
        if row is None or one is other:
            continue
        wanted = literal_buddies(one, other, NEIGHBORS)
        numbers = np.array(list(wanted.values()))
        assert row["matches"] == len(wanted)
        assert row["matched_a"] == len({i for i, _ in wanted})
        assert row["matched_b"] == len({j for _, j in wanted})
        assert (row["dead_a"], row["dead_b"]) == (len(one.modules), len(other.modules))
        assert row["median"] == pytest.approx(np.median(numbers), abs=1e-6)
        assert row["highest"] == pytest.approx(numbers.max(), abs=1e-6)
    own = literal_buddies(GAN, GAN, NEIGHBORS)
    assert found["gan", "gan"]["matches"] == len(own) / 2


# Units


@pytest.mark.parametrize("k", [None, 1, 3])
@pytest.mark.parametrize("mutual", [True, False])
def test_partners_are_a_units_best_buddies(zoo: RosettaView, k: int | None, mutual: bool) -> None:
    count = k or NEIGHBORS
    for model in ZOO:
        for unit in range(model.units):
            found = zoo.unit(address(model, unit)).partners(k=k, mutual=mutual).rows()
            wanted: dict[str, tuple[float, int, int | None]] = {}
            for other in ZOO:
                numbers = correlation(model, other)
                for there in range(other.units):
                    value = numbers[unit, there]
                    rank = 1 + int(np.sum(numbers[unit] > value))
                    back = 1 + int(np.sum(numbers[:, there] > value))
                    if value > 0 and rank <= count and (back <= count or not mutual):
                        said = back if back <= count else None
                        wanted[address(other, there)] = (value, rank, said)
            assert {row["unit"] for row in found} == wanted.keys()
            for row in found:
                value, rank, back = wanted[row["unit"]]
                assert row["correlation"] == pytest.approx(value, abs=1e-6)
                assert (row["rank"], row["rank_back"]) == (rank, back)


def test_partners_in_one_model_say_which_neurons_they_are(zoo: RosettaView) -> None:
    found = zoo.unit("gan:block1.act/0").partners("clip")
    assert set(found["model"]) == {"clip"}
    for row in found:
        assert row["component"] == f"L5.N{row['unit'].rpartition('/')[2]}"
    assert "component" not in zoo.unit("clip:" + CLIP_MODULE + "/0").partners("gan").columns


def test_a_dead_unit_says_why_it_has_no_partners(zoo: RosettaView) -> None:
    dead = zoo.unit("gan:block1.act/13")
    assert len(dead.partners()) == 0
    assert "never varies" in str(dead.partners().note)
    assert "yes: it never varies" in str(dead.info())
    none = zoo.unit("gan:block1.act/0").partners("resnet", k=1, mutual=True)
    assert none.note is None or "nearest" in none.note


def test_a_units_card_and_maps(zoo: RosettaView) -> None:
    unit = zoo.unit("clip:" + CLIP_MODULE + "/0")
    assert (unit.model, unit.component) == ("clip", "L5.N0")
    assert "6 x 6" in str(unit.info())
    maps = CLIP.maps[0, :8]
    flat = CLIP.maps[0].ravel()
    wanted = (maps - flat.mean()) / flat.std(ddof=1)
    np.testing.assert_allclose(unit.activity(), wanted, atol=4e-3)
    np.testing.assert_array_equal(unit.activity([3, 1]), unit.activity()[[3, 1]])
    with pytest.raises(MapsNotStored, match=r"no maps of gan:block1.act/13.*rosetta matches"):
        zoo.unit("gan:block1.act/13").activity()


# What it cannot answer


QUESTIONS: dict[str, tuple[Callable[[RosettaView], Any], type[Exception], str]] = {
    "module": (
        lambda z: z.unit("resnet:layer1.0.relo/3"),
        UnknownUnit,
        r"no hooked module 'layer1.0.relo'; the nearest are layer1.0.relu",
    ),
    "channel": (
        lambda z: z.unit("resnet:layer1.0.relu/13"),
        UnknownUnit,
        r"no channel 13: the last is resnet:layer1.0.relu/12",
    ),
    "model": (lambda z: z.unit("resnt:x/1"), UnknownMember, "no model 'resnt'.*nearest is resnet"),
    "address": (lambda z: z.unit("L9.N391"), BadAddress, "MODEL:MODULE/CHANNEL"),
    "number": (lambda z: z.unit(cast("str", 3)), BadAddress, "3 is not a unit's address"),
    "matches": (lambda z: z.matches("mae"), UnknownMember, "rosetta mine` with --zoo zoo adds"),
    "anchor": (lambda z: z.matches("gan"), BadQuestion, "name one or more of resnet, clip"),
    "none": (lambda z: z.matches([]), BadQuestion, "name one or more of resnet, clip"),
    "neighbors": (lambda z: z.matches(neighbors=9), BadQuestion, "--neighbors 9 keeps more"),
    "zero": (lambda z: z.concepts(neighbors=0), BadQuestion, "ask for 1 or more"),
    "correlation": (lambda z: z.matches(min_correlation=2), BadQuestion, "from -1 to 1"),
    "nan": (lambda z: z.matches(min_correlation=float("nan")), BadQuestion, "from -1 to 1"),
    "image": (lambda z: z.heatmaps(8), BadQuestion, "8 example pictures, 0 to 7"),
    "heatmaps": (lambda z: z.heatmaps(0, "resnet", models="clip"), BadQuestion, "none of the mod"),
    "concept": (lambda z: z.dictionary([999]), BadQuestion, "share concepts 0 to"),
    "concepts": (lambda z: z.dictionary(0), BadQuestion, "ask for 1 or more"),
    "no images": (lambda z: z.dictionary(1, []), BadQuestion, "names no example pictures"),
    "nothing": (
        lambda z: z.dictionary(min_correlation=0.999),
        NoMatches,
        "gan, resnet, clip share no units.*lower min_correlation=",
    ),
    "search": (lambda z: z.search("a"), NeuronsNotStored, "lensbase ingest.*--neurons"),
    "run": (lambda z: z.search("a", run="x"), NeuronsNotStored, "run 'x'"),
}


@pytest.mark.parametrize("name", QUESTIONS)
def test_an_odd_question_is_answered_by_a_named_error(zoo: RosettaView, name: str) -> None:
    question, kind, said = QUESTIONS[name]
    with pytest.raises(kind, match=said):
        question(zoo)


def test_nothing_shared_is_an_empty_table(zoo: RosettaView) -> None:
    assert len(zoo.matches(min_correlation=0.999)) == 0
    found = zoo.concepts(min_correlation=0.999)
    assert len(found) == 0
    assert "0 concepts of 0 units, the largest of 0" in str(found.note)


def test_one_of_several_zoos_has_to_be_named(tmp_path: Path) -> None:
    path = write_zoo(tmp_path / "z.lens", (GAN, CLIP)).root
    layout = write_zoo(path, (RESNET, MAE), name="other", anchor="resnet")
    keep(layout, (MAE,), name="alone")
    publish_zoo(layout, zoo_of("alone", "mae"), members=(MAE,))
    with open_store(path) as opened:
        with pytest.raises(AmbiguousZoo, match=r"alone, other, zoo.*store\.rosetta\('alone'\)"):
            opened.rosetta()
        assert opened.rosetta("other").anchor == "resnet"
        with pytest.raises(UnknownZoo, match="nearest is other"):
            opened.rosetta("othr")
        alone = opened.rosetta("alone")
        assert len(alone.unit("mae:blocks.3.mlp.act/0").partners()) > 0
        with pytest.raises(NoMatches, match="one model only"):
            alone.matches()
        with pytest.raises(MapsNotStored, match="--examples"):
            opened.rosetta("alone").unit("mae:blocks.3.mlp.act/0").activity()
        assert "0 pictures" in str(alone.info())


def test_an_empty_store_says_how_to_mine(tmp_path: Path) -> None:
    with (
        open_store(create_store(tmp_path / "z.lens").root) as opened,
        pytest.raises(UnknownZoo, match="lensbase rosetta mine"),
    ):
        opened.rosetta()


def test_it_answers_without_torch(store: Store) -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from lensbase.api import open_store\n"
        f"zoo = open_store({str(store.path)!r}).rosetta()\n"
        "zoo.matches(), zoo.concepts(), zoo.statistics(), zoo.dictionary(1, 1).png()\n"
        "print(len(zoo.unit('gan:block1.act/0').partners()), zoo)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split()[0] == str(len(store.rosetta().unit("gan:block1.act/0").partners()))
    assert "zoo 'zoo' of gan, resnet, clip" in done.stdout


# With the neurons of a run


@pytest.fixture(scope="module")
def described(neuron_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """A store whose run has the neurons of the zoo's CLIP."""
    folder = tmp_path_factory.mktemp("described")
    path = Path(shutil.copytree(neuron_store, folder / "n.lens", symlinks=True))
    with open_store(path) as opened:
        weights = opened.models.rows()[0]["weights_sha256"]
    clip = replace(CLIP, weights_sha256=weights, modules=(Module(CLIP_MODULE, 512),))
    write_zoo(path, (GAN, RESNET, clip))
    with open_store(path) as opened:
        yield opened


def test_sql_finds_the_words_of_the_clip_neuron_that_a_channel_translates_to(
    described: Store,
) -> None:
    best = described.sql(
        """SELECT unit_a, component_b FROM rosetta_pairs
           WHERE model_a = 'resnet' AND model_b = 'clip' ORDER BY correlation DESC LIMIT 1"""
    ).rows()[0]
    found = described.sql(
        """SELECT t.rank, t.text, t.coefficient
           FROM rosetta_pairs p
           JOIN rosetta_neurons n ON n.zoo = p.zoo AND n.unit = p.unit_b
           JOIN neuron_texts t ON t.run = n.run AND t.component = n.component
           WHERE p.unit_a = ? AND p.component_b = ? ORDER BY t.rank""",
        list(best.values()),
    ).rows()
    texts = described.run().neuron(best["component_b"]).texts().rows()
    assert found
    assert [(row["rank"], row["text"]) for row in found] == [
        (row["rank"], row["text"]) for row in texts
    ]
    (facts,) = described.sql("SELECT count(*) AS n, min(run) AS run FROM rosetta_neurons")
    assert facts == {"n": 512, "run": "r"}


def test_search_finds_units_by_what_their_clip_neuron_is_about(described: Store) -> None:
    zoo, clip = described.rosetta(), described.run()
    for text in ("a red circle", "an object on water"):
        found = zoo.search(text, k=7).rows()
        ranked = clip.find_neurons(text, k=4096, layers=5).rows()
        wanted = [
            (row["component"], row["score"])
            for row in ranked
            if any(
                one["model"] != "clip"
                for one in zoo.unit(f"clip:{CLIP_MODULE}/{row['neuron']}").partners()
            )
        ][:7]
        assert [(row["component"], row["score"]) for row in found] == wanted
        for row in found:
            partners = zoo.unit(row["unit"]).partners().rows()
            for name in ("gan", "resnet"):
                best = next((one for one in partners if one["model"] == name), None)
                assert row[name] == (best and best["unit"])
                assert row[f"correlation_{name}"] == (best and best["correlation"])
            assert row["texts"]
    everything = zoo.search("a red circle", k=10_000)
    assert len(set(everything["unit"])) == len(everything) > 20
    assert len(zoo.search("a red circle", k=0)) == 0
    assert "in r" in str(zoo.search("a red circle", k=1).note)


def test_search_by_the_score_itself_and_weak_scores_are_said(described: Store) -> None:
    zoo = described.rosetta()
    every = zoo.search("a red circle", k=10_000)
    signed = zoo.search("a red circle", k=10_000, signed=True)
    assert signed["score"].tolist() == sorted(every["score"].tolist(), reverse=True)
    assert signed["score"][-1] < 0
    # 64 dimensions: two random directions have a product of 0.125, give or take.
    weak = sum(abs(score) < 64**-0.5 for score in every["score"])
    assert f"weak: the last {weak} are below 0.125" in str(every.note)
