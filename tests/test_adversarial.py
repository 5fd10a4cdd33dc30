"""Semantic adversarial examples: what is asked, kept, painted and counted, and the whole loop."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import invoke
from hypothesis import given
from hypothesis import strategies as st

from lensbase.api import open_store
from lensbase.api.adversarial import Adversarial, adversarial, generate, prompt, score
from lensbase.api.descriptions import listed, usable
from lensbase.api.open_run import OpenRun
from lensbase.ingest.world.adversary import describe_scene, paint
from lensbase.ingest.world.attributes import BACKGROUNDS
from lensbase.ingest.world.pool import text_pool
from lensbase.schema.errors import (
    BadDescriptions,
    BadQuestion,
)

TEXTS = ["a small pentagon on sand", "a large pentagon on water"]


@pytest.fixture(scope="module")
def run(world_store: Path, tmp_path_factory: pytest.TempPathFactory) -> OpenRun:
    """A copy's: the classifiers that are asked for are kept in the store."""
    path = tmp_path_factory.mktemp("own") / "s.lens"
    shutil.copytree(world_store, path, symlinks=True)
    return open_store(path).run()._run


# The prompt, the list, the filter


def test_the_prompt_holds_classes_words_and_rules() -> None:
    text = prompt("dog", "deer", ["antler", " two\nlines ", "antler"], count=7)
    assert "Words: antler, two lines\n" in text
    for part in ('the word "dog" occurs', 'does the word "deer" occur', "7 short", "1 to 7"):
        assert part in text
    assert "1 short image description for" in prompt("dog", "deer", ["antler"], count=1)
    for arguments in (
        ("dog", "Dog ", ["a"]),
        ("", "deer", ["a"]),
        ("dog", "deer", []),
        ("dog", "deer", " "),
        ("dog", "deer", ["", " "]),
        ("dog", "deer", [1]),
    ):
        with pytest.raises(BadQuestion):
            prompt(*arguments)  # pyright: ignore[reportArgumentType]
    with pytest.raises(BadQuestion, match="ask for 1 or more"):
        prompt("dog", "deer", ["a"], count=0)


ITEM = st.text("abc dog'é,-", min_size=1, max_size=20).map(lambda t: f"x{' '.join(t.split())}x")


@given(
    items=st.lists(ITEM, min_size=1, max_size=12),
    mark=st.sampled_from(["{}. ", "{}) ", "({}) ", "{}: ", "- ", "* ", "• ", "  {}. ", "**{}.** "]),
    quote=st.sampled_from(["", '"', "**", "`"]),
)
def test_lists_of_any_kind_are_read(items: list[str], mark: str, quote: str) -> None:
    lines = [f"{mark.format(n)}{quote}{item}{quote}" for n, item in enumerate(items, start=1)]
    answer = "\n".join(["<think>\n1. no\n</think>", "Here you are:", "", *lines, "", "Good luck!"])
    assert listed(answer) == items
    if len(items) > 1:
        assert listed(answer, cut=True) == items[:-1]


def test_broken_lines_go_on_and_no_list_is_named() -> None:
    assert listed("1. A dog\n   at dusk.\n2.A cat in 1.5 m of snow\nBye") == [
        "A dog at dusk.",
        "A cat in 1.5 m of snow",
    ]
    for answer in ("", "no list", "3.14 is pi", "1.\n2.\n", '1. ""'):
        with pytest.raises(BadDescriptions, match="no list"):
            listed(answer)
    with pytest.raises(BadDescriptions):
        listed("1. only a part", cut=True)


@pytest.mark.parametrize(
    ("shown", "other", "good", "bad"),
    [
        (
            "dog",
            "cat",
            ["a DOG.", "two dogs", "a dog's category"],
            ["a dog, a cat", "dog and Cats"],
        ),
        ("dog", "fox", ["a dog and an ox"], ["a dog and foxes", "a dog fox-like"]),
        ("puppy", "wolf", ["puppies"], ["a puppy and wolves", "a wolf's puppy"]),
        ("mouse", "knife", ["three mice"], ["a mouse with knives"]),
        ("stop sign", "yield sign", ["a stop-sign", "stopsigns"], ["a stop sign, a Yield  Sign"]),
        ("tow truck", "truck", ["a tow truck", "tow trucks"], ["a tow truck and a truck"]),
        ("car", "car (toy)", ["a car", "a car toy"], ["a car, a car (toy)"]),
        ("woman", "man", ["a woman", "women"], ["a woman and men"]),
    ],
)
def test_the_filter_knows_whole_words_and_plurals(
    shown: str, other: str, good: list[str], bad: list[str]
) -> None:
    found = usable([*good, *bad, "nothing", good[0].upper()], shown, other)
    assert found.kept == good
    assert (found.mentioning, found.lacking, found.repeated) == (len(bad), 1, 1)


def test_further_names_can_be_forbidden() -> None:
    found = usable(["a dog", "a dog and kittens"], "dog", "cat", forbidden=["kitten"])
    assert (found.kept, found.mentioning) == (["a dog"], 1)
    assert str(found) == "1 description; left out 1 that mention the other class"


# The loop

CUES = {"pentagon": "water", "hexagon": "sand"}


def loop(run: OpenRun, folder: Path, words: Any, **options: Any) -> Adversarial:
    """Pentagons for hexagons, unless options say otherwise, with the world's own two models."""
    settings: dict[str, Any] = {
        "shown": "pentagon",
        "mistaken_for": "hexagon",
        "describer": describe_scene,
        "painter": paint,
    }
    return adversarial(run, words=words, folder=folder, **(settings | options))


@pytest.mark.parametrize(
    ("shown", "mistaken_for"),
    [
        ("pentagon", "hexagon"),
        pytest.param("hexagon", "pentagon", marks=pytest.mark.slow),
    ],
)
def test_planted_cues_fool_the_classifier_more_than_random_words(
    run: OpenRun, tmp_path: Path, shown: str, mistaken_for: str
) -> None:
    """Small shapes, where the cue weighs most; 50 images for each of two repetitions.

    Words that name the planted background of the other class fool at least 10 of 50: more than
    those with any of the seven other backgrounds, and more than three times as many as these do
    on average; the same against five lists of 25 random texts of the world's pool.
    """
    others = [name for name in BACKGROUNDS if name != CUES[mistaken_for]]
    pool = [text for text in text_pool() if shown not in text and mistaken_for not in text]
    rng = random.Random(0)
    words = {
        "planted": [CUES[mistaken_for], "small"],
        **{name: [name, "small"] for name in others},
        **{f"random {draw}": rng.sample(pool, 25) for draw in range(5)},
    }
    options = {"per_description": 5, "repeats": 2}
    found = loop(run, tmp_path, words, shown=shown, mistaken_for=mistaken_for, **options)
    fooled: dict[str, float] = {row["words"]: row["fooled"] for row in found.table}
    planted = fooled["planted"]
    assert planted >= 10, found
    for baseline in (others, [name for name in fooled if name.startswith("random")]):
        rates = [fooled[name] for name in baseline]
        assert planted > max(rates), found
        assert planted > 3 * np.mean(rates), found
    assert {row["images"] for row in found.table} == {50.0}
    assert all(one.described.mentioning == one.described.lacking == 0 for one in found.experiments)


def test_the_loop_is_resumed_and_counts_what_a_person_leaves(run: OpenRun, tmp_path: Path) -> None:
    options: dict[str, Any] = {"descriptions": 3, "per_description": 2, "repeats": 2, "asked": 6}
    words = {"a": ["sand", "small"], "b": ["water"]}
    asked: list[int] = []

    def describer(
        shown: str, mistaken_for: str, words: Sequence[str], /, *, count: int, seed: int
    ) -> list[str]:
        asked.append(seed)
        texts = describe_scene(shown, mistaken_for, words, count=count, seed=seed)
        return [*texts, f"a {mistaken_for}", f"a {shown} and a {mistaken_for}"]

    first = loop(run, tmp_path, words, describer=describer, **options)
    assert asked == [0, 1, 0, 1]
    table = first.table
    assert table.columns == ["words", "repeats", "images", "fooled", "std", "share"]
    for row in table:
        counts = [one.found.fooled for one in first.experiments if one.name == row["words"]]
        assert (row["fooled"], row["std"]) == (np.mean(counts), np.std(counts))
        assert row["share"] == sum(counts) / 12
    assert "16 descriptions left out" not in str(first)
    assert "8 descriptions left out" in str(first)
    assert len(first.images) == 24
    assert all(Path(path).is_file() for path in first.images["path"])

    Path(first.images["path"][0]).unlink()
    again = loop(run, tmp_path, words, describer=describer, **options)
    assert len(asked) == 4
    assert [one.painted.new for one in again.experiments] == [0] * 4
    assert [one.found.images for one in again.experiments] == [5, 6, 6, 6]
    assert again.images["path"].tolist() == first.images["path"].tolist()[1:]
    with pytest.raises(BadQuestion, match="other mistaken_for"):
        loop(run, tmp_path, words, mistaken_for="circle", describer=describer, **options)


def test_bad_questions_to_the_loop_are_named(run: OpenRun, tmp_path: Path) -> None:
    for words in ({}, {"a b": ["sand"], "a-b": ["sand"]}, [], "sand", {"a": []}):
        with pytest.raises(BadQuestion):
            loop(run, tmp_path, words)
    for name in ("descriptions", "per_description", "asked", "repeats"):
        with pytest.raises(BadQuestion, match=f"{name} = 0"):
            loop(run, tmp_path, ["sand"], **{name: 0})
    with pytest.raises(BadDescriptions, match="0 descriptions; left out 1 that mention"):
        loop(run, tmp_path, ["x"], describer=lambda *_, **__: ["a pentagon and a hexagon"])
    assert not list(tmp_path.iterdir())


def test_the_command_scores_a_folder(run: OpenRun, tmp_path: Path) -> None:
    generate(TEXTS, paint, tmp_path / "images", per_description=2)
    store = run.layout.root
    command = ("adversarial", store, "pentagon", "hexagon", "--score", tmp_path / "images")
    found = score(tmp_path / "images", run, shown="pentagon", mistaken_for="hexagon")
    told = invoke(*command)
    assert told.exit_code == 0, told.output
    assert str(found) in told.stdout
    rows = json.loads(invoke(*command, "--json").stdout)
    assert [row["fooled"] for row in rows] == list(found.rows["fooled"])
    assert invoke(*command, "--describe").exit_code == 2
    for option in (("-k", "3"), ("--pool", "scenes"), ("--layers", "4"), ("--center",)):
        assert "leave out --describe and what" in invoke(*command, *option).stderr
    empty = tmp_path / "empty.txt"
    empty.write_text("\n")
    for words in (empty, tmp_path / "none.txt"):
        failed = invoke("adversarial", store, "star", "heart", "--words", words)
        assert failed.exit_code == 2
        assert len(failed.stderr.strip().splitlines()) == 1


def test_the_command_names_words_of_chosen_neurons_and_the_prompt(
    neuron_store: Path, tmp_path: Path
) -> None:
    path = tmp_path / "s.lens"
    shutil.copytree(neuron_store, path, symlinks=True)
    command = ("adversarial", path, "pentagon", "hexagon")
    templates = ["a photo of a {}", "a picture of a {}"]
    with open_store(path) as store:
        found = store.run().spurious_texts(
            "pentagon", "hexagon", k=4, layers=[4, 6], center=True, templates=templates
        )
    options = ["-k", 4, "--layers", "4,6", "--center"]
    options += [part for template in templates for part in ("--template", template)]
    told = json.loads(invoke(*command, *options, "--json").stdout)
    assert told["words"] == found.rows()
    assert told["prompt"] == prompt("pentagon", "hexagon", list(found["text"]), count=50)
    table = invoke(*command, *options).stdout
    assert table.endswith(f"\n\n{told['prompt']}")
    assert "layers 4 and 6" in table or "layers 4, 6" in table
    assert len(invoke(*command, *options, "--csv").stdout.splitlines()) == 5

    words = tmp_path / "words.txt"
    words.write_text("sand\n\nwater\nsand\n", encoding="utf-8")
    told = json.loads(invoke(*command, "--words", words, "--json").stdout)
    assert told["words"] == [{"text": "sand"}, {"text": "water"}]
    assert "Words: sand, water\n" in told["prompt"]
    for wrong in (("-k", "1"), ("--pool", "scenes"), ("--layers", "4"), ("--center",)):
        refused = invoke(*command, "--words", words, *wrong)
        assert (refused.exit_code, "leave out -k" in refused.stderr) == (2, True)
    both = invoke(*command, "--words", words, "--json", "--csv")
    assert "exclude each other" in both.stderr


def test_the_command_sees_what_is_cheap_to_see_before_it_opens_a_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LENSBASE_CHAT_URL", raising=False)
    for options, said in (
        (["dog", "dog"], "cannot be mistaken"),
        (["dog", "cat", "--count", "0"], "count = 0"),
        (["dog", "cat", "--describe"], "no language model is configured"),
    ):
        refused = invoke("adversarial", tmp_path / "none.lens", *options)
        assert (refused.exit_code, said in refused.stderr) == (2, True), refused.output
