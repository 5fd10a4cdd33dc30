"""TEXTSPAN of many heads: Algorithm 1's picks, kept once computed and never served stale."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from commands import _BLOCK
from fabricated_store import MORE_TEXTS, SHAPE, STORED_TEXTS, TEXTS, Truth, fabricate
from PIL import Image
from pyarrow import parquet
from test_textspan import algorithm_1
from world_store import ingest_scenes

from lensbase.api import Result, Store, open_store
from lensbase.api.verify import forget_damaged, verify
from lensbase.ingest.world.dataset import write_scenes
from lensbase.schema.derived import derived_results
from lensbase.schema.errors import (
    BadAddress,
    BadQuestion,
    BadSelection,
    HeadNotStored,
    TextNotStored,
    UnknownComponent,
    UnknownPool,
)
from lensbase.schema.layout import Layout

HEADS = [(1, 0), (1, 1), (2, 0), (2, 1)]
WIDE = replace(SHAPE, head_width=32, embed_dim=48, tokens=False, head_token_layers=())
COLUMNS = ["component", "layer", "head", "rank", "text", "explained_variance", "cumulative"]


@pytest.fixture
def made(tmp_path: Path) -> Iterator[tuple[Store, Truth]]:
    root = tmp_path / "x.lens"
    truth = fabricate(root)
    with open_store(root) as store:
        yield store, truth


def kept(root: Path) -> list[Path]:
    return [result.path for result in derived_results(Layout(root), "head_text")]


def mark(path: Path, share: float = 0.125) -> None:
    """Write another number into a kept result, as a sign that it was looked up."""
    table = parquet.read_table(path)
    place = table.schema.get_field_index("explained_variance")
    marked = pa.array([share] * table.num_rows, pa.float64())
    parquet.write_table(table.set_column(place, "explained_variance", marked), path)


def is_marked(result: Result, share: float = 0.125) -> bool:
    return bool((result["explained_variance"] == share).all())


# Picks


def with_these_moments(truth: Truth, place: int, head: int) -> np.ndarray:
    """Contributions that have the whole run's unrounded moments, and mean 0."""
    moment = truth.moment.sum(0)[0, place, head]
    second = moment[:-1, :-1] - np.outer(moment[-1, :-1], moment[-1, :-1]) / moment[-1, -1]
    values, vectors = np.linalg.eigh(second)
    half = (np.sqrt(np.maximum(values, 0)) * vectors).T @ truth.basis[place, head]
    return np.vstack([half, -half])


def compare(found: Result, truth: Truth, contributions: list[np.ndarray], m: int) -> int:
    """Assert Algorithm 1's picks head by head; the number of picks that agree."""
    texts, same = truth.pools["words"], 0
    for (layer, head), contribution in zip(HEADS, contributions, strict=True):
        basis = truth.basis[truth.shape.head_layers.index(layer), head]
        picks, cumulative = algorithm_1(contribution, texts.astype(np.float32), m, span=basis)
        rows = [row for row in found if (row["layer"], row["head"]) == (layer, head)]
        assert [row["text"] for row in rows] == [MORE_TEXTS[pick] for pick in picks]
        assert [row["rank"] for row in rows] == list(range(1, len(picks) + 1))
        assert {row["component"] for row in rows} == {f"L{layer}.H{head}"}
        np.testing.assert_allclose([row["cumulative"] for row in rows], cumulative, atol=1e-6)
        same += len(picks)
    return same


def test_whole_run_picks_are_those_of_algorithm_1(made: tuple[Store, Truth]) -> None:
    store, truth = made
    found = store.run().textspan(pool="words", m=6)
    assert found.columns == COLUMNS
    contributions = [
        with_these_moments(truth, truth.shape.head_layers.index(layer), head)
        for layer, head in HEADS
    ]
    same = compare(found, truth, contributions, 6)
    assert same == 24, f"{same} of 24 picks are Algorithm 1's"


@pytest.mark.parametrize("normalize", [False, True])
def test_chosen_images_picks_are_those_of_algorithm_1_on_stored_values(
    made: tuple[Store, Truth], normalize: bool
) -> None:
    store, truth = made
    even = truth.rows_by_id[truth.rows_by_id % 2 == 0]
    norms = truth.arrays["scale"][even, 2:3] if normalize else 1
    contributions = [truth.contribution(layer, head)[even] / norms for layer, head in HEADS]
    clip = store.run()
    found = clip.textspan(pool="words", m=6, where="label = 'even'", normalize=normalize)
    assert compare(found, truth, contributions, 6) == 24
    # The order of the images says nothing, and the kept result is found for either.
    ids = truth.image_ids[even][::-1]
    again = clip.textspan(pool="words", m=6, images=ids, normalize=normalize)
    assert again.rows() == found.rows()


def test_one_head_and_many_agree(made: tuple[Store, Truth]) -> None:
    clip: Any = made[0].run()
    for options in ({}, {"where": "label = 'odd'"}, {"score": "explained"}, {"normalize": True}):
        both = clip.textspan(["L2.H1", "world-demo:L1.H0"], "words", 5, **options)
        assert list(dict.fromkeys(both["component"])) == ["L2.H1", "L1.H0"]
        for address in ("L2.H1", "L1.H0"):
            alone = clip.head(address).textspan("words", 5, **options)
            rows = [
                {k: row[k] for k in alone.columns} for row in both if row["component"] == address
            ]
            assert rows == alone.rows()


def test_texts_vectors_and_values_are_pools(made: tuple[Store, Truth]) -> None:
    store, truth = made
    clip, vectors = store.run(), truth.pools["words"].astype(np.float32)
    named = clip.textspan("L2.H1", "words", 6)
    by_array = clip.textspan("L2.H1", vectors, 6)
    assert [f"vector {MORE_TEXTS.index(text)}" for text in named["text"]] == list(by_array["text"])
    by_list = clip.textspan("L2.H1", MORE_TEXTS, 6)
    by_values = clip.textspan("L2.H1", clip.encode_text(MORE_TEXTS), 6)
    assert by_list.rows() == by_values.rows() == named.rows()
    assert list(clip.head("L2.H1").textspan(vectors, 6)["text"]) == list(by_array["text"])


def test_heads_that_end_are_named_in_a_note(made: tuple[Store, Truth]) -> None:
    clip = made[0].run()
    assert clip.textspan(pool="words", m=5).note is None
    found = clip.textspan(pool="words", m=40)
    assert len(found) == 4 * (SHAPE.head_width + 3)
    assert found.note is not None
    assert found.note.startswith("fewer than the 40 texts asked for at L1.H0 (7) and 3 more heads")


def test_wrong_questions_are_named_errors(made: tuple[Store, Truth]) -> None:
    clip = made[0].run()
    wrong: dict[type[Exception], list[dict[str, Any]]] = {
        UnknownPool: [{"pool": "nouns"}],
        UnknownComponent: [{"heads": ["L1.H0", "L7.H0"]}],
        HeadNotStored: [{"heads": "L0.H0"}],
        BadAddress: [{"heads": ["L1.N4"]}],
        BadSelection: [{"where": "label = 'neither'"}, {"images": []}],
        TextNotStored: [{"pool": ["never seen"]}],
        BadQuestion: [
            {"m": 0},
            {"score": "best"},
            {"heads": []},
            {"pool": []},
            {"pool": ["sand", 3]},
            {"pool": np.ones((4, 5))},
            {"pool": np.full((4, 16), np.nan)},
            {"pool": np.ones((0, 16))},
            {"pool": 17},
        ],
    }
    for error, questions in wrong.items():
        for question in questions:
            with pytest.raises(error):
                clip.textspan(**question)


# What is kept


def test_a_computed_result_is_looked_up_the_next_time(made: tuple[Store, Truth]) -> None:
    store, _ = made
    root, clip = store.path, store.run()
    assert kept(root) == []
    clip.textspan(pool="general", m=STORED_TEXTS)
    assert kept(root) == [], "the catalogue has these"
    first = clip.textspan(pool="words", m=6)
    files = kept(root)
    assert len(files) == 4
    assert clip.textspan(pool="words", m=6).rows() == first.rows()
    for path in files:
        mark(path)
    assert is_marked(clip.textspan(pool="words", m=6))
    assert is_marked(clip.head("L2.H1").textspan("words", 3)), "a longer result holds a shorter"
    with open_store(root) as again:
        assert is_marked(again.run().textspan("L1.H1", "words", 2))
    assert kept(root) == files


def test_parameters_say_what_a_result_is_of(made: tuple[Store, Truth]) -> None:
    store, _ = made
    clip = store.run()
    clip.textspan("L2.H1", "words", 6, score="explained")
    clip.textspan("L2.H1", MORE_TEXTS, 6, where="label = 'odd'", normalize=True)
    found = [one.parameters for one in derived_results(Layout(store.path), "head_text")]
    whole = next(one for one in found if one["whole_run"])
    part = next(one for one in found if not one["whole_run"])
    assert (whole["run"], whole["layer"], whole["head"]) == ("world-demo", 2, 1)
    assert (whole["pool"], whole["score"], whole["normalize"]) == ("words", "explained", False)
    assert (part["pool"], part["score"], part["normalize"]) == (None, "variance", True)
    table = parquet.read_table(kept(store.path)[0])
    assert table.column_names == ["rank", "position", "text", "explained_variance", "cumulative"]


def test_every_other_question_is_computed(made: tuple[Store, Truth]) -> None:
    store, truth = made
    clip, vectors = store.run(), truth.pools["words"].astype(np.float32)
    changed = vectors.copy()
    changed[29, 0] = np.nextafter(changed[29, 0], 2)
    questions: list[dict[str, Any]] = [
        {"pool": "words"},
        {"pool": "words", "normalize": True},
        {"pool": "words", "score": "explained"},
        {"pool": "words", "where": "label = 'even'"},
        {"pool": "words", "where": "label = 'odd'"},
        {"pool": "words", "images": truth.image_ids[truth.rows_by_id]},
        {"pool": MORE_TEXTS},
        {"pool": MORE_TEXTS[::-1]},
        {"pool": vectors},
        {"pool": changed},
    ]
    seen: set[Path] = set()
    for question in questions:
        assert not is_marked(clip.textspan("L2.H1", m=6, **question)), f"stale: {question}"
        (new,) = set(kept(store.path)) - seen
        mark(new)
        seen.add(new)
        assert is_marked(clip.textspan("L2.H1", m=6, **question))


def test_a_pool_of_other_texts_under_the_same_name_is_another(tmp_path: Path) -> None:
    """Results of one store among those of another, whose pool, run and images look the same."""
    first, second = tmp_path / "a.lens", tmp_path / "b.lens"
    for root in (first, second):
        fabricate(root)
    with open_store(first) as store:
        store.run().textspan("L2.H1", "words", 6)
    (path,) = kept(first)
    mark(path)
    copied = second / path.relative_to(first)
    copied.parent.mkdir(parents=True)
    copied.write_bytes(path.read_bytes())
    with open_store(second) as store:
        assert is_marked(store.run().textspan("L2.H1", "words", 6)), "the very same question"
    from lensbase.schema.catalog import publishing
    from lensbase.schema.tables import Pool

    with publishing(Layout(second)) as draft:
        draft.session.query(Pool).filter_by(name="words").one().sha256 = "another"
    with open_store(second) as store:
        assert not is_marked(store.run().textspan("L2.H1", "words", 6))


def test_a_shorter_result_does_not_stand_for_a_longer_one(tmp_path: Path) -> None:
    root = tmp_path / "wide.lens"
    fabricate(root, shape=WIDE)
    with open_store(root) as store:
        head = store.run().head("L2.H1")
        short = head.textspan("words", 5)
        (path,) = kept(root)
        mark(path)
        assert is_marked(head.textspan("words", 20))
        longer = head.textspan("words", 25)
        assert len(longer) == 25
        assert not is_marked(longer[:5])
        assert longer[:5].rows() == short.rows()
        (other,) = set(kept(root)) - {path}
        path.unlink()
        mark(other, 0.25)
        assert is_marked(head.textspan("words", 5), 0.25), "the longer one holds the shorter"


def test_a_run_that_still_grows_keeps_nothing(tmp_path: Path) -> None:
    root = tmp_path / "growing.lens"
    fabricate(root, committed=2)
    with open_store(root) as store:
        assert len(store.run().textspan(pool="words", m=6)) == 24
        assert kept(root) == []
        # Not of chosen images either: a segment may be redone before the run is complete.
        store.run().textspan("L2.H1", "words", m=6, where="label = 'even'")
        assert kept(root) == []


def test_a_run_whose_images_changed_is_asked_anew(tmp_path: Path) -> None:
    """60 images of 128 replaced, a shard damaged and forgotten, the same ingest again."""
    scenes, root = tmp_path / "scenes", tmp_path / "s.lens"
    write_scenes(scenes, count=128, seed=3)
    assert ingest_scenes(scenes, root).complete
    texts, some = ["a red circle", "two objects"], list(range(60))

    def explained(store: Store) -> np.ndarray:
        clip = store.run()
        spans = [clip.textspan("L7.H1", texts, 2, images=chosen) for chosen in (None, some)]
        spans.append(clip.textspan("L7.H1", "few", 30))
        return np.concatenate([span["explained_variance"] for span in spans])

    with open_store(root) as store:
        before = explained(store)
        np.testing.assert_array_equal(explained(store), before)
    earlier = open_store(root)
    earlier.run().top_images("a red circle", 2)  # has arrays open, but asks for no TEXTSPAN yet
    for number, path in enumerate(sorted((scenes / "images").glob("*.png"))[:60]):
        noise = np.random.default_rng(number).integers(0, 255, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(noise).save(path)
    shard = next(path for path in root.rglob("head_value/c/0/**/*") if path.is_file())
    shard.chmod(0o644)
    content = bytearray(shard.read_bytes())
    content[100] ^= 255
    shard.write_bytes(content)
    assert forget_damaged(root, verify(root, level="checksums")) == [("r", 0)]
    assert ingest_scenes(scenes, root).complete
    explained(earlier)
    with open_store(root) as store:
        found = explained(store)
        rows = store.sql("SELECT * FROM head_texts WHERE component = 'L7.H1' ORDER BY pool, rank")
    shutil.rmtree(root / "derived")
    with open_store(root) as store:
        np.testing.assert_array_equal(found, explained(store))
        again = store.sql("SELECT * FROM head_texts WHERE component = 'L7.H1' ORDER BY pool, rank")
        assert again.rows() == rows.rows()
    assert np.abs(found - before).max() > 0.01
    earlier.close()


@pytest.mark.parametrize("damage", [b"", b"PAR1 no Parquet", None])
def test_damaged_results_are_computed_again(
    made: tuple[Store, Truth], damage: bytes | None
) -> None:
    store, _ = made
    clip = store.run()
    first = clip.textspan("L2.H1", "words", 6)
    (path,) = kept(store.path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if damage is None else damage)
    assert clip.textspan("L2.H1", "words", 6).rows() == first.rows()
    mark(path)
    assert is_marked(clip.textspan("L2.H1", "words", 6)), "mended"


def test_a_store_that_cannot_be_written_to_answers_all_the_same(tmp_path: Path) -> None:
    root = tmp_path / "x.lens"
    fabricate(root)
    with open_store(root) as store:
        expected = store.run().textspan(pool="words", m=6, where="label = 'odd'")
    for path in kept(root):
        path.unlink()
    folder = root / "derived" / "head_text"
    folder.rmdir()
    if os.geteuid() == 0:
        folder.write_bytes(b"")  # root may write anywhere, but not into a file as a folder
    else:
        folder.parent.chmod(0o555)
    try:
        with open_store(root) as store:
            found = store.run().textspan(pool="words", m=6, where="label = 'odd'")
    finally:
        folder.parent.chmod(0o755)
    assert found.rows() == expected.rows()
    assert kept(root) == []


def test_new_texts_need_the_model_once_only(world_store: Path, tmp_path: Path) -> None:
    root = tmp_path / "s.lens"
    shutil.copytree(world_store, root, symlinks=True)
    texts = ["a green star", "three shapes", "a ring on sand", *TEXTS[:2]]
    with open_store(root) as store:
        expected = store.run().textspan(["L7.H0", "L6.H3"], texts, 4)
    program = f"""import sys
{_BLOCK}
from lensbase.api import open_store
with open_store({str(root)!r}) as store:
    print(store.run().textspan(["L7.H0", "L6.H3"], {texts!r}, 4).rows())
"""
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == str(expected.rows())
