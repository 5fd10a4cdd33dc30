"""Zoos in a store: rows that follow from kept arrays, growing, dropping, damage, copies."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
from synthetic_zoo import (
    CLIP,
    GAN,
    MAE,
    NEIGHBORS,
    RESNET,
    ZOO,
    Model,
    correlation,
    examples,
    facts_of,
    keep,
    mine,
    statistics,
    write_zoo,
    zoo_of,
)

from lensbase.api import open_store
from lensbase.api.copying import copy_store
from lensbase.api.maintenance import drop_zoo, rollback
from lensbase.api.verify import verify
from lensbase.ingest.rosetta.publishing import (
    keep_examples,
    keep_pair,
    kept_pair,
    kept_statistics,
    matched_units,
    publish_zoo,
)
from lensbase.schema.catalog import create_store, current_generation, publishing
from lensbase.schema.errors import BadName
from lensbase.schema.layout import Layout
from lensbase.schema.zoo_errors import UnknownZoo, ZooIncomplete, ZooMismatch
from lensbase.schema.zoo_files import manifest_of, zoo_folder

TABLES = ("rosetta_unit", "rosetta_match", "rosetta_concept", "rosetta_pair", "rosetta_model")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_zoo(tmp_path_factory.mktemp("zoo") / "z.lens").root


@pytest.fixture
def store(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "z.lens", symlinks=True))


def rows(path: Path, *, without: tuple[str, ...] = ()) -> dict[str, list[dict[str, Any]]]:
    with open_store(path) as opened:
        found = {
            table: opened.sql(f"SELECT * FROM {table} ORDER BY ALL").rows() for table in TABLES
        }
        zoo = opened.sql("SELECT * EXCLUDE (created_at, finished_at) FROM rosetta_run").rows()
    found["rosetta_run"] = [{k: v for k, v in row.items() if k not in without} for row in zoo]
    return found


def address(model: Model, unit: int) -> str:
    for module in model.modules:
        if unit < module.channels:
            return f"{model.name}:{module.name}/{unit}"
        unit -= module.channels
    raise AssertionError


def literal_buddies(one: Model, other: Model) -> dict[tuple[str, str], float]:
    """T4.3 by a search over all pairs of float64 correlations."""
    found = correlation(one, other)

    def near(numbers: Any, value: float) -> bool:
        return bool(np.sum(numbers > value) < NEIGHBORS)

    return {
        (address(one, i), address(other, j)): float(found[i, j])
        for i, j in product(range(one.units), range(other.units))
        if found[i, j] > 0 and near(found[i], found[i, j]) and near(found[:, j], found[i, j])
    }


# What is published


def test_pairs_are_the_best_buddies_of_a_float64_search_both_ways(whole: Path) -> None:
    with open_store(whole) as opened:
        for one, other in product(ZOO, ZOO):
            found = opened.sql(
                "SELECT * FROM rosetta_pairs WHERE model_a = ? AND model_b = ?",
                [one.name, other.name],
            ).rows()
            wanted = literal_buddies(one, other)
            said = {(row["unit_a"], row["unit_b"]): row["correlation"] for row in found}
            assert len(said) == len(found)
            assert said.keys() == wanted.keys()
            assert said == pytest.approx(wanted, abs=1e-6)
            turned = literal_buddies(other, one)
            assert {(b, a) for a, b in said} == turned.keys()


def test_units_have_the_statistics_of_their_maps(whole: Path) -> None:
    with open_store(whole) as opened:
        for model in ZOO:
            found = opened.sql(
                "SELECT * FROM rosetta_units WHERE model = ? ORDER BY module, channel",
                [model.name],
            ).rows()
            flat = model.maps.reshape(model.units, -1)
            assert [row["unit"] for row in found] == [address(model, u) for u in range(len(flat))]
            dead = [row["dead"] for row in found]
            assert sum(dead) == len(model.modules)
            np.testing.assert_allclose([row["mean"] for row in found], flat.mean(1), rtol=1e-12)
            np.testing.assert_allclose(
                [row["std"] for row in found], flat.std(1, ddof=1), rtol=1e-12, atol=1e-9
            )
            components = {row["component"] for row in found}
            wanted = {f"L5.N{n}" for n in range(20)} if model is CLIP else {None}
            assert components == wanted
            matched = {row["unit"] for row in found if not row["dead"]}
            pairs = opened.sql("SELECT DISTINCT unit_a FROM rosetta_pairs")["unit_a"]
            assert {one for one in pairs if one.startswith(f"{model.name}:")} <= matched


def test_views_say_what_a_zoo_is(whole: Path) -> None:
    with open_store(whole) as opened:
        (zoo,) = opened.zoos.rows()
        assert (zoo["zoo"], zoo["anchor"], zoo["models"]) == ("zoo", "gan", [m.name for m in ZOO])
        assert (zoo["images"], zoo["neighbors"], zoo["examples"]) == (40, NEIGHBORS, True)
        assert zoo["units"] == sum(model.units for model in ZOO)
        sizes = opened.sql("SELECT concept, size, count(*) AS n FROM rosetta_concepts GROUP BY ALL")
        assert all(row["size"] == row["n"] for row in sizes)
        assert (zoo["concepts"], zoo["largest"]) == (len(sizes), max(sizes["size"]))
        assert f"zoo (3 models, {len(sizes)} concept" in str(opened.info())
        lacking = opened.sql(
            """SELECT relation, "column" FROM data_dictionary WHERE starts_with(relation, 'rosetta')
               AND comment IN ('', 'column of the manifest')"""
        )
        assert lacking.rows() == []
        for view in ("zoos", "models", "units", "pairs", "concepts", "neurons"):
            assert opened.sql(f"SELECT * FROM rosetta_{view} LIMIT 0").columns[0] == "zoo"


def test_a_model_that_joins_later_gives_the_rows_of_all_at_once(
    whole: Path, tmp_path: Path
) -> None:
    """Earlier pairs' files are not touched."""
    every = write_zoo(tmp_path / "every.lens", (*ZOO, MAE)).root
    grown = Path(shutil.copytree(whole, tmp_path / "grown.lens", symlinks=True))
    layout = Layout(grown)
    before = {
        path: path.stat().st_mtime_ns
        for path in (layout.zoo("zoo") / "pairs").rglob("*")
        if path.is_file()
    }
    models = (*ZOO, MAE)
    keep(layout, models)
    units = matched_units(layout, zoo_of(), members=models)
    label = keep_examples(layout, "zoo", examples(models, units))
    assert label == 2
    publish_zoo(layout, zoo_of(), members=models, label=label)
    # The folder of the examples is another; manifests say where files lie, not how they are named.
    assert rows(grown, without=("label",)) == rows(every, without=("label",))
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert verify(grown).ok
    with open_store(grown) as opened:
        assert len(opened.rosetta().models) == 4
    # The generation before still has its own examples; one more, and they go.
    assert layout.zoo_examples("zoo", 1).exists()
    with publishing(layout):
        pass
    assert not layout.zoo_examples("zoo", 1).exists()
    assert not manifest_of(layout.zoo_examples("zoo", 1)).exists()
    assert verify(grown).ok


def test_what_is_kept_is_found_again_by_what_it_depends_on(tmp_path: Path) -> None:
    layout = create_store(tmp_path / "z.lens")
    assert kept_pair(layout, "zoo", ("gan", "clip"), facts=facts_of(GAN, CLIP)) is None
    keep(layout, (GAN, CLIP))
    found = kept_pair(layout, "zoo", ("gan", "clip"), facts=facts_of(GAN, CLIP))
    turned = kept_pair(layout, "zoo", ("clip", "gan"), facts=facts_of(GAN, CLIP))
    assert found is not None
    assert turned is not None
    mined = mine(GAN, CLIP)
    np.testing.assert_array_equal(found.index_first, mined.forward.index)
    np.testing.assert_array_equal(turned.correlation_first, mined.backward.correlation)
    again = kept_statistics(layout, "zoo", "clip", facts=facts_of(CLIP))
    assert again is not None
    np.testing.assert_array_equal(again.variance, statistics(CLIP).variance)
    other = facts_of(GAN, CLIP) | {"keys": "x"}
    assert kept_pair(layout, "zoo", ("gan", "clip"), facts=other) is None
    # Nothing names it yet, so that other pictures may replace it.
    keep_pair(layout, "zoo", mine(GAN, CLIP, 2), facts=other)
    replaced = kept_pair(layout, "zoo", ("gan", "clip"), facts=other)
    assert replaced is not None
    assert replaced.index_first.shape == (GAN.units, 2)
    assert not list(tmp_path.rglob("*.partial"))


def test_what_is_published_is_never_replaced(store: Path) -> None:
    layout = Layout(store)
    with pytest.raises(
        ZooMismatch, match=r"pair gan, clip of zoo 'zoo' is published.*another name"
    ):
        keep_pair(layout, "zoo", mine(GAN, CLIP), facts={"keys": "other"})
    with pytest.raises(ZooMismatch, match="mined on 40 pictures of samples of gan with 4 neighb"):
        publish_zoo(layout, replace(zoo_of(), images=41), members=ZOO)
    assert verify(store).ok
    assert not list(store.rglob("*.partial"))


def test_a_zoo_that_lacks_something_is_not_published(tmp_path: Path) -> None:
    layout = create_store(tmp_path / "z.lens")
    keep(layout, (GAN, CLIP))
    generation = current_generation(layout)
    lacking = "lacks the statistics of resnet, the pair gan, resnet.*rosetta mine` again"
    with pytest.raises(ZooIncomplete, match=lacking):
        publish_zoo(layout, zoo_of(), members=ZOO)
    with pytest.raises(BadName, match="anchor 'mae' is none of the zoo's models: gan, clip"):
        publish_zoo(layout, zoo_of(anchor="mae"), members=(GAN, CLIP))
    with pytest.raises(BadName, match="same name"):
        publish_zoo(layout, zoo_of(), members=(GAN, GAN))
    with pytest.raises(BadName, match="cannot name a zoo"):
        publish_zoo(layout, zoo_of("My Zoo"), members=(GAN, CLIP))
    with pytest.raises(ZooMismatch, match="25 units, but its modules have 14 channels"):
        publish_zoo(layout, zoo_of(), members=(replace(GAN, modules=GAN.modules[:1]), CLIP))
    assert current_generation(layout) == generation
    publish_zoo(layout, zoo_of(), members=(GAN, CLIP))
    assert verify(layout.root).ok


# Dropping


def test_a_dropped_zoo_comes_back_with_rollback_and_goes_when_no_generation_has_it(
    store: Path,
) -> None:
    layout, before = Layout(store), rows(store)
    drop_zoo(store, "zoo")
    with open_store(store) as opened:
        assert len(opened.zoos) == 0
        with pytest.raises(UnknownZoo, match="rosetta mine STORE"):
            opened.rosetta()
    rollback(store)
    assert rows(store) == before
    assert verify(store).ok
    drop_zoo(store, "zoo")
    # Mined again, it gets a folder of its own, since the earlier one is still needed.
    assert zoo_folder(layout, "zoo") == "zoo~1"
    write_zoo(store, (GAN, CLIP))
    assert verify(store).ok
    with publishing(layout):
        pass
    with publishing(layout):
        pass
    assert not layout.zoo("zoo").exists()
    assert layout.zoo("zoo~1").exists()
    assert verify(store).ok
    with pytest.raises(UnknownZoo, match=r"no zoo 'zo'; the nearest is zoo\. .*rosetta list"):
        drop_zoo(store, "zo")


def test_a_mining_in_the_making_outlives_other_generations(tmp_path: Path) -> None:
    layout = create_store(tmp_path / "z.lens")
    keep(layout, (GAN, CLIP))
    for _ in range(3):
        with publishing(layout):
            pass
    publish_zoo(layout, zoo_of(), members=(GAN, CLIP))
    assert verify(layout.root).ok


def test_several_zoos_of_one_store_do_not_mix(store: Path) -> None:
    before = rows(store)
    write_zoo(store, (RESNET, MAE), name="other", anchor="resnet")
    with open_store(store) as opened:
        assert opened.zoos["zoo"].tolist() == ["other", "zoo"]
        pairs = opened.sql("SELECT DISTINCT model_a FROM rosetta_pairs WHERE zoo = 'other'")
        assert set(pairs["model_a"]) == {"resnet", "mae"}
    assert verify(store).ok
    drop_zoo(store, "other")
    assert rows(store) == before


# Damage


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("group", ["pair", "model", "examples"])
@pytest.mark.parametrize("lost", ["a byte", "a file", "the manifest"])
def test_damaged_files_are_named(store: Path, group: str, lost: str) -> None:
    layout = Layout(store)
    place = {
        "pair": layout.zoo_pair("zoo", "gan", "clip"),
        "model": layout.zoo_model("zoo", "clip"),
        "examples": layout.zoo_examples("zoo", 1),
    }[group]
    file = next(path for path in sorted(place.rglob("c/**/*")) if path.is_file())
    if lost == "a byte":
        flip(file)
        assert verify(store, level="manifests").ok
    elif lost == "a file":
        file.unlink()
    else:
        manifest_of(place).unlink()
    report = verify(store)
    assert {problem.run for problem in report.problems} == {"zoo zoo"}
    what = {"a byte": "sha256", "a file": "is missing", "the manifest": "manifest .* is missing"}
    assert len(report.problems) == 1
    assert str(report.problems[0]).count("rosetta drop") == 1
    assert re.search(what[lost], report.problems[0].what)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("DELETE FROM rosetta_match WHERE rowid = 3", "best buddies of gan"),
        ("UPDATE rosetta_match SET correlation = 0.5 WHERE rowid = 3", "best buddies of gan"),
        ("UPDATE rosetta_match SET rank_second = 9 WHERE rowid = 3", "best buddies of gan"),
        ("UPDATE rosetta_concept SET concept = 99 WHERE rowid = 0", "the concepts are not"),
        ("UPDATE rosetta_unit SET mean = 0 WHERE unit = 3 AND position = 1", "mean of units of"),
        ("UPDATE rosetta_unit SET dead = true WHERE unit = 3", "dead of units of gan"),
        ("DELETE FROM rosetta_unit WHERE unit = 3 AND position = 2", "rows of clip are not one"),
        ("UPDATE rosetta_unit SET channel = 4 WHERE unit = 3", "not the channels of its modules"),
    ],
)
def test_rows_that_do_not_follow_from_the_arrays_are_found(
    store: Path, change: str, said: str
) -> None:
    layout = Layout(store)
    catalog = layout.catalog(current_generation(layout))
    catalog.chmod(0o644)
    with duckdb.connect(str(catalog)) as connection:
        connection.execute(change)
    assert verify(store, level="checksums").ok
    assert any(said in problem.what for problem in verify(store).problems)


# Copies


def test_a_whole_copy_has_the_zoo_and_one_of_some_runs_has_not(store: Path, tmp_path: Path) -> None:
    copy = copy_store(store, tmp_path / "copy.lens")
    assert rows(copy) == rows(store)
    assert verify(copy).ok
    for file in (store / "rosetta").rglob("*"):
        if file.is_file():
            assert (copy / file.relative_to(store)).read_bytes() == file.read_bytes()
    part = copy_store(store, tmp_path / "part.lens", runs=[])
    with open_store(part) as opened:
        assert len(opened.zoos) == len(opened.sql("SELECT * FROM rosetta_match")) == 0
    assert not (part / "rosetta").exists()
    assert verify(part).ok
