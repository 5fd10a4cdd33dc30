"""The ingest end to end: a real trained CLIP, real files, and what must hold of the store."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from broken_images import write_broken_images
from world_store import POOL, ingest_scenes, store_bytes

from lensbase.api import ingest as ingest_from_api
from lensbase.api import open_store
from lensbase.api.verify import forget_damaged, verify
from lensbase.ingest.job import ingest
from lensbase.ingest.models import load_model
from lensbase.schema.errors import BadQuestion, RunBusy, RunMismatch
from lensbase.schema.layout import Layout
from lensbase.schema.locks import lock_segments
from lensbase.schema.manifest import committed_segments


def test_the_representation_is_the_models_own(scenes: Path, world_store: Path) -> None:
    """To 1e-5 of its length, for 40 images read by their paths."""
    from PIL import Image

    model = load_model("world")
    with open_store(world_store) as opened:
        run = opened.run()
        keys = [row["key"] for row in run.images.rows()[:40]]
        stored = run.representation(keys).values
    pictures = [model.preprocess(Image.open(scenes / key).convert("RGB")) for key in keys]
    with torch.inference_mode():
        own = cast("Any", model.model).encode_image(torch.stack(pictures)).numpy()
    off = np.linalg.norm(stored - own, axis=1) / np.linalg.norm(own, axis=1)
    assert off.max() < 1e-5


def test_all_terms_add_up(world_store: Path) -> None:
    """1e-5 before storage, 2e-3 from the stored float16, of every image."""
    with open_store(world_store) as opened:
        run = opened.run()
        whole, layers = run.representation().values, run.layer_effects().values
        before = opened.sql("SELECT max(max_residual) AS worst FROM segments").rows()[0]["worst"]
    off = np.linalg.norm(layers.astype(np.float64).sum(1) - whole, axis=1)
    assert (off / np.linalg.norm(whole, axis=1)).max() < 2e-3
    assert before < 1e-5
    report = verify(world_store, level="model", sample=20)
    assert report.ok, str(report)
    assert report.checked["recomputed image"] == 20


def test_kept_facts_and_texts(world_store: Path) -> None:
    with open_store(world_store) as opened:
        facts = opened.sql("SELECT count(*) AS n FROM head_effects").rows()[0]["n"]
        run = opened.run()
        heads = len(run.heads.rows())
        assert facts == 150 * heads
        assert run.images.rows()[0]["background"]
        head = run.heads.rows()[0]["component"]
        stored = opened.sql("SELECT text FROM head_texts WHERE component = ? ORDER BY rank", [head])
        assert [row["text"] for row in stored.rows()][:3] == [
            row["text"] for row in run.head(head).textspan(m=3).rows()
        ]


def test_the_same_command_again_changes_nothing(scenes: Path, world_store: Path) -> None:
    before = store_bytes(world_store)
    assert ingest_scenes(scenes, world_store).complete
    assert store_bytes(world_store) == before


def test_other_settings_are_refused_by_name(scenes: Path, world_store: Path) -> None:
    with pytest.raises(RunMismatch, match="tokens True, now False"):
        ingest_scenes(scenes, world_store, tokens=False)
    with pytest.raises(RunMismatch, match="150 images, now 10 other"):
        ingest_scenes(scenes, world_store, limit=10)
    with pytest.raises(RunMismatch, match="--batch-size 20, now 21"):
        ingest_scenes(scenes, world_store, batch_size=21)
    with pytest.raises(RunMismatch, match="--heads 0,1,2,3,4,5,6,7, now 6,7"):
        ingest_scenes(scenes, world_store, heads="last:2")


def test_parts_make_the_same_bytes(scenes: Path, world_store: Path, tmp_path: Path) -> None:
    parts = tmp_path / "parts.lens"
    assert not ingest_scenes(scenes, parts, part=(2, 2)).complete
    assert committed_segments(Layout(parts), "r") == [1]
    assert ingest_scenes(scenes, parts, part=(1, 2)).complete
    assert store_bytes(parts) == store_bytes(world_store)


def test_a_module_and_a_list_of_paths(scenes: Path, tmp_path: Path) -> None:
    """A fine-tuned model from Python: its own weights, preprocessing and tokenizer."""
    loaded = load_model("world")
    with torch.no_grad():
        for block in cast("Any", loaded.visual).transformer.resblocks:
            block.mlp.c_fc.weight.mul_(1.1)
    paths = sorted((scenes / "images").iterdir())[:30]
    path = tmp_path / "module.lens"
    done = ingest_from_api(
        paths,
        path,
        model=cast("Any", loaded.model),
        preprocess=loaded.preprocess,
        tokenizer=loaded.tokenizer,
        run="tuned",
        heads=[6, 7],
        workers=0,
    )
    assert (done.run, done.images, done.complete) == ("tuned", 30, True)
    report = verify(path)
    assert report.ok, str(report)
    with open_store(path) as opened:
        assert opened.models.rows()[0]["weights_sha256"] != loaded.info.weights_sha256
        assert len(opened.run().representation(paths[3].name)) == 1


def test_a_second_writer_is_refused(scenes: Path, tmp_path: Path) -> None:
    path = tmp_path / "busy.lens"
    ingest_scenes(scenes, path, part=(1, 3))
    with (
        lock_segments(Layout(path).run_lock("r"), "r", [1]),
        pytest.raises(RunBusy, match="another process is writing run 'r'"),
    ):
        ingest_scenes(scenes, path)


def test_broken_images_are_rejected_rows(scenes: Path, tmp_path: Path) -> None:
    """40 broken files among good ones: 40 rejected rows, each with its reason."""
    folder = tmp_path / "mixed"
    shutil.copytree(scenes, folder)
    (folder / "manifest.csv").unlink()
    broken = write_broken_images(folder)
    assert len(broken) == 40
    path = tmp_path / "broken.lens"
    done = ingest(folder, path, model="world", run="r", workers=1, batch_size=16, limit=None)
    assert done.rejected == 40
    with open_store(path) as opened:
        rejected = opened.sql("SELECT key, reason FROM images WHERE status = 'rejected'").rows()
        good = opened.run().representation().values
    assert {row["key"] for row in rejected} == {
        file.relative_to(folder).as_posix() for file in broken
    }
    assert all(row["reason"] for row in rejected)
    assert np.isfinite(good).all()
    assert verify(path).ok


@pytest.mark.parametrize("harm", ["flip", "empty", "remove"])
def test_damage_is_found_named_and_redone(
    scenes: Path, world_store: Path, tmp_path: Path, harm: str
) -> None:
    path = tmp_path / "harmed.lens"
    shutil.copytree(world_store, path, symlinks=True)
    shard = next((path / "runs/r/layer/c/1").rglob("0"))
    while shard.is_dir():
        shard = next(shard.iterdir())
    data = bytearray(shard.read_bytes())
    if harm == "remove":
        shard.unlink()
    else:
        data[1000] ^= 1
        shard.write_bytes(data if harm == "flip" else b"")
    report = verify(path, level="checksums")
    assert [(one.run, one.segment) for one in report.problems] == [("r", 1)]
    assert "--forget" in report.problems[0].remedy
    assert forget_damaged(path, report) == [("r", 1)]
    assert ingest_scenes(scenes, path).complete
    assert verify(path).ok
    assert store_bytes(path) == store_bytes(world_store)


KILLED = """
import sys
from pathlib import Path
from lensbase.ingest.job import ingest
from lensbase.ingest.pools import TextPool
ingest(Path(sys.argv[1]) / "manifest.csv", sys.argv[2], model="world", run="r", heads="all",
       head_tokens="last:2", pool=TextPool("few", tuple(sys.argv[3].split("|"))), workers=1,
       batch_size=20, threads=1, segment_rows=64)
"""


def _kill_and_resume(scenes: Path, path: Path, *, kills: int) -> None:
    """Start the ingest, kill it with SIGKILL at random moments, and read all the while."""
    random = np.random.default_rng(11)
    script = [sys.executable, "-c", KILLED, str(scenes), str(path), "|".join(POOL.texts)]
    started = time.monotonic()
    subprocess.run(script, check=True, env=os.environ | {"CUDA_VISIBLE_DEVICES": ""})
    whole = time.monotonic() - started
    undisturbed = store_bytes(path)
    for _ in range(kills):
        if len(committed_segments(Layout(path), "r")) == 3:
            shutil.rmtree(path)
        process = subprocess.Popen(script, env=os.environ | {"CUDA_VISIBLE_DEVICES": ""})
        deadline = time.monotonic() + float(random.uniform(0.3, 1.05)) * whole
        while time.monotonic() < deadline and process.poll() is None:
            _read_consistently(path)
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        _read_consistently(path)
    subprocess.run(script, check=True, env=os.environ | {"CUDA_VISIBLE_DEVICES": ""})
    assert store_bytes(path) == undisturbed
    assert verify(path).ok


def _read_consistently(path: Path) -> None:
    if not (path / "CURRENT").exists():
        return
    with open_store(path) as opened:
        for row in opened.runs.rows():
            run = opened.run(row["run"])
            chosen = opened.sql("SELECT count(*) AS n FROM images WHERE status = 'ok'").rows()
            values = run.representation().values
            assert len(values) == chosen[0]["n"] == (row["committed"] or 0)
            assert np.isfinite(values).all()


def test_killed_and_resumed_gives_the_same_bytes(scenes: Path, tmp_path: Path) -> None:
    _kill_and_resume(scenes, tmp_path / "killed.lens", kills=3)


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_killed_twenty_times_and_resumed_gives_the_same_bytes(scenes: Path, tmp_path: Path) -> None:
    kills = 5 if os.environ.get("LENSBASE_REDUCED") else 20
    _kill_and_resume(scenes, tmp_path / "killed.lens", kills=kills)


@pytest.mark.parametrize("option", [{"neuron_input": True}, {"reference": 5}, {"memory": 10**9}])
def test_options_about_neurons_need_neurons(
    option: dict[str, Any], scenes: Path, tmp_path: Path
) -> None:
    with pytest.raises(BadQuestion, match=r"choose some with neurons \(--neurons default\)"):
        ingest_scenes(scenes, tmp_path / "s.lens", **option)
    assert not (tmp_path / "s.lens").exists()
