"""Names and numbers that are always this machine's own."""

from __future__ import annotations

import ipaddress
import re

_AUTHORITY = re.compile(r"(?P<name>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::\d{1,5})?")


def is_loopback(host: str) -> bool:
    """Whether a host's name or number is always this machine's own."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def is_loopback_authority(authority: str) -> bool:
    """Whether a Host header, with or without a port, is always this machine's own."""
    matched = _AUTHORITY.fullmatch(authority)
    return matched is not None and is_loopback(matched["name"])
