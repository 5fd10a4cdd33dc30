"""Opening a store: one published generation, read-only, from SQL and from Python."""

# pyarrow has no types.
# pyright: reportUnknownParameterType=false

from __future__ import annotations

import threading
import weakref
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..schema.components import split_run
from ..schema.errors import AmbiguousRun, UnknownRun
from ..schema.nearest import nearest
from ..schema.snapshot import Snapshot, open_snapshot
from .annotations import annotate
from .card import Card
from .console import SECONDS, Console, Parameters
from .derived_views import DerivedViews
from .named_components import Components, parts_of
from .open_run import OpenRun
from .printing import counted, human_bytes
from .result import Result, Thumbnails
from .rosetta import RosettaView, open_zoo
from .run import RunView
from .sql_functions import SqlFunctions

if TYPE_CHECKING:
    import os
    from types import TracebackType

    import pyarrow as pa


class Store:
    """One generation of a store, as it was when opened; close it, or use it in a `with`.

    `path` is where it lies and `generation` its number. Safe to use from several threads.
    """

    def __init__(
        self, snapshot: Snapshot, *, image_root: Path | None = None, load_models: bool = True
    ) -> None:
        self.path = snapshot.layout.root
        self.generation = snapshot.generation
        self._snapshot = snapshot
        self._image_root = image_root
        self._load_models = load_models
        derived = DerivedViews(snapshot.layout, snapshot.connection)
        itself = weakref.ref(self)

        def opened(name: str) -> OpenRun:
            store = itself()
            assert store is not None
            return store.run(name)._run  # pyright: ignore[reportPrivateUsage]

        self._functions = SqlFunctions(snapshot.connection, opened)
        self._console = Console(snapshot.connection, derived=derived, functions=self._functions)
        self._views: dict[str, RunView] = {}
        self._zoos: dict[str | None, RosettaView] = {}
        self._lock = threading.Lock()

    def sql(self, query: str, params: Parameters = None, *, seconds: float = SECONDS) -> Result:
        """Answer a query on the views and tables of this store; it can reach nothing else.

        `params` fill `?` (a list) or `$name` (a dict). It is stopped after `seconds`. Beside
        DuckDB's own functions there are `head_score(run, image_id, 'L22.H8', text)`,
        `similarity(run, image_id, text)` and `neuron_norm(run, image_id, 'L9.N391')`, of stored
        texts. Raises `BadSQL` with DuckDB's message for what is no query, fails, or takes too long
        or too much memory.
        """
        table = self._console.query(query, params, seconds=seconds)
        return Result(table, thumbnails=self._thumbnails(table))

    @property
    def models(self) -> Result:
        """The view `models`: architecture, weights' hash and preprocessing of each model."""
        return self.sql("SELECT * FROM models ORDER BY model, pretrained")

    @property
    def runs(self) -> Result:
        """The view `runs`: each run's model, data set, progress and settings."""
        return self.sql("SELECT * FROM runs ORDER BY run")

    @property
    def pools(self) -> Result:
        """The view `pools`: text pools and the models that have embedded them."""
        return self.sql("SELECT * FROM pools ORDER BY pool, model")

    @property
    def annotations(self) -> Result:
        """The view `annotations`: the roles that components of each run have."""
        return self.sql("SELECT * FROM annotations ORDER BY run, layer, head, component")

    def annotate(
        self,
        components: Components,
        role: str | None,
        *,
        run: str | None = None,
        note: str | None = None,
        source: str = "person",
    ) -> list[str]:
        """Give components a role, such as "geolocation", or take it away (None).

        `components` is an address ("L21.H11"), a list of them, a role, or rows with a column
        `component` such as those of `spurious_heads`; `source` says who or which rule thinks so. It
        is kept beside the catalogue at once, and the latest counts. Returns the addresses.
        Raises `BadAddress`, `UnknownComponent`, `UnknownRun`, `AmbiguousRun`, `BadName`,
        `BadQuestion`, or `AnnotationNotKept` where the store cannot be written to.
        """
        parts = parts_of(components)
        if run is None:
            named = (split_run(one)[0] for one in parts if isinstance(one, str))
            run = next(filter(None, named), None)
        opened = self.run(run)._run  # pyright: ignore[reportPrivateUsage]
        return annotate(opened, parts, role, source=source, note=note)

    def run(self, name: str | None = None) -> RunView:
        """A run by name, or the only one.

        Raises `AmbiguousRun` where there are several and none is named, and `UnknownRun`.
        """
        if name is None:
            name = self._only_run()
        if name not in self._rows:
            raise UnknownRun(self._unknown(name))
        with self._lock:
            if name not in self._views:
                opened = OpenRun(
                    self._snapshot,
                    self._rows[name],
                    console=self._console,
                    image_root=self._image_root,
                    load_models=self._load_models,
                )
                self._views[name] = RunView(opened)
            return self._views[name]

    @property
    def zoos(self) -> Result:
        """The view `rosetta_zoos`: each zoo's models, pictures, matches and concepts."""
        return self.sql("SELECT * FROM rosetta_zoos ORDER BY zoo")

    def rosetta(self, zoo: str | None = None) -> RosettaView:
        """A Rosetta zoo by name, or the only one: the units that its models share.

        Raises `AmbiguousZoo` where there are several and none is named, and `UnknownZoo`.
        """
        with self._lock:
            if zoo not in self._zoos:
                self._zoos[zoo] = open_zoo(
                    self._snapshot, zoo, console=self._console, runs_of=self._runs_of
                )
            return self._zoos[zoo]

    def info(self) -> Card:
        """A card: generation, format, runs, images, models, pools and size."""
        ((major, minor, version, published),) = self._console.rows(
            "SELECT format_major, format_minor, lensbase_version, published_at FROM lens_info"
        )
        ((images, models, pools, texts, size),) = self._console.rows(
            "SELECT (SELECT count(*) FROM image), (SELECT count(*) FROM model), "
            "(SELECT count(*) FROM pool), (SELECT count(*) FROM text), "
            "(SELECT coalesce(sum(bytes), 0)::BIGINT FROM segment)"
            " + (SELECT coalesce(sum(bytes), 0)::BIGINT FROM rosetta_run)"
        )
        zoos = self._console.rows(
            "SELECT zoo, len(models), coalesce(concepts, 0) FROM rosetta_zoos ORDER BY zoo"
        )
        catalog = self._snapshot.layout.catalog(self.generation).stat().st_size
        named = [
            f"{zoo} ({counted(models, 'model')}, {counted(concepts, 'concept')})"
            for zoo, models, concepts in zoos
        ]
        return Card(
            f"store {self.path}",
            {
                "generation": f"{self.generation}, published {published:%Y-%m-%d %H:%M:%S} UTC",
                "format": f"{major}.{minor}, by lensbase {version}",
                "runs": ", ".join(self._rows) or "none",
                "images": f"{images:,}",
                "models": f"{models:,}",
                "text pools": f"{pools:,} of {texts:,} texts",
                **({"zoos": ", ".join(named)} if named else {}),
                "size": f"{human_bytes(size)} in arrays, {human_bytes(catalog)} in the catalogue",
            },
        )

    def close(self) -> None:
        """Let go of the catalogue; what was answered stays."""
        self._functions.close()
        self._snapshot.connection.close()

    @cached_property
    def _rows(self) -> dict[str, dict[str, Any]]:
        return {row["name"]: row for row in self._snapshot.run_rows()}

    def _runs_of(self, weights_sha256: str) -> list[RunView]:
        """The runs of a model's weights."""
        named = [n for n, row in self._rows.items() if row["weights_sha256"] == weights_sha256]
        return [self.run(name) for name in named]

    def _only_run(self) -> str:
        names = list(self._rows)
        if len(names) == 1:
            return names[0]
        if not names:
            msg = (
                f"{self.path} holds no run yet; "
                f"`lensbase ingest {self.path} IMAGES --model MODEL` makes one."
            )
            raise UnknownRun(msg)
        msg = (
            f"{self.path} holds several runs: {', '.join(names)}. Name one: "
            f"store.run({names[0]!r}), or --run {names[0]} on the command line."
        )
        raise AmbiguousRun(msg)

    def _unknown(self, name: str) -> str:
        names = list(self._rows)
        listed = nearest(name, names) if names else "it holds none"
        return f"{self.path} holds no run {name!r}; {listed}. `store.runs` lists them all."

    def _thumbnails(self, table: pa.Table) -> Thumbnails | None:
        """Pictures for rows that are images of one run: the one they name, or the only one."""
        if "image_id" not in table.column_names:
            return None
        named: set[Any] = set()
        if "run" in table.column_names:
            named = set(table.column("run").unique().to_pylist())
        names = [name for name in named or self._rows if name in self._rows]
        if len(names) != 1:
            return None

        def found(image_ids: Sequence[int]) -> list[bytes | None]:
            return self.run(names[0])._run.thumbnails_of(image_ids)  # pyright: ignore

        return found

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        runs = counted(len(self._rows), "run")
        return f"Store {str(self.path)!r}, generation {self.generation}, {runs}"

    def _repr_html_(self) -> str:
        return self.info()._repr_html_()  # pyright: ignore[reportPrivateUsage]


def open_store(
    path: str | os.PathLike[str], image_root: str | os.PathLike[str] | None = None
) -> Store:
    """Open the published generation of a store, read-only; many readers may at once.

    `image_root` is where the original images lie now, if not where they were at ingest. Raises
    `StoreNotFound`, `NotAStore`, `FormatTooNew`, `FormatTooOld` or `StoreCorrupt`.
    """
    root = None if image_root is None else Path(image_root)
    return Store(open_snapshot(Path(path)), image_root=root)
