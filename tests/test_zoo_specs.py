"""Specifications of members, and patterns over modules' names."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lensbase.ingest.rosetta.default_modules import matching_modules
from lensbase.ingest.rosetta.specs import SOURCES, MemberSpec, parse_spec
from lensbase.schema.errors import BadName
from lensbase.schema.zoo_errors import BadMember, NoSuchModule

NAMES = ["stem", "layer1", "layer1.0", "layer1.0.relu", "layer2.0.relu", "layer2.0.relu2", "fc"]

part = st.text("abcXYZ019./:-_", min_size=1)


@given(
    name=st.from_regex(r"[a-z0-9][a-z0-9._-]*", fullmatch=True),
    source=st.sampled_from(SOURCES),
    architecture=part,
    pretrained=st.none() | part,
    pattern=st.none() | part,
)
def test_a_specification_is_taken_apart_as_it_was_put_together(
    name: str, source: str, architecture: str, pretrained: str | None, pattern: str | None
) -> None:
    text = f"{name}={source}:{architecture}"
    text += f"@{pretrained}" if pretrained else ""
    text += f"#{pattern}" if pattern else ""
    assert parse_spec(text) == MemberSpec(text, name, source, architecture, pretrained, pattern)


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("resnet50", BadMember, "NAME=SOURCE:ARCHITECTURE"),
        ("a=resnet50", BadMember, "NAME=SOURCE:ARCHITECTURE"),
        ("=timm:resnet50", BadMember, "NAME=SOURCE:ARCHITECTURE"),
        ("A=timm:resnet50", BadName, "lower-case"),
        ("a/b=timm:resnet50", BadName, "lower-case"),
        ("a=tim:resnet50", BadMember, "nearest: timm"),
        ("a=timm:@tag", BadMember, "architecture empty"),
        ("a=timm:resnet50@", BadMember, "weights empty"),
        ("a=timm:resnet50#", BadMember, "pattern empty"),
    ],
)
def test_bad_specifications_say_what_would_be_right(
    text: str, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        parse_spec(text)


@pytest.mark.parametrize(
    ("pattern", "chosen"),
    [
        ("layer*.relu", ["layer1.0.relu", "layer2.0.relu"]),
        ("*relu*,!layer1.*", ["layer2.0.relu", "layer2.0.relu2"]),
        ("fc, stem", ["stem", "fc"]),
        (r"re:layer\d", ["layer1"]),
        (r"re:.*\.relu\d?", ["layer1.0.relu", "layer2.0.relu", "layer2.0.relu2"]),
        ("layer[12].0.relu", ["layer1.0.relu", "layer2.0.relu"]),
    ],
)
def test_patterns_match_whole_names_in_the_models_order(pattern: str, chosen: list[str]) -> None:
    assert matching_modules(NAMES, pattern) == chosen


def test_a_pattern_that_matches_nothing_names_what_is_near() -> None:
    words = re.escape("matches none of the model's 7 modules; near names: layer1.0.relu")
    with pytest.raises(NoSuchModule, match=words):
        matching_modules(NAMES, "layer1.1.relu")
