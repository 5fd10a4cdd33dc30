"""The sparse codes of neurons that a store keeps: how long they are, and how they were made."""

from __future__ import annotations

CODE_LENGTH = 16  # texts of the codes that an ingest keeps
# To be raised when the same question gets another answer: codes of another version are not read.
CODE_VERSION = 1
