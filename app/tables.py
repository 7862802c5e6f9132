"""The metadata of all tables: they register themselves when their modules are imported."""

import app.auth.models
import app.datasets.models
import app.idempotency
import app.runs.models
import app.workers.models  # noqa: F401
from app.db import Base

METADATA = Base.metadata
