"""Turns a config's references into files of the workspace: runs, uploaded texts and tokenizers."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import select

from app.datasets.models import Dataset
from app.datasets.service import dataset_key, dataset_path
from app.db import Database
from app.runs.models import Artifact
from app.runs.validation import AnyConfig
from app.settings import Settings
from app.storage import Store, link_or_copy
from kdcore.config import (
    FileCorpus,
    FolderCheckpoint,
    FolderTokenizer,
    RunCheckpoint,
    UploadCorpus,
    UploadTokenizer,
)
from kdcore.digest import sha256_of
from kdcore.errors import DataError
from worker.workspace import Workspace


def resolve_references(
    config: AnyConfig, workspace: Workspace, db: Database, settings: Settings, store: Store
) -> AnyConfig:
    """`config` as the trainer can carry it out: every reference is a path below the workspace.

    Raises DataError for what has vanished or fails its checksum, StoreAway.
    """
    # An earlier try may have brought half of them.
    shutil.rmtree(workspace.inputs, ignore_errors=True)
    changes: dict[str, object] = {}
    for role in ("model", "teacher", "student"):
        reference = getattr(config, role, None)
        if isinstance(reference, RunCheckpoint):
            folder = workspace.inputs / role
            _fetch_checkpoint(reference.run_id, folder, db, store)
            changes[role] = FolderCheckpoint(path=str(folder))
    uploads = _Uploads(db, settings, store)
    corpus = getattr(config, "corpus", None)
    if isinstance(corpus, UploadCorpus):
        changes["corpus"] = _file_corpus(corpus, workspace, uploads)
    tokenizer = getattr(config, "tokenizer", None)
    if isinstance(tokenizer, UploadTokenizer):
        folder = workspace.inputs / "tokenizer"
        uploads.fetch(tokenizer.dataset_id, folder)
        changes["tokenizer"] = FolderTokenizer(path=str(folder))
    return config.model_copy(update=changes)


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
            raise DataError(f"{file.path} of run {run_id} is gone from the store") from error
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
    )


@dataclass(frozen=True)
class _Uploads:
    """Uploads, wherever they are."""

    db: Database
    settings: Settings
    store: Store

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
            # Linked, so that a dataset deleted meanwhile does not pull the rug from under the
            # trainer.
            link_or_copy(source, target)
        except FileNotFoundError as error:
            raise DataError(f"the file of dataset {dataset_id} is gone") from error
        if sha256_of(target) != dataset.sha256:
            raise DataError(
                f"the file of dataset {dataset_id} is damaged: it differs from what was uploaded"
            )
        return target

    def _from_store(self, dataset: Dataset) -> Path:
        """The file in this host's cache, fetched unless it is there and sound."""
        place = self.settings.cache_dir / "uploads" / dataset.sha256
        if place.is_file() and sha256_of(place) == dataset.sha256:
            return place
        self.store.fetch(dataset_key(dataset), place)
        return place
