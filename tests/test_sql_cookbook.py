"""`docs/sql.md`: every query answers, on a small store of the same kind."""

from __future__ import annotations

import re
import runpy
import shutil
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parent.parent / "docs"
ANSWER = re.compile(r"```sql\n(.*?)\n```\n\n```text\n(.*?)\n```", re.DOTALL)


def test_every_query_of_the_cookbook_answers(
    world_zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """21 queries and their sessions, each with rows and with the columns that the page shows."""
    (tmp_path / "demo").mkdir()
    shutil.copytree(world_zoo, tmp_path / "demo" / "demo.lens", symlinks=True)
    monkeypatch.chdir(tmp_path)
    page = (DOCS / "sql.md").read_text(encoding="utf-8")
    told = runpy.run_path(str(DOCS / "run_pages.py"))["run_page"](page)
    shown, found = ANSWER.findall(page), ANSWER.findall(told)
    assert (
        len(shown) == page.count("```sql") == len(re.findall(r"^\d+ \*\*", page, re.MULTILINE)) + 1
    )
    assert len(shown) == 22
    for (query, before), (same, now) in zip(shown, found, strict=True):
        assert query == same
        assert now.splitlines()[0].split() == before.splitlines()[0].split(), query
        assert "no rows" not in now, query


def test_sqlalchemy_reflects_every_view(world_store: Path, tmp_path: Path) -> None:
    """As BI tools do: through `current`, read-only; a new connection sees the new generation."""
    import pandas as pd
    from sqlalchemy import MetaData, Table, create_engine, select, text
    from sqlalchemy.exc import DBAPIError

    from lensbase.schema.catalog import publishing
    from lensbase.schema.layout import Layout

    shutil.copytree(world_store, tmp_path / "s.lens", symlinks=True)
    address = f"duckdb:///{tmp_path}/s.lens/current/lens.duckdb?access_mode=read_only"
    engine = create_engine(address)
    reflected = MetaData()
    reflected.reflect(engine, views=True)
    assert {"heads", "head_texts", "images", "rosetta_pairs", "data_dictionary"} <= set(
        reflected.tables
    )
    heads = Table("heads", MetaData(), autoload_with=engine)
    with engine.connect() as connection:
        rows = connection.execute(select(heads.c.component).order_by("layer", "head")).all()
        assert rows[0] == ("L0.H0",)
        with pytest.raises(DBAPIError, match="read-only"):
            connection.execute(text("DELETE FROM image"))
    count = "SELECT label, count(*) AS n FROM images GROUP BY label"
    assert sum(pd.read_sql(count, engine)["n"].tolist()) == 150
    engine.dispose()
    with publishing(Layout(tmp_path / "s.lens")) as draft:
        draft.connection.execute("UPDATE image SET label = 'new'")
    again = create_engine(address)
    assert pd.read_sql(count, again)["label"].tolist() == ["new"]
    again.dispose()
