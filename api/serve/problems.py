"""Errors as HTTP answers: what was wrong and what would be right, never a traceback."""

from __future__ import annotations

from ...schema.errors import (
    AmbiguousRun,
    ImageFileMissing,
    LensbaseError,
    StoreCorrupt,
    TextNotStored,
)
from ...schema.zoo_errors import AmbiguousZoo

NOT_FOUND = 404
REFUSED = 422
BROKEN = 503


def status_of(error: LensbaseError) -> int:
    """The status that an error of ours stands for: 404, 422 or 503.

    Names that are not there are 404, questions that cannot be answered 422, a store that is
    damaged 503.
    """
    if isinstance(error, StoreCorrupt):
        return BROKEN
    if isinstance(error, TextNotStored | AmbiguousRun | AmbiguousZoo):
        return REFUSED
    if isinstance(error, LookupError | ImageFileMissing):
        return NOT_FOUND
    return REFUSED
