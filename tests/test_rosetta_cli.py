"""The commands of Rosetta zoos: rows as the API gives them, pictures, errors on one line."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import WITHOUT_TORCH, call, invoke
from PIL import Image
from synthetic_zoo import CLIP, CLIP_MODULE, GAN, RESNET, write_zoo

from lensbase.api import Store, open_store
from lensbase.schema.catalog import create_store

UNIT = f"clip:{CLIP_MODULE}/0"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    layout = write_zoo(tmp_path_factory.mktemp("zoo") / "z.lens")
    with open_store(layout.root) as opened:
        yield opened


def rows(*arguments: object) -> list[dict[str, Any]]:
    done = invoke("rosetta", *arguments, "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_commands_print_what_the_api_answers(store: Store) -> None:
    zoo, path = store.rosetta(), store.path
    answers = {
        ("matches",): zoo.matches(),
        ("matches", "--model", "clip", "--min-correlation", 0.5): zoo.matches("clip", 0.5),
        ("matches", "--neighbors", 1, "--zoo", "zoo"): zoo.matches(neighbors=1),
        ("concepts",): zoo.concepts(),
        ("concepts", "--model", "clip", "--model", "resnet"): zoo.concepts(["clip", "resnet"]),
        ("pairs",): zoo.statistics(),
        ("units",): zoo.units,
    }
    for (command, *options), wanted in answers.items():
        assert rows(command, path, *options) == json.loads(json.dumps(wanted.rows()))
    partners = zoo.unit(UNIT).partners()
    assert rows("partners", path, UNIT) == partners.rows()
    assert rows("partners", path, UNIT, "--model", "gan", "--neighbors", 1, "--nearest") == (
        zoo.unit(UNIT).partners("gan", 1, mutual=False).rows()
    )
    assert {row["model"] for row in rows("units", path, "--model", "gan")} == {"gan"}
    (listed,) = rows("list", path)
    assert (listed["zoo"], listed["models"]) == ("zoo", ["gan", "resnet", "clip"])


def test_tables_end_with_what_there_is(store: Store) -> None:
    done = invoke("rosetta", "concepts", store.path)
    assert "the largest of" in done.stdout.rpartition("\n\n")[2]
    printed = invoke("rosetta", "matches", store.path, "--csv").stdout
    assert len(list(csv.DictReader(io.StringIO(printed)))) == len(store.rosetta().matches())
    assert "zoos" in invoke("info", store.path).stdout


def test_pictures_are_written(store: Store, tmp_path: Path) -> None:
    out = tmp_path / "dictionary.png"
    done = invoke("rosetta", "dictionary", store.path, out, "--concepts", 2, "--images", 1)
    assert done.exit_code == 0, done.output
    assert f"Wrote {out}: grid of 6 activation maps in 2 rows." in done.stdout
    with Image.open(out) as picture:
        assert picture.width > picture.height > 100
    one = tmp_path / "one.webp"
    options = ("--concept", 1, "--model", "clip", "--as", "clip")
    done = invoke("rosetta", "heatmaps", store.path, 3, one, *options)
    assert done.exit_code == 0, done.output
    assert "grid of 1 activation maps" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("partners", "{}", "clip/3"), "write MODEL:MODULE/CHANNEL"),
        (("partners", "{}", "clop:x/3"), "no model 'clop'; the nearest is clip"),
        (("matches", "{}", "--zoo", "other"), "the nearest is zoo"),
        (("matches", "{}", "--neighbors", "99"), "keeps 4 nearest units of each, not 99"),
        (("heatmaps", "{}", "99", "x.png"), "8 example pictures, 0 to 7"),
        (("dictionary", "{}", "x.txt"), "end it in .png"),
        (("search", "{}", "a red circle"), "--neurons does"),
        (("drop", "{}", "zo"), "the nearest is zoo"),
        (("mine", "{}", "--model", "x", "--memory", "much"), "write one such as 4GB"),
    ],
)
def test_what_cannot_be_answered_is_one_line(
    store: Store, tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    done = invoke("rosetta", *(one.format(store.path) for one in arguments))
    assert done.exit_code == 2
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_dropped_zoo_can_come_back(tmp_path: Path) -> None:
    path = write_zoo(tmp_path / "z.lens", (GAN, CLIP)).root
    done = invoke("rosetta", "drop", path, "zoo")
    assert done.exit_code == 0
    assert f"lensbase rollback {path}" in done.stdout
    assert rows("list", path) == []
    assert invoke("rollback", path).exit_code == 0
    assert len(rows("list", path)) == 1
    assert "1 zoo" in invoke("verify", path).stdout


def test_one_of_several_zoos_has_to_be_named(tmp_path: Path) -> None:
    path = write_zoo(tmp_path / "z.lens", (GAN, CLIP)).root
    write_zoo(path, (RESNET, CLIP), name="other", anchor="resnet")
    done = invoke("rosetta", "concepts", path)
    assert done.exit_code == 2
    assert "several zoos: other, zoo" in done.stderr
    assert invoke("rosetta", "concepts", path, "--zoo", "other").exit_code == 0


def test_asking_needs_no_torch(store: Store) -> None:
    done = call("rosetta", "partners", store.path, UNIT, program=WITHOUT_TORCH)
    assert done.returncode == 0, done.stderr
    assert "gan:" in done.stdout


def test_an_empty_store_says_how_to_mine(tmp_path: Path) -> None:
    path = create_store(tmp_path / "z.lens").root
    done = invoke("rosetta", "matches", path)
    assert done.exit_code == 2
    assert "lensbase rosetta mine" in done.stderr
