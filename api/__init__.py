"""The front door of lensbase: open a store, ask it, or fill one."""

from .ingesting import ingest
from .result import Result
from .roles import Role, role
from .store import Store, open_store
from .values import Values

__all__ = ["Result", "Role", "Store", "Values", "ingest", "open_store", "role"]
