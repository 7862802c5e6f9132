"""All scenarios by name; the names are those of `make faults ARGS='--only NAME'`."""

from tests.faults import kills
from tests.faults.trial import Scenario

SCENARIOS: dict[str, Scenario] = {
    "kills": kills.kills,
    "default-lease": kills.default_lease,
}
