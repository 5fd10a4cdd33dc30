"""The store that is served: its newest published generation, swapped while requests go on."""

from __future__ import annotations

import logging
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ...schema.errors import LensbaseError
from ...schema.layout import Layout
from ...schema.snapshot import open_snapshot, published_generation
from ..store import Store

_LOG = logging.getLogger(__name__)


@dataclass
class _Open:
    store: Store
    users: int = 0
    retired: bool = False


class ServedStore:
    """Gives each request the newest generation; one that is in use stays open until it is not.

    Without `load_models` only what is stored answers.
    """

    def __init__(
        self, path: Path, *, image_root: Path | None = None, load_models: bool = True
    ) -> None:
        self.path = path
        self._image_root = image_root
        self._load_models = load_models
        self._layout = Layout(path)
        self._lock = threading.Lock()
        self._newest = self._open()

    @contextmanager
    def current(self) -> Generator[Store]:
        """The store as it is published now.

        Where the newer generation cannot be opened, the last good one goes on answering.
        """
        with self._lock:
            used = self._followed()
            used.users += 1
        try:
            yield used.store
        finally:
            with self._lock:
                used.users -= 1
                if used.retired and not used.users:
                    used.store.close()

    def warm(self) -> None:
        """Ask what every page begins with, so that the first one asked for need not wait.

        Libraries are imported on the way, and DuckDB reads the catalogue.
        """
        try:
            with self.current() as store:
                store.info()
                for rows in (store.runs, store.pools, store.zoos):
                    rows.rows()
                for name in store.runs["run"].tolist():
                    run = store.run(name)
                    run.info()
                    run.heads.rows()
                    run.layers.rows()
        except (LensbaseError, OSError, ValueError):
            _LOG.debug("the store cannot be read ahead", exc_info=True)

    def close(self) -> None:
        """Let go of the store once the last request has ended."""
        with self._lock:
            self._retire(self._newest)

    def _followed(self) -> _Open:
        try:
            if published_generation(self._layout) != self._newest.store.generation:
                newer = self._open()
                self._retire(self._newest)
                self._newest = newer
        except (LensbaseError, OSError, ValueError):
            _LOG.exception("the newest generation of %s cannot be opened", self.path)
        return self._newest

    def _open(self) -> _Open:
        snapshot = open_snapshot(self.path)
        return _Open(Store(snapshot, image_root=self._image_root, load_models=self._load_models))

    @staticmethod
    def _retire(opened: _Open) -> None:
        opened.retired = True
        if not opened.users:
            opened.store.close()
