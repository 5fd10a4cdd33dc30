"""What a store answers, against the formulas in float64: no factoring, no rounding, no reuse.

Every error is ||found - wanted|| / ||wanted|| of one vector of one image: M(I), a term, a running
sum, a head's contribution, a token's. Only the pairs c_{i,l,h} are compared head by head, all
tokens of a head together: the relative error of an attention weight is the absolute one of its
logit, so a pair that a head hardly attends to has fewer digits in any float32 forward pass (the
worst single pair here: 7e-6, and 8e-4 in float16).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from literal_decomposition import F64, Parts, take_apart
from open_clip.transformer import QuickGELU
from PIL import Image
from vision_reference import images_for, make_tower, off, reference
from world_store import ingest_scenes

from lensbase.api import open_store
from lensbase.ingest.models import load_model
from lensbase.ingest.sources import open_source
from lensbase.queries.factors import head_token_contribution
from lensbase.schema.snapshot import open_snapshot, read_static

LIMITS = {"float16": 2e-3, "float32": 1e-5}
IMAGES = {"ViT-B-32": 2, "ViT-B-32-quickgelu": 2, "world": 4}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"ls_init_value": 0.5},
        {"no_ln_pre": True, "act_layer": QuickGELU},
        {"act_layer": QuickGELU, "ls_init_value": 0.5, "grid": 5, "heads": 3},
    ],
    ids=["plain", "layer scale", "no ln_pre, QuickGELU", "25 patches, 3 heads"],
)
def test_the_literal_computation_is_that_of_the_loops(options: dict[str, Any]) -> None:
    """To 1e-13, in towers with every weight, bias and norm random."""
    visual = make_tower(**options)
    (image,) = images_for(visual, 1)
    found, wanted = take_apart(visual, image), reference(visual, image)
    assert off(found.representation, wanted.representation) < 1e-13
    assert off(found.layer, wanted.layer) < 1e-13
    assert off(found.pair, wanted.c) < 1e-13


@dataclass(frozen=True)
class Case:
    """Some scenes taken apart literally, and how to take them into a store."""

    model: str
    scenes: Path
    keys: list[str]
    parts: list[Parts]

    def ingest(self, store: Path, storage: str) -> None:
        done = ingest_scenes(
            self.scenes,
            store,
            model=self.model,
            pool=None,
            head_tokens="all",
            thumbnails=False,
            storage=storage,
            limit=len(self.keys),
        )
        assert (done.images, done.rejected) == (len(self.keys), 0)


@pytest.fixture(scope="module", params=IMAGES)
def case(request: pytest.FixtureRequest, scenes: Path) -> Case:
    name: str = request.param
    loaded = load_model(name)
    source = open_source(scenes / "manifest.csv", limit=IMAGES[name])
    keys: list[str] = source.table()["key"].to_pylist()
    pictures = [loaded.preprocess(Image.open(scenes / key).convert("RGB")) for key in keys]
    return Case(name, scenes, keys, [take_apart(loaded.visual, picture) for picture in pictures])


@pytest.mark.parametrize("storage", LIMITS)
def test_stored_contributions_are_those_of_the_formulas(
    case: Case, storage: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """Under 2e-3 from float16 and 1e-5 from float32, of every image and every component.

    Sums over images, which means are taken from, are kept before rounding: 1e-5 in both.
    """
    path = tmp_path / "s.lens"
    case.ingest(path, storage)
    found = _asked(path, case.keys) | _read(path)
    wanted = [_expected(one) for one in case.parts]
    errors = {
        kind: max(_worst(found[kind][row], one[kind], kind) for row, one in enumerate(wanted))
        for kind in found
    }
    snapshot = open_snapshot(path)
    (run,) = snapshot.run_rows()
    totals = snapshot.segment_array(run, "layer_total").total([0])
    parts = sum(np.vstack([one.layer, one.token[:1]]) for one in case.parts)
    total = _worst(totals, np.asarray(parts), "totals")
    told = ", ".join(f"{kind} {error:.1e}" for kind, error in errors.items())
    told = f"{case.model} in {storage}: {told}, totals {total:.1e}"
    record_property("errors", told)
    assert max(errors.values()) < LIMITS[storage], told
    assert total < LIMITS["float32"], told


def _asked(path: Path, keys: list[str]) -> dict[str, npt.NDArray[Any]]:
    """What the store's front door answers about the images, in their order."""
    with open_store(path) as store:
        clip = store.run()
        heads = [head["component"] for head in clip.heads.rows()]
        contributions = [clip.head(head).contribution(keys).values for head in heads]
        (tokens,) = clip.batches("token")
        return {
            "representation": clip.representation(keys).values,
            "layers": clip.layer_effects(keys).values,
            "heads": np.stack(contributions, axis=1),
            "tokens": tokens.values,
        }


def _read(path: Path) -> dict[str, npt.NDArray[Any]]:
    """What only queries read: row by row from the arrays."""
    snapshot = open_snapshot(path)
    (run,) = snapshot.run_rows()
    arrays = snapshot.row_arrays(run)
    basis = read_static(snapshot.layout, run["folder"], "head_basis")
    scale = arrays["scale"].read(slice(None))
    pairs = [
        head_token_contribution(
            arrays["head_token_weight"].read(slice(None), layer, head),
            arrays["head_token_value"].read(slice(None), layer, slice(None), head),
            scale,
            basis=basis[layer, head],
        )
        for layer in range(run["layers"])
        for head in range(run["heads"])
    ]
    return {
        "class token": arrays["cls_token"].read(slice(None))[:, None],
        "running sums": arrays["layer_sum"].read(slice(None)),
        "head-tokens": np.stack(pairs, axis=1),
    }


def _expected(parts: Parts) -> dict[str, F64]:
    """The same of one image, by the formulas."""
    return {
        "representation": parts.representation,
        "layers": parts.layer,
        "heads": parts.head.reshape(-1, parts.head.shape[-1]),
        "tokens": parts.token[1:],
        "class token": parts.token[:1],
        "running sums": np.stack([parts.layer[1::2], parts.layer[2::2]]).cumsum(1),
        "head-tokens": parts.pair.reshape(-1, *parts.pair.shape[2:]),
    }


def _worst(found: npt.NDArray[Any], wanted: F64, kind: str) -> float:
    """The largest relative error of one vector; of a head's tokens, of all of them together."""
    assert found.shape == wanted.shape
    axes = (-2, -1) if kind == "head-tokens" else (-1,)
    missed = np.linalg.norm(found.astype(np.float64) - wanted, axis=axes)
    return float((missed / np.linalg.norm(wanted, axis=axes)).max())
