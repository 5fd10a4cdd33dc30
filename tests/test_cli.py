"""The command line: what it prints, how it fails, what it documents."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import WITHOUT_TORCH, call, invoke
from fabricated_store import MORE_TEXTS, TEXTS, Truth, fabricate
from PIL import Image
from typer.main import get_command

from lensbase.api import open_store
from lensbase.api.cli.app import app

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs" / "cli.md"
HEAD = "L2.H1"


@pytest.fixture(scope="module")
def fabricated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Truth]:
    path = tmp_path_factory.mktemp("cli") / "s.lens"
    return path, fabricate(path)


@pytest.fixture(scope="module")
def store(fabricated: tuple[Path, Truth]) -> Path:
    return fabricated[0]


def good(*arguments: object) -> str:
    result = invoke(*arguments)
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    return result.stdout


# Rows


@pytest.mark.parametrize(
    ("arguments", "ask"),
    [
        (["head", "texts", HEAD, "-m", "5"], lambda r: r.head(HEAD).textspan(m=5)),
        (
            ["head", "texts", HEAD, "--pool", "words", "--where", "label = 'odd'", "--normalize"],
            lambda r: r.head(HEAD).textspan("words", where="label = 'odd'", normalize=True),
        ),
        (
            ["head", "images", HEAD, "--text", "water", "-k", "30"],
            lambda r: r.head(HEAD).top_images("water", k=30),
        ),
        (["head", "images", HEAD, "--rank", "2"], lambda r: r.head(HEAD).top_images(rank=2)),
        (
            ["head", "nearest", HEAD, "even/004.png", "-k", "3"],
            lambda r: r.head(HEAD).nearest_images("even/004.png", k=3),
        ),
        (["head", "nearest", HEAD, "117"], lambda r: r.head(HEAD).nearest_images(117)),
    ],
)
def test_rows_are_those_of_the_api_in_every_format(
    store: Path, arguments: list[str], ask: Any
) -> None:
    command = [*arguments[:2], store, *arguments[2:]]
    with open_store(store) as opened:
        wanted = ask(opened.run())
    found = json.loads(good(*command, "--json"))
    assert found == wanted.rows()
    rows = list(csv.DictReader(io.StringIO(good(*command, "--csv"))))
    assert [list(row) for row in rows] == [wanted.columns] * len(wanted)
    assert [row["rank"] for row in rows] == [str(row["rank"]) for row in wanted.rows()]
    table = good(*command)
    name = "text" if "text" in wanted.columns else "key"
    assert all(row[name] in table for row in wanted.rows()), "a table shows every row asked for"


def test_sql_and_lists_print_rows(store: Path) -> None:
    assert json.loads(good("sql", store, "SELECT 1 AS one, NULL AS none", "--json")) == [
        {"one": 1, "none": None}
    ]
    assert good("sql", store, "SELECT 'a,b' AS x", "--csv") == '"x"\n"a,b"\n'
    assert json.loads(good("run", "list", store, "--json"))[0]["run"] == "world-demo"
    pools = {row["pool"]: row["texts"] for row in json.loads(good("pool", "list", store, "--json"))}
    assert pools == {"general": len(TEXTS), "words": len(MORE_TEXTS)}
    assert "50 more rows" in good("sql", store, "SELECT * FROM images")


def test_info_shows_cards_and_explains_the_catalogue(store: Path) -> None:
    told = good("info", store)
    assert "store" in told
    assert "run world-demo" in told
    facts = json.loads(good("info", store, "--json"))
    assert facts["runs"]["world-demo"]["default pool"] == "general"
    described = json.loads(good("info", store, "--catalog", "--json"))
    listed = {(row["relation"], row["column"]) for row in described}
    with open_store(store) as opened:
        views = opened.sql(
            "SELECT view_name, column_name FROM duckdb_views() JOIN duckdb_columns() "
            "ON table_name = view_name WHERE NOT duckdb_views.internal"
        )
    assert {(row["view_name"], row["column_name"]) for row in views} <= listed
    assert all(row["comment"] for row in described)


def test_watch_of_a_complete_run_ends_at_once(world_store: Path) -> None:
    told = good("info", world_store, "--watch").splitlines()
    assert told == ["r: 150 of 150 images (100%), 3 of 3 segments, complete"]


def test_an_address_or_run_names_the_run(tmp_path: Path) -> None:
    path = tmp_path / "two.lens"
    fabricate(path, runs=("first", "second"))
    result = invoke("head", "texts", path, HEAD)
    assert result.exit_code == 2
    assert "first, second" in result.stderr
    for arguments in ([f"second:{HEAD}"], [HEAD, "--run", "second"]):
        assert json.loads(good("head", "texts", path, *arguments, "--json"))
    assert "run second" in good("info", path, "--run", "second")


# Pictures and upkeep


def test_heatmap_writes_pictures_and_scores(
    fabricated: tuple[Path, Truth], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, truth = fabricated
    monkeypatch.chdir(tmp_path)
    told = good("image", "heatmap", store, truth.keys[3], "a red circle")
    assert "003-a-red-circle.png" in told
    assert Image.open("003-a-red-circle.png").size == (224, 224)
    good("image", "heatmap", store, truth.image_ids[3], "water", "-o", "x.npy", "--no-debias")
    good("image", "heatmap", store, 117, "top", "--head", HEAD, "-o", "y.webp")
    result = invoke("image", "heatmap", store, 117, "water", "-o", "z.xyz")
    assert (result.exit_code, "end it in .png" in result.stderr) == (2, True)


def test_verify_exits_1_with_the_way_out_and_forgets(world_store: Path, tmp_path: Path) -> None:
    path = tmp_path / "harmed.lens"
    shutil.copytree(world_store, path, symlinks=True)
    assert "nothing is wrong" in good("verify", path, "--level", "checksums", "--sample", 8)
    assert json.loads(good("verify", path, "--level", "manifests", "--json")) == []
    next(file for file in (path / "runs/r/layer/c/1").rglob("*") if file.is_file()).unlink()
    result = invoke("verify", path, "--level", "manifests")
    assert result.exit_code == 1
    assert "r, segment 1" in result.stdout
    assert "lensbase verify" in result.stdout
    result = invoke("verify", path, "--level", "manifests", "--forget", "--json")
    assert [row["segment"] for row in json.loads(result.stdout)] == [1]
    assert invoke("verify", path, "--level", "manifests").exit_code == 0
    assert "86 of 150" in good("info", path)


def test_copy_drop_and_rollback(world_store: Path, tmp_path: Path) -> None:
    path = tmp_path / "copy.lens"
    good("copy", world_store, path, "--run", "r", "--without", "token,thumbnail")
    with open_store(path) as opened:
        assert opened.runs.rows()[0]["tokens"] is False
    assert "lensbase rollback" in good("run", "drop", path, "r")
    assert json.loads(good("run", "list", path, "--json")) == []
    assert "generation" in good("rollback", path)
    assert [row["run"] for row in json.loads(good("run", "list", path, "--json"))] == ["r"]
    result = invoke("copy", world_store, path)
    assert (result.exit_code, "name a new folder" in result.stderr) == (2, True)


def test_columns_are_added(world_store: Path, tmp_path: Path) -> None:
    path, table = tmp_path / "more.lens", tmp_path / "more.csv"
    shutil.copytree(world_store, path, symlinks=True)
    table.write_text("key,mood\nimages/00003.png,good\nnope.png,bad\n", encoding="utf-8")
    told = good("columns", "add", path, table)
    assert "Added columns to 1 image;" in told
    assert "1 row found no image: nope.png" in told
    assert "149 images of the store got no row" in told
    query = "SELECT key FROM images WHERE mood = 'good'"
    assert json.loads(good("sql", path, query, "--json")) == [{"key": "images/00003.png"}]


def test_finalize_completes_what_was_stopped_at_its_end(world_store: Path, tmp_path: Path) -> None:
    path = tmp_path / "late.lens"
    shutil.copytree(world_store, path, symlinks=True)
    good("rollback", path)
    assert json.loads(good("run", "list", path, "--json"))[0]["status"] == "ingesting"
    assert "complete" in good("finalize", path)
    with open_store(path) as opened, open_store(world_store) as whole:
        assert opened.run().heads.rows() == whole.run().heads.rows()


def test_model_list_names_what_ingest_takes() -> None:
    rows = {row["model"]: row for row in json.loads(good("model", "list", "--json"))}
    assert next(iter(rows)) == "world"
    assert rows["ViT-B-16"]["layers"] == rows["ViT-B-16"]["heads"] == 12
    assert "laion2b_s34b_b88k" in rows["ViT-B-16"]["pretrained"]
    assert rows["ViT-B-32-quickgelu"]["activation"] == "quickgelu"
    assert not rows.keys() & {"RN50", "coca_ViT-B-32", "ViT-B-16-SigLIP", "convnext_base"}
    few = json.loads(good("model", "list", "vit-b-16", "--json"))
    assert {row["model"] for row in few} == {name for name in rows if "vit-b-16" in name.lower()}


# Failures


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["info", "NOWHERE"], "lensbase ingest"),
        (["sql", "STORE", "DROP TABLE run"], "read-only"),
        (["sql", "STORE", "SELECT\n\nfoo FROM images"], "foo"),
        (["head", "texts", "STORE", "L9.H1"], "no head L9.H1"),
        (["head", "texts", "STORE", "L0.H1"], "--heads"),
        (["head", "texts", "STORE", "nonsense"], "L22.H8"),
        (["head", "texts", "STORE", HEAD, "--pool", "none"], "lensbase pool add"),
        (["head", "texts", "STORE", HEAD, "--run", "none"], "none"),
        (["head", "images", "STORE", HEAD], "give either a text or rank="),
        (["head", "images", "STORE", HEAD, "--text", "unheard of"], "lensbase pool add"),
        (["head", "nearest", "STORE", HEAD, "nowhere.png"], "nowhere.png"),
        (["image", "heatmap", "STORE", "105", "water", "--head", "L1.H0"], "--head-tokens"),
        (["verify", "STORE", "--level", "deep"], "manifests"),
        (["rollback", "STORE", "--generation", "77"], "not kept"),
        (["run", "drop", "STORE", "none"], "world-demo"),
        (["columns", "add", "STORE", "NOWHERE"], "NOWHERE"),
        (["pool", "add", "STORE", "NOWHERE", "--name", "x"], "one text a line"),
        (["pool", "add", "STORE", __file__, "--name", "Bad Name"], "bad-name"),
        (["pool", "add", "STORE", __file__, "--name", "new"], "module in memory"),
        (["info", "STORE", "--json", "--csv", "--catalog"], "exclude each other"),
        (["ingest", "NEW", "NOWHERE", "--model", "world"], "NOWHERE"),
        (["ingest", "NEW", "STORE", "--model", "world", "--part", "3"], "3/16"),
        (["ingest", "NEW", str(ROOT / "tests"), "--model", "world"], "holds no images"),
        (["ingest", "NEW", "RAW", "--model", "ViT-B-33"], "ViT-B-32"),
        (["ingest", "NEW", "RAW", "--model", "world", "--heads", "9"], "last:4"),
        (["ingest", "NEW", "RAW", "--model", "world", "--devices", "cuda:99"], "cpu"),
    ],
)
def test_errors_are_one_line_and_exit_2(
    store: Path, tmp_path: Path, arguments: list[str], says: str
) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    Image.new("RGB", (8, 8)).save(raw / "a.png")
    places = {"STORE": store, "NEW": tmp_path / "n.lens", "RAW": raw}
    result = invoke(*(places.get(argument, argument) for argument in arguments))
    assert result.exit_code == 2
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith("Error: ")
    assert says in result.stderr


def test_a_failing_process_exits_2_without_a_traceback(tmp_path: Path) -> None:
    done = call("info", tmp_path / "none.lens")
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1


def test_a_full_disk_is_one_line(world_store: Path, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    script = f'mount -t tmpfs -o size=300k tmpfs {small} && exec "$@"'
    copying = "import sys; from lensbase.api.cli import main; main()"
    isolated = ["unshare", "--mount", "--map-root-user", "sh", "-c"]
    if subprocess.run(
        [*isolated, script, "sh", "true"], check=False, capture_output=True
    ).returncode:
        pytest.skip("no disk of a few kilobytes can be mounted here")
    command = [*isolated, script, "sh", sys.executable, "-c", copying]
    done = subprocess.run(
        [*command, "copy", str(world_store), str(small / "c.lens")],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("Error: the disk is full.")
    assert len(done.stderr.splitlines()) == 1


def test_a_closed_pipe_ends_quietly(store: Path) -> None:
    program = f"{sys.executable} -c 'from lensbase.api.cli import main; main()'"
    query = "SELECT * FROM range(1000000)"
    done = subprocess.run(
        ["bash", "-c", f"{program} sql {store} '{query}' --csv | head -n 1"],
        check=False,
        capture_output=True,
        text=True,
    )
    assert (done.stdout, done.stderr) == ('"range"\n', "")


# Without torch, and fast


@pytest.mark.parametrize(
    "arguments",
    [
        ["info"],
        ["sql", "SELECT * FROM heads"],
        ["head", "texts", HEAD],
        ["head", "images", HEAD, "--text", "water"],
        ["verify"],
    ],
)
def test_questions_need_no_torch(world_store: Path, store: Path, arguments: list[str]) -> None:
    at = 2 if arguments[0] == "head" else 1
    asked = world_store if arguments[0] == "verify" else store
    done = call(*arguments[:at], asked, *arguments[at:], program=WITHOUT_TORCH)
    assert (done.returncode, done.stderr) == (0, "")


def test_where_torch_is_missing_ingest_says_what_to_install(tmp_path: Path) -> None:
    done = call("ingest", tmp_path / "n.lens", ".", "--model", "world", program=WITHOUT_TORCH)
    assert done.returncode == 2
    assert 'pip install "lensbase[ingest]"' in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_help_takes_under_half_a_second() -> None:
    # The best of five by the processor's time: on shared cores, the clock tells of the others.
    seconds: list[float] = []
    for _ in range(5):
        before = os.times()
        assert call("--help").returncode == 0
        after = os.times()
        spent = after.children_user + after.children_system
        seconds.append(spent - before.children_user - before.children_system)
    assert 0 < min(seconds) < 0.5, f"best of five: {min(seconds):.3f} s"


# Documentation


def commands() -> Iterator[tuple[str, Any]]:
    pending: list[tuple[str, Any]] = [("lensbase", get_command(app))]
    while pending:
        name, command = pending.pop()
        if hasattr(command, "commands"):
            pending += [(f"{name} {sub}", one) for sub, one in command.commands.items()]
        else:
            yield name, command


def sections() -> dict[str, str]:
    """The page's sections by the words before the first argument in their heading."""
    parts = re.split(r"^#+ `(.+)`$", DOCS.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    headings = (heading.split() for heading in parts[::2])
    names = (" ".join(word for word in words if word.islower()) for words in headings)
    return dict(zip(names, parts[1::2], strict=True))


def test_every_command_and_option_is_documented() -> None:
    documented, known = sections(), dict(commands())
    assert documented.keys() == known.keys()
    missing = [
        f"{name} {option}"
        for name, command in known.items()
        for parameter in command.params
        for option in (*parameter.opts, *parameter.secondary_opts)
        if option.startswith("-") and f"`{option}`" not in documented[name]
    ]
    assert not missing, "docs/cli.md does not name these options"


def test_no_option_is_documented_that_is_not_there() -> None:
    known = dict(commands())
    unknown = [
        f"{name} {option}"
        for name, text in sections().items()
        for line in text.splitlines()
        if line.startswith("| `-")
        for option in re.findall(r"`(--?[a-z-]+)`", line.split("|")[1])
        if option not in {o for p in known[name].params for o in (*p.opts, *p.secondary_opts)}
    ]
    assert not unknown, "docs/cli.md names options that do not exist"


def test_headings_name_the_arguments_in_order() -> None:
    text = DOCS.read_text(encoding="utf-8")
    for name, command in commands():
        arguments = [p.metavar for p in command.params if not p.opts[0].startswith("-")]
        assert f"### `{' '.join([name, *arguments])}`" in text
