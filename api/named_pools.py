"""Curves against the number of texts: which pools they are of, what they are called, and where."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from ..schema.errors import BadQuestion, UnknownPool
from .candidates import Pool
from .open_run import OpenRun
from .whole_numbers import whole

Pools: TypeAlias = Pool | Sequence[str] | Mapping[str, Pool]
"""A pool, names of pools, or a dict from what curves are called to their pools; None: default."""


def named_pools(run: OpenRun, pools: Pools, *, taken: Sequence[str]) -> dict[str, Pool]:
    """Pools by the names of their curves, none of them `taken`.

    Raises `UnknownPool` or `BadQuestion`.
    """
    named: dict[str, Pool] = {}
    if isinstance(pools, Mapping):
        named |= pools
    elif pools is None or isinstance(pools, str):
        named[run.texts.pool(pools).name] = pools
    elif isinstance(pools, Sequence):
        try:
            named |= {run.texts.pool(name).name: name for name in pools}
        except UnknownPool as error:
            msg = f"{error} Or, for a list of texts, give {{'mine': [...]}}."
            raise UnknownPool(msg) from error
    else:
        named["vectors"] = pools
    if not named or any(name in named for name in taken):
        msg = f"pools= takes at least one pool, and none called {' or '.join(map(repr, taken))}."
        raise BadQuestion(msg)
    return named


def text_counts(ms: int | Sequence[int]) -> list[int]:
    """Numbers of texts, ascending, each once; raises `BadQuestion`."""
    given: list[Any] = [*ms] if isinstance(ms, Iterable) else [ms]
    if not given:
        msg = "ms= names no number of texts; give some of 1 or more, such as (10, 20)."
        raise BadQuestion(msg)
    return sorted({whole(m, "m", least=1, of="texts") for m in given})
