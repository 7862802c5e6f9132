"""All scenarios by name; the names are those of `make faults ARGS='--only NAME'`."""

from tests.faults import access, broker, checkpoints, database, doubles, kills
from tests.faults.trial import Scenario

SCENARIOS: dict[str, Scenario] = {
    "kills": kills.kills,
    "default-lease": kills.default_lease,
    "broker": broker.broker,
    "postgres": database.postgres,
    "sqlite-writers": database.sqlite_writers,
    "doubles": doubles.doubles,
    "access": access.access,
    "checkpoints": checkpoints.checkpoints,
}
