"""What may name components of a run, wherever some are asked for, and the addresses it stands for.

That is an address, a head, a role, rows with a column `component` (a Result, a frame), or a list
of these.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from ..schema.components import Component
from ..schema.errors import BadAddress
from .roles import Role

if TYPE_CHECKING:
    from .open_run import OpenRun

Components: TypeAlias = Any
"""An address, a head, a role, rows with a column `component`, or a list of these."""


def addresses_of(run: OpenRun, components: Components) -> list[str]:
    """The addresses that components are given by, those of roles looked up.

    Addresses are not read yet. Raises `BadAddress` for what names no component, or `UnknownRole`.
    """
    found: list[str] = []
    for part in parts_of(components):
        found += run.roles(part.name) if isinstance(part, Role) else [part]
    return found


def parts_of(components: Components) -> list[str | Role]:
    """Addresses and roles as they were given, as a flat list; raises `BadAddress`."""
    if isinstance(components, str | Role):
        return [components]
    if isinstance(components, Component):
        return [str(components)]
    if (address := getattr(components, "address", None)) is not None:
        return [str(address)]
    if isinstance(components, Mapping) and "component" in components:
        return [str(components["component"])]
    columns: Any = getattr(components, "columns", None)
    if columns is not None and "component" in list(columns):
        return [str(address) for address in components["component"]]
    nested = isinstance(components, Iterable) and not isinstance(components, Mapping | bytes)
    if columns is None and nested:
        return [part for one in components for part in parts_of(one)]
    msg = (
        f"{components!r} names no component; give an address such as 'L21.H11', a head, "
        "role('NAME'), rows with a column `component`, or a list of these."
    )
    raise BadAddress(msg)


def as_given(components: Components) -> list[str]:
    """How components were named, each once: for people, who asked for "mlp" and not its layers."""
    return list(dict.fromkeys(str(part) for part in parts_of(components)))
