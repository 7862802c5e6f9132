"""Uploaded texts and tokenizers: keeps, lists and deletes them; knows no HTTP."""

import json
import shutil
from pathlib import Path, PurePosixPath
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.datasets.inspection import Facts
from app.datasets.models import Dataset
from app.datasets.multipart import Received
from app.datasets.schemas import DatasetFormat, DatasetInfo, DatasetKind
from app.db import utc_now
from app.errors import Conflict, NotFound, Unsupported
from app.runs.models import Run
from app.runs.states import FINAL
from app.settings import Settings
from app.storage import UPLOADS, Store
from kdcore.files import sync_folder

FILE_NAMES: dict[DatasetFormat, str] = {
    "txt": "data.txt",
    "jsonl": "data.jsonl",
    "csv": "data.csv",
    "parquet": "data.parquet",
    "tokenizer_json": "tokenizer.json",
    "vocab_txt": "vocab.txt",
}
FORMATS: dict[DatasetKind, dict[str, DatasetFormat]] = {
    "text": {".txt": "txt", ".jsonl": "jsonl", ".csv": "csv", ".parquet": "parquet"},
    "tokenizer": {".json": "tokenizer_json", ".txt": "vocab_txt"},
}
MAX_COLUMNS_CHARS = 2_000


class DatasetNotFound(NotFound):
    """There is no such dataset."""

    def __init__(self, dataset_id: str) -> None:
        super().__init__(f"There is no dataset {dataset_id}; it may have been deleted.")


def dataset_path(settings: Settings, dataset: Dataset) -> Path:
    """The file of a dataset: the text itself, or tokenizer.json or vocab.txt in its own folder."""
    return settings.uploads_dir / dataset.id / file_name(dataset)


def dataset_key(dataset: Dataset) -> str:
    """Where that file is in a store that hosts share instead of a data folder."""
    return f"{UPLOADS}/{dataset.id}/{file_name(dataset)}"


def file_name(dataset: Dataset) -> str:
    """What we call the file; the uploader's name for it is text, never a path."""
    return FILE_NAMES[next(known for known in FILE_NAMES if known == dataset.format)]


def format_of_upload(kind: DatasetKind, filename: str) -> DatasetFormat:
    """The format that the file's ending promises; raises Unsupported."""
    suffix = PurePosixPath(filename.replace("\\", "/")).suffix.lower()
    known = FORMATS[kind]
    if suffix not in known:
        raise Unsupported(
            f"A {kind} file ends in {', '.join(known)}; this one ends in '{suffix or 'nothing'}'."
        )
    return known[suffix]


def add_dataset(
    session: Session,
    dataset_id: str,
    name: str,
    kind: DatasetKind,
    format: DatasetFormat,
    received: Received,
    facts: Facts,
) -> Dataset:
    """The row of a dataset whose file is checked and in its place."""
    documents, columns = facts
    while len(json.dumps(columns)) > MAX_COLUMNS_CHARS:
        columns = columns[:-1]
    dataset = Dataset(
        id=dataset_id,
        name=name,
        kind=kind,
        format=format,
        columns=json.dumps(columns),
        size_bytes=received.size_bytes,
        documents=documents,
        sha256=received.sha256,
        created_at=utc_now(),
    )
    session.add(dataset)
    session.flush()
    return dataset


def get_dataset(session: Session, dataset_id: str) -> Dataset:
    """The dataset; raises DatasetNotFound."""
    dataset = session.get(Dataset, dataset_id)
    if dataset is None:
        raise DatasetNotFound(dataset_id)
    return dataset


def list_datasets(
    session: Session, kind: DatasetKind | None, limit: int, offset: int
) -> tuple[list[Dataset], int]:
    """Datasets, newest first, and how many there are on all pages."""
    chosen = select(Dataset)
    if kind is not None:
        chosen = chosen.where(Dataset.kind == kind)
    total = session.scalar(select(func.count()).select_from(chosen.subquery())) or 0
    page = chosen.order_by(Dataset.created_at.desc(), Dataset.id).limit(limit).offset(offset)
    return list(session.scalars(page)), total


def delete_dataset(session: Session, dataset_id: str) -> None:
    """Forget the dataset; raises Conflict while a run that has not ended uses it."""
    dataset = get_dataset(session, dataset_id)
    for run_id, config in session.execute(
        select(Run.id, Run.config).where(Run.state.not_in(FINAL)).order_by(Run.created_at)
    ):
        if _mentions(config, dataset_id):
            raise Conflict(f"Run {run_id} uses this dataset and has not ended: cancel it first.")
    session.delete(dataset)
    session.flush()


def keep_files(settings: Settings, store: Store, dataset_id: str, incoming: Path) -> None:
    """Bring a checked upload to where every worker finds it, durably; call it before the row."""
    if store.is_local:
        sync_folder(incoming)
        incoming.rename(settings.uploads_dir / dataset_id)
        return
    for file in incoming.iterdir():
        store.put_file(file, f"{UPLOADS}/{dataset_id}/{file.name}")


def remove_files(settings: Settings, store: Store, dataset_id: str) -> None:
    """Remove a deleted dataset's files; call it after the commit."""
    shutil.rmtree(settings.uploads_dir / dataset_id, ignore_errors=True)
    if not store.is_local:
        store.delete_prefix(f"{UPLOADS}/{dataset_id}")


def present(dataset: Dataset) -> DatasetInfo:
    """The dataset as clients see it."""
    return DatasetInfo.model_validate(
        {name: getattr(dataset, name) for name in DatasetInfo.model_fields}
        | {"columns": json.loads(dataset.columns or "[]")}
    )


def _mentions(node: Any, dataset_id: str) -> bool:
    if isinstance(node, dict):
        if dataset_id in (node.get("dataset_id"), node.get("validation_dataset_id")):
            return True
        return any(_mentions(value, dataset_id) for value in node.values())
    return False
