"""One attention head: its contributions, the texts that explain it, the images it tells apart."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ..queries.factors import head_contribution, head_factors
from ..queries.retrieval import fold, head_scores
from ..queries.textspan import Score
from ..schema.errors import BadQuestion
from .candidates import Pool
from .open_run import OpenRun
from .ranking import F32, Rows, best_images, ranked_images
from .result import Result
from .selection import Images
from .spans import Span, head_span_of
from .values import Values
from .where import Where
from .whole_numbers import whole


class HeadView:
    """An attention head of a run; `address` is its name, such as `L22.H8`."""

    def __init__(self, run: OpenRun, address: str) -> None:
        self._run = run
        self._head = run.head(address)
        self.address = str(self._head.address)

    def contribution(
        self, images: Images = None, normalize: bool = False, *, where: Where = None
    ) -> Values:
        """The head's contributions c_head(I) [k, d'] to the representations (T2.6).

        In the units of M(I); `normalize` divides by ||M(I)||, so that all components add up to a
        unit vector. Computed from the factors that are stored. Raises `UnknownImage`,
        `RejectedRow` or `BadSelection`.
        """
        chosen = self._run.images.select(images, where)
        value, scale = self._read(chosen.rows)
        factors = head_factors(value, scale, dtype=np.float32)
        norms = scale[:, 2] if normalize else None
        found = head_contribution(factors, self._run.basis(self._head), norms)
        return Values(found, image_ids=chosen.image_ids, thumbnails=self._run.thumbnails_of)

    def factors(self, images: Images = None, *, where: Where = None) -> Values:
        """The attention-weighted values u [k, e] that the contributions are made of (T2.6).

        Raises `UnknownImage`, `RejectedRow` or `BadSelection`.
        """
        chosen = self._run.images.select(images, where)
        found = self._run.arrays["head_value"].read(chosen.rows, *self._place)
        return Values(found, image_ids=chosen.image_ids, thumbnails=self._run.thumbnails_of)

    def textspan(
        self,
        pool: Pool = None,
        m: int = 20,
        *,
        images: Images = None,
        where: Where = None,
        normalize: bool = False,
        score: Score = "variance",
    ) -> Result:
        """The texts whose directions explain the head, by TEXTSPAN (Algorithm 1, T2.7).

        Columns `rank` (from 1), `text`, `explained_variance` (own share) and `cumulative`. `pool`
        is a pool's name, a list of texts, vectors [M, d'] (called "vector 0", ...) or None for
        the run's default pool. Over the whole run the moments come from values before rounding;
        with `images` or `where`, from stored ones. Computed once, then looked up.
        `normalize` describes contributions divided by ||M(I)||; `score="explained"` picks the
        text that explains most instead of the one with the largest projected variance. Fewer
        than `m` rows, with a note, where no text explains anything more.
        Raises `BadQuestion`, `BadSelection`, `UnknownPool`, `UnknownImage` or `TextNotStored`.
        """
        selection = (
            None if images is None and where is None else self._run.images.select(images, where)
        )
        span = head_span_of(
            self._run,
            self._head,
            pool=pool,
            m=m,
            selection=selection,
            normalize=normalize,
            score=score,
        )
        columns = {
            "rank": np.arange(1, len(span.texts) + 1),
            "text": span.texts,
            "explained_variance": span.explained,
            "cumulative": span.cumulative,
        }
        return Result.of(columns, note=_exhausted(span, m))

    def top_images(
        self,
        text: str | None = None,
        *,
        rank: int | None = None,
        k: int = 10,
        images: Images = None,
        where: Where = None,
        normalize: bool = False,
    ) -> Result:
        """The images with the largest `<c_head(I), text>` (thesis, section 2.4).

        Columns `rank`, `image_id`, `key`, `label`, `score`; equal scores come by row. `rank=1`
        stands for the first of the head's TEXTSPAN texts over the whole run, and so on.
        Raises `BadQuestion`, `TextNotStored`, `UnknownPool`, `UnknownImage` or `BadSelection`.
        """
        if (text is None) == (rank is None):
            msg = "give either a text or rank=, the place of one of the head's TEXTSPAN texts."
            raise BadQuestion(msg)
        if rank is not None:
            text, vector = self._ranked_text(rank)
        else:
            assert text is not None
            (vector,) = self._run.texts.encode([text])
        query = fold(self._run.basis(self._head), vector)
        chosen = self._run.images.select(images, where)
        found = best_images(chosen, k, lambda rows: self._scores(query, rows, normalize=normalize))
        note = f"by what {self.address} writes along {text!r}"
        return ranked_images(self._run, found, note)

    def nearest_images(
        self,
        to: Any,
        k: int = 10,
        *,
        images: Images = None,
        where: Where = None,
        normalize: bool = False,
    ) -> Result:
        """The images with the largest `<c_head(I), c_head(to)>` (thesis, section 2.4).

        `to` is an image's id or key; it takes part itself. Columns as in `top_images`.
        `normalize` divides both by their images' ||M||. Raises `BadQuestion`, `UnknownImage`,
        `RejectedRow` or `BadSelection`.
        """
        row, image_id = self._run.images.one(to)
        value, scale = self._read(np.array([row]))
        basis = self._run.basis(self._head)
        norms = scale[:, 2] if normalize else None
        (target,) = head_contribution(head_factors(value, scale), basis, norms)
        chosen = self._run.images.select(images, where)
        query = fold(basis, target)
        found = best_images(chosen, k, lambda rows: self._scores(query, rows, normalize=normalize))
        note = f"by likeness to image {image_id} in what {self.address} writes"
        return ranked_images(self._run, found, note)

    @property
    def _place(self) -> tuple[int, int]:
        return self._head.place, self._head.address.head

    def _read(self, rows: Rows) -> tuple[npt.NDArray[np.floating[Any]], F32]:
        arrays = self._run.arrays
        return arrays["head_value"].read(rows, *self._place), arrays["scale"].read(rows)

    def _ranked_text(self, rank: int) -> tuple[str, npt.NDArray[np.floating[Any]]]:
        rank = whole(rank, "rank", least=1, of="ranks, which count from 1")
        span = head_span_of(self._run, self._head, m=rank)
        if len(span.texts) < rank:
            msg = f"TEXTSPAN of {self.address} ends at rank {len(span.texts)}: nothing is left."
            raise BadQuestion(msg)
        return span.texts[rank - 1], span.vectors[rank - 1]

    def _scores(self, query: npt.NDArray[np.float64], rows: Rows, *, normalize: bool) -> F32:
        value, scale = self._read(rows)
        return head_scores(value, scale, query, normalize=normalize)

    def __repr__(self) -> str:
        return f"head {self.address} of run {self._run.name!r}"


def _exhausted(span: Span, m: int) -> str | None:
    if not span.exhausted:
        return None
    return (
        f"{len(span.texts)} of the {m} texts asked for: "
        "no other text of the pool explains anything more of this head"
    )
