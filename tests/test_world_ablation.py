"""What ablations cost the embedded world's CLIP, attribute by attribute (Table 2.1, Figure 2.2)."""

from __future__ import annotations

from pathlib import Path

import pytest
from world_truth import attribute_classifier

from lensbase.api import open_store
from lensbase.api.run import RunView
from lensbase.ingest.world.attributes import ATTRIBUTES

# Written by several layers over and over: no three layers hold it alone.
REDUNDANT = ("texture", "background")


@pytest.fixture(scope="module")
def clip(evaluation_store: Path) -> RunView:
    return open_store(evaluation_store).run()


def test_mlps_cost_little_and_the_last_attention_layers_much(clip: RunView) -> None:
    """Mean-ablating all MLPs against the last three attention layers, and the first four."""
    cost: dict[str, dict[str, float]] = {}
    for attribute in ATTRIBUTES:
        made = attribute_classifier(clip, attribute)
        # Attributes of an object are asked where there is only one.
        where = None if attribute == "count" else '"count" = 1'
        before = float(clip.accuracy(made, label=attribute, where=where))
        cost[attribute] = {
            kind: before - float(clip.accuracy(made, label=attribute, where=where, ablate=kind))
            for kind in ("mlp", "attn[-3:]", "attn[:4]")
        }
    message = "; ".join(
        f"{name}: " + ", ".join(f"{kind} {lost:.3f}" for kind, lost in of.items())
        for name, of in cost.items()
    )
    for attribute, of in cost.items():
        assert of["attn[:4]"] < 0.03, message
        if attribute == "count":
            # Counting is written by the MLPs, here as in every small model tried.
            assert of["mlp"] > 0.2, message
        else:
            assert of["mlp"] < 0.03, message
        if attribute not in REDUNDANT:
            assert of["attn[-3:]"] > of["mlp"] + 0.1, message
            assert of["attn[-3:]"] > 0.3, message
