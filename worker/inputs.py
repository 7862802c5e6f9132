"""Turns a config's references into files of the workspace: runs, uploaded texts and tokenizers."""

import hashlib
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.datasets.models import Dataset
from app.datasets.service import dataset_path
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
from kdcore.errors import DataError
from worker.workspace import Workspace


def resolve_references(
    config: AnyConfig, workspace: Workspace, db: Database, settings: Settings, store: Store
) -> AnyConfig:
    """`config` as the trainer can carry it out: every reference is a path below the workspace.

    Raises DataError for what has vanished or fails its checksum.
    """
    changes: dict[str, object] = {}
    for role in ("model", "teacher", "student"):
        reference = getattr(config, role, None)
        if isinstance(reference, RunCheckpoint):
            folder = workspace.inputs / role
            _fetch_checkpoint(reference.run_id, folder, db, store)
            changes[role] = FolderCheckpoint(path=str(folder))
    with db.read() as session:
        corpus = getattr(config, "corpus", None)
        if isinstance(corpus, UploadCorpus):
            changes["corpus"] = _file_corpus(corpus, session, workspace, settings)
        tokenizer = getattr(config, "tokenizer", None)
        if isinstance(tokenizer, UploadTokenizer):
            folder = workspace.inputs / "tokenizer"
            _fetch_upload(tokenizer.dataset_id, folder, session, settings)
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


def _file_corpus(
    corpus: UploadCorpus, session: Session, workspace: Workspace, settings: Settings
) -> FileCorpus:
    train = _fetch_upload(
        corpus.dataset_id, workspace.inputs / "corpus" / "train", session, settings
    )
    validation = None
    if corpus.validation_dataset_id is not None:
        folder = workspace.inputs / "corpus" / "validation"
        validation = _fetch_upload(corpus.validation_dataset_id, folder, session, settings)
    return FileCorpus(
        path=str(train),
        validation_path=None if validation is None else str(validation),
        column=corpus.column,
    )


def _fetch_upload(dataset_id: str, folder: Path, session: Session, settings: Settings) -> Path:
    dataset = session.get(Dataset, dataset_id)
    if dataset is None:
        raise DataError(f"dataset {dataset_id} was deleted")
    source = dataset_path(settings, dataset)
    target = folder / source.name
    try:
        # Linked, so that a dataset deleted meanwhile does not pull the rug from under the trainer.
        link_or_copy(source, target)
    except FileNotFoundError as error:
        raise DataError(f"the file of dataset {dataset_id} is gone") from error
    return target


def sha256_of(path: Path) -> str:
    """SHA-256 of a file in hexadecimal, read in bounded memory."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
