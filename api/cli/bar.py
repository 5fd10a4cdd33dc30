"""The progress bar of an ingest, on stderr where that is a terminal."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from tqdm import tqdm

_FORMAT = "{percentage:3.0f}% |{bar}| {n_fmt} of {total_fmt} images, {rate_fmt}, {remaining} left"


@contextmanager
def image_bar() -> Generator[Callable[[int, int], None]]:
    """Give a function that is told (images done, images in all) and shows it.

    Images that were there at the first call do not count towards the rate.
    """
    from tqdm import tqdm

    bar: tqdm[NoReturn] | None = None

    def tell(done: int, total: int) -> None:
        nonlocal bar
        if bar is None:
            bar = tqdm(
                total=total,
                initial=done,
                unit=" images",
                bar_format=_FORMAT,
                dynamic_ncols=True,
                disable=None,
            )
            return
        bar.update(done - bar.n)

    try:
        yield tell
    finally:
        if bar is not None:
            bar.close()
