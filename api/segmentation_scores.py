"""How well a run's images are segmented, by the protocol of Tables 2.4 and 3.4."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from ..queries import segmentation
from ..queries.classification import predict
from ..queries.segmentation import Threshold
from ..schema.errors import BadQuestion, BadSelection, UnknownColumn, UnknownLabel
from .card import Card
from .classifier import Classes, Classifier, Templates, check_classifier, classifier
from .labels import no_labels, passed_over
from .masks import CropMasks, Masks, crop_size
from .open_run import OpenRun
from .printing import counted
from .result import Result
from .run_neurons import Layers
from .segmentation import check_threshold
from .segmentation_methods import Method, NeuronMethod, TokenMethod, check_method
from .selection import Images, Selection
from .sql_text import quoted
from .tabular import Tabular
from .where import Where

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

Target: TypeAlias = Literal["label", "predicted"]
F64: TypeAlias = npt.NDArray[np.float64]
I64: TypeAlias = npt.NDArray[np.int64]

_BLOCK_BYTES = 64 << 20


@dataclass(frozen=True)
class SegmentationScores(Tabular):
    """What Table 2.4 reports of a method, and each image's part in it.

    `pixel_accuracy` is the share of all labelled pixels that are right; `iou` that of background
    and foreground from pixels added up over all images, `miou` their mean; `map` the mean over
    images of their average precision. `foreground_map` is that of the foreground alone: where
    objects are small, the background lifts `map` for any heatmap. `images` has a row an image
    (`.df()`, `.save(path)` and the like take these elsewhere), `note` says what was passed over.
    """

    pixel_accuracy: float
    miou: float
    map: float
    foreground_map: float
    iou: tuple[float, float]
    images: Result
    note: str | None = None

    def table(self) -> Result:
        """The `images`."""
        return self.images

    def plot(self, *, ax: Axes | None = None) -> Axes:
        """Bars of the four scores with matplotlib."""
        from .plots import new_axes

        names = ("pixel accuracy", "mIoU", "mAP", "mAP of the foreground")
        scores = (self.pixel_accuracy, self.miou, self.map, self.foreground_map)
        ax = ax or new_axes(6, 2)
        bars = ax.barh(range(len(names)), scores)
        ax.bar_label(bars, fmt="%.3f")
        ax.set_yticks(range(len(names)), names)
        ax.set_xlim(0, 1.1)
        ax.invert_yaxis()
        return ax

    def card(self) -> Card:
        """The scores at a glance."""
        facts = {
            "pixel accuracy": f"{self.pixel_accuracy:.4f}",
            "mIoU": f"{self.miou:.4f} (background {self.iou[0]:.4f}, foreground {self.iou[1]:.4f})",
            "mAP": f"{self.map:.4f} (foreground alone {self.foreground_map:.4f})",
        }
        if self.note:
            facts["note"] = self.note
        return Card(f"segmentation of {counted(len(self.images), 'image')}", facts)

    def __repr__(self) -> str:
        return str(self.card())

    def _repr_html_(self) -> str:
        shown = (self.card(), self.images)
        return "".join(one._repr_html_() for one in shown)  # pyright: ignore[reportPrivateUsage]


def evaluate_segmentation(
    run: OpenRun,
    masks: Masks,
    *,
    classes: Classes | Classifier | None = None,
    label: str = "label",
    target: Target = "label",
    method: Method = "tokens",
    layers: Layers = None,
    neurons: int | None = None,
    signed: bool = False,
    threshold: Threshold | None = None,
    templates: Templates = None,
    ignore: int | None = None,
    images: Images = None,
    where: Where = None,
) -> SegmentationScores:
    """Segment images by a class each and compare with masks; see `RunView.evaluate_segmentation`.

    Holds one block of images' tokens (or what neurons read) and maps in memory at a time.
    """
    check_method(method, layers=layers, neurons=neurons, signed=signed)
    if threshold is not None:
        check_threshold(threshold)
    if method == "tokens":
        run.need_tokens()
    else:
        run.neurons.need_input()
    if target not in ("label", "predicted"):
        msg = f"target={target!r} is no choice of the class; there are 'label' and 'predicted'."
        raise BadQuestion(msg)
    chosen = run.images.select(images, where)
    if not len(chosen):
        msg = "no image is chosen, so there is nothing to evaluate."
        raise BadSelection(msg)
    keys, sizes = _keys_and_sizes(run, chosen)
    needed = target == "label" or classes is None
    labels = _labels(run, chosen, label) if needed else []
    places, note = np.arange(len(chosen)), None
    if target == "label":
        places, note = _labelled_places(run, labels, label)
    made = _classifier(run, classes, labels, templates)
    placed = CropMasks(masks, keys, run.row, needed=places.tolist())
    chosen = Selection(chosen.rows[places], chosen.image_ids[places])
    targets = _targets(made, labels, keys) if target == "label" else None
    if method == "neurons":
        way = NeuronMethod(run, made.weights, layers=layers, neurons=neurons, signed=signed)
    else:
        way = TokenMethod(
            run, made.weights - made.weights.mean(0, dtype=np.float64).astype(np.float32)
        )
    limit = way.threshold if threshold is None else threshold
    size = crop_size(run.row)
    block = max(1, _BLOCK_BYTES // (way.image_bytes + 40 * _area(size)))
    counts = np.zeros((len(chosen), 2, 2), np.int64)
    precision = np.zeros((len(chosen), 2))
    used = np.zeros(len(chosen), np.int64)
    for start in range(0, len(chosen), block):
        rows = chosen.rows[start : start + block]
        if targets is None:
            of = predict(run.arrays["representation"].read(rows), made.weights)
        else:
            of = targets[start : start + block]
        heats = way.heats(rows, of, size=size)
        predicted = segmentation.foreground(heats, limit)
        for number, (heat, found) in enumerate(zip(heats, predicted, strict=True), start):
            place = int(places[number])
            mask = placed.read(place, sizes[place])
            valid = None if ignore is None else mask != ignore
            truth = mask != 0 if valid is None else (mask != 0) & valid
            counts[number] = segmentation.confusion(found, truth, valid=valid)
            precision[number] = [
                segmentation.average_precision(heat, truth, valid=valid, classes=kind)
                for kind in ("both", "foreground")
            ]
        used[start : start + len(rows)] = of
    names = [made.classes[number] for number in used]
    keys = [keys[place] for place in places]
    return replace(_scores(run, chosen, keys, names, counts, precision), note=note)


def _scores(
    run: OpenRun,
    chosen: Selection,
    keys: list[str],
    names: list[str],
    counts: I64,
    precision: F64,
) -> SegmentationScores:
    total = counts.sum(0)
    background, foreground = segmentation.intersection_over_union(total)
    each = segmentation.intersection_over_union(counts)
    rows = Result.of(
        {
            "image_id": chosen.image_ids,
            "key": keys,
            "class": names,
            "pixel_accuracy": segmentation.pixel_accuracy(counts),
            "iou_background": each[:, 0],
            "iou_foreground": each[:, 1],
            "average_precision": precision[:, 0],
            "foreground_precision": precision[:, 1],
        },
        thumbnails=run.thumbnails_of,
    )
    return SegmentationScores(
        pixel_accuracy=float(segmentation.pixel_accuracy(total)),
        miou=float((background + foreground) / 2),
        map=_mean(precision[:, 0]),
        foreground_map=_mean(precision[:, 1]),
        iou=(float(background), float(foreground)),
        images=rows,
    )


def _keys_and_sizes(run: OpenRun, chosen: Selection) -> tuple[list[str], list[tuple[int, int]]]:
    known = {
        number: (key, (height, width))
        for number, key, height, width in run.console.rows(
            "SELECT image_id, key, height, width FROM image "
            "WHERE image_id IN (SELECT unnest(?::BIGINT[]))",
            [chosen.image_ids],
        )
    }
    told = [known[number] for number in chosen.image_ids.tolist()]
    return [key for key, _ in told], [size for _, size in told]


def _labels(run: OpenRun, chosen: Selection, label: str) -> list[str | None]:
    columns = run.console.types("SELECT * FROM images")
    if label not in columns:
        msg = f"label={label!r} is no column of the images; there are {', '.join(columns)}."
        raise UnknownColumn(msg)
    found = run.console.rows(
        f"SELECT image_id, {quoted(label)}::VARCHAR FROM images "
        "WHERE run = ? AND image_id IN (SELECT unnest(?::BIGINT[]))",
        [run.name, chosen.image_ids],
    )
    known: dict[int, str | None] = dict(found)
    return [known[number] for number in chosen.image_ids.tolist()]


def _classifier(
    run: OpenRun,
    classes: Classes | Classifier | None,
    labels: Sequence[str | None],
    templates: Templates,
) -> Classifier:
    if isinstance(classes, Classifier):
        if templates is not None:
            msg = "a classifier has templates of its own; give templates= or it, not both."
            raise BadQuestion(msg)
        check_classifier(run, classes)
        return classes
    if classes is None:
        classes = sorted({one for one in labels if one is not None})
    return classifier(run, classes, templates=templates)


def _labelled_places(run: OpenRun, labels: list[str | None], label: str) -> tuple[I64, str | None]:
    """Where the images with a label are among the chosen ones, and a note on the others."""
    places = np.array([place for place, one in enumerate(labels) if one is not None], np.int64)
    if not len(places):
        raise no_labels(run, len(labels), label)
    return places, passed_over(len(labels) - len(places), label)


def _targets(made: Classifier, labels: list[str | None], keys: list[str]) -> I64:
    places = {name: number for number, name in enumerate(made.classes)}
    for key, one in zip(keys, labels, strict=True):
        if one is not None and one not in places:
            listed = ", ".join(map(repr, made.classes[:8])) + ", ..." * (len(made.classes) > 8)
            msg = (
                f"image {key!r} is a {one!r}, which is none of the classifier's classes: {listed}."
            )
            raise UnknownLabel(msg)
    return np.array([places[one] for one in labels if one is not None], np.int64)


def _mean(numbers: F64) -> float:
    """The mean of those numbers that are some; NaN of none."""
    known = numbers[~np.isnan(numbers)]
    return float(known.mean()) if len(known) else float("nan")


def _area(size: tuple[int, int]) -> int:
    return size[0] * size[1]
