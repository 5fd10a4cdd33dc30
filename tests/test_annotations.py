"""Roles of components: kept beside the catalogue, found by SQL, by `role` and by other readers."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import invoke
from fabricated_store import fabricate

from lensbase.api import Result, Role, Store, open_store, role
from lensbase.schema.errors import (
    AmbiguousRun,
    AnnotationNotKept,
    BadAddress,
    BadName,
    BadQuestion,
    LensbaseError,
    UnknownComponent,
    UnknownRole,
    UnknownRun,
)
from lensbase.schema.layout import Layout
from lensbase.schema.role_files import write_annotation

COLUMNS = ["run", "component", "layer", "head", "role", "source", "note", "created_at"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    fabricate(tmp_path / "s.lens")
    return tmp_path / "s.lens"


def roles(store: Store) -> dict[str, str]:
    return {row["component"]: row["role"] for row in store.annotations}


def catalogues(path: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in sorted((path / "catalog").rglob("*")) if p.is_file()}


def test_an_annotation_is_seen_at_once_and_by_every_reader(path: Path) -> None:
    before = catalogues(path)
    with open_store(path) as store, open_store(path) as other:
        assert len(other.annotations) == 0
        named = store.annotate(["l2.h1", "L1.MLP", "EMBED"], role="geolocation", note="see p. 30")
        assert named == ["L2.H1", "L1.MLP", "EMBED"]
        for reader in (store, other):
            rows = reader.annotations
            assert rows.columns == COLUMNS
            assert [(row["component"], row["layer"], row["head"]) for row in rows] == [
                ("L1.MLP", 1, None),
                ("L2.H1", 2, 1),
                ("EMBED", None, None),
            ]
            assert {(r["run"], r["role"], r["source"], r["note"]) for r in rows} == {
                ("world-demo", "geolocation", "person", "see p. 30")
            }
            assert abs(rows[0]["created_at"] - datetime.now(UTC).replace(tzinfo=None)) < timedelta(
                hours=1
            )
    assert catalogues(path) == before


def test_the_latest_role_counts_and_none_takes_it_away(path: Path) -> None:
    with open_store(path) as store:
        for name in ("shape", "color", "shape", "background"):
            store.annotate("L2.H1", role=name)
            assert roles(store) == {"L2.H1": name}
        store.annotate("L1.H0", role="color")
        store.annotate("L2.H1", role=None)
        assert roles(store) == {"L1.H0": "color"}


def test_a_clock_that_was_ahead_does_not_win(path: Path) -> None:
    write_annotation(
        Layout(path),
        ["L2.H1"],
        run="world-demo",
        weights_sha256="ab" * 32,
        role="early",
        source="person",
        note=None,
        created=datetime(2999, 1, 1),
    )
    with open_store(path) as store:
        assert roles(store) == {"L2.H1": "early"}
        store.annotate("L2.H1", role="late")
        assert roles(store) == {"L2.H1": "late"}


def test_components_come_as_heads_rows_or_lists_of_them(path: Path) -> None:
    rows = Result.of({"component": ["L1.H0", "L1.H1"], "effect": np.array([0.5, 0.4])})
    with open_store(path) as store:
        head = store.run().head("L2.H0")
        store.annotate(rows, role="texture", source="rule")
        store.annotate([head, "L2.H1"], role="color")
        store.annotate(rows.df()[:1], role="shape")
        store.annotate(rows[1], role="count")
        assert roles(store) == {
            "L1.H0": "shape",
            "L1.H1": "count",
            "L2.H0": "color",
            "L2.H1": "color",
        }


def test_a_role_stands_for_its_components(path: Path) -> None:
    with open_store(path) as store:
        clip = store.run()
        with pytest.raises(UnknownRole, match=r"its roles: none. store.annotate\("):
            clip.ablate(role("background"))
        store.annotate(["L2.H1", "L1.H0"], role="background")
        assert str(role("background")) == "role('background')"
        assert role("background") == Role("background")
        ablated = clip.ablate(role("background")).values
        np.testing.assert_array_equal(ablated, clip.ablate(["L1.H0", "L2.H1"]).values)
        both = clip.ablate([role("background"), "L1.H1"]).values
        np.testing.assert_array_equal(both, clip.ablate(["L1.H0", "L2.H1", "L1.H1"]).values)
        with pytest.raises(UnknownRole, match=r"no component .* 'color'; its roles: background"):
            clip.ablate(role("color"))


def test_in_a_store_of_several_runs_the_run_is_named(tmp_path: Path) -> None:
    path = tmp_path / "s.lens"
    fabricate(path, runs=("one", "two"))
    with open_store(path) as store:
        with pytest.raises(AmbiguousRun):
            store.annotate("L2.H1", role="color")
        store.annotate("L2.H1", role="color", run="one")
        store.annotate("two:L2.H1", role="shape")
        assert [(row["run"], row["role"]) for row in store.annotations] == [
            ("one", "color"),
            ("two", "shape"),
        ]
        with pytest.raises(UnknownRun, match="of another run"):
            store.annotate(["one:L2.H1", "two:L2.H1"], role="shape")


@pytest.mark.parametrize(
    ("components", "name", "error", "message"),
    [
        ("L3.H0", "color", UnknownComponent, "layers are 0 to 2, its heads 0 to 1"),
        ("L2.H2", "color", UnknownComponent, "no L2.H2"),
        ("L3.MLP", "color", UnknownComponent, "no L3.MLP"),
        ("T6", "color", UnknownComponent, "image tokens 0 to 5"),
        ("head 3", "color", BadAddress, "not a component's address"),
        ("L2.H1", "Geo Location", BadName, "cannot name a role.*such as 'geo-location'"),
        ([], "color", BadQuestion, "no component"),
        (7, "color", BadAddress, "7 names no component"),
        ("attn[-1:]", "color", BadAddress, "which only ablate= takes"),
    ],
)
def test_what_cannot_be_annotated(
    path: Path, components: object, name: str, error: type[Exception], message: str
) -> None:
    with open_store(path) as store:
        with pytest.raises(error, match=message):
            store.annotate(components, role=name)
        assert len(store.annotations) == 0


@pytest.mark.parametrize(
    ("said", "error"),
    [
        ({"role": 3}, BadName),
        ({"role": Role("color")}, BadName),
        ({"role": "\ud800"}, BadName),
        ({"role": b"color"}, BadName),
        ({"note": 3}, BadQuestion),
        ({"note": "a\ud800"}, BadQuestion),
        ({"source": None}, BadQuestion),
        ({"source": 3}, BadQuestion),
        ({"source": "\udcff"}, BadQuestion),
        ({"components": "L2.H1\ud800"}, BadAddress),
        ({"components": "\ud800:L2.H1"}, LensbaseError),
    ],
)
def test_what_cannot_be_said(path: Path, said: dict[str, Any], error: type[Exception]) -> None:
    asked: dict[str, Any] = {"components": "L2.H1", "role": "color"} | said
    with open_store(path) as store:
        with pytest.raises(error) as raised:
            store.annotate(asked.pop("components"), **asked)
        str(raised.value).encode()
        assert len(store.annotations) == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ["L2.H1", "--role", "\udcff"],
        ["L2.H1", "--role", "color", "--note", "\udcff"],
        ["L2.H1", "--role", "color", "--source", "\udcff"],
        ["L2.H\udcff", "--role", "color"],
    ],
)
def test_broken_bytes_on_the_command_line_are_named(path: Path, arguments: list[str]) -> None:
    refused = invoke("annotate", path, *arguments)
    assert isinstance(refused.exception, SystemExit)
    assert "\\udcff" in refused.stderr


def test_where_it_cannot_be_kept_it_is_refused(path: Path) -> None:
    # A file where the folder would be: root may write to folders that are read-only.
    (path / "derived").write_text("")
    with open_store(path) as store:
        with pytest.raises(AnnotationNotKept, match=r"cannot be written to. `lensbase copy"):
            store.annotate("L2.H1", role="color")
        assert len(store.annotations) == 0


# Keeping


def test_commands_annotate_list_and_compact(path: Path) -> None:
    done = invoke("annotate", path, "L2.H1", "L1.H0", "--role", "color", "--note", "mine")
    assert (done.exit_code, done.stdout) == (0, "L2.H1, L1.H0: annotated as color.\n")
    rows = json.loads(invoke("annotations", path, "--json").stdout)
    assert [(row["component"], row["note"]) for row in rows] == [
        ("L1.H0", "mine"),
        ("L2.H1", "mine"),
    ]
    gone = invoke("annotate", path, "L2.H1", "--remove").stdout
    assert gone == "L2.H1: has no role now (was color).\n"
    told = invoke("compact", path).stdout
    assert "Took 0 TEXTSPANs, 0 layers of neurons' codes and 2 annotations" in told
    with open_store(path) as store:
        assert roles(store) == {"L1.H0": "color"}
    refused = invoke("annotate", path, "L2.H1")
    assert refused.exit_code == 2
    assert "--role" in refused.stderr
