"""Results: rows that print, iterate, plot, and go to pandas, polars, Arrow, torch and files."""

from __future__ import annotations

import csv
import json
import math
from datetime import datetime
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fabricated_store import webp_of

from lensbase.api import Result
from lensbase.schema.errors import BadQuestion, UnknownColumn


@pytest.fixture
def result() -> Result:
    return Result.of(
        {
            "image_id": np.array([3, 1, 2]),
            "key": ["a,b.png", "c\n[bold]d", None],
            "score": np.array([0.5, -1.25, math.nan], np.float32),
            "texts": [["x", "y"], [], None],
        },
        note="a note",
    )


def test_rows_columns_and_slices(result: Result) -> None:
    assert len(result) == 3
    assert result.columns == ["image_id", "key", "score", "texts"]
    assert result[1] == {"image_id": 1, "key": "c\n[bold]d", "score": -1.25, "texts": []}
    assert result[-1]["image_id"] == 2
    assert result["image_id"].tolist() == [3, 1, 2]
    assert [row["image_id"] for row in result] == [3, 1, 2]
    assert [row["image_id"] for row in result[::-1]] == [2, 1, 3]
    assert len(result[5:2]) == 0
    with pytest.raises(UnknownColumn, match="image_id, key"):
        result["nope"]
    with pytest.raises(IndexError):
        result[3]


def test_other_libraries_take_results(result: Result) -> None:
    assert isinstance(result.df(), pd.DataFrame)
    assert result.df()["image_id"].tolist() == [3, 1, 2]
    assert isinstance(result.pl(), pl.DataFrame)
    assert result.pl()["key"].to_list() == ["a,b.png", "c\n[bold]d", None]
    assert pa.table(result).num_rows == 3  # through __arrow_c_stream__
    assert pl.DataFrame(result).shape == (3, 4)


def test_torch_takes_columns(result: Result) -> None:
    torch = pytest.importorskip("torch")
    assert result.torch("image_id").dtype == torch.int64
    assert result.torch(["image_id", "score"])[0].tolist() == [3, 0.5]
    assert result.torch().shape == (3, 2)
    with pytest.raises(BadQuestion, match="image_id, score"):
        result.torch("key")


def test_results_are_saved_by_suffix(result: Result, tmp_path: Path) -> None:
    saved = pq.read_table(result.save(tmp_path / "a.parquet")).drop_columns("score")
    assert saved.to_pylist() == result.arrow().drop_columns("score").to_pylist()
    rows = list(csv.DictReader(result.save(tmp_path / "a.csv").open(newline="")))
    assert [row["key"] for row in rows] == ["a,b.png", "c\n[bold]d", ""]
    assert json.loads(rows[0]["texts"]) == ["x", "y"]
    saved = json.loads(result.save(tmp_path / "a.json").read_text())
    assert saved[2] == {"image_id": 2, "key": None, "score": None, "texts": None}
    assert saved[0]["score"] == 0.5
    with pytest.raises(BadQuestion, match=r"parquet, \.csv or \.json"):
        result.save(tmp_path / "a.xlsx")


def test_json_has_no_types_of_its_own(tmp_path: Path) -> None:
    odd = Result.of({"when": [datetime(2026, 1, 2, 3, 4)], "raw": [b"\x00\xff"]})
    saved = json.loads(odd.save(tmp_path / "odd.json").read_text())
    assert saved == [{"when": "2026-01-02T03:04:00", "raw": "AP8="}]


def test_a_result_prints_as_a_plain_table(result: Result) -> None:
    printed = str(result)
    assert printed.splitlines()[0].split() == ["image_id", "key", "score", "texts"]
    assert "c [bold]d" in printed  # neither a line break nor markup
    assert "a note" in printed
    assert "\x1b" not in printed
    assert repr(result) == printed


def test_long_and_wide_results_say_what_is_left_out() -> None:
    long = Result.of({"x": np.arange(57)})
    assert "37 more rows" in str(long)
    wide = Result.of({f"column_{place}": ["some value"] * 2 for place in range(40)})
    assert max(map(len, str(wide).splitlines()[:4])) <= 160
    assert "further columns: column_" in str(wide)
    one = Result.of({f"column_{place}": ["some value"] for place in range(40)})
    assert len(str(one).splitlines()) == 40
    assert "no rows" in str(Result.of({"x": np.empty(0)}))


def test_notebooks_show_thumbnails_and_no_markup_of_the_data() -> None:
    asked: list[list[int]] = []

    def thumbnails(image_ids: object) -> list[bytes | None]:
        asked.append(list(image_ids))  # type: ignore[call-overload]
        return [webp_of(1), None]

    shown = Result.of(
        {"image_id": [4, 9], "key": ["<script>", "b"]}, thumbnails=thumbnails
    )._repr_html_()
    assert asked == [[4, 9]]
    assert shown.count("data:image/webp;base64,") == 1
    assert "<script>" not in shown
    assert "&lt;script&gt;" in shown


def test_results_plot_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPLBACKEND", "agg")
    import matplotlib.pyplot as plt
    from matplotlib.patches import Rectangle

    bars = Result.of({"rank": [1, 2], "text": ["a", "b"], "explained_variance": [0.5, 0.25]})
    axes = bars.plot()
    assert [bar.get_width() for bar in axes.patches if isinstance(bar, Rectangle)] == [0.5, 0.25]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["a", "b"]
    strip = Result.of(
        {"image_id": [4, 9], "score": [0.5, 0.25]}, thumbnails=lambda ids: [webp_of(1)] * len(ids)
    ).plot()
    assert len(strip.images) == 2
    with pytest.raises(BadQuestion, match="nothing to plot"):
        Result.of({"text": ["a"]}).plot()
    plt.close("all")


def test_decimals_are_numbers(tmp_path: Path) -> None:
    """SQL takes `0.5` for a decimal; JSON has numbers for it, and so has torch."""
    torch = pytest.importorskip("torch")
    half, wide = Decimal("0.50"), Decimal(10**30)
    found = Result(pa.table({"half": [half, None], "wide": [wide, wide], "yes": [True, None]}))
    rows = json.loads(found.save(tmp_path / "x.json").read_text())
    assert rows[0] == {"half": 0.5, "wide": 10**30, "yes": True}
    assert rows[1] == {"half": None, "wide": 10**30, "yes": None}
    assert found.torch("half").dtype == torch.float64
    assert found.torch()[0].tolist() == pytest.approx([0.5, 1e30, 1.0])
    assert found.torch()[1].isnan().tolist() == [True, False, True]
