"""Serves the files of a run: one file with range requests, or all as a streamed zip."""

import re
from pathlib import PurePosixPath
from urllib.parse import quote

from fastapi import Request, Response
from fastapi.responses import StreamingResponse
from sqlalchemy import select
from sqlalchemy.orm import Session
from zipstream import ZIP_STORED, ZipStream

from app.errors import NotFound, problem_response
from app.runs.models import Artifact, Run
from app.runs.schemas import ArtifactFile
from app.runs.verified_reader import VerifiedReader
from app.schemas import fields_of

CONTENT_TYPES = {
    ".json": "application/json",
    ".md": "text/markdown; charset=utf-8",
    ".txt": "text/plain; charset=utf-8",
}
# Files of runs must never be rendered as pages of this site.
INERT = "sandbox; default-src 'none'"
RANGE = re.compile(r"bytes=(\d*)-(\d*)$")


def content_type(path: str) -> str:
    """The media type of a checkpoint file."""
    return CONTENT_TYPES.get(PurePosixPath(path).suffix, "application/octet-stream")


def artifact_file(row: Artifact) -> ArtifactFile:
    """The file as lists show it."""
    return ArtifactFile(**fields_of(row, ArtifactFile), content_type=content_type(row.path))


def list_rows(session: Session, run_id: str) -> list[Artifact]:
    """All published files of a run, by path."""
    rows = select(Artifact).where(Artifact.run_id == run_id).order_by(Artifact.path)
    return list(session.scalars(rows))


def find_row(session: Session, run_id: str, path: str) -> Artifact:
    """The published file at this path; raises NotFound."""
    row = session.get(Artifact, (run_id, path)) if "\0" not in path else None
    if row is None:
        raise NotFound(f"Run {run_id} has no such file.")
    return row


def file_response(request: Request, reader: VerifiedReader, row: Artifact) -> Response:
    """The file, the requested range of it, or 304 if it is not modified."""
    etag = f'"{row.sha256}"'
    headers = {
        "ETag": etag,
        "Accept-Ranges": "bytes",
        "Content-Disposition": disposition(PurePosixPath(row.path).name),
        "Cache-Control": "private, no-cache",
        "Content-Security-Policy": INERT,
    }
    if _matches(request.headers.get("if-none-match"), etag):
        return Response(status_code=304, headers=headers)
    start, end, status = 0, row.size_bytes, 200
    wanted = request.headers.get("range")
    if wanted is not None and request.headers.get("if-range", etag) == etag:
        part = parse_range(wanted, row.size_bytes)
        if part is not None and part[0] >= part[1]:
            return problem_response(
                416,
                f"The range is outside of the file, which has {row.size_bytes} bytes.",
                headers={"Content-Range": f"bytes */{row.size_bytes}"},
            )
        if part is not None:
            (start, end), status = part, 206
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{row.size_bytes}"
    headers["Content-Length"] = str(end - start)
    reader.check(row)
    body = reader.read(row, start, end)
    return StreamingResponse(
        body, status_code=status, headers=headers, media_type=content_type(row.path)
    )


def archive_response(reader: VerifiedReader, run: Run, rows: list[Artifact]) -> Response:
    """All files in one folder of a zip, created while it is sent."""
    if not rows:
        raise NotFound(f"Run {run.id} has no files: it has not succeeded, or cleanup removed them.")
    folder = f"halflayer-{run.id}"
    archive = ZipStream(compress_type=ZIP_STORED, sized=True)
    for row in rows:
        reader.check(row)
        part = reader.read(row, 0, row.size_bytes)
        archive.add(part, f"{folder}/{row.path}", size=row.size_bytes)
    headers = {
        "Content-Disposition": disposition(f"{folder}.zip"),
        "Content-Length": str(len(archive)),
        "Content-Security-Policy": INERT,
    }
    return StreamingResponse(iter(archive), headers=headers, media_type="application/zip")


def disposition(name: str) -> str:
    """A Content-Disposition that saves as `name`, with any characters (RFC 6266)."""
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "-_. ") else "_" for c in name)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"


def parse_range(header: str, size_bytes: int) -> tuple[int, int] | None:
    """(start, end) of a single byte range, empty if out of bounds; None if it must be ignored."""
    matched = RANGE.match(header.strip())
    if matched is None or matched.groups() == ("", ""):
        return None  # several or unknown ranges: the whole file is a valid response
    first, last = matched.groups()
    if max(len(first), len(last)) > 18:
        return (size_bytes, size_bytes)
    if not first:
        start, end = max(0, size_bytes - int(last)), size_bytes
    else:
        start, end = int(first), min(size_bytes, int(last) + 1 if last else size_bytes)
        if last and int(last) < start:
            return None
    return (start, end)


def _matches(if_none_match: str | None, etag: str) -> bool:
    if if_none_match is None:
        return False
    tags = [tag.strip().removeprefix("W/") for tag in if_none_match.split(",")]
    return etag in tags or "*" in tags
