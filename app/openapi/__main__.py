"""Writes the OpenAPI document, for the TypeScript client that is generated from it.

`python -m app.openapi > frontend/openapi.json`; a check fails when that file is stale.
"""

import json
import sys
from typing import Any

from app.main import create_app
from app.settings import Settings


def document() -> dict[str, Any]:
    """The document of an application that touches no disk and connects to nothing."""
    return create_app(Settings(database_url="sqlite://")).openapi()


if __name__ == "__main__":
    json.dump(document(), sys.stdout, indent=1, sort_keys=True)
    sys.stdout.write("\n")
