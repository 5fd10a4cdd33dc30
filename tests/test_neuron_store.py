"""What an ingest keeps of neurons: against effects formed in float64, and what it refuses."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path
from typing import Any

import literal_second_order as literal
import numpy as np
import pytest
from broken_images import write_broken_images
from PIL import Image
from world_store import FEW, TWO_PASSES, ingest_scenes

from lensbase.api import ingest as ingest_from_api
from lensbase.api import open_store
from lensbase.api.verify import verify
from lensbase.ingest.models import load_model
from lensbase.ingest.world.dataset import write_scenes
from lensbase.schema.by_neuron import ByNeuron
from lensbase.schema.errors import (
    BadAddress,
    BadSelection,
    MemoryTooSmall,
    NoSecondOrderEffect,
    RunMismatch,
)
from lensbase.schema.snapshot import Snapshot, open_snapshot, read_static, run_shape

SCENES = 24


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("few")
    write_scenes(folder, count=SCENES, seed=5)
    return folder


@pytest.fixture(scope="module")
def exact(few: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store in float32, of layers 5 and 6."""
    path = tmp_path_factory.mktemp("exact") / "s.lens"
    options: dict[str, Any] = FEW | {"neurons": [5, 6], "storage": "float32", "reference": None}
    assert ingest_scenes(few, path, neuron_input=True, **options).complete
    return path


def opened(path: Path) -> tuple[Snapshot, dict[str, Any]]:
    snapshot = open_snapshot(path)
    return snapshot, snapshot.run_rows()[0]


def static(snapshot: Snapshot, run: dict[str, Any], name: str) -> np.ndarray[Any, Any]:
    return read_static(snapshot.layout, run["folder"], f"neuron_{name}").astype(np.float64)


def off(got: Any, wanted: Any) -> float:
    """The largest difference, relative to the largest number that was wanted."""
    return float(np.abs(np.asarray(got) - wanted).max() / np.abs(wanted).max())


def test_what_is_stored_is_what_the_formulas_say(exact: Path, few: Path) -> None:
    """To 1e-4 of the largest: effects one by one in float64, their percentile, mean and SVD."""
    model = load_model("world")
    snapshot, run = opened(exact)
    with (few / "manifest.csv").open(encoding="utf-8") as file:
        paths = [few / row["path"] for row in csv.DictReader(file)]
    passes = [
        literal.run(model.visual, model.preprocess(Image.open(path).convert("RGB")))
        for path in paths
    ]
    rows = {name: array.read(slice(None)) for name, array in snapshot.row_arrays(run).items()}
    threshold = static(snapshot, run, "threshold")
    large = rows["neuron_norm"] > threshold
    for place, layer, neuron in ((0, 5, 7), (0, 5, 311), (1, 6, 40), (1, 6, 500)):
        effects = np.array([literal.effect(one, layer, neuron) for one in passes])
        norm, mean = np.linalg.norm(effects, axis=1), effects.mean(0)
        # The reference set is all of them, and fewer than the hundred that a direction is from.
        _, values, axes = np.linalg.svd(effects - mean)
        x = (effects - mean) @ axes[0]
        sign = np.sign(np.sign(x).sum())
        errors = {
            "norm": off(rows["neuron_norm"][:, place, neuron], norm),
            "mean": off(static(snapshot, run, "mean")[place, neuron], mean),
            "threshold": off(threshold[place, neuron], np.percentile(norm, 98)),
            "explained": off(
                static(snapshot, run, "explained")[place, neuron],
                values[0] ** 2 / (values**2).sum(),
            ),
        }
        if sign:
            r = static(snapshot, run, "direction")[place, neuron]
            errors["direction"] = off(r, sign * axes[0]) / 10
            errors["x"] = off(rows["neuron_coefficient"][:, place, neuron], sign * x) / 10
        for name, error in errors.items():
            assert error < 1e-4, f"L{layer}.N{neuron}, {name}: {error:.1e}"
    for image, (place, layer) in ((3, (0, 5)), (20, (1, 6))):
        one, which = passes[image], np.flatnonzero(large[image, place])
        written = one.output[layer] - literal.output_bias(one, layer)
        effects = np.array([literal.effect(one, layer, n) for n in which.tolist()])
        mean = static(snapshot, run, "mean")[place, which]
        wanted = {
            "sum": literal.through_later_heads(one, layer, written),
            "sum_large": effects.sum(0) if len(which) else np.zeros(written.shape[1]),
            "mean_large": mean.sum(0),
            "bias": literal.constant_share(one, layer),
        }
        assert len(which) > 2
        for name, value in wanted.items():
            error = off(rows[f"neuron_{name}"][image, place], value)
            assert error < 1e-4, f"{name} of layer {layer}: {error:.1e}"


def test_what_neurons_read_gives_their_activations(exact: Path, few: Path) -> None:
    """W_in on the stored input, and W_out of the result, are the MLP of the model: to 1e-5."""
    model = load_model("world")
    snapshot, run = opened(exact)
    rows = snapshot.row_arrays(run)["neuron_input"].read([5])[0].astype(np.float64)
    picture = Image.open(few / "images" / "00005.png").convert("RGB")
    seen = literal.run(model.visual, model.preprocess(picture))
    for place, layer in enumerate((5, 6)):
        inside = rows[place] @ static(snapshot, run, "in")[place].T
        inside += static(snapshot, run, "in_bias")[place]
        activation = inside / (1 + np.exp(-1.702 * inside))
        if run["activation"] == "gelu":
            import torch

            activation = torch.nn.functional.gelu(torch.from_numpy(inside)).numpy()
        assert off(activation, seen.hidden[layer][1:]) < 1e-5
        outside = seen.hidden[layer] @ static(snapshot, run, "out")[place]
        outside += static(snapshot, run, "out_bias")[place]
        assert off(outside, seen.output[layer]) < 1e-5


def test_neuron_by_neuron_is_the_same_as_row_by_row(exact: Path) -> None:
    snapshot, run = opened(exact)
    arrays = snapshot.row_arrays(run)
    norm, x = (
        arrays[f"neuron_{name}"].read(slice(None)).reshape(SCENES, -1)
        for name in ("norm", "coefficient")
    )
    by_neuron = ByNeuron(snapshot.layout, run["folder"], run_shape(run), run["by_neuron"])
    for neuron in (0, 511, 512, 1023):
        assert np.array_equal(by_neuron.column("norm", neuron), norm[:, neuron])
        assert np.array_equal(by_neuron.column("coefficient", neuron), x[:, neuron])
        rows, norms = by_neuron.top(neuron)
        order = np.argsort(-norm[:, neuron], kind="stable")
        assert np.array_equal(rows, order)
        assert np.array_equal(norms, norm[order, neuron])
    with open_store(exact) as store:
        facts = store.sql("SELECT * FROM neurons ORDER BY layer, neuron").rows()
        peaks = store.sql("SELECT count(*) AS n FROM neuron_peaks").rows()[0]["n"]
        (kept,) = store.sql("SELECT neuron_layers, neurons, reference, storage FROM runs").rows()
    assert kept == {
        "neuron_layers": "[5, 6]",
        "neurons": 512,
        "reference": SCENES,
        "storage": "float32",
    }
    assert [one["component"] for one in facts][510:513] == ["L5.N510", "L5.N511", "L6.N0"]
    assert off([one["mean_norm"] for one in facts], norm.mean(0, dtype=np.float64)) < 1e-6
    above = norm > static(snapshot, run, "threshold").reshape(-1)
    assert [one["active"] for one in facts] == above.sum(0).tolist()
    assert peaks == above.sum()


def test_rejected_images_have_no_neurons(few: Path, tmp_path: Path) -> None:
    """40 broken files among 24: in two passes, with segments of broken ones only.

    All 24 are the reference set, of which 30 were asked for.
    """
    folder = tmp_path / "mixed"
    shutil.copytree(few / "images", folder / "images")
    broken = write_broken_images(folder)
    path = tmp_path / "s.lens"
    options: dict[str, Any] = FEW | {"model": "world", "run": "r", "workers": 0, "threads": 1}
    done = ingest_from_api(folder, path, memory=TWO_PASSES, **options)
    assert (done.images, done.rejected, done.complete) == (SCENES + 40, 40, True)
    assert len(broken) == 40
    snapshot, run = opened(path)
    rejected = [
        row["row"] for row in snapshot.rows("SELECT * FROM images WHERE status = 'rejected'")
    ]
    for name, array in snapshot.row_arrays(run).items():
        assert np.isnan(array.read(rejected)).all(), name
    reference = static(snapshot, run, "reference")
    assert np.array_equal(reference, np.setdiff1d(np.arange(SCENES + 40), rejected))
    report = verify(path, level="model", sample=12)
    assert report.ok, str(report)
    assert report.checked["recomputed neuron"] == 12


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"neurons": "5,7"}, NoSecondOrderEffect, "--neurons 5,7 has layer 7, the last of the mod"),
        ({"neurons": [7]}, NoSecondOrderEffect, "--neurons 7 has .*numbers from 0 to 6 such as"),
        ({"neurons": "8"}, BadAddress, "with 8. Write default .*all, last:N, or numbers from 0 t"),
        ({"neurons": [5, 9]}, BadAddress, "--neurons 5,9 does not.*to 6 such as 4,5,6"),
        ({"neurons": "some"}, BadAddress, "--neurons some does not choose layers"),
        ({"reference": 0}, BadSelection, "a reference set of 0 images"),
        (
            {"memory": 100},
            MemoryTooSmall,
            "layer 4's neurons to 24 images takes 2,654,208.*--memory",
        ),
    ],
)
def test_what_cannot_be_kept_is_refused_by_name(
    few: Path, tmp_path: Path, options: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        ingest_scenes(few, tmp_path / "s.lens", **(FEW | options))
    if error is not MemoryTooSmall:
        assert not list(tmp_path.iterdir())


def test_a_run_goes_on_with_the_neurons_that_it_began_with(exact: Path, few: Path) -> None:
    options: dict[str, Any] = FEW | {"neurons": "5,6", "storage": "float32", "reference": None}
    options["neuron_input"] = True
    assert ingest_scenes(few, exact, memory=1, **options).complete
    for other, said in (
        ({"neurons": None, "neuron_input": False}, r"begun with --neurons 5,6, now none\. Go on"),
        ({"neurons": "default"}, r"begun with --neurons 5,6, now 4,5,6\. Go on"),
        ({"reference": 20}, r"begun with --reference 24, now 20\. Go on"),
        ({"neuron_input": False}, r"begun with --neuron-input True, now False\. Go on"),
    ):
        with pytest.raises(RunMismatch, match=said):
            ingest_scenes(few, exact, **(options | other))
