"""Adding text pools: embedded by every model that can be loaded, never written over."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import WITHOUT_TORCH, call, invoke
from fabricated_store import fabricate
from world_store import POOL, store_bytes

from lensbase.api import open_store
from lensbase.api.pools import add_pool
from lensbase.ingest.job import ingest
from lensbase.ingest.models import load_model
from lensbase.ingest.pools import TextPool
from lensbase.schema.catalog import current_generation
from lensbase.schema.errors import BadName, BadPool, ExtraMissing, UnknownRun, WeightsNotFound
from lensbase.schema.layout import Layout
from lensbase.schema.snapshot import read_pool_vectors

TEXTS = ["a green star", "three shapes", "sand", "a photo of a striped shape"]


@pytest.fixture
def store(world_store: Path, tmp_path: Path) -> Path:
    path = tmp_path / "s.lens"
    shutil.copytree(world_store, path, symlinks=True)
    return path


def test_texts_are_embedded_and_explain_heads(store: Path) -> None:
    """Vectors to 1e-6 of the model's own; every head's TEXTSPAN over the pool is stored."""
    added = add_pool(store, TEXTS, name="general")
    assert (added.texts, added.models, added.skipped) == (4, ["world"], {})
    own = load_model("world").encode_text(TEXTS)
    with open_store(store) as opened:
        run = opened.run()
        assert np.abs(run.encode_text(TEXTS).values - own).max() < 1e-6
        stored = opened.sql(
            "SELECT text FROM head_texts WHERE pool = 'general' AND component = 'L7.H0' "
            "ORDER BY rank"
        )
        assert list(stored["text"]) == list(run.head("L7.H0").textspan("general", m=4)["text"])
        assert opened.runs[0]["default_pool"] == POOL.name, "the first pool stays the default"


def test_the_same_again_changes_no_file_and_publishes_nothing(store: Path) -> None:
    assert add_pool(store, TEXTS, name="general").published
    before, generation = store_bytes(store), current_generation(Layout(store))
    assert not add_pool(store, TEXTS, name="general").published
    assert store_bytes(store) == before
    add_pool(store, random=1, name="random")
    again = invoke("pool", "add", store, "--random", 1, "--name", "random")
    assert again.stdout == "Pool random: 1 random vector for world; nothing to change.\n"
    assert current_generation(Layout(store)) == generation + 1


def test_a_name_that_stands_for_other_texts_is_refused_unharmed(store: Path, scenes: Path) -> None:
    before = store_bytes(store)
    with pytest.raises(BadPool, match="4 other texts"):
        add_pool(store, TEXTS, name=POOL.name)
    with pytest.raises(BadPool, match="4 other texts"):
        ingest(
            scenes / "manifest.csv",
            store,
            run="r2",
            limit=16,
            workers=0,
            pool=TextPool(POOL.name, ("another",)),
        )
    after = store_bytes(store)
    assert {name: after[name] for name in before} == before


def test_models_that_cannot_be_loaded_are_passed_over_by_name(store: Path, scenes: Path) -> None:
    loaded = load_model("world")
    with torch.no_grad():
        next(loaded.model.parameters()).add_(1e-3)
    ingest(
        scenes / "manifest.csv",
        store,
        model=loaded.model,
        preprocess=loaded.preprocess,
        tokenizer=loaded.tokenizer,
        run="tuned",
        limit=16,
        workers=0,
    )
    file = store.parent / "words.txt"
    file.write_text("\n".join(TEXTS), encoding="utf-8")
    result = invoke("pool", "add", store, file, "--name", "words")
    assert result.exit_code == 0
    assert result.stdout == "Pool words: 4 texts, embedded by world.\n"
    assert result.stderr.startswith("Not embedded by clip: it was ingested from a module")
    with open_store(store) as opened:
        embedded = opened.sql("SELECT model FROM pools WHERE pool = 'words'")
    assert list(embedded["model"]) == ["world"]


def test_what_cannot_be_a_pool_is_refused(store: Path, tmp_path: Path) -> None:
    with pytest.raises(BadPool, match="no texts"):
        add_pool(store, [], name="empty")
    with pytest.raises(BadName):
        add_pool(store, TEXTS, name="No Name")
    module = tmp_path / "module.lens"
    fabricate(module)
    with pytest.raises(WeightsNotFound, match="module in memory"):
        add_pool(module, TEXTS, name="new")
    bare = tmp_path / "bare.lens"
    from lensbase.schema.catalog import create_store

    create_store(bare)
    with pytest.raises(UnknownRun, match="lensbase ingest"):
        add_pool(bare, TEXTS, name="new")


# Common words and random vectors


def test_random_vectors_are_standard_normal_and_need_no_model(tmp_path: Path) -> None:
    """A model that came as a module, and no torch: drawn from the seed alone, the same again."""
    root = tmp_path / "module.lens"
    fabricate(root)
    with open_store(root) as opened:
        before = opened.runs[0]["default_pool"]
    called = call(
        "pool", "add", root, "--random", 500, "--seed", 3, "--name", "random", program=WITHOUT_TORCH
    )
    assert called.returncode == 0, called.stderr
    assert called.stdout == "Pool random: 500 random vectors for fabricated.\n"
    with open_store(root) as opened:
        run = opened.run()
        names = [f"vector {number}" for number in range(500)]
        sha256 = opened.models[0]["weights_sha256"]
        found = read_pool_vectors(Layout(root), "random", sha256)
        drawn = np.random.Generator(np.random.PCG64(3)).standard_normal((500, 16))
        assert np.array_equal(found, drawn.astype(np.float32))
        assert opened.runs[0]["default_pool"] == before
        kinds = opened.sql("SELECT kind FROM pools WHERE pool = 'random'")
        assert list(kinds["kind"]) == ["vectors"]
        picked = run.head("L2.H1").textspan("random", 3)["text"]
        assert set(picked) <= set(names)
    assert add_pool(root, random=500, seed=3, name="random").texts == 500
    for count, seed in ((500, 4), (499, 3)):
        with pytest.raises(BadPool, match="500 other texts"):
            add_pool(root, random=count, seed=seed, name="random")


def test_a_random_pool_is_nobodys_default(tmp_path: Path) -> None:
    root = tmp_path / "bare.lens"
    fabricate(root, pools=False)
    add_pool(root, random=5, name="random")
    with open_store(root) as opened:
        assert opened.runs[0]["default_pool"] is None


def test_common_words_come_from_wordfreq(store: Path) -> None:
    import wordfreq

    result = invoke("pool", "add", store, "--words", 50, "--name", "words")
    assert result.exit_code == 0, result.output
    assert result.stdout == "Pool words: 50 texts, embedded by world.\n"
    expected = wordfreq.top_n_list("en", 50)
    own = load_model("world").encode_text(expected)
    with open_store(store) as opened:
        stored = opened.sql("SELECT text FROM texts WHERE pool = 'words' ORDER BY position")
        assert list(stored["text"]) == expected
        assert np.abs(opened.run().encode_text(expected).values - own).max() < 1e-6
        kinds = opened.sql("SELECT kind FROM pools WHERE pool = 'words'")
        assert list(kinds["kind"]) == ["words"]


def test_without_wordfreq_the_way_out_is_named(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wordfreq", None)
    with pytest.raises(ExtraMissing, match=r"pip install lensbase\[ingest\]"):
        add_pool(store, words=10, name="words")


def test_a_pool_is_one_of_a_file_words_or_vectors(store: Path) -> None:
    wrong: list[dict[str, Any]] = [
        {},
        {"texts": TEXTS, "words": 10},
        {"words": 10, "random": 10},
        {"words": 0},
        {"words": 10**9},
        {"random": 0},
        {"random": 10, "seed": -1},
    ]
    for options in wrong:
        with pytest.raises(BadPool):
            add_pool(store, name="new", **options)
    result = invoke("pool", "add", store, "--name", "new")
    assert result.exit_code == 2
    assert "--words or --random" in result.stderr
