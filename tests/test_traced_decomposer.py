"""A trace sees the neurons of the same forward pass, and the pass does not change by it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from driven_tower import drive
from open_clip.transformer import LayerNormFp32
from test_second_order import TOWERS
from torch import nn
from vision_reference import images_for, make_tower, off

from lensbase.ingest.decompose import Decomposer, Kept
from lensbase.ingest.second_order import SecondOrder

LAYERS = (0, 1, 2)
QUESTIONS = ("factors", "total", "bias")


@pytest.mark.parametrize("make", TOWERS.values(), ids=TOWERS.keys())
def test_the_decomposer_shows_it_what_a_tower_run_by_hand_does(
    make: Callable[[], nn.Module],
) -> None:
    """The decomposition stays the same to the last bit; the trace agrees to 1e-5."""
    visual = make()
    images = images_for(visual, 3)
    second = SecondOrder(visual, LAYERS)
    wanted, trace = drive(visual, images, second), second.trace()
    plain = Decomposer(visual, Kept((1,), tokens=True))(images)
    traced = Decomposer(visual, Kept((1,), tokens=True))(images, trace)
    for name, values in vars(plain).items():
        assert values is None or torch.equal(values, getattr(traced, name)), name
    for layer in LAYERS:
        for question in QUESTIONS:
            apart = off(getattr(trace, question)(layer), getattr(wanted, question)(layer))
            assert apart < 1e-5, f"{question} of layer {layer} is off by {apart:.1e}"


def test_in_bfloat16_it_is_near() -> None:
    """Blocks in bfloat16 keep 8 bits: the neurons' effects agree to 5 percent."""
    options: dict[str, Any] = {"layers": 4, "norm_layer": LayerNormFp32, "ls_init_value": 0.5}
    single, half = make_tower(**options), make_tower(**options)
    for module in half.modules():
        if not isinstance(module, nn.LayerNorm):
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.bfloat16()
    images = images_for(single, 4)
    wanted = SecondOrder(single, (0, 2)).trace()
    Decomposer(single, Kept())(images, wanted)
    trace = SecondOrder(half, (0, 2)).trace()
    Decomposer(half, Kept())(images, trace)
    for layer in (0, 2):
        for question in QUESTIONS:
            apart = off(getattr(trace, question)(layer), getattr(wanted, question)(layer))
            assert apart < 0.05, f"{question} of layer {layer} is off by {apart:.1e}"
