"""The model of a run, for the questions that what is stored cannot answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..schema.errors import ExtraMissing, LensbaseError, WeightsNotFound
from .open_run import OpenRun

if TYPE_CHECKING:
    from ..ingest.models import LoadedModel


def run_model(run: OpenRun, *, to: str, otherwise: str) -> LoadedModel:
    """Load a run's model; `to` and `otherwise` say what for, and what can be done without it.

    Raises `ExtraMissing` where a library is not installed, `WeightsNotFound` for a model that is
    not at hand.
    """
    try:
        return run.texts.model()
    except LensbaseError as error:
        kind = ExtraMissing if isinstance(error, ExtraMissing) else WeightsNotFound
        msg = f"the model of run {run.name!r} cannot be loaded {to} ({error}). {otherwise}"
        raise kind(msg) from error
    except ImportError as error:
        msg = (
            f"the model of run {run.name!r} is needed {to}, and {error.name or 'torch'} is not "
            f"installed: `pip install lensbase[ingest]` brings it. {otherwise}"
        )
        raise ExtraMissing(msg) from error
