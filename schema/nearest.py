"""The names nearest to one that is not there, as errors say them."""

from __future__ import annotations

import difflib
from collections.abc import Sequence


def nearest(name: str, names: Sequence[str], *, cutoff: float = 0.5, most: int = 10) -> str:
    """Up to three names most like one, or the first `most` where none is: "the nearest is x"."""
    near = difflib.get_close_matches(name, names, n=3, cutoff=cutoff) or list(names[:most])
    return f"the nearest {'is' if len(near) == 1 else 'are'} {', '.join(near)}"
