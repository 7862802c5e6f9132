"""All scenarios by name; the names are those of `make faults ARGS='--only NAME'`."""

import pkgutil

from faults.trial import Scenario

SCENARIOS = {
    "kills": "kills:kills",
    "default-lease": "kills:default_lease",
    "broker": "broker:broker",
    "postgres": "database:postgres",
    "sqlite-writers": "database:sqlite_writers",
    "duplicate-delivery": "duplicate_delivery:duplicate_delivery",
    "clock": "clock:clock",
    "deploy": "deploy:deploy",
    "hung": "deploy:hung",
    "access": "access:access",
    "hostile": "hostile:hostile",
    "held-requests": "request_limits:held_requests",
    "half-sent": "request_limits:half_sent",
    "upload-crowd": "request_limits:upload_crowd",
    "markup": "markup:markup",
    "uploads": "uploads:uploads",
    "canaries": "canaries:canaries",
    "checkpoints": "checkpoints:checkpoints",
    "bitflips": "bitflips:bitflips",
    "disk": "disk:disk",
    "ends": "ends:ends",
    "kernel-kills": "ends:kernel_kills",
    "cancels": "cancels:cancels",
    "backup": "backups:backup",
    "hosts": "hosts:hosts",
    "ranks": "ranks:ranks",
    "killed-parts": "parts:parts",
    "killed-api": "streams:killed_api",
    "streams": "streams:many_streams",
}
"""`module:function` below `faults`: some of them load libraries that take seconds."""


def scenario(name: str) -> Scenario:
    """The scenario of this name, with all that it needs."""
    found: Scenario = pkgutil.resolve_name(f"faults.{SCENARIOS[name]}")
    return found
