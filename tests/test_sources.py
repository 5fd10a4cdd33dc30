"""Sources: every kind gives the same images, in one order, with labels, keys and columns."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pets import IMAGES, KEYS, LABELS, check, column, contents, write, write_pets

from lensbase.ingest.sources import open_source
from lensbase.schema.errors import (
    BadManifest,
    BadWhere,
    DuplicateKeys,
    LensbaseError,
    ManifestColumnMissing,
    NoImages,
    SourceNotFound,
    SourceUnreadable,
    UnknownSource,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_pets(tmp_path / "pets")


# Folders


def test_folder_names_classes_by_its_subfolders(folder: Path) -> None:
    source = open_source(folder)
    check(source, "folder", KEYS, LABELS)
    assert source.root == str(folder)
    check(open_source(str(folder)), "folder", KEYS, LABELS)


def test_folder_order_is_that_of_the_bytes(tmp_path: Path) -> None:
    names = ["b.png", "a.png", "B.png", "é.png", "a/z.png", "a.b/c.png", "Z.JPEG", "ab.png"]
    for name in names:
        write(tmp_path / name, IMAGES[0])
    source = open_source(tmp_path)
    assert column(source, "key") == sorted(names, key=str.encode)
    expected = {"a/z.png": "a", "a.b/c.png": "a.b"}
    assert column(source, "label") == [expected.get(key) for key in column(source, "key")]


def test_folder_skips_hidden_and_other_files(folder: Path) -> None:
    for name in [".hidden.png", ".git/a.png", "cat/._1.png", "notes.txt", "cat/a.npy"]:
        write(folder / name, IMAGES[0])
    os.mkfifo(folder / "pipe.png")
    (folder / "folder.png").mkdir()
    assert column(open_source(folder), "key") == KEYS


def test_folder_survives_loops_and_links(folder: Path) -> None:
    (folder / "cat" / "up").symlink_to(folder)
    (folder / "a-link").symlink_to(folder / "dog")
    outside = folder.parent / "outside"
    write(outside / "7.png", IMAGES[0])
    (folder / "far").symlink_to(outside)
    (folder / "far-too").symlink_to(outside)
    (folder / "one.png").symlink_to(outside / "7.png")
    (folder / "gone.png").symlink_to(folder / "nowhere.png")
    source = open_source(folder)
    # What lies in the tree keeps its own name, what is linked twice is read once.
    assert column(source, "key") == sorted([*KEYS, "far/7.png", "one.png", "gone.png"])
    with pytest.raises(FileNotFoundError):
        source.read(column(source, "key").index("gone.png"))


def test_folder_reads_names_that_are_no_unicode(tmp_path: Path) -> None:
    write(tmp_path / os.fsdecode(b"caf\xe9.png"), IMAGES[0])
    check(open_source(tmp_path), "folder", ["caf\\xe9.png"], [None])


def test_folder_without_images(tmp_path: Path) -> None:
    write(tmp_path / "notes.txt", "nothing")
    with pytest.raises(NoImages, match=r"holds no images: expected a folder .*\.png"):
        open_source(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may list every folder")
def test_folder_that_cannot_be_listed(folder: Path) -> None:
    (folder / "dog").chmod(0)
    try:
        with pytest.raises(SourceUnreadable, match=r"cannot list .*dog"):
            open_source(folder)
    finally:
        (folder / "dog").chmod(0o755)


# Lists of paths


def test_paths_keep_their_order(folder: Path) -> None:
    paths = [folder / key for key in KEYS]
    source = open_source(paths)
    check(source, "paths", KEYS, [None] * 6)
    assert source.root == str(folder)
    back = open_source([str(path) for path in reversed(paths)])
    assert column(back, "key") == KEYS[::-1]
    assert contents(back) == IMAGES[::-1]
    check(open_source(tuple(paths[:2])), "paths", ["0.png", "1.png"], [None] * 2)
    check(open_source(paths[0]), "paths", ["0.png"], [None])


def test_paths_that_are_not_there_are_found_out_when_read(folder: Path) -> None:
    source = open_source([folder / KEYS[0], folder / "gone.png", folder / "cat"])
    with pytest.raises(FileNotFoundError):
        source.read(1)
    with pytest.raises(IsADirectoryError):
        source.read(2)


def test_pipes_do_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(OSError, match="not a regular file"):
        open_source([tmp_path / "pipe.png"]).read(0)


# Manifests

CSV = (
    "path,label,group,weight,when,sure\n"
    "cat/0.png,cat,indoors,1.5,2024-05-01,true\n"
    'cat/1.png,"cat, tabby",,2,2024-05-02,false\n'
    "./dog/../dog/2.png,,outdoors,,,\n"
)


def test_csv_manifest(folder: Path) -> None:
    source = open_source(write(folder / "list.csv", CSV))
    check(source, "manifest", KEYS[:3], ["cat", "cat, tabby", None])
    assert source.root == str(folder)
    assert column(source, "subgroup") == ["indoors", None, "outdoors"]
    assert source.table().column_names[3:] == ["weight", "when", "sure"]
    assert column(source, "weight") == [1.5, 2.0, None]
    assert column(source, "sure") == [True, False, None]
    assert pa.types.is_date(source.table().schema.field("when").type)


@pytest.mark.parametrize("name", ["path", "File", "filename", "file_name", "image_path"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_csv_dialects(folder: Path, name: str, delimiter: str) -> None:
    lines = [f"\ufeff{name},Label", "cat/0.png,007", "cat/1.png,NA"]
    path = write(folder / "list.csv", "\r\n".join(line.replace(",", delimiter) for line in lines))
    # A label is text: 007 keeps its zeros, and NA may be Namibia.
    check(open_source(path), "manifest", KEYS[:2], ["007", "NA"])


def test_manifest_of_absolute_paths(folder: Path, tmp_path: Path) -> None:
    other = write(tmp_path / "other" / "x.png", IMAGES[1])
    path = write(
        folder / "list.csv", f"path\n{folder / KEYS[0]}\n{other}\n../other/../other/x.png\n"
    )
    source = open_source(path)
    assert column(source, "key") == [KEYS[0], str(other), "../other/x.png"]
    assert contents(source) == [IMAGES[0], IMAGES[1], IMAGES[1]]


def test_parquet_manifest_and_tables_in_memory(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame = pd.DataFrame(
        {"path": KEYS, "label": pd.Categorical(LABELS), "split": list("aabbab"), "n": range(6)}
    )
    frame.to_parquet(folder / "list.parquet")
    monkeypatch.chdir(folder)
    for images in (
        folder / "list.parquet",
        frame,
        pa.Table.from_pandas(frame),
        pl.from_pandas(frame),
    ):
        source = open_source(images)
        check(source, "manifest", KEYS, LABELS)
        assert column(source, "split") == list("aabbab")
        assert source.table().schema.field("n").type == pa.int64()


def test_numbers_as_labels(folder: Path) -> None:
    frame = pd.DataFrame(
        {"path": KEYS[:3], "label": [3.0, None, 10.0], "subgroup": [True, False, True]}
    )
    frame.to_parquet(folder / "list.parquet")
    source = open_source(folder / "list.parquet")
    check(source, "manifest", KEYS[:3], ["3", None, "10"])
    assert column(source, "subgroup") == ["true", "false", "true"]


def test_columns_of_one_name_in_another_case(folder: Path) -> None:
    text = "path,key,Weight,weight,group,subgroup\ncat/0.png,k,1,2,g,s\n"
    source = open_source(write(folder / "list.csv", text))
    assert source.table().to_pylist() == [
        {
            "key": "cat/0.png",
            "label": None,
            "subgroup": "s",
            "key_2": "k",
            "Weight": 1,
            "weight_2": 2,
            "group": "g",
        }
    ]


@pytest.mark.parametrize(
    ("text", "error", "match"),
    [
        ("name,label\na,b\n", ManifestColumnMissing, "it has name, label; name one of them path"),
        ("path,label\na.png,x\n,y\n", BadManifest, "has no path in row 1"),
        ("path\na.png\nb.png\na.png\n", DuplicateKeys, r"a\.png \(2 times\)"),
        ("path\na.png\n./a.png\n", DuplicateKeys, r"a\.png \(2 times\)"),
        ("path,label\na.png\n", BadManifest, "Expected 2 columns, got 1"),
        ("path,x,x\na.png,1,2\n", BadManifest, "several columns named x"),
        ("path,label\n", NoImages, "holds no images"),
        ("", BadManifest, "its first line must name the columns"),
        (b"path\n\xff\xfe.png\n", BadManifest, "cannot be read as CSV"),
    ],
)
def test_bad_manifests(
    tmp_path: Path, text: str | bytes, error: type[LensbaseError], match: str
) -> None:
    path = write(tmp_path / "list.csv", text)
    with pytest.raises(error, match=match):
        open_source(path)


def test_damaged_parquet(tmp_path: Path) -> None:
    with pytest.raises(BadManifest, match="cannot be read as Parquet"):
        open_source(write(tmp_path / "list.parquet", b"PAR1 and then nothing"))


# Selections


@pytest.mark.parametrize(
    ("where", "rows"),
    [
        ("label = 'dog'", [2, 3, 4]),
        ("weight >= 1 AND label <> 'emu'", [2, 3, 4]),
        ("weight IS NULL", [0]),
        ("\"group\" = 'b' OR path LIKE 'emu/%'", [1, 3, 5]),
        (
            "subgroup IN (SELECT subgroup FROM images GROUP BY 1 HAVING max(weight) > 2.2)",
            [1, 3, 5],
        ),
        ("regexp_matches(key, '[0-2].png')", [0, 1, 2]),
        ("row % 2 = 0", [0, 2, 4]),
    ],
)
def test_where(folder: Path, where: str, rows: list[int]) -> None:
    text = "path,label,group,weight,row\n" + "".join(
        f"{key},{label},{'ab'[i % 2]},{i / 2 if i else ''},{i}\n"
        for i, (key, label) in enumerate(zip(KEYS, LABELS, strict=True))
    )
    path = write(folder / "list.csv", text)
    source = open_source(path, where=where)
    assert column(source, "key") == [KEYS[row] for row in rows]
    assert contents(source) == [IMAGES[row] for row in rows]
    assert source.kind == "manifest"
    assert contents(pickle.loads(pickle.dumps(source))) == contents(source)
    first = open_source(path, where=where, limit=2)
    assert column(first, "key") == [KEYS[row] for row in rows[:2]]


def test_limit(folder: Path) -> None:
    check(open_source(folder, limit=2), "folder", KEYS[:2], LABELS[:2])
    check(open_source(folder, limit=1000), "folder", KEYS, LABELS)
    with pytest.raises(NoImages, match="give at least 1"):
        open_source(folder, limit=0)


@pytest.mark.parametrize(
    ("where", "match"),
    [
        ("labl = 'cat'", r"Referenced column \"labl\" not found"),
        ("label = ", "Parser Error"),
        ("label", "Conversion Error"),
        ("", "Parser Error"),
        ("true) OR (true", "Parser Error"),
        ("true; DROP TABLE images", "Parser Error"),
        ("count(*) > 1", "cannot contain aggregates"),
        ("EXISTS (SELECT * FROM read_text('{file}'))", "file system operations are disabled"),
        ("EXISTS (SELECT * FROM '{file}')", "Error"),
        ("EXISTS (SELECT * FROM frame)", "does not exist"),
        ("random() < 0.5", "must not be random"),
    ],
)
def test_bad_where(tmp_path: Path, where: str, match: str) -> None:
    frame = pd.DataFrame({"path": [f"{i}.png" for i in range(200)], "label": "x"})
    file = write(tmp_path / "secret.csv", "a\nb\n")
    with pytest.raises(BadWhere, match=match):
        open_source(frame, where=where.replace("{file}", str(file)))


def test_where_that_leaves_nothing(folder: Path) -> None:
    with pytest.raises(NoImages, match=r"no image of .* matches where=\"label = 'cow'\""):
        open_source(folder, where="label = 'cow'")


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(-3, 3) | st.none(), min_size=1, max_size=40), st.integers(1, 50))
def test_where_and_limit_against_python(values: list[int | None], limit: int) -> None:
    table = pa.table(
        {"path": [str(i) for i in range(len(values))], "n": pa.array(values, pa.int64())}
    )
    wanted = [str(i) for i, n in enumerate(values) if n is not None and n > 0][:limit]
    if wanted:
        assert column(open_source(table, where="n > 0", limit=limit), "key") == wanted
    else:
        with pytest.raises(NoImages):
            open_source(table, where="n > 0", limit=limit)


# What is no source


def test_what_is_no_source(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(SourceNotFound, match=r"did you mean .*pets"):
        open_source(tmp_path / "pest")
    with pytest.raises(FileNotFoundError, match="the working directory is"):
        open_source("nothing-like-this")
    for images, match in [
        (write(tmp_path / "a.doc", "x"), "expected a folder of images"),
        (write(tmp_path / "a.zip", "x"), "unpack it first"),
        ("https://example.com/a.tar", "download it"),
        ("pipe:curl x", "download it"),
        (17, "got int"),
        ([1, 2], "got list"),
        (None, "got NoneType"),
    ]:
        with pytest.raises(UnknownSource, match=match):
            open_source(images)
    with pytest.raises(NoImages, match="the list of images is empty"):
        open_source([])
    with pytest.raises(DuplicateKeys, match=r"cat/0\.png \(2 times\)"):
        open_source([folder / KEYS[0], folder / KEYS[0], folder / KEYS[2]])
