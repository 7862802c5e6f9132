"""Manifests notice every change of a file; a file is replaced completely or not at all."""

import hashlib
from pathlib import Path

import pytest
from pydantic import ValidationError

from kdcore.files import Manifest, ManifestFile, remove_temporary, replace_folder, write_atomically


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model" / "sub").mkdir(parents=True)
    (tmp_path / "model" / "sub" / "é.txt").write_text("content")
    (tmp_path / "model" / "empty").write_bytes(b"")
    return tmp_path / "model"


def test_a_manifest_says_what_is_wrong_with_each_file(folder: Path) -> None:
    manifest = Manifest.of(folder)
    sha256 = hashlib.sha256(b"content").hexdigest()
    assert manifest.files[1] == ManifestFile(path="sub/é.txt", size_bytes=7, sha256=sha256)
    manifest.write(folder / "manifest.json")
    assert Manifest.read(folder / "manifest.json") == manifest == Manifest.of(folder)
    assert list(manifest.problems(folder)) == []
    (folder / "sub" / "é.txt").write_text("Content")
    (folder / "empty").unlink()
    assert list(manifest.problems(folder)) == [
        "empty cannot be read (No such file or directory)",
        "sub/é.txt fails its checksum",
    ]
    (folder / "empty").write_text("more")
    assert next(manifest.problems(folder)) == "empty has 4 bytes instead of 0"


@pytest.mark.parametrize("path", ["", "/etc/passwd", "../x", "a/../../x", "a\\b", "a\0"])
def test_a_manifest_names_no_path_outside_its_folder(path: str) -> None:
    with pytest.raises(ValidationError):
        ManifestFile(path=path, size_bytes=0, sha256="")


def test_a_failed_write_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with write_atomically(path) as file:
        file.write(b"first")

    def fail() -> None:
        with write_atomically(path) as file:
            file.write(b"second")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert [each.name for each in tmp_path.iterdir()] == ["file"]
    assert path.read_bytes() == b"first"


def test_a_folder_is_replaced_and_what_a_killed_write_left_is_removed(folder: Path) -> None:
    place = folder.parent
    temporary = place / ".tmp-new"
    temporary.mkdir()
    (temporary / "file").write_text("new")
    replace_folder(temporary, folder)
    assert [each.name for each in folder.iterdir()] == ["file"]
    (place / ".tmp-file").write_text("half")
    (place / ".tmp-folder").mkdir()
    remove_temporary(place)
    assert [each.name for each in place.iterdir()] == ["model"]
