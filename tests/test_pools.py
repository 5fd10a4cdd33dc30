"""Adding text pools: embedded by every model that can be loaded, never written over."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import invoke
from fabricated_store import fabricate
from world_store import POOL, store_bytes

from lensbase.api import open_store
from lensbase.api.pools import add_pool
from lensbase.ingest.job import ingest
from lensbase.ingest.models import load_model
from lensbase.ingest.pools import TextPool
from lensbase.schema.errors import BadName, BadPool, UnknownRun, WeightsNotFound

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


def test_the_same_again_changes_no_file(store: Path) -> None:
    add_pool(store, TEXTS, name="general")
    before = store_bytes(store)
    add_pool(store, TEXTS, name="general")
    assert store_bytes(store) == before


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
