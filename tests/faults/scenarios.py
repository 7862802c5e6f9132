"""All scenarios by name; the names are those of `make faults ARGS='--only NAME'`."""

from tests.faults import (
    access,
    backups,
    broker,
    checkpoints,
    clock,
    database,
    deploy,
    doubles,
    hosts,
    kills,
    streams,
)
from tests.faults.trial import Scenario

SCENARIOS: dict[str, Scenario] = {
    "kills": kills.kills,
    "default-lease": kills.default_lease,
    "broker": broker.broker,
    "postgres": database.postgres,
    "sqlite-writers": database.sqlite_writers,
    "doubles": doubles.doubles,
    "clock": clock.clock,
    "deploy": deploy.deploy,
    "hung": deploy.hung,
    "access": access.access,
    "checkpoints": checkpoints.checkpoints,
    "backup": backups.backup,
    "hosts": hosts.hosts,
    "killed-api": streams.killed_api,
    "streams": streams.many_streams,
}
