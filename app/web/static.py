"""Serves the built page: its files as they are, and index.html for every address of the page."""

from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from app.settings import Settings

NOT_BUILT = "The page is not built: run `make up`, or `npm run build` in frontend/.\n"


def frontend_dir(settings: Settings) -> Path:
    """The folder of the built page."""
    return settings.frontend_dir or Path(__file__).with_name("page")


class Frontend(StaticFiles):
    """Static files that fall back to index.html, where the page's own router takes over."""

    def __init__(self, settings: Settings) -> None:
        self._dist = frontend_dir(settings)
        super().__init__(directory=self._dist, html=True, check_dir=False)

    async def check_config(self) -> None:
        """Nothing to check: a page that is not built yet is answered in words."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        """A file of the page, or the page itself."""
        # Whatever is below /api or /assets is never an address of the page.
        if path.split("/", 1)[0] == "api":
            raise HTTPException(404)
        try:
            response = await super().get_response(path, scope)
        except HTTPException as error:
            if error.status_code != 404 or path.startswith("assets/"):
                raise
            if not (self._dist / "index.html").is_file():
                return PlainTextResponse(NOT_BUILT, status_code=404)
            response = await super().get_response("index.html", scope)
        # The build puts a hash of the content into the names below assets/; nothing else has one.
        lasting = path.startswith("assets/") and response.status_code in (200, 304)
        response.headers["cache-control"] = (
            "public, max-age=31536000, immutable" if lasting else "no-cache"
        )
        return response
