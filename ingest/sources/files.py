"""Files named from outside: only regular ones are read, of a sane size, without ever blocking."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Final

MAX_BYTES: Final = 1 << 30
"""The largest image file that is read, in bytes."""


def read_file(path: str | Path) -> bytes:
    """The bytes of a regular file; raises `OSError` for anything else."""
    # A named pipe would otherwise wait for its writer for ever.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:  # noqa: PTH123
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        if status.st_size > MAX_BYTES:
            raise OSError(errno.EFBIG, f"{status.st_size} bytes, at most {MAX_BYTES}", str(path))
        return file.read()


def read_part(path: str | Path, offset: int, size: int) -> bytes:
    """`size` bytes of a file from `offset` on, fewer where the file ends before."""
    if size > MAX_BYTES:
        raise OSError(errno.EFBIG, f"{size} bytes, at most {MAX_BYTES}", str(path))
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        parts: list[bytes] = []
        while size > 0 and (part := os.pread(descriptor, size, offset)):
            parts.append(part)
            offset, size = offset + len(part), size - len(part)
        return b"".join(parts)
    finally:
        os.close(descriptor)


def absolute(path: str | Path) -> str:
    """A path from the root, without `..`; links keep their names, unlike in `Path.resolve`."""
    return os.path.abspath(path)  # noqa: PTH100


def printable(name: str) -> str:
    r"""A file's name as valid Unicode: bytes that are none are written `\xff`."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")
