"""What processes did to the world outside, as the interpreter itself reported it."""

import json
from dataclasses import dataclass
from pathlib import Path

HOOK = Path(__file__).parent / "watch"


@dataclass(frozen=True)
class Watch:
    """Watches every Python process that is started with `environment`."""

    log: Path

    @property
    def environment(self) -> dict[str, str]:
        return {
            "PYTHONPATH": str(HOOK),
            "FAULTS_WATCH": str(self.log),
            # Compiled modules would be written beside their sources.
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    def _details(self, what: str) -> list[str]:
        if not self.log.exists():
            return []
        acts = map(json.loads, self.log.read_text(encoding="utf-8").splitlines())
        return [detail for kind, detail, _ in acts if kind == what]

    def watched(self) -> bool:
        """Whether any process has reported anything; if none did, nothing is proven."""
        return self.log.exists() and self.log.stat().st_size > 0

    def written_outside(self, *folders: Path) -> list[str]:
        """Paths outside `folders` that were opened for writing, made, moved or removed."""
        roots = [*map(Path.resolve, folders), Path("/dev")]
        paths = (Path(each).resolve() for each in dict.fromkeys(self._details("write")))
        return [str(path) for path in paths if not any(path.is_relative_to(r) for r in roots)]

    def connections(self) -> list[str]:
        """Where they connected to, or whose address they asked for."""
        return self._details("connect") + self._details("resolve")

    def unpickled(self) -> list[str]:
        """Names that a pickle asked for."""
        return self._details("unpickle")

    def executed(self) -> list[str]:
        """Programs that they started."""
        return self._details("execute")
