"""Sources that hold images themselves: Parquet, WebDataset shards, saved Hugging Face sets."""

from __future__ import annotations

import errno
import io
import os
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pets import IMAGES, KEYS, LABELS, check, column, contents, write, write_pets

from lensbase.ingest.images import decode
from lensbase.ingest.sources import open_source
from lensbase.schema.errors import (
    AmbiguousSource,
    DuplicateKeys,
    ManifestColumnMissing,
    SourceNotFound,
    SourceUnreadable,
    UnknownSource,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_pets(tmp_path / "pets")


# Parquet with image bytes


def parquet(file: Path, rows: slice, *, group: int = 2, **columns: Any) -> Path:
    table = pa.table({"image": IMAGES[rows], "label": LABELS[rows], **columns})
    pq.write_table(table, file, row_group_size=group)
    return file


@pytest.mark.parametrize("group", [1, 2, 4, 100])
def test_parquet_with_bytes(tmp_path: Path, group: int) -> None:
    path = parquet(tmp_path / "pets.parquet", slice(None), group=group, path=KEYS, n=range(6))
    source = open_source(path)
    check(source, "parquet", KEYS, LABELS)
    assert source.root == str(path)
    assert column(source, "n") == list(range(6))
    assert "image" not in source.table().column_names


@pytest.mark.parametrize("images", ["", "part-{0..1}.parquet", "*.parquet", "part-{0,1}.parquet"])
def test_parquet_in_several_files(tmp_path: Path, images: str) -> None:
    parquet(tmp_path / "part-0.parquet", slice(0, 4), n=range(4))
    parquet(tmp_path / "part-1.parquet", slice(4, 6), n=range(4, 6))
    source = open_source(f"{tmp_path}/{images}" if images else tmp_path)
    keys = [f"part-0/{i}" for i in range(4)] + ["part-1/0", "part-1/1"]
    check(source, "parquet", keys, LABELS)
    assert column(source, "n") == list(range(6))


def test_parquet_as_hugging_face_writes_it(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog", "emu"])}
    )
    names = ["cat", "dog", "emu"]
    for own_paths in (True, False):
        rows = {
            "image": [
                {"bytes": data, "path": KEYS[i] if own_paths else "image.png"}
                for i, data in enumerate(IMAGES)
            ],
            "label": [names.index(label) for label in LABELS],
        }
        path = tmp_path / f"pets-{own_paths}.parquet"
        datasets.Dataset.from_dict(rows, features=features).to_parquet(path)
        keys = KEYS if own_paths else [f"pets-False/{i}" for i in range(6)]
        check(open_source(path), "parquet", keys, LABELS)


def test_parquet_reads_large_row_groups_in_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lensbase.ingest.sources import parquet as module

    monkeypatch.setattr(module, "CACHED_BYTES", 0)
    data = [bytes([i % 256]) * (i % 50) + b"end" for i in range(1000)]
    pq.write_table(pa.table({"image": data}), tmp_path / "many.parquet", row_group_size=700)
    source = open_source(tmp_path / "many.parquet")
    for row in [0, 1, 63, 64, 65, 699, 700, 701, 999, 3, 640, 2, 999]:
        assert source.read(row) == data[row]
    assert contents(source) == data


def test_parquet_rows_without_bytes_are_rejected_rows(tmp_path: Path) -> None:
    image = pa.array([IMAGES[0], None, IMAGES[2]], pa.binary())
    pq.write_table(pa.table({"image": image}), tmp_path / "a.parquet")
    source = open_source(tmp_path / "a.parquet")
    with pytest.raises(OSError, match="no bytes in this row") as caught:
        source.read(1)
    assert caught.value.errno == errno.ENODATA
    assert source.read(2) == IMAGES[2]


def test_parquet_damaged_after_its_footer_was_read(tmp_path: Path) -> None:
    path = parquet(tmp_path / "pets.parquet", slice(None), group=3)
    source = open_source(path)
    data = bytearray(path.read_bytes())
    start = pq.ParquetFile(path).metadata.row_group(1).column(0).dictionary_page_offset
    start = start or pq.ParquetFile(path).metadata.row_group(1).column(0).data_page_offset
    data[start : start + 40] = b"\xff" * 40
    path.write_bytes(data)
    assert source.read(0) == IMAGES[0]
    with pytest.raises(OSError, match="row group 1 is damaged"):
        source.read(3)
    assert source.read(1) == IMAGES[1]


def test_parquet_with_several_columns_of_bytes(tmp_path: Path) -> None:
    table = pa.table({"mask": [b"m"], "photo": [IMAGES[0]]})
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(AmbiguousSource, match=r"several columns of bytes \(mask, photo\)"):
        open_source(tmp_path / "a.parquet")
    pq.write_table(table.rename_columns(["mask", "Image"]), tmp_path / "a.parquet")
    source = open_source(tmp_path / "a.parquet")
    check(source, "parquet", ["a/0"], [None])
    assert source.table().column_names == ["key", "label", "subgroup"]


def test_cifar10(cifar10: Path) -> None:
    source = open_source(cifar10)
    assert (source.kind, source.table().num_rows) == ("parquet", 10_000)
    assert column(source, "key")[0] == "test/airplane/0000.jpg"
    labels = column(source, "label")
    assert {label: labels.count(label) for label in set(labels)} == dict.fromkeys(set(labels), 1000)
    assert len(set(labels)) == 10
    image = decode(source.read(9_999))
    assert image.size == (32, 32)


# WebDataset


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Three shards of two samples each, written by the webdataset library."""
    wds = pytest.importorskip("webdataset")
    folder = tmp_path / "shards"
    folder.mkdir()
    with wds.ShardWriter(f"{folder}/pets-%02d.tar", maxcount=2, verbose=0) as sink:
        for i, (data, label) in enumerate(zip(IMAGES, LABELS, strict=True)):
            about = {"width": 4, "group": f"g{i % 2}", "tags": [label, i], "score": i / 2}
            sample = {"__key__": f"a{i:03}", "png": data, "cls": label, "json": about}
            sink.write({**sample, "txt": f"a {label}"})
    return folder


SHARD_KEYS = [f"pets-{i // 2:02}/a{i:03}" for i in range(6)]


@pytest.mark.parametrize("images", ["", "pets-{00..02}.tar", "pets-*.tar"])
def test_webdataset(shards: Path, images: str) -> None:
    source = open_source(f"{shards}/{images}" if images else shards)
    check(source, "webdataset", SHARD_KEYS, LABELS)
    assert source.root == str(shards)
    assert column(source, "text") == [f"a {label}" for label in LABELS]
    assert column(source, "subgroup") == ["g0", "g1"] * 3
    assert column(source, "score") == [i / 2 for i in range(6)]
    assert column(source, "tags")[0] == '["cat", 0]'


def test_webdataset_agrees_with_its_library(shards: Path) -> None:
    wds = pytest.importorskip("webdataset")
    names = [str(path) for path in sorted(shards.iterdir())]
    samples = list(wds.WebDataset(names, shardshuffle=False))
    source = open_source(names)
    assert contents(source) == [sample["png"] for sample in samples]
    assert column(source, "label") == [sample["cls"].decode() for sample in samples]


def test_one_shard(shards: Path) -> None:
    check(open_source(shards / "pets-00.tar"), "webdataset", SHARD_KEYS[:2], LABELS[:2])


def test_missing_shards_are_named(shards: Path) -> None:
    with pytest.raises(SourceNotFound, match=r"1 of 4 files are not there: .*pets-03\.tar"):
        open_source(f"{shards}/pets-{{00..03}}.tar")


def tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as file:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return path


def test_webdataset_names_and_companions(tmp_path: Path) -> None:
    long = "deep/" * 60 + "x"
    members = {
        "./a/1.PNG": IMAGES[0],
        "./a/1.json": b'{"label": 4, "mixed": 1}',
        "a/2.depth.png": IMAGES[1],
        "a/2.json": b'{"mixed": "two"}',
        "a/2.npy": b"ignored",
        "README": b"no ending",
        "only-text.txt": b"no image",
        f"{long}.jpg": IMAGES[2],
    }
    source = open_source(tar(tmp_path / "t.tar", members))
    check(source, "webdataset", ["t/a/1", "t/a/2", f"t/{long}"], ["4", None, None])
    assert column(source, "mixed") == ["1", "two", None]


def test_webdataset_damage_is_named(tmp_path: Path, shards: Path) -> None:
    whole = (shards / "pets-00.tar").read_bytes()
    cut = write(tmp_path / "cut.tar", whole[:700])
    with pytest.raises(SourceUnreadable, match=r"cannot read the shard .*cut\.tar"):
        open_source(cut)
    with pytest.raises(UnknownSource, match="unpack it first"):
        open_source(write(tmp_path / "a.tar.gz", b"\x1f\x8b"))
    with pytest.raises(SourceUnreadable, match=r"cannot read 1\.json of .*j\.tar as JSON"):
        open_source(tar(tmp_path / "j.tar", {"1.png": IMAGES[0], "1.json": b"{"}))
    twice = {"1.png": IMAGES[0], "2.png": IMAGES[1]}
    path = tar(tmp_path / "twice.tar", twice)
    with tarfile.open(path, "a") as file:
        info = tarfile.TarInfo("1.png")
        info.size = len(IMAGES[0])
        file.addfile(info, io.BytesIO(IMAGES[0]))
    with pytest.raises(DuplicateKeys, match=r"twice/1 \(2 times\)"):
        open_source(path)


def test_a_shard_cut_after_it_was_indexed(shards: Path) -> None:
    source = open_source(shards / "pets-00.tar")
    os.truncate(shards / "pets-00.tar", 530)
    with pytest.raises(OSError, match=r"ends .* bytes too soon"):
        source.read(0)


# Hugging Face


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "label": datasets.ClassLabel(names=["cat", "dog", "emu"]),
            "weight": datasets.Value("float32"),
        }
    )
    rows = {
        "image": [{"bytes": data, "path": None} for data in IMAGES],
        "label": [["cat", "dog", "emu"].index(label) for label in LABELS],
        "weight": [i / 2 for i in range(6)],
    }
    data = datasets.Dataset.from_dict(rows, features=features)
    splits = datasets.DatasetDict({"train": data.select([0, 1]), "test": data})
    splits.save_to_disk(tmp_path / "saved")
    datasets.DatasetDict({"test": data}).save_to_disk(tmp_path / "one")
    # `flatten_indices` at saving is what makes shuffled sets come in their new order.
    data.select([5, 4, 3]).save_to_disk(tmp_path / "reversed", num_shards=2)
    return tmp_path


def test_hugging_face(saved: Path) -> None:
    numbers = [str(i) for i in range(6)]
    for path in (saved / "saved" / "test", saved / "one"):
        source = open_source(path)
        check(source, "huggingface", numbers, LABELS)
        assert column(source, "weight") == [i / 2 for i in range(6)]
    back = open_source(saved / "reversed")
    assert contents(back) == IMAGES[5:2:-1]
    assert column(back, "label") == ["emu", "dog", "dog"]


def test_hugging_face_splits_are_named(saved: Path) -> None:
    with pytest.raises(AmbiguousSource, match=r"give one of them: .*saved/train, .*saved/test"):
        open_source(saved / "saved")


def test_hugging_face_images_with_paths(folder: Path) -> None:
    datasets = pytest.importorskip("datasets")
    files = [str(folder / key) for key in KEYS[:2]]
    data = datasets.Dataset.from_dict({"photo": files, "n": [1, 2]})
    data.cast_column("photo", datasets.Image()).save_to_disk(folder.parent / "a")
    source = open_source(folder.parent / "a")
    assert contents(source) == IMAGES[:2]
    assert column(source, "n") == [1, 2]


def test_hugging_face_without_images_or_library(
    tmp_path: Path, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_dict({"text": ["a"]}).save_to_disk(tmp_path / "text")
    with pytest.raises(ManifestColumnMissing, match="no column for images: it has text"):
        open_source(tmp_path / "text")
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(ImportError, match=r"pip install 'lensbase\[datasets\]'"):
        open_source(saved / "one")
