"""The front door of lensbase: open a store, ask it, or fill one."""

from .ingesting import ingest
from .result import Result
from .store import Store, open_store
from .values import Values

__all__ = ["Result", "Store", "Values", "ingest", "open_store"]
