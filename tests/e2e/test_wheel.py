"""The wheel works alone: installed elsewhere, it serves, trains and hands out what it trained.

Its environment has the packages that the wheel declares, as links to those installed here, and no
other. A hook on every file that Python opens shows that nothing of this checkout is used.
"""

import json
import os
import re
import subprocess
import sys
import venv
import zipfile
from collections.abc import Iterator
from importlib.metadata import requires
from pathlib import Path

import httpx
import pytest

from app.local.embedded_broker import free_port
from app.local.state import read_token
from kdcore import __version__
from tests.e2e.conftest import Installation, launch, stop
from tests.e2e.fill_mask import guesses
from tests.fixtures.configs import tiny_pipeline
from tests.fixtures.packages import closure, installed_parts

ROOT = Path(__file__).parents[2]
WATCH = """
import os, sys

def note(event, arguments):
    if event in ("open", "os.listdir", "os.scandir") and isinstance(arguments[0], (str, bytes)):
        path = os.path.realpath(os.fsdecode(arguments[0]))
        if path.startswith({root!r} + "/") and not path.startswith({packages!r} + "/"):
            with open({log!r}, "a") as log:
                log.write(path + "\\n")

sys.addaudithook(note)
"""


@pytest.fixture(scope="module")
def wheel() -> Path:
    """The wheel as `make wheel` builds it."""
    environment = {name: value for name, value in os.environ.items() if name[:4] != "MAKE"}
    made = subprocess.run(
        ["make", "wheel"], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert made.returncode == 0, made.stdout + made.stderr
    (wheel,) = ROOT.glob("build/wheel/*.whl")
    assert wheel.name == f"halflayer-{__version__}-py3-none-any.whl"
    return wheel


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file that names what the wheel's processes opened of this checkout."""
    return tmp_path_factory.mktemp("opened") / "opened"


@pytest.fixture(scope="module")
def bin_dir(wheel: Path, opened: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The commands of a virtual environment with the wheel and what it declares."""
    folder = tmp_path_factory.mktemp("venv")
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
    subprocess.run([*pip, "--no-deps", "--no-index", str(wheel)], check=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    for part in {part for name in closure(requires("halflayer") or []) for part in parts(name)}:
        (packages / part.name).symlink_to(part)
    # A .pth and not sitecustomize, which some distributions of Python have already.
    watch = WATCH.format(root=str(ROOT), packages=sys.prefix, log=str(opened))
    (packages / "watch_opened.py").write_text(watch)
    (packages / "watch_opened.pth").write_text("import watch_opened\n")
    return folder / "bin"


def parts(name: str) -> set[Path]:
    return set() if name == "halflayer" else installed_parts(name)


@pytest.fixture(scope="module")
def alone(bin_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """`halflayer up` with an empty home, in an empty folder, with no setting but a free port."""
    folder = tmp_path_factory.mktemp("alone")
    cwd, home = folder / "current", folder / "home"
    cwd.mkdir()
    home.mkdir()
    running = launch(
        (str(bin_dir / "halflayer"),),
        *("--port", str(free_port())),
        environment={
            "PATH": f"{bin_dir}:/usr/bin:/bin",
            "HOME": str(home),
            "HF_HUB_OFFLINE": "1",
            "COLUMNS": "200",
        },
        data_dir=cwd / "data",
        output=folder / "up.out",
        cwd=cwd,
    )
    try:
        running.link()
        yield running
        stop(running)
    finally:
        if running.process.poll() is None:
            running.process.kill()
            running.process.wait()


def test_it_holds_the_program_the_page_and_the_migrations(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.partition("/")[0] for name in names}
    assert tops == {"app", "kdcore", "worker", f"halflayer-{__version__}.dist-info"}
    page = ROOT / "app" / "web" / "page"
    built = [file.relative_to(ROOT) for file in page.rglob("*") if file.is_file()]
    steps = [f"app/alembic/versions/{file.name}" for file in ROOT.glob("alembic/versions/*.py")]
    assert len(built) > 10
    assert len(steps) > 4
    assert {*map(str, built), *steps, "app/alembic/env.py"} <= set(names)
    sources = [
        str(file.relative_to(ROOT))
        for package in ("app", "kdcore", "worker")
        for file in (ROOT / package).rglob("*.py")
    ]
    assert sorted(name for name in names if name.endswith(".py") and "/alembic/" not in name) == (
        sorted(sources)
    )


def test_it_serves_trains_and_hands_out_a_student(
    alone: Installation, bin_dir: Path, opened: Path, tmp_path: Path
) -> None:
    assert alone.halflayer("--version").stdout.strip() == __version__
    assert f"Data is stored in {alone.data_dir}" in alone.output.read_text()

    index = httpx.get(f"{alone.url}/runs", trust_env=False)
    script = re.search(r'src="(/assets/[^"]+\.js)"', index.text)
    assert index.is_success
    assert script is not None
    assert httpx.get(f"{alone.url}{script[1]}", trust_env=False).is_success
    # A vocabulary is checked in a process of its own.
    httpx.post(
        f"{alone.url}/api/v1/datasets",
        files={"file": ("vocab.txt", "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n")},
        data={"kind": "tokenizer"},
        headers={"Authorization": f"Bearer {read_token(alone.data_dir)}"},
        timeout=60,
        trust_env=False,
    ).raise_for_status()

    pipeline = tiny_pipeline(teacher_steps=4)
    pipeline["distill"]["schedule"]["max_steps"] = 4
    config = tmp_path / "tiny.json"
    config.write_text(json.dumps(pipeline))
    submitted = alone.halflayer("runs", "submit", str(config), "--json")
    assert submitted.returncode == 0, submitted.stderr
    ids = [run["id"] for run in json.loads(submitted.stdout)]
    watched = alone.halflayer("runs", "watch", *ids)
    assert watched.returncode == 0, watched.stdout + watched.stderr
    downloaded = alone.halflayer("runs", "download", ids[-1], "--to", str(tmp_path / "student"))
    assert downloaded.returncode == 0, downloaded.stderr
    assert guesses(tmp_path / "student")

    assert {path.name for path in (alone.data_dir.parent).iterdir()} == {"data"}
    assert list(Path(alone.environment["HOME"]).iterdir()) == []
    assert not opened.exists(), opened.read_text()
    # The hook would have seen it.
    code = f"open({str(ROOT / 'pyproject.toml')!r})"
    subprocess.run([str(bin_dir / "python"), "-c", code], check=True)
    assert opened.read_text().split() == [str(ROOT / "pyproject.toml")]


def test_its_modules_come_from_the_environment(bin_dir: Path) -> None:
    code = (
        "import app, kdcore, sys, worker; "
        "print(*sys.path, app.__file__, kdcore.__file__, worker.__file__)"
    )
    done = subprocess.run(
        [str(bin_dir / "python"), "-P", "-c", code],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    *_, ours, core, theirs = done.stdout.split()
    assert {bin_dir.parent} == {Path(each).parents[4] for each in (ours, core, theirs)}
    assert not [path for path in done.stdout.split() if Path(path).is_relative_to(ROOT)]
