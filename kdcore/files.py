"""Files on disk: checksums, manifests, and writes that survive a power cut; imports no torch."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Annotated
from uuid import uuid4

from pydantic import AfterValidator, BaseModel, ConfigDict

CHUNK_BYTES = 1 << 20
MANIFEST = "manifest.json"
_TEMPORARY = ".tmp-"


def sha256_of(path: Path) -> str:
    """SHA-256 of a file in hexadecimal, read in bounded memory."""
    with open(path, "rb") as file:
        return size_and_sha256(file)[1]


def noop(_size_bytes: int) -> None:
    """For work whose progress is not shown."""


def size_and_sha256(
    source: IO[bytes],
    advance: Callable[[int], None] = noop,
    copy: IO[bytes] | None = None,
    limit_bytes: int | None = None,
) -> tuple[int, str]:
    """Size and SHA-256 of the rest of `source`, or of its first `limit_bytes`; copied to `copy`.

    `advance` is told the size of each piece.
    """
    digest, size_bytes = hashlib.sha256(), 0
    while piece := source.read(
        CHUNK_BYTES if limit_bytes is None else min(CHUNK_BYTES, limit_bytes - size_bytes)
    ):
        digest.update(piece)
        if copy is not None:
            copy.write(piece)
        size_bytes += len(piece)
        advance(len(piece))
    return size_bytes, digest.hexdigest()


# ------------------------------------------------------------------------------------ manifests


def inside(path: str) -> str:
    """`path` as it is; raises ValueError if, joined to a folder, it could lead out of it."""
    parts = PurePosixPath(path)
    if not path or "\\" in path or "\0" in path or parts.is_absolute() or ".." in parts.parts:
        raise ValueError(f"not a path inside its folder: {path!r}")
    return path


class ManifestFile(BaseModel):
    """A file as it was written."""

    model_config = ConfigDict(frozen=True)

    path: Annotated[str, AfterValidator(inside)]
    size_bytes: int
    sha256: str


class Manifest(BaseModel):
    """Path, size and SHA-256 of every file of a folder."""

    model_config = ConfigDict(frozen=True)

    files: list[ManifestFile]

    @classmethod
    def of(cls, folder: Path, omit: str = MANIFEST) -> "Manifest":
        """What is below `folder`, in the order of the paths; files called `omit` are left out."""
        return cls(
            files=[
                ManifestFile(
                    path=path.relative_to(folder).as_posix(),
                    size_bytes=path.stat().st_size,
                    sha256=sha256_of(path),
                )
                for path in sorted(folder.rglob("*"))
                if path.is_file() and path.name != omit
            ]
        )

    @classmethod
    def read(cls, path: Path) -> "Manifest":
        """Raises OSError, or ValueError if it is not a manifest."""
        return cls.model_validate_json(path.read_bytes())

    def write(self, path: Path) -> None:
        path.write_bytes(self.encoded())

    def encoded(self) -> bytes:
        return json_bytes(self.model_dump(mode="json"))

    def problems(self, folder: Path, advance: Callable[[int], None] = noop) -> Iterator[str]:
        """Reads every file; yields a message for each one that is missing or damaged."""
        for file in self.files:
            try:
                with open(folder / file.path, "rb") as source:
                    size_bytes, sha256 = size_and_sha256(source, advance)
            except OSError as error:
                yield f"{file.path} cannot be read ({error.strerror})"
                continue
            if size_bytes != file.size_bytes:
                yield f"{file.path} has {size_bytes} bytes instead of {file.size_bytes}"
            elif sha256 != file.sha256:
                yield f"{file.path} fails its checksum"


# ------------------------------------------------------------------------------- durable writes


def sync_file(file: IO[bytes]) -> None:
    """Make an open file's content durable."""
    file.flush()
    os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable, so that a rename in it survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Make every file below `folder`, and their names, durable."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with open(path, "rb") as file:
                sync_file(file)
        else:
            sync_folder(path)
    sync_folder(folder)


@contextmanager
def write_atomically(path: Path) -> Iterator[IO[bytes]]:
    """A file that takes the name `path` at the end of the block, whole and durable.

    On an error `path` stays as it was.
    """
    temporary = path.with_name(f"{_TEMPORARY}{uuid4().hex}")
    try:
        with open(temporary, "xb") as file:
            yield file
            sync_file(file)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def replace_folder(temporary: Path, final: Path) -> None:
    """Rename a finished folder to its name, durably; one already there is replaced."""
    sync_tree(temporary)
    aside = final.with_name(f"{_TEMPORARY}old-{final.name}")
    shutil.rmtree(aside, ignore_errors=True)
    if final.exists():
        # Not removed in place: a kill halfway would leave half of it under its name.
        final.rename(aside)
    temporary.rename(final)
    sync_folder(final.parent)
    shutil.rmtree(aside, ignore_errors=True)


def remove_temporary(folder: Path) -> None:
    """Remove what a killed or failed write left in `folder`."""
    for leftover in folder.glob(f"{_TEMPORARY}*"):
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


def json_bytes(value: object) -> bytes:
    """`value` as indented UTF-8 JSON with a final newline."""
    return (json.dumps(value, ensure_ascii=False, indent=1) + "\n").encode()
