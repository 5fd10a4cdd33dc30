"""Numbers of things: whole, and not too small."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..schema.errors import BadQuestion


def whole(value: Any, name: str, *, least: int, of: str) -> int:
    """Return a whole number, or raise `BadQuestion`: `name` = `value` is no number `of` things."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | np.integer):
        msg = f"{name} = {value!r} is no whole number of {of}; ask for {least} or more."
        raise BadQuestion(msg)
    if value < least:
        msg = f"{name} = {value} {of} cannot be given; ask for {least} or more."
        raise BadQuestion(msg)
    return int(value)
