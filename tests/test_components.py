"""Addresses have one spelling, and read back as what they name."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lensbase.schema.components import (
    Attention,
    Head,
    Mlp,
    Neuron,
    Token,
    check_name,
    layer_terms,
    parse_component,
    parse_head,
    slug,
    split_run,
)
from lensbase.schema.errors import BadAddress, BadName

numbers = st.integers(0, 99)
components = st.one_of(
    st.builds(Head, numbers, numbers),
    st.builds(Neuron, numbers, st.integers(0, 9999)),
    st.builds(Attention, numbers),
    st.builds(Mlp, numbers),
    st.builds(Token, numbers),
)


@given(components)
def test_every_component_reads_back_from_its_address(component: object) -> None:
    assert parse_component(str(component)) == component
    assert parse_component(str(component).lower()) == component


@given(st.text(max_size=12))
def test_anything_else_is_a_named_error(text: str) -> None:
    try:
        written = str(parse_component(text))
    except BadAddress as error:
        written = str(error)
    assert "L22.H8" in written or written == _plain(text)


def _plain(text: str) -> str:
    """Leading zeros are allowed in what is read, not in what is written."""
    import re

    return re.sub(r"\d+", lambda digits: str(int(digits[0])), text.strip().upper())


def test_heads_only_where_a_head_is_asked_for() -> None:
    assert parse_head("l22.h8") == Head(22, 8)
    with pytest.raises(BadAddress, match="not a head"):
        parse_head("L22.MLP")


def test_a_run_before_a_colon() -> None:
    assert split_run("vit-b-16:L22.H8") == ("vit-b-16", "L22.H8")
    assert split_run("L22.H8") == (None, "L22.H8")
    with pytest.raises(BadName, match="vit-b"):
        split_run("ViT B:L22.H8")


def test_layer_terms_are_2l_plus_1_in_the_order_of_the_store() -> None:
    assert layer_terms(2) == ["EMBED", "L0.ATTN", "L0.MLP", "L1.ATTN", "L1.MLP"]


@given(st.text(max_size=20))
def test_a_slug_is_always_a_name(text: str) -> None:
    assert check_name(slug(text), kind="run") == slug(text)
