"""Parses the authority of Host and Origin headers strictly."""

import re
from ipaddress import AddressValueError, IPv6Address

_AUTHORITY = re.compile(
    r"(?:\[(?P<ipv6>[0-9a-f:.]+)\]|(?P<name>[a-z0-9]([a-z0-9._-]*[a-z0-9])?))(:(?P<port>[0-9]{1,5}))?"
)
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*")

Authority = tuple[str, int | None]
"""Host in lower case without brackets, and port."""


def parse_authority(text: str) -> Authority | None:
    """Parse exactly `HOST`, `HOST:PORT` or `[IPV6]:PORT`; None for anything else."""
    found = _AUTHORITY.fullmatch(text.lower())
    if found is None:
        return None
    port = int(found["port"]) if found["port"] else None
    if port is not None and not 0 < port < 2**16:
        return None
    if found["ipv6"] is None:
        return found["name"], port
    try:
        return IPv6Address(found["ipv6"]).compressed, port
    except AddressValueError:
        return None


def parse_origin(text: str) -> Authority | None:
    """The authority of `SCHEME://AUTHORITY`; None for anything else."""
    scheme, _, authority = text.lower().partition("://")
    return parse_authority(authority) if _SCHEME.fullmatch(scheme) else None
