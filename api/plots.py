"""Results as plots: a strip of pictures, or bars of their first telling number."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np

from ..schema.errors import BadQuestion
from .optional import library

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt
    from matplotlib.axes import Axes

    from .result import Result

# What a reader wants to see first, where a result has it.
_TELLING = (
    "score",
    "accuracy",
    "explained_variance",
    "mean_share",
    "share",
    "mean_norm",
    "norm",
    "length",
)
_NAMING = ("text", "component", "key", "label", "pool", "run")
_MOST_TICKS = 40
_COUNTING = ("rank", "row", "image_id", "layer", "head", "position")


def plot_result(result: Result, *, ax: Axes | None, limit: int) -> Axes:
    """Plot the first `limit` rows on `ax`, or on a new figure."""
    first = result[:limit]
    pictures = first.pictures(limit)
    if pictures and any(pictures):
        return _strip(first, pictures, ax=ax)
    number = _number(first)
    if number is None:
        msg = f"there is nothing to plot: none of {', '.join(result.columns)} is a number."
        raise BadQuestion(msg)
    name = next((column for column in _NAMING if column in first.columns), None)
    names = [str(place) for place in range(len(first))] if name is None else list(first[name])
    ax = ax or new_axes(6, 0.8 + 0.3 * len(first))
    ax.barh(np.arange(len(first)), np.asarray(first[number], np.float64))
    ax.set_yticks(np.arange(len(first)), [str(one) for one in names])
    ax.invert_yaxis()
    ax.set_xlabel(number.replace("_", " "))
    return ax


def _strip(result: Result, pictures: list[bytes | None], *, ax: Axes | None) -> Axes:
    from PIL import Image

    ax = ax or new_axes(1.2 * len(result), 1.6)
    captions = list(result["score"]) if "score" in result.columns else list(result["image_id"])
    for place, webp in enumerate(pictures):
        if webp is not None:
            picture = Image.open(BytesIO(webp)).convert("RGB")
            ax.imshow(np.asarray(picture), extent=(place + 0.02, place + 0.98, 0, 1))
        caption = captions[place]
        text = f"{caption:.3g}" if isinstance(caption, float | np.floating) else str(caption)
        ax.text(place + 0.5, -0.02, text, ha="center", va="top", fontsize=8)
    ax.set_xlim(0, len(result))
    ax.set_ylim(0, 1)
    ax.set_axis_off()
    return ax


def _number(result: Result) -> str | None:
    kinds = {name: np.asarray(result[name]).dtype.kind for name in result.columns}
    numbers = [name for name, kind in kinds.items() if kind in "iuf"]
    telling = [name for name in _TELLING if name in numbers]
    rest = [name for name in numbers if name not in _COUNTING]
    return next(iter([*telling, *rest, *numbers]), None)


def plot_matrix(
    shades: npt.NDArray[np.floating[Any]],
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    ax: Axes | None,
) -> Axes:
    """Shade numbers [rows, columns]; of many columns some are named."""
    ax = ax or new_axes(min(2 + 0.3 * len(columns), 12), 1.2 + 0.3 * len(rows))
    drawn = ax.imshow(shades, aspect="auto", cmap="viridis", interpolation="nearest")
    step = -(-len(columns) // _MOST_TICKS)
    ax.set_xticks(range(0, len(columns), step), columns[::step], rotation=90, fontsize=8)
    ax.set_yticks(range(len(rows)), rows, fontsize=8)
    if (figure := ax.get_figure()) is not None:
        figure.colorbar(drawn, ax=ax)
    return ax


def new_axes(width: float, height: float) -> Axes:
    """Axes of a figure of their own, in inches."""
    library("matplotlib")
    import matplotlib.pyplot as plt

    _, ax = plt.subplots(figsize=(width, height), layout="constrained")
    return ax
