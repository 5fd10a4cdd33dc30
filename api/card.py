"""Cards: what a store or a run is, at a glance."""

from __future__ import annotations

from dataclasses import dataclass, field
from html import escape


@dataclass(frozen=True)
class Card:
    """A title and named facts, printed one a line."""

    title: str
    facts: dict[str, str] = field(default_factory=dict[str, str])

    def __str__(self) -> str:
        width = max((len(name) for name in self.facts), default=0)
        lines = [f"  {name.ljust(width)}  {fact}" for name, fact in self.facts.items()]
        return "\n".join([self.title, *lines])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th>{escape(name)}</th><td>{escape(fact)}</td></tr>"
            for name, fact in self.facts.items()
        )
        return f"<table><caption>{escape(self.title)}</caption>{rows}</table>"
