"""Roles: a name for all components that are annotated with it."""

from __future__ import annotations

from dataclasses import dataclass

from ..schema.components import check_name


@dataclass(frozen=True)
class Role:
    """All components of a run that have a role, wherever components are asked for."""

    name: str

    def __str__(self) -> str:
        return f"role({self.name!r})"


def role(name: str) -> Role:
    """The components annotated with a role, as in `clip.ablate(role("background"))`.

    Which these are is looked up when it is used. Raises `BadName`.
    """
    return Role(check_name(name, kind="role"))
