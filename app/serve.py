"""Serves the application with uvicorn, as the settings say: `python -m app.serve`."""

import uvicorn

from app.main import create_app
from app.settings import Settings


def main() -> None:
    """Serves until SIGTERM or SIGINT."""
    settings = Settings()
    uvicorn.run(
        create_app(settings),
        host=settings.host,
        port=settings.port,
        server_header=False,
        # Event streams never end by themselves; they must not hold up the server's end.
        timeout_graceful_shutdown=2,
    )


if __name__ == "__main__":
    main()
