"""What answers look like: each shows itself in a notebook, and loads only what is asked for."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fabricated_store import fabricate

from lensbase.api import Store, Values, open_store

HEAVY = {"torch", "pandas", "polars", "matplotlib"}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("small") / "x.lens"
    fabricate(root)
    return root


@pytest.fixture(scope="module")
def store(world_store: Path) -> Iterator[Store]:
    with open_store(world_store) as opened:
        yield opened


def heavy_after(small: Path, code: str) -> set[str]:
    """The heavy libraries that are loaded after a piece of code about `result` and `values`."""
    begin = (
        "import sys; from lensbase.api import open_store; "
        f"store = open_store({str(small)!r}); result = store.sql('FROM images'); "
        "values = store.run().representation(); "
    )
    say = f"\nprint(*(name for name in {sorted(HEAVY)} if name in sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", begin + code + say], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


@pytest.mark.parametrize(
    ("code", "loaded"),
    [
        ("str(result); result._repr_html_(); repr(values); values._repr_html_()", set()),
        ("result.rows(); result.arrow(); values.rows(); values.arrow()", set()),
        ("result.save(str(store.path) + '.csv'); values.save(str(store.path) + '.parquet')", set()),
        (
            "store.sql(\"SELECT head_score(run, image_id, 'L2.H1', 'sand') FROM images\")",
            set(),
        ),
        ("result.df(); values.df()", {"pandas"}),
        ("result.pl(); values.pl()", {"polars"}),
    ],
)
def test_libraries_are_loaded_when_asked_for(small: Path, code: str, loaded: set[str]) -> None:
    assert heavy_after(small, code) == loaded


@pytest.mark.parametrize("name", ["pandas", "polars", "torch", "matplotlib"])
def test_a_missing_library_is_named_with_its_command(
    small: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_store(small) as store:
        result, values = store.run().heads, store.run().representation()
        monkeypatch.setitem(sys.modules, name, None)
        method = {"pandas": "df", "polars": "pl", "torch": "torch", "matplotlib": "plot"}[name]
        for one in (result, values):
            with pytest.raises(ImportError, match=f"{name} is not installed; `pip install {name}`"):
                getattr(one, method)()


def shown(answer: Any) -> str:
    """What a notebook shows of an answer: HTML where there is any, else the kind of picture."""
    if hasattr(answer, "_repr_html_"):
        return answer._repr_html_()
    picture = answer._repr_png_()
    assert picture.startswith(b"\x89PNG")
    return "PNG"


def test_every_kind_of_answer_shows_itself(store: Store) -> None:
    """Results, values, cards, accuracies, curves, heatmaps and grids, segmentations: 16 of them."""
    clip = store.run()
    image, head = clip.image(17), clip.head("L7.H3")
    shapes = clip.classifier(["circle", "square"], templates=["a {}"])
    where = "label IN ('circle', 'square')"
    pictures = [
        head.top_images("a red circle", k=3),
        head.nearest_images(to=17, k=3),
        head.contribution([3, 4]),
        clip.layer_effects([3, 4]),
        clip.images,
    ]
    for answer in pictures:
        assert "data:image/webp;base64," in shown(answer)
    tables = [
        store.info(),
        clip,
        store,
        clip.heads,
        head.textspan(m=3),
        clip.encode_text(["a red circle"]),
        clip.accuracy(shapes, where=where, by="label", ablate=["L7.H3"]),
        clip.ablation_curve(shapes, where=where),
    ]
    for answer in tables:
        assert shown(answer).count("<table") >= 1
    assert shown(image.heatmap("a red circle")) == "PNG"
    assert shown(image.heatmaps(["a red circle", "two objects"])) == "PNG"
    assert shown(image.segment("a red circle")) == "PNG"


def test_accuracies_are_tables_too(store: Store, tmp_path: Path) -> None:
    clip = store.run()
    shapes = clip.classifier(["circle", "square"], templates=["a {}"])
    found = clip.accuracy(shapes, where="label IN ('circle', 'square')", by="label")
    assert found.rows() == found.groups.rows()
    assert found.df()["label"].tolist() == found.pl()["label"].to_list() == ["circle", "square"]
    assert found.torch("accuracy").shape == (2,)
    assert json.loads(found.save(tmp_path / "a.json").read_text()) == found.rows()
    whole = clip.accuracy(shapes, where="label IN ('circle', 'square')")
    assert whole.rows() == [{"images": whole.images, "accuracy": pytest.approx(whole.overall)}]


def test_heatmaps_and_segmentations_plot_and_save_alike(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MPLBACKEND", "agg")
    import matplotlib.pyplot as plt

    image = store.run().image(17)
    heatmap, segmentation = image.heatmap("a red circle"), image.segment("a red circle")
    for one in (heatmap, segmentation):
        axes = one.plot()
        assert axes.get_title() == "a red circle"
        assert np.asarray(axes.images[0].get_array()).shape == (*one.picture().size[::-1], 3)
        assert one.png(tmp_path / "a.png") == (tmp_path / "a.png").read_bytes()
        assert one.save(tmp_path / "a.webp").exists()
    grid = image.heatmaps(["a red circle", "two objects"])
    assert len(next(iter(grid))) == 2
    assert len(grid.plot().axes) == 2
    plt.close("all")


def test_long_answers_are_cut_and_escaped() -> None:
    from lensbase.api import Result

    long = Result.of({"text": [f"<i>{'x' * 5000}"] * 500})
    html = long._repr_html_()
    assert "480 more rows" in html
    assert len(html) < 12_000
    assert "<i>" not in html
    assert "more rows" in Values(np.ones((500, 3)), texts=["<i>"] * 500)._repr_html_()
