"""Zero-shot accuracy from stored representations: overall, by group, and after an ablation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from html import escape
from typing import TYPE_CHECKING, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from ..queries.classification import GroupCounts, group_counts, predict
from ..schema.components import Head
from .ablation import BLOCK, Ablation, prepare
from .classifier import Classifier, check_classifier
from .labels import Labelled, labelled, listed
from .named_components import Components, as_given
from .open_run import OpenRun
from .printing import counted
from .result import Result
from .selection import Images, Selection
from .tabular import Tabular
from .where import Where
from .whole_numbers import whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes

I64 = npt.NDArray[np.int64]
F32 = npt.NDArray[np.float32]
Block: TypeAlias = tuple[int, int, F32]
Sets: TypeAlias = tuple[tuple[str, ...], ...]


class Change(Protocol):
    """Effects of components that are replaced in representations, such as an `Ablation`."""

    @property
    def addresses(self) -> tuple[str, ...]:
        """The components whose effects are replaced."""
        ...

    def apply(self, representation: F32, rows: I64, *, out: F32) -> F32:
        """Change representations [k, d'] of these rows of the run.

        Fills and returns the first k rows of `out`. Of the same block of rows, several changes in
        a row are given the same array `rows`.
        """
        ...


@dataclass(frozen=True, eq=False, repr=False)
class Accuracy(Tabular):
    """How many images are classified right; `float()` of it is the share of all of them.

    `.df()`, `.save(path)` and the like take its `groups` elsewhere.
    `counts` are images and right predictions of each group, `predicted` places among the classes
    by row, `ablated` the addresses whose effects were replaced, `asked` how these were named. What
    it is compared with (`before`, `random`) is computed when it is first asked for.
    """

    run: OpenRun
    classifier: Classifier
    labelled: Labelled
    predicted: I64
    counts: GroupCounts
    ablated: tuple[str, ...] = ()
    means: Selection | None = None
    zero: bool = False
    drawn: Sets = ()
    asked: tuple[str, ...] = ()

    @cached_property
    def before(self) -> Accuracy | None:
        """The same images without the ablation; None where nothing is ablated."""
        if not self.ablated:
            return None
        return classify(self.run, self.classifier, self.labelled, ablations=[None])[0]

    @cached_property
    def random(self) -> Accuracy | None:
        """The best of some draws of as many random heads, by worst group, then overall.

        None where anything but heads was ablated, or too few others are kept to draw from.
        """
        ablations = [
            prepare(self.run, heads, mean_over=self.means, zero=self.zero) for heads in self.drawn
        ]
        found = classify(self.run, self.classifier, self.labelled, ablations=ablations)
        return max(found, key=lambda one: (one.worst_group, one.overall), default=None)

    @property
    def images(self) -> int:
        """How many images it is over."""
        return int(self.counts.images.sum())

    @property
    def overall(self) -> float:
        """The share of all images that is classified right."""
        return float(self.counts.correct.sum() / self.counts.images.sum())

    @property
    def worst_group(self) -> float:
        """The smallest accuracy of a group; that of all images where there are no groups."""
        return float(self.counts.accuracy.min())

    @property
    def groups(self) -> Result:
        """A row a group: its columns of `by`, `images`, `accuracy`; `before` it, where ablated."""
        columns = {**self.labelled.names, "images": self.counts.images}
        if self.before is not None:
            columns["before"] = self.before.counts.accuracy
        columns["accuracy"] = self.counts.accuracy
        return Result.of(columns, note=self.note)

    @property
    def predictions(self) -> Result:
        """A row an image: `image_id`, `label` and the class `predicted`, by row of the run."""
        classes = np.array(self.classifier.classes, dtype=object)
        columns = {
            "image_id": self.labelled.image_ids,
            "label": classes[self.labelled.labels],
            "predicted": classes[self.predicted],
        }
        return Result.of(columns, note=self.note)

    def table(self) -> Result:
        """The `groups`: a row a group, or one row where there are none."""
        return self.groups

    @property
    def note(self) -> str | None:
        """What was passed over, if anything."""
        return self.labelled.note

    def plot(self, *, ax: Axes | None = None) -> Axes:
        """Bars of each group's accuracy with matplotlib, beside those from before an ablation."""
        from .plots import new_axes

        names = [list(map(str, column)) for column in self.labelled.names.values()]
        ticks = [" · ".join(parts) for parts in zip(*names, strict=True)] or ["all images"]
        ax = ax or new_axes(6, 1 + 0.35 * len(ticks))
        places = np.arange(len(ticks))
        if self.before is None:
            ax.barh(places, self.counts.accuracy)
        else:
            before = self.before.counts.accuracy
            ax.barh(places - 0.2, before, height=0.4, label="before", color="0.75")
            ax.barh(places + 0.2, self.counts.accuracy, height=0.4, label="ablated")
            ax.legend()
        ax.set_yticks(places, ticks)
        ax.set_xlim(0, 1)
        ax.invert_yaxis()
        ax.set_xlabel("accuracy")
        return ax

    def __float__(self) -> float:
        return self.overall

    def __str__(self) -> str:
        lines = [f"{what}: {value}" for what, value in self._facts()]
        return "\n".join([*lines, str(self.groups)]) if self.labelled.names else "\n".join(lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        facts = "".join(
            f"<tr><th>{escape(what)}</th><td>{escape(value)}</td></tr>"
            for what, value in self._facts()
        )
        groups = self.groups._repr_html_() if self.labelled.names else ""  # pyright: ignore[reportPrivateUsage]
        return f"<table>{facts}</table>{groups}"

    def _facts(self) -> list[tuple[str, str]]:
        classes = "1 class" if len(self.classifier) == 1 else f"{len(self.classifier)} classes"
        of = f"{counted(self.images, 'image')}, {classes}"
        facts = [("accuracy", f"{self._change('overall')} of {of}")]
        if self.labelled.names:
            facts.append(("worst group", self._change("worst_group")))
        if self.ablated:
            how = "to zero" if self.zero else "to their means"
            facts.append((f"ablated {how}", listed(self.asked or self.ablated)))
        if self.random is not None:
            heads = counted(len(self.random.ablated), "random head")
            value = f"{self.random.overall:.4f}"
            if self.labelled.names:
                value = f"{self.random.worst_group:.4f} in the worst group, {value} overall"
            facts.append((f"best of {counted(len(self.drawn), 'draw')} of {heads}", value))
        if self.note and not self.labelled.names:
            facts.append(("note", self.note))
        return facts

    def _change(self, name: str) -> str:
        now = f"{getattr(self, name):.4f}"
        return now if self.before is None else f"{getattr(self.before, name):.4f} -> {now}"


def accuracy(
    run: OpenRun,
    made: Classifier,
    *,
    label: str = "label",
    by: str | Sequence[str] | None = None,
    ablate: Components = (),
    images: Images = None,
    where: Where = None,
    mean_over: Images = None,
    zero: bool = False,
    draws: int = 5,
    seed: int = 0,
) -> Accuracy:
    """Classify stored representations, before and after an ablation; see `RunView.accuracy`."""
    draws = whole(draws, "draws", least=0, of="draws of random heads")
    seed = whole(seed, "seed", least=0, of="draws")
    check_classifier(run, made)
    means = None if mean_over is None else run.images.select(mean_over)
    ablation = prepare(run, ablate, mean_over=means, zero=zero)
    found = labelled(run, made, run.images.select(images, where), label=label, by=by)
    (measured,) = classify(run, made, found, ablations=[ablation])
    drawn = _random_sets(run, ablation, draws=draws, seed=seed)
    return replace(measured, means=means, zero=zero, drawn=drawn, asked=tuple(as_given(ablate)))


def classify(
    run: OpenRun, made: Classifier, found: Labelled, *, ablations: Sequence[Change | None]
) -> list[Accuracy]:
    """The accuracy after each of some changes (None: without one), in one pass over the rows."""
    predicted = [np.empty(len(found.rows), np.int64) for _ in ablations]
    weights = np.ascontiguousarray(made.weights, np.float32)
    for place, start, block in _blocks(run, found.rows, ablations):
        predicted[place][start : start + len(block)] = predict(block, weights)
    return [
        Accuracy(
            run,
            made,
            found,
            codes,
            group_counts(codes, found.labels, found.groups, count=found.count),
            ablated=() if ablation is None else ablation.addresses,
        )
        for ablation, codes in zip(ablations, predicted, strict=True)
    ]


def _blocks(run: OpenRun, rows: I64, ablations: Sequence[Change | None]) -> Iterator[Block]:
    """For a block of rows at a time, and each ablation: its place, the first row's, and [k, d'].

    A block is to be used before the next one is asked for.
    """
    # Blocks that are segments are worked on where they lie.
    size = run.shape.segment_rows if BLOCK // 4 <= run.shape.segment_rows <= BLOCK else BLOCK
    ablated = np.empty((min(size, len(rows)), run.shape.embed_dim), np.float32)
    for start in range(0, len(rows) if ablations else 0, size):
        part = rows[start : start + size]
        stored = run.arrays["representation"].view(part)
        for place, ablation in enumerate(ablations):
            if ablation is None:
                yield place, start, stored
            else:
                yield place, start, ablation.apply(stored, part, out=ablated)


def _random_sets(run: OpenRun, ablation: Ablation, *, draws: int, seed: int) -> Sets:
    """Draws of as many kept heads, none of them ablated; none where it is not heads alone."""
    if not ablation.parts.only_heads:
        return ()
    own = set(ablation.parts.heads)
    kept = (Head(layer, h) for layer in run.shape.head_layers for h in range(run.shape.heads))
    others = [head for head in kept if head not in own]
    if len(others) < len(own):
        return ()
    random = np.random.default_rng(seed)
    places = (np.sort(random.permutation(len(others))[: len(own)]) for _ in range(draws))
    return tuple(tuple(str(others[place]) for place in one) for one in places)
