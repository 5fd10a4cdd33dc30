"""Texts in a run's joint space: stored embeddings first, the text tower only for new ones."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from ..schema.components import slug
from ..schema.errors import (
    BadQuestion,
    LensbaseError,
    TextNotStored,
    UnknownPool,
    WeightsNotFound,
)
from ..schema.layout import Layout
from ..schema.snapshot import read_pool_vectors
from .console import Console
from .sql_text import encodable

if TYPE_CHECKING:
    from ..ingest.models import LoadedModel

F32 = npt.NDArray[np.float32]

_TEXTS_KEPT = 256
_POOLS_KEPT = 4  # in memory at once; the thesis' largest has 30,000 texts, 60 MB


@dataclass(frozen=True, eq=False)
class StoredPool:
    """A pool as the run's model sees it: unit vectors [texts, d'] in the order of its texts."""

    pool_id: int
    name: str
    vectors: F32

    @cached_property
    def mean(self) -> npt.NDArray[np.float64]:
        """The mean of all vectors [d']."""
        return self.vectors.mean(axis=0, dtype=np.float64)


class RunTexts:
    """Embeds texts with the model of one run; without `load_models` it knows stored ones only."""

    def __init__(
        self,
        console: Console,
        layout: Layout,
        run: Mapping[str, Any],
        *,
        load_models: bool = True,
    ) -> None:
        self._console = console
        self._layout = layout
        self._run = run
        self._load_models = load_models
        self._pools: dict[str, StoredPool] = {}
        self._lately: dict[str, F32] = {}
        self._model: LoadedModel | None = None
        self._loading = threading.Lock()

    def pool(self, name: str | None = None) -> StoredPool:
        """A pool that the run's model has embedded, by default the run's default pool.

        Raises `UnknownPool`.
        """
        wanted = self._run["default_pool"] if name is None else name
        if wanted in self._pools:
            return self._pools[wanted]
        embedded = self._embedded
        if wanted not in embedded:
            raise UnknownPool(self._no_pool(name, list(embedded)))
        vectors = read_pool_vectors(self._layout, wanted, self._run["weights_sha256"])
        pool = StoredPool(embedded[wanted], wanted, vectors)
        while len(self._pools) >= _POOLS_KEPT:
            self._pools.pop(next(iter(self._pools)), None)
        self._pools[wanted] = pool
        return pool

    def texts_at(self, pool: StoredPool, positions: Sequence[int]) -> list[str]:
        """The texts at some positions of a pool, in that order."""
        found = self._console.rows(
            "SELECT position, text FROM text WHERE pool_id = ? "
            "AND position IN (SELECT unnest(?::INTEGER[]))",
            [pool.pool_id, list(positions)],
        )
        known = dict(found)
        return [known[position] for position in positions]

    def encode(self, texts: Sequence[str], *, about: Sequence[str] | None = None) -> F32:
        """Unit-length embeddings [n, d'] of texts; raises `TextNotStored` or `BadQuestion`.

        A model with a small vocabulary must know the words of `about`, by default of new texts.
        """
        for given in cast("Sequence[Any]", texts):
            if not isinstance(given, str):
                msg = f"{given!r} is no text; write one, such as 'a red circle'."
                raise BadQuestion(msg)
        found = self._stored(texts)
        new = [text for text in dict.fromkeys(texts) if text not in found]
        if new:
            embedded = self._encode_new(new, new if about is None else about)
            found |= dict(zip(new, embedded, strict=True))
        out = np.empty((len(texts), self._run["embed_dim"]), np.float32)
        for place, text in enumerate(texts):
            out[place] = found[text]
        return out

    def stored(self, texts: Sequence[str]) -> F32:
        """Embeddings [n, d'] of stored texts; loads no model, but raises `TextNotStored`."""
        found = self._stored(texts)
        for text in texts:
            if text not in found:
                msg = f"{text!r} is not stored, and SQL takes stored texts alone. "
                raise TextNotStored(msg + self._nearest(text) + self._how_to_store)
        return np.stack([found[text] for text in texts])

    def model(self) -> LoadedModel:
        """The run's model, loaded when first asked for.

        Raises `WeightsNotFound` for one that was given in memory or has other weights by now, what
        `load_model` raises for one that is not at hand, and ImportError without torch.
        """
        with self._loading:
            if self._model is None:
                if not self._load_models:
                    msg = "it was opened to answer from what is stored alone"
                    raise WeightsNotFound(msg)
                if self._run["model_source"] == "module":
                    msg = "it was ingested from a module in memory, which no store can load again"
                    raise WeightsNotFound(msg)
                from ..ingest.models import load_model

                model = load_model(self._run["model_name"], pretrained=self._run["pretrained"])
                if model.info.weights_sha256 != self._run["weights_sha256"]:
                    msg = (
                        f"the weights found are {model.info.weights_sha256[:12]}, "
                        f"those of the run {self._run['weights_sha256'][:12]}"
                    )
                    raise WeightsNotFound(msg)
                self._model = model
        return self._model

    @cached_property
    def _embedded(self) -> dict[str, int]:
        """Ids of the pools that the run's model has embedded, by name."""
        return dict(
            self._console.rows(
                "SELECT p.name, p.pool_id FROM pool p JOIN pool_model m USING (pool_id) "
                "WHERE m.model_id = ? ORDER BY p.pool_id",
                [self._run["model_id"]],
            )
        )

    def _stored(self, texts: Sequence[str]) -> dict[str, F32]:
        # A page asks for one text again and again, and a generation's texts stay as they are.
        if len(texts) == 1 and (kept := self._lately.get(texts[0])) is not None:
            return {texts[0]: kept}
        names = {number: name for name, number in self._embedded.items()}
        places = self._console.rows(
            "SELECT text, min_by(pool_id, (pool_id, position)) AS pool, "
            "min_by(position, (pool_id, position)) AS position FROM text "
            "WHERE text IN (SELECT unnest(?::VARCHAR[])) "
            "AND pool_id IN (SELECT unnest(?::INTEGER[])) AND pool_id IN "
            "(SELECT pool_id FROM pool WHERE kind <> 'vectors') GROUP BY text",
            [[text for text in texts if encodable(text)], list(names)],
        )
        found = {text: self.pool(names[number]).vectors[at] for text, number, at in places}
        if len(texts) == 1:
            while len(self._lately) >= _TEXTS_KEPT:
                self._lately.pop(next(iter(self._lately), ""), None)
            self._lately |= found
        return found

    def _encode_new(self, texts: list[str], about: Sequence[str]) -> F32:
        try:
            model = self.model()
            self._check_words(model, about)
            return model.encode_text(texts)
        except TextNotStored:
            raise
        except ImportError as error:
            raise self._not_stored(texts[0], f"{error.name or 'torch'} is not installed") from error
        except LensbaseError as error:
            raise self._not_stored(texts[0], str(error)) from error

    def _check_words(self, model: LoadedModel, texts: Sequence[str]) -> None:
        """Refuse words out of the embedded world's vocabulary, which all look the same to it."""
        from ..ingest.world.tokenizer import WordTokenizer

        if not isinstance(tokenizer := model.tokenizer, WordTokenizer):
            return
        for text in texts:
            if unknown := tokenizer.unknown_words(text):
                known = [word for word in tokenizer.words if len(word) > 3][3::9]
                msg = (
                    f"the model of run {self._run['name']!r} was never taught "
                    f"{', '.join(map(repr, unknown))}, so it cannot embed {text!r}: it knows "
                    f"{len(tokenizer.words)} words, such as {', '.join(known)}. "
                )
                raise TextNotStored(msg + self._nearest(text).rstrip())

    def _not_stored(self, text: str, reason: str) -> TextNotStored:
        msg = (
            f"{text!r} is not stored, and the model of run {self._run['name']!r} cannot be loaded "
            f"to embed it ({reason}). "
        )
        return TextNotStored(msg + self._nearest(text) + self._how_to_store)

    def _nearest(self, text: str) -> str:
        """The stored texts nearest to one that is not."""
        near = self._console.rows(
            "SELECT text FROM (SELECT DISTINCT text FROM text "
            "WHERE pool_id IN (SELECT unnest(?::INTEGER[])) AND pool_id IN "
            "(SELECT pool_id FROM pool WHERE kind <> 'vectors')) "
            "ORDER BY jaro_winkler_similarity(lower(text), lower(?)) DESC, text LIMIT 3",
            [list(self._embedded.values()), text if encodable(text) else ""],
        )
        listed = ", ".join(repr(one) for (one,) in near)
        if not near:
            return "No text is stored yet. "
        are = "texts are" if len(near) > 1 else "text is"
        return f"The nearest stored {are} {listed}. "

    @property
    def _how_to_store(self) -> str:
        return (
            f"`lensbase pool add {self._layout.root} FILE --name NAME`, where the model is "
            "at hand, stores the texts of a file, one a line."
        )

    def _no_pool(self, name: str | None, embedded: list[str]) -> str:
        called = "NAME" if name is None or slug(name) != name else name
        how = (
            f"`lensbase pool add {self._layout.root} FILE --name {called}` adds one; with --words "
            "10000 instead of FILE one of common words, with --random 3498 one of random vectors."
        )
        if name is None:
            return f"run {self._run['name']!r} has no text pool; {how}"
        listed = ", ".join(embedded) or "none"
        return (
            f"the model of run {self._run['name']!r} has embedded no pool {name!r}; "
            f"it has embedded: {listed}. {how}"
        )
