"""Sparse codes of a layer's neurons in texts (T3.4): kept by the ingest or by readers, or made."""

# pyarrow has no types.
# pyright: reportUnknownParameterType=false

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..queries.sparse_text import centered_atoms, refitted, sparse_codes
from ..queries.text_votes import TextCodes
from ..schema.codes import CODE_LENGTH, CODE_VERSION
from ..schema.derived import read_derived, write_derived
from ..schema.errors import BadQuestion
from ..schema.stages import stage
from .candidates import Candidates, Pool, candidates_of
from .open_run import OpenRun
from .run_neurons import KeptNeuron
from .whole_numbers import whole

if TYPE_CHECKING:
    import pyarrow as pa

Numbers = npt.NDArray[np.floating[Any]]
I64 = npt.NDArray[np.int64]
F64 = npt.NDArray[np.float64]

TABLE = "neuron_text"
_COLUMNS = ("neuron", "rank", "position", "coefficient")
_IN_MEMORY = 16
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class CodeQuestion:
    """Everything that the codes of a run's neurons depend on, but for the layer."""

    run: OpenRun
    candidates: Candidates
    m: int
    center: bool

    @classmethod
    def of(cls, run: OpenRun, pool: Pool, *, m: int, center: bool = False) -> CodeQuestion:
        """Check a question, its `m` at most `longest`.

        Raises `BadQuestion`, `UnknownPool` or `TextNotStored`.
        """
        run.neurons.layers()
        m = whole(m, "m", least=1, of="texts")
        asked = cls(run, candidates_of(run, pool), m, bool(center))
        return asked if m <= asked.longest else replace(asked, m=asked.longest)

    @property
    def note(self) -> str:
        """How the codes were made, for every result that shows them."""
        centered = ", the pool's mean taken away" if self.center else ""
        return f"codes of {self.m} {self.texts_note}{centered}"

    @property
    def texts_note(self) -> str:
        """Which texts were asked of, for results that show no codes of them."""
        return "texts " + ("of the texts given" if self.pool is None else f"of {self.pool!r}")

    @property
    def pool(self) -> str | None:
        """The name of the stored pool, None for texts given."""
        return self.candidates.name

    @cached_property
    def longest(self) -> int:
        """The most texts that a code can have: a text more is a combination of these.

        The joint width d' or the pool's size, of which centering takes one dimension away.
        """
        return min(self.run.shape.embed_dim, max(self.candidates.size - self.center, 1))

    @property
    def depth(self) -> int:
        """Texts of the codes that are kept, of which those asked for are the first."""
        return max(self.m, CODE_LENGTH)

    @cached_property
    def atoms(self) -> Numbers:
        """The pool's vectors as the pursuit takes them: of unit length, centered if asked for."""
        vectors = self.candidates.vectors
        # Float64 copies of a large pool take longer than all else, and most pools need none.
        with np.errstate(over="ignore", under="ignore"):
            squared = np.einsum("ij,ij->i", vectors, vectors)
        if not np.all(np.abs(squared - 1) <= 1e-3):
            length = np.linalg.norm(vectors.astype(np.float64), axis=1)
            if not np.all(length > 0):
                msg = f"row {int(np.argmin(length))} of pool= is 0, which no neuron is made of."
                raise BadQuestion(msg)
            if np.abs(length - 1).max() > 1e-3:
                vectors = (vectors / length[:, None]).astype(vectors.dtype)
        return centered_atoms(vectors) if self.center else vectors

    def codes(self, layer: int) -> TextCodes:
        """The codes of all neurons of a layer: looked up, or computed and kept."""
        key = (layer, self.candidates.sha256, self.m, self.center)
        held = self.run.neurons.codes
        if key in held:
            return held[key]
        picks, coefficients = self._kept(layer) or self._computed(layer)
        if self.m < min(picks.shape[1], self.longest):
            picks = picks[:, : self.m]
            coefficients = refitted(self._targets(layer), self.atoms, picks)
        while len(held) >= _IN_MEMORY:
            held.pop(next(iter(held)), None)
        held[key] = TextCodes(picks, coefficients, self.candidates.size)
        return held[key]

    def code(self, neuron: KeptNeuron) -> tuple[I64, F64]:
        """Picks and coefficients of one neuron, without making those of all its layer."""
        layer, number = neuron.address.layer, neuron.address.neuron
        found = self.run.neurons.codes.get((layer, self.candidates.sha256, self.m, self.center))
        if found is not None:
            picks, coefficients = found.picks[number], np.asarray(found.coefficients[number])
        else:
            kept = self._kept(layer, number)
            target = self._targets(layer)[number : number + 1]
            if kept is None:
                made = sparse_codes(target, self.atoms, m=self.m, path=False)
                picks, coefficients = made.picks[0], made.coefficients[0]
            elif self.m < min(kept[0].shape[1], self.longest):
                picks = kept[0][0, : self.m]
                coefficients = refitted(target, self.atoms, picks[None])[0]
            else:
                picks, coefficients = kept[0][0], kept[1][0]
        real = picks >= 0
        return np.asarray(picks[real], np.int64), np.asarray(coefficients[real], np.float64)

    def _targets(self, layer: int) -> Numbers:
        return self.run.neurons.direction[self.run.neurons.place(layer)]

    def _kept(self, layer: int, neuron: int | None = None) -> tuple[I64, F64] | None:
        """Codes as the catalogue or a file beside it has them, of all neurons or of one."""
        if self.run.row["status"] != "complete":
            return None
        columns = self._catalogued(layer, neuron)
        if columns is None:
            rows = read_derived(self.run.layout, TABLE, self._parameters(layer))
            if rows is None:
                return None
            columns = {name: rows.column(name).to_numpy() for name in _COLUMNS}
        numbers, rank, position, coefficient = (columns[name] for name in _COLUMNS)
        count = self.run.neurons.count
        picks = np.full((count, self.depth), -1, np.int64)
        found = np.zeros((count, self.depth))
        picks[numbers, rank - 1], found[numbers, rank - 1] = position, coefficient
        return (picks, found) if neuron is None else (picks[[neuron]], found[[neuron]])

    def _catalogued(self, layer: int, neuron: int | None) -> dict[str, npt.NDArray[Any]] | None:
        """What the ingest stored, or `compact` took in."""
        if self.candidates.pool_id is None:
            return None
        one = "" if neuron is None else f" AND neuron = {neuron}"
        found = self.run.console.columns(
            f"SELECT {', '.join(_COLUMNS)} FROM neuron_text "
            f"WHERE run_id = ? AND layer = ?{one} AND pool_id = ? AND m = ? AND centered = ? "
            "AND version = ?",
            [
                self.run.row["run_id"],
                layer,
                self.candidates.pool_id,
                self.depth,
                self.center,
                CODE_VERSION,
            ],
        )
        return found if len(found["neuron"]) else None

    def _computed(self, layer: int) -> tuple[I64, F64]:
        targets, atoms, m = self._targets(layer), self.atoms, self.depth
        what = f"codes of {m} of {len(atoms):,} texts for {len(targets):,} neurons of layer {layer}"
        with stage(_LOG, what, unit="neuron", delay=1) as work:
            made = sparse_codes(targets, atoms, m=m, path=False, progress=work.tell)
        if self.run.row["status"] == "complete":
            rows = code_rows(made.picks, made.coefficients)
            write_derived(self.run.layout, TABLE, self._parameters(layer), rows=rows)
        return made.picks, made.coefficients

    def _parameters(self, layer: int) -> dict[str, Any]:
        return self.run.facts | {
            "version": CODE_VERSION,
            "pool": self.candidates.name,
            "pool_sha256": self.candidates.sha256,
            "layer": layer,
            "m": self.depth,
            "center": self.center,
        }


def code_rows(picks: I64, coefficients: F64) -> pa.Table:
    """Codes [N, m] as rows `neuron`, `rank`, `position`, `coefficient`."""
    import pyarrow as pa

    neuron, place = np.nonzero(picks >= 0)
    return pa.table(
        {
            "neuron": neuron.astype(np.int32),
            "rank": (place + 1).astype(np.int32),
            "position": picks[neuron, place].astype(np.int32),
            "coefficient": coefficients[neuron, place],
        }
    )
