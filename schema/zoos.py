"""A zoo in the catalogue: what a generation's `CURRENT` says of it, and dropping one."""

from __future__ import annotations

import shutil
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from .errors import RunBusy
from .layout import Layout
from .nearest import nearest
from .zoo_errors import UnknownZoo
from .zoo_files import named_files, published_zoos, zoo_folder

if TYPE_CHECKING:
    import duckdb

    from .catalog import Draft

TABLES = (
    "rosetta_unit",
    "rosetta_match",
    "rosetta_concept",
    "rosetta_pair",
    "rosetta_model",
    "rosetta_run",
)


def zoo_entries(connection: duckdb.DuckDBPyConnection) -> dict[str, dict[str, Any]]:
    """What `CURRENT` says of each zoo of a catalogue: folder, models, pairs, label of examples."""
    found = connection.execute(
        """SELECT z.name, z.folder, z.label,
                  (SELECT list(m.name ORDER BY m.position) FROM rosetta_model m
                   WHERE m.rosetta_id = z.rosetta_id),
                  (SELECT list([a.name, b.name] ORDER BY p.first, p.second) FROM rosetta_pair p
                   JOIN rosetta_model a ON a.rosetta_id = p.rosetta_id AND a.position = p.first
                   JOIN rosetta_model b ON b.rosetta_id = p.rosetta_id AND b.position = p.second
                   WHERE p.rosetta_id = z.rosetta_id)
           FROM rosetta_run z ORDER BY z.name"""
    ).fetchall()
    return {
        name: {"folder": folder, "label": label, "models": models or [], "pairs": pairs or []}
        for name, folder, label, models, pairs in found
    }


def drop_zoo(layout: Layout, name: str) -> bool:
    """Publish a generation without a zoo; its files stay until no kept generation names them.

    Of a zoo that was never published, what its mining has kept is removed: False then. Raises
    `UnknownZoo`, or `RunBusy` where it is being mined.
    """
    from .catalog import check_format, publishing

    check_format(layout)
    if name not in published_zoos(layout):
        with mining_alone(layout, name):
            _drop_unfinished(layout, name)
        return False
    with publishing(layout) as draft:
        folder = forget_zoo(draft, name)
        if layout.zoo(folder).exists():
            # Before the generation is published: a zoo that is in one is not swept, mark or not.
            layout.zoo_dropped(folder).touch()
    return True


def _drop_unfinished(layout: Layout, name: str) -> None:
    """Remove what a mining that was never published has kept; raises `UnknownZoo`."""
    from .catalog import publish_lock

    with publish_lock(layout):
        folder = zoo_folder(layout, name)
        # An earlier generation, which `rollback` may bring back, may name files of it.
        if not layout.zoo(folder).exists() or named_files(layout, folder):
            raise unknown_zoo(name, list(published_zoos(layout)))
        shutil.rmtree(layout.zoo(folder))


@contextmanager
def mining_alone(layout: Layout, name: str) -> Generator[None]:
    """Keep others from mining, or dropping, the same zoo; raises `RunBusy`."""
    from filelock import FileLock, Timeout

    path = layout.publish_lock.with_name(f"rosetta-{name}.lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(path, timeout=0):
            yield
    except Timeout as error:
        msg = f"zoo {name!r} is being mined by another process; wait for it, or end it first."
        raise RunBusy(msg) from error


def forget_zoo(draft: Draft, name: str) -> str:
    """Take a zoo's rows out of a draft; return its folder. Raises `UnknownZoo`."""
    draft.session.flush()
    zoos = draft.connection.execute("SELECT name, rosetta_id, folder FROM rosetta_run").fetchall()
    known = {one: (number, folder) for one, number, folder in zoos}
    if name not in known:
        raise unknown_zoo(name, list(known))
    number, folder = known[name]
    for table in TABLES:
        draft.connection.execute(f"DELETE FROM {table} WHERE rosetta_id = ?", [number])
    return folder


def unknown_zoo(name: str, names: list[str]) -> UnknownZoo:
    """The error for a zoo that a store does not hold, with the nearest names that it does."""
    if not names:
        msg = (
            f"the store holds no zoo {name!r}, and no other one; `lensbase rosetta mine STORE "
            "IMAGES --model NAME=SOURCE:ARCHITECTURE ...` mines one."
        )
        return UnknownZoo(msg)
    msg = (
        f"the store holds no zoo {name!r}; {nearest(name, names)}. "
        "`lensbase rosetta list STORE` lists them all."
    )
    return UnknownZoo(msg)
