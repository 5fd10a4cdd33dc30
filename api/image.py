"""One image of a run: what each layer wrote about it, and where in it a text is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ..queries.concepts import Effects
from ..queries.heatmaps import head_token_map, map_direction, patch_grid, token_map
from ..queries.retrieval import fold, head_scores
from ..queries.segmentation import Threshold, foreground, heat
from ..schema.components import Head, layer_terms
from ..schema.errors import BadQuestion, UnknownPool
from .backdrops import crop_of
from .candidates import Pool
from .classifier import Classifier, check_classifier
from .concepts import concepts
from .heatmap import Heatmap
from .heatmap_grid import HeatmapGrid
from .masks import crop_size
from .named_components import Components, addresses_of
from .neuron_codes import CodeQuestion
from .open_run import OpenRun
from .result import Result
from .run_neurons import Layers
from .segmentation import Segmentation, check_size, check_threshold
from .segmentation_methods import Method, NeuronMethod, check_method
from .selection import Images
from .spans import head_span_of
from .values import Values

if TYPE_CHECKING:
    from PIL.Image import Image

Debias: TypeAlias = bool | str | Sequence[str] | Classifier
"""Whose mean map is taken away: the default pool's, a pool's by name, some texts' or classes'."""


class ImageView:
    """An image of a run: `image_id` in the store, `row` in the run's arrays."""

    def __init__(self, run: OpenRun, image: Images) -> None:
        self._run = run
        self.row, self.image_id = run.images.one(image)

    @property
    def key(self) -> str:
        """Its path or key within the data set."""
        return self._facts["key"]

    @property
    def label(self) -> str | None:
        """Its class, where the data set names one."""
        return self._facts["label"]

    @property
    def subgroup(self) -> str | None:
        """Its group, where the data set names one."""
        return self._facts["subgroup"]

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the original in pixels, upright."""
        return self._facts["width"], self._facts["height"]

    def representation(self) -> Values:
        """M(I) as one row [1, d'], unnormalised (T2.1)."""
        return self._values(self._run.arrays["representation"].read(self.row))

    def layer_effects(self) -> Values:
        """The 2L+1 residual terms [1, 2L+1, d'] that add up to M(I) (T2.4)."""
        terms = layer_terms(self._run.shape.layers)
        return self._values(self._run.arrays["layer"].read(self.row), components=terms)

    def heatmap(
        self,
        text: str,
        *,
        head: str | None = None,
        relative_to: str | None = None,
        debias: Debias = True,
    ) -> Heatmap:
        """Where a text is written: `<c_token, text>` of each patch (thesis, section 2.5).

        All heads together, or one `head` whose tokens the run kept (T2.6). `relative_to` takes
        another text's map away; otherwise `debias` takes away the mean map over the run's
        default pool, over another one by name, over a list of texts or a classifier's classes;
        False takes nothing away. With a head, "top" and "bottom" stand for the one of its TEXTSPAN
        texts that the head writes most and least of into this image (Figure 2.6).
        Raises `TokensNotStored`, `HeadTokensNotStored`, `HeadNotStored`, `TextNotStored`,
        `ClassifierMismatch`, or `UnknownPool` where there is no pool to debias with.
        """
        if head is None:
            _check_heads_given([text])
            array = self._run.need_tokens()
            text, direction = self._direction(text, relative_to=relative_to, debias=debias)
            scores = token_map(array.read(self.row)[0], direction)
        else:
            address, layer = self._run.token_layer(getattr(head, "address", head))
            head = str(address)
            if text in ("top", "bottom"):
                text = self._extreme_text(head, top=text == "top")
            text, direction = self._direction(text, relative_to=relative_to, debias=debias)
            scores = self._head_scores(address, layer, direction)
        grid = patch_grid(scores, (self._run.row["grid_height"], self._run.row["grid_width"]))
        return Heatmap(
            np.ascontiguousarray(grid, np.float32),
            text=text,
            head=head,
            relative_to=relative_to,
            background=self._crop,
        )

    def heatmaps(
        self,
        texts: str | Sequence[str] = ("top", "bottom"),
        *,
        heads: Components = None,
        debias: Debias = True,
    ) -> HeatmapGrid:
        """Heatmaps of several texts side by side, a row a head (Figures 2.6 and A.3).

        `heads` are addresses, a role, or rows with a column `component`; without them, one row
        through all heads together. Texts and errors as in `heatmap`, and `UnknownRole`.
        """
        columns = [texts] if isinstance(texts, str) else list(texts)
        if heads is None:
            _check_heads_given(columns)
        rows = [None] if heads is None else addresses_of(self._run, heads)
        if not columns or not rows:
            msg = "a grid of heatmaps needs a text and, where heads are given, one head at least."
            raise BadQuestion(msg)
        return HeatmapGrid(
            [[self.heatmap(text, head=head, debias=debias) for text in columns] for head in rows]
        )

    def segment(
        self,
        text: str,
        *,
        method: Method = "tokens",
        threshold: Threshold | None = None,
        relative_to: str | None = None,
        debias: Debias | None = None,
        layers: Layers = None,
        neurons: int | None = None,
        signed: bool = False,
        size: tuple[int, int] | None = None,
    ) -> Segmentation:
        """Where a text is, as a mask of the crop that the model saw (sections 2.5 and 3.5).

        "tokens": the map of all layers and heads, less the mean map of a pool, of class texts or of
        a classifier (`debias`), is enlarged to `size` = (height, width), by default the crop's,
        clipped at 0 and scaled to [0, 1]; above `threshold`, by default the map's own mean, is the
        mask. "neurons": the mean activation map of those `neurons` (200) of `layers` (all that are
        kept) whose directions have the largest `|<r_n, text>|`, scaled to [0, 1]; the threshold is
        0.5. `signed` turns neurons around that write against the text. Raises as `heatmap` does,
        `BadQuestion` for a threshold or size out of range and for what the method does not take,
        `NeuronsNotStored` or `NeuronInputNotStored`.
        """
        check_method(
            method,
            layers=layers,
            neurons=neurons,
            signed=signed,
            relative_to=relative_to,
            debias=debias,
        )
        if threshold is not None:
            check_threshold(threshold)
        target = crop_size(self._run.row) if size is None else check_size(size)
        if method == "neurons":
            way = NeuronMethod(
                self._run,
                self._run.texts.encode([text]),
                layers=layers,
                neurons=neurons,
                signed=signed,
            )
            one = np.array([self.row]), np.zeros(1, np.int64)
            (values,) = way.heats(*one, size=target)
            limit = way.threshold if threshold is None else threshold
        else:
            chosen = True if debias is None else debias
            scores = self.heatmap(text, relative_to=relative_to, debias=chosen).values
            values = heat(scores, target)
            limit = "mean" if threshold is None else threshold
        return Segmentation(
            values,
            foreground(values, limit),
            text=text,
            threshold=limit,
            background=self._crop,
        )

    def concepts(
        self,
        layer: Layers = None,
        pool: Pool = None,
        k: int = 10,
        *,
        m: int = 16,
        center: bool = False,
        signed: bool = True,
    ) -> Result:
        """What the image shows, in the words of its active neurons (thesis, appendix B).

        Neurons whose norm is above their 98th percentile vote for the texts of their sparse codes,
        `w_j = sum_n gamma_j^n x_n`; `signed=False` takes their norms for x, as the thesis does.
        `layer` is one, several, or None for all that are kept; `pool`, `m` and `center` are as in
        `NeuronView.texts`. Columns `rank`, `text`, `score`, and `neurons`, how many of the active
        ones hold the text. Raises `NeuronsNotStored`, `BadQuestion`, `UnknownPool` or
        `TextNotStored`.
        """
        question = CodeQuestion.of(self._run, pool, m=m, center=center)
        neurons = self._run.neurons
        norms = neurons.array("neuron_norm").read(self.row)[0]
        coefficients = neurons.array("neuron_coefficient").read(self.row)[0]
        effects = {
            layer: Effects(norms[place], coefficients[place], neurons.threshold[place])
            for layer, place in ((one, neurons.place(one)) for one in neurons.layers(layer))
        }
        return concepts(question, effects, k, signed=signed)

    def picture(self) -> Image:
        """The original image, if its file is still there, else the thumbnail; upright RGB.

        Raises `ImageFileMissing` where there is neither.
        """
        return self._run.pictures.picture(self.row, self.key)

    def thumbnail(self) -> Image:
        """The crop that the model saw, 224 pixels at most; raises `ImageFileMissing`."""
        return self._run.pictures.thumbnail(self.row)

    @cached_property
    def _facts(self) -> dict[str, Any]:
        names = ("key", "label", "subgroup", "width", "height")
        (values,) = self._run.console.rows(
            f"SELECT {', '.join(names)} FROM image WHERE image_id = ?", [self.image_id]
        )
        return dict(zip(names, values, strict=True))

    def _values(self, array: npt.NDArray[Any], *, components: list[str] | None = None) -> Values:
        return Values(
            array,
            image_ids=np.array([self.image_id]),
            thumbnails=self._run.thumbnails_of,
            components=components,
        )

    def _direction(
        self, text: str, *, relative_to: Any, debias: Debias
    ) -> tuple[str, npt.NDArray[Any]]:
        if relative_to is not None:
            if not isinstance(relative_to, str):
                msg = (
                    f"relative_to={relative_to!r} is no text, whose map could be taken away; "
                    "the mean map of several is: debias=[...]."
                )
                raise BadQuestion(msg)
            vectors = self._run.texts.encode([text, relative_to])
            return text, map_direction(vectors[0], relative_to=vectors[1])
        (vector,) = self._run.texts.encode([text])
        mean = None if debias is False else self._mean_text(debias)
        return text, map_direction(vector, mean_text=mean)

    def _mean_text(self, debias: Debias) -> npt.NDArray[np.float64]:
        if isinstance(debias, Classifier):
            check_classifier(self._run, debias)
            return debias.weights.mean(0, dtype=np.float64)
        if not isinstance(debias, bool | str):
            given: Any = debias
            texts = list(given) if isinstance(given, Iterable) else []
            if not texts:
                msg = (
                    f"debias={given!r} names no texts: give True for the default pool, a pool's "
                    "name, a list of texts, a classifier, or False."
                )
                raise BadQuestion(msg)
            return self._run.texts.encode(texts).mean(0, dtype=np.float64)
        try:
            return self._run.texts.pool(debias if isinstance(debias, str) else None).mean
        except UnknownPool as error:
            msg = f"there is no mean map to take away: {error} Or ask with debias=False."
            raise UnknownPool(msg) from error

    def _extreme_text(self, head: str, *, top: bool) -> str:
        kept = self._run.head(head)
        span = head_span_of(self._run, kept)
        if not span.texts:
            msg = f"{head} has no TEXTSPAN texts: it does not vary over the run's images."
            raise BadQuestion(msg)
        value = self._run.arrays["head_value"].read(self.row, kept.place, kept.address.head)
        scale = self._run.arrays["scale"].read(self.row)
        written = head_scores(value, scale, fold(self._run.basis(kept), span.vectors))[0]
        return span.texts[int(np.argmax(written) if top else np.argmin(written))]

    def _head_scores(
        self, head: Head, layer: int, direction: npt.NDArray[Any]
    ) -> npt.NDArray[np.float32]:
        arrays = self._run.arrays
        return head_token_map(
            arrays["head_token_weight"].read(self.row, layer, head.head),
            arrays["head_token_value"].read(self.row, layer, slice(None), head.head),
            arrays["scale"].read(self.row),
            basis=self._run.basis(self._run.head(str(head))),
            direction=direction,
        )[0]

    def _crop(self) -> Image | None:
        return crop_of(self._run, self.row)

    def __repr__(self) -> str:
        label = "" if self.label is None else f", {self.label}"
        return f"image {self.image_id} ({self.key}{label}) of run {self._run.name!r}"

    def _repr_png_(self) -> bytes | None:
        (webp,) = self._run.pictures.thumbnails([self.row])
        if webp is None:
            return None
        from io import BytesIO

        buffer = BytesIO()
        self.thumbnail().save(buffer, "PNG")
        return buffer.getvalue()


def _check_heads_given(texts: Sequence[str]) -> None:
    """Raise `BadQuestion` where a text stands for one that a head writes, and there is no head."""
    if named := [text for text in ("top", "bottom") if text in texts]:
        msg = (
            f"{' and '.join(map(repr, named))}: these are the texts that a head writes most and "
            "least of, so they need head= (or heads= in heatmaps); all heads together take a text."
        )
        raise BadQuestion(msg)
