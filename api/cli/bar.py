"""The progress bar of an ingest, on stderr where that is a terminal."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

import typer

if TYPE_CHECKING:
    from tqdm import tqdm

_FORMAT = "{percentage:3.0f}% |{bar}| {n_fmt} of {total_fmt} images, {rate_fmt}, {remaining} left"


class ImageBar:
    """One bar after the other: a new one begins with each stage of an ingest."""

    def __init__(self) -> None:
        self._bar: tqdm[NoReturn] | None = None

    def tell(self, done: int, total: int) -> None:
        """Show how many images of a stage are done; other totals, or fewer done, are a new one.

        Images that were there at a stage's first call do not count towards its rate.
        """
        from tqdm import tqdm

        bar = self._bar
        if bar is not None and total == bar.total and done >= bar.n:
            bar.update(done - bar.n)
            return
        self.close()
        self._bar = tqdm(
            total=total,
            initial=done,
            unit=" images",
            bar_format=_FORMAT,
            dynamic_ncols=True,
            disable=None,
        )

    def say(self, message: str) -> None:
        """Say on stderr what begins, below the bar of what has ended."""
        self.close()
        typer.echo(message, err=True)

    def close(self) -> None:
        """Leave the bar as it is."""
        if self._bar is not None:
            self._bar.close()
        self._bar = None


@contextmanager
def image_bar() -> Generator[ImageBar]:
    """Give a bar, and close it in the end."""
    bar = ImageBar()
    try:
        yield bar
    finally:
        bar.close()
