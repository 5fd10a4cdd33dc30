"""Functions of ours in SQL: what components write along stored texts, for whole columns at once.

They are DuckDB's Python functions over Arrow columns. Those belong to a database and not to a
connection, so each open store registers its own under names of its own; a query's cursor calls
them through temporary macros, and nothing is stored.
"""

# pyarrow has no types.
# pyright: reportUnknownParameterType=false, reportUnknownArgumentType=false
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import itertools
import re
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ..queries.factors import head_factors
from ..queries.retrieval import fold, head_scores
from .columns import nullable_column, raw_numbers
from .open_run import OpenRun
from .run_neurons import KeptNeuron
from .sql_text import quoted

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

I64: TypeAlias = npt.NDArray[np.int64]
F32: TypeAlias = npt.NDArray[np.float32]

Column: TypeAlias = "pa.ChunkedArray"
Coded: TypeAlias = tuple[I64, list[str]]

_TEXTS = 20_000  # whose embeddings stay in memory
_COLUMNS = 4  # of neurons, too
_FEW = 64  # images for which no whole column is read
_BLOCK = 512  # representations whose float64 copies stay in the processor's cache


@dataclass(frozen=True)
class Signature:
    """A function of SQL: its name, its parameters and what it gives."""

    name: str
    parameters: tuple[str, ...]
    meaning: str

    @property
    def call(self) -> str:
        """How it is called, such as `head_score(run, image_id, head, text)`."""
        return f"{self.name}({', '.join(self.parameters)})"


FUNCTIONS = (
    Signature(
        "head_score",
        ("run", "image_id", "head", "text"),
        "<c_head(I), text>: what a head such as 'L22.H8' writes along a stored text, as "
        "head.top_images ranks images; NULL for images that the run does not have or rejected",
    ),
    Signature(
        "similarity",
        ("run", "image_id", "text"),
        "cosine of an image's representation M(I) and a stored text; NULL as for head_score",
    ),
    Signature(
        "neuron_norm",
        ("run", "image_id", "neuron"),
        "||phi_n(I)||: the length of the second-order effect of a neuron such as 'L9.N391'; NULL "
        "as for head_score",
    ),
)
_NAMES = re.compile(rf"\b({'|'.join(one.name for one in FUNCTIONS)})\b", re.IGNORECASE)
_DICTIONARY = re.compile(r"\bdata_dictionary\b", re.IGNORECASE)
_counter = itertools.count(1)


class SqlFunctions:
    """The functions of one open store; `runs` finds its runs by name."""

    def __init__(
        self, connection: duckdb.DuckDBPyConnection, runs: Callable[[str], OpenRun]
    ) -> None:
        self._connection = connection
        self._runs = runs
        self._number = next(_counter)
        self._lock = threading.Lock()
        self._registered: duckdb.DuckDBPyConnection | None = None
        self._vectors: dict[tuple[str, str], F32] = {}
        self._columns: dict[tuple[str, KeptNeuron], npt.NDArray[np.floating[Any]]] = {}

    def show(self, cursor: duckdb.DuckDBPyConnection, sql: str) -> None:
        """Make the functions that a query's text names known to its cursor."""
        if _DICTIONARY.search(sql):
            _describe(cursor)
        named = {name.lower() for name in _NAMES.findall(sql)}
        if not named:
            return
        self._register()
        for function in FUNCTIONS:
            if function.name in named:
                given = ", ".join(f"{name}::{_kind(name)}" for name in function.parameters)
                cursor.execute(
                    f"CREATE TEMP MACRO {function.call} AS {self._own(function)}({given})"
                )

    def close(self) -> None:
        """Take the functions away from the database, which other stores may go on using."""
        with self._lock:
            if self._registered is not None:
                for function in FUNCTIONS:
                    self._registered.remove_function(self._own(function))
                self._registered.close()
                self._registered = None

    def answer(self, name: str, columns: Sequence[Column]) -> pa.Array:
        """A function of whole columns: float32, NULL where an argument or the image is none.

        May be called from several threads. Raises what our own views raise.
        """
        answers = {
            "head_score": self._head_scores,
            "similarity": self._similarities,
            "neuron_norm": self._neuron_norms,
        }
        out = np.full(len(columns[0]), np.nan, np.float32)
        run, image_id, *names = columns
        coded = [_coded(column) for column in (run, *names)]
        image_ids, known = _numbers(image_id)
        for codes, _ in coded:
            known &= codes >= 0
        (run_codes, runs), *rest = coded
        for code, places in _groups(run_codes, np.flatnonzero(known)):
            opened = self._runs(runs[code])
            rows = opened.images.readable(image_ids[places])
            kept = rows >= 0
            places, rows = places[kept], rows[kept]
            if not len(rows):
                continue
            arguments = [(codes[places], values) for codes, values in rest]
            out[places] = answers[name](opened, rows, *arguments)
        return nullable_column(out)

    def _head_scores(self, run: OpenRun, rows: I64, heads: Coded, texts: Coded) -> F32:
        out = np.empty(len(rows), np.float32)
        for code, places in _groups(heads[0], np.arange(len(rows))):
            head = run.head(heads[1][code])
            at = (head.place, head.address.head)
            used, of = np.unique(texts[0][places], return_inverse=True)
            vectors = self._encoded(run, [texts[1][one] for one in used])
            queries = fold(run.basis(head), vectors)
            value = run.arrays["head_value"].read(rows[places], *at)
            scale = run.arrays["scale"].read(rows[places])
            if len(used) == 1:
                out[places] = head_scores(value, scale, queries[0])
            else:
                factors = head_factors(value, scale)
                out[places] = np.einsum("ij,ij->i", factors, queries[of])
        return out

    def _similarities(self, run: OpenRun, rows: I64, texts: Coded) -> F32:
        out = np.empty(len(rows), np.float32)
        used, of = np.unique(texts[0], return_inverse=True)
        vectors = self._encoded(run, [texts[1][one] for one in used]).astype(np.float64)
        for start in range(0, len(rows), _BLOCK):
            part = slice(start, start + _BLOCK)
            whole = run.arrays["representation"].read(rows[part]).astype(np.float64)
            products = np.einsum("ij,ij->i", whole, vectors[of[part]])
            out[part] = products / np.linalg.norm(whole, axis=1)
        return out

    def _neuron_norms(self, run: OpenRun, rows: I64, neurons: Coded) -> F32:
        out = np.empty(len(rows), np.float32)
        for code, places in _groups(neurons[0], np.arange(len(rows))):
            neuron = run.neurons.find(neurons[1][code])
            if len(places) < _FEW:
                norms = run.neurons.array("neuron_norm")
                found = norms.read(rows[places], neuron.place, neuron.address.neuron)
            else:
                found = self._column(run, neuron)[rows[places]]
            out[places] = found
        return out

    def _column(self, run: OpenRun, neuron: KeptNeuron) -> npt.NDArray[np.floating[Any]]:
        """A neuron's norms of all images, of which DuckDB asks for some thousand at a time."""
        key = (run.name, neuron)
        column = self._columns.get(key)
        if column is None:
            every = np.arange(run.shape.images)
            column = run.neurons.column("norm", neuron, every)
            self._columns = {**dict(list(self._columns.items())[1 - _COLUMNS :]), key: column}
        return column

    def _encoded(self, run: OpenRun, texts: list[str]) -> F32:
        """Embeddings [n, d'] of stored texts; raises `TextNotStored`."""
        # Another thread may begin anew meanwhile: what is held here stays as it is.
        known = self._vectors
        new = [text for text in texts if (run.name, text) not in known]
        if new:
            found = dict(
                zip(((run.name, text) for text in new), run.texts.stored(new), strict=True)
            )
            if len(known) + len(new) > _TEXTS:
                old = ((run.name, text) for text in texts)
                known = self._vectors = {key: known[key] for key in old if key in known}
            known.update(found)
        return np.stack([known[run.name, text] for text in texts])

    def _register(self) -> None:
        from duckdb.func import FunctionNullHandling, PythonUDFType

        with self._lock:
            if self._registered is not None:
                return
            # DuckDB keeps functions for as long as it is open: they must not keep the store.
            itself: weakref.ref[SqlFunctions] = weakref.ref(self)
            cursor = self._connection.cursor()
            for function in FUNCTIONS:
                cursor.create_function(
                    self._own(function),
                    _called(itself, function),
                    [_kind(name) for name in function.parameters],
                    "FLOAT",
                    type=PythonUDFType.ARROW,
                    null_handling=FunctionNullHandling.SPECIAL,
                )
            self._registered = cursor

    def _own(self, function: Signature) -> str:
        return f"lensbase_{function.name}_{self._number}"


def _called(itself: weakref.ref[SqlFunctions], function: Signature) -> Callable[..., pa.Array]:
    """What DuckDB calls with columns; it counts the parameters and evaluates their types."""

    def answer(*columns: Column) -> pa.Array:
        functions = itself()
        assert functions is not None
        return functions.answer(function.name, columns)

    def _of_three(run: Column, image_id: Column, name: Column) -> Any:
        return answer(run, image_id, name)

    def _of_four(run: Column, image_id: Column, component: Column, text: Column) -> Any:
        return answer(run, image_id, component, text)

    return _of_three if len(function.parameters) == 3 else _of_four


def _describe(cursor: duckdb.DuckDBPyConnection) -> None:
    """Put the functions into the `data_dictionary` that a query's cursor sees."""
    database = cursor.execute("SELECT current_database()").fetchone()
    assert database is not None
    rows = ", ".join("(?, NULL, 'FLOAT', ?)" for _ in FUNCTIONS)
    values = [text for one in FUNCTIONS for text in (one.call, one.meaning)]
    cursor.execute(
        "CREATE TEMP TABLE lensbase_functions(a VARCHAR, b VARCHAR, c VARCHAR, d VARCHAR)"
    )
    cursor.execute(f"INSERT INTO lensbase_functions VALUES {rows}", values)
    cursor.execute(
        f"""CREATE TEMP VIEW data_dictionary AS
            FROM {quoted(database[0])}.main.data_dictionary
            UNION ALL FROM temp.lensbase_functions"""
    )


def _kind(parameter: str) -> str:
    return "BIGINT" if parameter == "image_id" else "VARCHAR"


def _coded(column: Column) -> Coded:
    """A column of texts as places [n] among its different values, -1 for NULL."""
    encoded = column.combine_chunks().dictionary_encode(null_encoding="encode")
    values = encoded.dictionary.to_pylist()
    places = np.array([-1 if value is None else at for at, value in enumerate(values)], np.int64)
    return places[raw_numbers(encoded.indices, np.int32)], values


def _numbers(column: Column) -> tuple[I64, npt.NDArray[np.bool_]]:
    """A column of whole numbers [n], and where it is not NULL."""
    merged = column.combine_chunks()
    bits = merged.buffers()[0]
    if bits is None or not merged.null_count:
        return raw_numbers(merged, np.int64), np.ones(len(merged), np.bool_)
    known = np.unpackbits(np.frombuffer(bits, np.uint8), bitorder="little").astype(np.bool_)
    return raw_numbers(merged, np.int64), known[merged.offset : merged.offset + len(merged)]


def _groups(codes: I64, places: I64) -> Iterator[tuple[int, I64]]:
    """Places by their code: each code and its places, which keep their order."""
    order = places[np.argsort(codes[places], kind="stable")]
    used, starts = np.unique(codes[order], return_index=True)
    yield from zip(used.tolist(), np.split(order, starts[1:]), strict=False)
