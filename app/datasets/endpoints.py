"""Datasets over HTTP: streams uploads to disk, calls services, commits."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, NamedTuple

from anyio import to_thread
from fastapi import APIRouter, Depends, Query, Request
from pydantic import TypeAdapter, ValidationError

from app.auth.dependencies import CurrentPrincipal, GuardedRoute, needs_read, needs_submit
from app.context import Context, Ctx
from app.datasets import service
from app.datasets.inspection import Facts, check_file, reads_here
from app.datasets.multipart import Received, receive
from app.datasets.schemas import DatasetFormat, DatasetInfo, DatasetKind, DatasetList
from app.db import new_id
from app.errors import DiskFull, FieldProblem, Invalid, Unavailable
from app.idempotency import Creation, Once
from app.schemas import DatasetIdPath, Name, display_name

router = APIRouter(prefix="/datasets", tags=["datasets"], route_class=GuardedRoute)
READ = [Depends(needs_read)]
SUBMIT = [Depends(needs_submit)]
NAME: TypeAdapter[str] = TypeAdapter(Name)
SPARE_BYTES = 64 * 1024**2
"""Free disk space reserved for the database."""


class TooManyUploads(Unavailable):
    """The limit of concurrent uploads is reached."""

    retry_after_s = 10


MULTIPART: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {
                        "file": {
                            "type": "string",
                            "format": "binary",
                            "description": "Text: .txt, .jsonl, .csv, .parquet. "
                            "Tokenizer: tokenizer.json or vocab.txt.",
                        },
                        "name": {
                            "type": "string",
                            "maxLength": 200,
                            "examples": ["letters"],
                            "description": "Name; by default that of the file.",
                        },
                        "kind": {
                            "type": "string",
                            "enum": ["text", "tokenizer"],
                            "default": "text",
                            "description": "Content of the file.",
                        },
                    },
                }
            }
        },
    }
}


@router.post("", status_code=201, dependencies=SUBMIT, openapi_extra=MULTIPART)
async def upload_dataset(
    request: Request, ctx: Ctx, principal: CurrentPrincipal, once: Once
) -> DatasetInfo:
    """Upload a text or a tokenizer; refused if no run could use it."""
    with _slot(ctx, principal.token_id):
        return await _upload(request, ctx, once)


@router.get("", dependencies=READ)
def list_datasets(
    ctx: Ctx,
    kind: Annotated[DatasetKind | None, Query(description="Only this kind.")] = None,
    limit: Annotated[int, Query(ge=1, le=500, description="Datasets on a page.")] = 100,
    offset: Annotated[int, Query(ge=0, le=10**9, description="Datasets to skip.")] = 0,
) -> DatasetList:
    """Uploaded datasets, newest first."""
    with ctx.db.read() as session:
        rows, total = service.list_datasets(session, kind, limit, offset)
        return DatasetList(items=[service.present(row) for row in rows], total=total)


@router.get("/{dataset_id}", dependencies=READ)
def get_dataset(dataset_id: DatasetIdPath, ctx: Ctx) -> DatasetInfo:
    """One uploaded dataset."""
    with ctx.db.read() as session:
        return service.present(service.get_dataset(session, dataset_id))


@router.delete("/{dataset_id}", status_code=204, dependencies=SUBMIT)
def delete_dataset(dataset_id: DatasetIdPath, ctx: Ctx) -> None:
    """Delete a dataset that no unfinished run uses."""
    with ctx.db.write() as session:
        service.delete_dataset(session, dataset_id)
    service.remove_files(ctx.settings, ctx.store, dataset_id)


@contextmanager
def _slot(ctx: Context, token_id: str) -> Iterator[None]:
    """One of the upload slots; raises TooManyUploads."""
    if not ctx.uploads.take(token_id):
        raise TooManyUploads("This server has reached its limit of uploads; try again soon.")
    try:
        yield
    finally:
        ctx.uploads.give_back(token_id)


async def _upload(request: Request, ctx: Context, creation: Creation) -> DatasetInfo:
    """Receive, check and store the file; on errors nothing is kept."""
    dataset_id = new_id()
    incoming = ctx.settings.uploads_dir / f".incoming-{dataset_id}"
    await to_thread.run_sync(_prepare, incoming, request.headers.get("content-length"))
    try:
        received = await receive(request, incoming / "upload", ctx.settings.max_upload_bytes)
        named = _named(received)
        # Waiting for a check must not occupy a request thread.
        limiter = None if reads_here(received.path, named.format) else ctx.checks
        facts = await to_thread.run_sync(check_file, received.path, named.format, limiter=limiter)
        return await to_thread.run_sync(
            _keep, ctx, creation, dataset_id, incoming, received, named, facts
        )
    finally:
        shutil.rmtree(incoming, ignore_errors=True)


def _prepare(incoming: Path, content_length: str | None) -> None:
    incoming.mkdir(parents=True)
    declared = int(content_length) if content_length and content_length.isdecimal() else 0
    free_bytes = shutil.disk_usage(incoming).free - SPARE_BYTES
    if declared > free_bytes:
        shutil.rmtree(incoming, ignore_errors=True)
        upload = (
            f"The upload has {declared:,} bytes" if declared else "There is no room for uploads"
        )
        raise DiskFull(f"{upload}; the server has {max(0, free_bytes):,} bytes free.")


class Named(NamedTuple):
    """The form fields of an upload."""

    name: str
    kind: DatasetKind
    format: DatasetFormat


def _named(received: Received) -> Named:
    kind = _kind(received.fields.get("kind", "text"))
    filename = received.filename or ""
    name = _name(received.fields.get("name", ""), filename)
    return Named(name, kind, service.format_of_upload(kind, filename))


def _keep(
    ctx: Context,
    creation: Creation,
    dataset_id: str,
    incoming: Path,
    received: Received,
    named: Named,
    facts: Facts,
) -> DatasetInfo:
    """Store the checked file, then write its row."""
    received.path.rename(incoming / service.FILE_NAMES[named.format])
    committing = False
    try:
        service.keep_files(ctx.settings, ctx.store, dataset_id, incoming)
        with ctx.db.write() as session:
            creation.begin(session, json.dumps([*named, received.filename, received.sha256]))
            dataset = service.present(
                service.add_dataset(session, dataset_id, *named, received, facts)
            )
            creation.end(dataset.model_dump_json())
            committing = True
            return dataset
    except BaseException:
        if not committing:  # else the row may exist
            with suppress(OSError):  # the first error is raised
                service.remove_files(ctx.settings, ctx.store, dataset_id)
        raise


def _kind(text: str) -> DatasetKind:
    if text == "text":
        return "text"
    if text == "tokenizer":
        return "tokenizer"
    raise Invalid("Unknown kind.", [FieldProblem("/kind", "must be 'text' or 'tokenizer'")])


def _name(given: str, filename: str) -> str:
    if not given.strip():
        return display_name(PurePosixPath(filename.replace("\\", "/")).name) or "upload"
    try:
        return NAME.validate_python(given)
    except ValidationError as error:
        message = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise Invalid("Invalid name.", [FieldProblem("/name", message)]) from error
