"""Fetches what a config names by an id into the workspace: runs, uploaded texts and tokenizers."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError
from sqlalchemy import select

from app.datasets.models import Dataset
from app.datasets.service import dataset_key, dataset_path
from app.db import Database
from app.runs.models import Artifact, Run, RunInput
from app.runs.states import RunState
from app.runs.validation import AnyConfig
from app.settings import Settings
from app.storage import Store, link_or_copy
from kdcore.config import (
    RUN_CONFIG,
    DistillConfig,
    DistillLines,
    FileCorpus,
    RunCheckpoint,
    TeacherConfig,
    UploadCorpus,
    UploadTokenizer,
)
from kdcore.errors import DataError
from kdcore.files import sha256_of
from kdcore.inputs import Inputs
from worker.workspace import Workspace


def fetch_inputs(
    config: AnyConfig, workspace: Workspace, db: Database, settings: Settings, store: Store
) -> Inputs:
    """Fetch what `config` names by an id into the workspace; returns where it is.

    Raises DataError for what was deleted or fails its checksum, StoreUnavailable.
    """
    # An earlier try may have fetched half of them.
    shutil.rmtree(workspace.inputs, ignore_errors=True)
    found: dict[str, object] = {}
    for role in ("model", "teacher", "student"):
        reference = getattr(config, role, None)
        if isinstance(reference, RunCheckpoint):
            found[role] = workspace.inputs / role
            _fetch_checkpoint(reference.run_id, workspace.inputs / role, db, store)
    uploads = _Uploads(db, settings, store)
    corpus = getattr(config, "corpus", None)
    if isinstance(corpus, UploadCorpus):
        found["corpus"] = _file_corpus(corpus, workspace, uploads)
    tokenizer = getattr(config, "tokenizer", None)
    if isinstance(tokenizer, UploadTokenizer):
        found["tokenizer"] = workspace.inputs / "tokenizer"
        uploads.fetch(tokenizer.dataset_id, workspace.inputs / "tokenizer")
    if isinstance(config, TeacherConfig) and config.distil_lines is None:
        found["distil_lines"] = _lines_to_come(config, workspace.run_dir.name, db)
    return Inputs.model_validate(found)


def _lines_to_come(config: TeacherConfig, run_id: str, db: Database) -> DistillLines | None:
    """The lines that the distillation of the teacher's own pipeline will use of the same text."""
    with db.read() as session:
        pipeline_id = session.scalar(select(Run.pipeline_id).where(Run.id == run_id))
        waiting = session.scalars(
            select(Run.config)
            .join(RunInput, RunInput.run_id == Run.id)
            .where(RunInput.input_run_id == run_id, RunInput.role == "teacher")
            .where(Run.kind == "distill", Run.state == RunState.WAITING)
            .where(Run.pipeline_id == pipeline_id)
        ).all()
    for stored in waiting:
        try:
            distillation = RUN_CONFIG.validate_python(stored)
        except ValidationError:  # an older version accepted it; it fails when it starts
            continue
        if isinstance(distillation, DistillConfig) and distillation.corpus == config.corpus:
            return distillation.lines
    return None


def _fetch_checkpoint(run_id: str, folder: Path, db: Database, store: Store) -> None:
    with db.read() as session:
        files = session.scalars(select(Artifact).where(Artifact.run_id == run_id)).all()
    if not files:
        raise DataError(f"run {run_id} has no published checkpoint to start from")
    for file in files:
        local = folder / file.path
        try:
            store.fetch(file.storage_key, local)
        except FileNotFoundError as error:
            raise DataError(f"{file.path} of run {run_id} is missing from the store") from error
        if sha256_of(local) != file.sha256:
            raise DataError(
                f"{file.path} of run {run_id} is damaged: it differs from what was published"
            )


def _file_corpus(corpus: UploadCorpus, workspace: Workspace, uploads: "_Uploads") -> FileCorpus:
    train = uploads.fetch(corpus.dataset_id, workspace.inputs / "corpus" / "train")
    validation = None
    if corpus.validation_dataset_id is not None:
        folder = workspace.inputs / "corpus" / "validation"
        validation = uploads.fetch(corpus.validation_dataset_id, folder)
    return FileCorpus(
        path=str(train),
        validation_path=None if validation is None else str(validation),
        column=corpus.column,
        label=uploads.name(corpus.dataset_id),
        validation_label=validation and uploads.name(corpus.validation_dataset_id),
    )


@dataclass(frozen=True)
class _Uploads:
    """Uploads, on this host or in the store."""

    db: Database
    settings: Settings
    store: Store

    def name(self, dataset_id: str | None) -> str | None:
        """Its name."""
        with self.db.read() as session:
            return session.scalar(select(Dataset.name).where(Dataset.id == dataset_id))

    def fetch(self, dataset_id: str, folder: Path) -> Path:
        """The dataset's file, now in `folder`."""
        with self.db.read() as session:
            dataset = session.get(Dataset, dataset_id)
        if dataset is None:
            raise DataError(f"dataset {dataset_id} was deleted")
        source = dataset_path(self.settings, dataset)
        target = folder / source.name
        try:
            if not self.store.is_local and not source.exists():
                source = self._from_store(dataset)
            # Linked, so that the trainer keeps it if the dataset is deleted meanwhile.
            link_or_copy(source, target)
        except FileNotFoundError as error:
            raise DataError(f"the file of dataset {dataset_id} is missing") from error
        if sha256_of(target) != dataset.sha256:
            raise DataError(
                f"the file of dataset {dataset_id} is damaged: it differs from what was uploaded"
            )
        return target

    def _from_store(self, dataset: Dataset) -> Path:
        """The file in this host's cache, fetched unless it is there and intact."""
        cached = self.settings.cache_dir / "uploads" / dataset.sha256
        if cached.is_file() and sha256_of(cached) == dataset.sha256:
            return cached
        self.store.fetch(dataset_key(dataset), cached)
        return cached
