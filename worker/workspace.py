"""The folders of one attempt; an attempt never writes into another one's.

<data>/work/<run id>/attempt-<n>/
    config.json  inputs.json  events.jsonl  stderr.log
    inputs/  checkpoints/  model/  manifest.json

So a worker that was suspended, and wakes after its run was taken back, can damage nothing: its
trainer writes into a folder that is no longer read. A new attempt hard-links what it resumes from.
"""

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path

from app.runs.validation import AnyConfig
from app.settings import Settings
from app.storage import link_or_copy
from kdcore.inputs import Inputs

logger = logging.getLogger(__name__)

INHERITED_FILES = ("start_eval.json",)


@dataclass(frozen=True)
class Workspace:
    """Paths of one attempt."""

    run_dir: Path
    attempt: int

    @classmethod
    def of(cls, settings: Settings, run_id: str, attempt: int) -> "Workspace":
        """The workspace of an attempt of a run."""
        return cls((settings.work_dir / run_id).resolve(), attempt)

    @property
    def folder(self) -> Path:
        """The trainer's output folder."""
        return self.run_dir / f"attempt-{self.attempt}"

    @property
    def config(self) -> Path:
        return self.folder / "config.json"

    @property
    def inputs_file(self) -> Path:
        """Where in `inputs` the trainer finds what the config names by an id."""
        return self.folder / "inputs.json"

    @property
    def events(self) -> Path:
        return self.folder / "events.jsonl"

    @property
    def stderr(self) -> Path:
        return self.folder / "stderr.log"

    @property
    def inputs(self) -> Path:
        return self.folder / "inputs"

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def model(self) -> Path:
        return self.folder / "model"

    @property
    def manifest(self) -> Path:
        return self.folder / "manifest.json"

    def earlier(self, attempt: int) -> "Workspace":
        """The workspace of an earlier attempt of the same run."""
        return Workspace(self.run_dir, attempt)

    def create(self, oldest: int = 1) -> bool:
        """Make the folder and link the newest checkpoints of the attempts before, from the attempt
        `oldest` on; whether there were any."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for attempt in range(self.attempt - 1, oldest - 1, -1):
            source = self.earlier(attempt)
            if source.checkpoints.is_dir() and any(source.checkpoints.iterdir()):
                self._inherit(source)
                return True
        return False

    def _inherit(self, source: "Workspace") -> None:
        partial = self.folder / "checkpoints.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        for path in sorted(source.checkpoints.rglob("*")):
            if path.is_file():
                _link_if_there(path, partial / path.relative_to(source.checkpoints))
        # In one step: a trainer must never find half of them.
        partial.rename(self.checkpoints)
        for name in INHERITED_FILES:
            if (source.folder / name).exists():
                _link_if_there(source.folder / name, self.folder / name)

    def write_config(self, config: AnyConfig, inputs: Inputs) -> None:
        """Write what the trainer reads."""
        for path, content in ((self.config, config), (self.inputs_file, inputs)):
            path.write_text(content.model_dump_json(indent=1) + "\n", encoding="utf-8")

    def drop_earlier(self) -> None:
        """Remove the folders of earlier attempts, once this one has all that it needs of them."""
        for attempt in range(1, self.attempt):
            shutil.rmtree(self.earlier(attempt).folder, ignore_errors=True)

    def drop_run(self) -> None:
        """Remove the run's whole work folder."""
        shutil.rmtree(self.run_dir, ignore_errors=True)


def _link_if_there(source: Path, target: Path) -> None:
    try:
        link_or_copy(source, target)
    except FileNotFoundError:
        # A stale trainer may still remove old checkpoints there. An incomplete one is recognised.
        logger.info("%s vanished while it was linked", source)
