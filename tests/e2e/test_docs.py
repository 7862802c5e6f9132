"""Every command in the documentation works as it stands there.

A fenced block of sh or python is run, json and yaml are parsed, text is left alone. What cannot be
run has `<!-- not run by tests: REASON -->` in the line above it. A block runs as written but for
`ADDED`, which makes trainings short, and `MEANT`, which fills in what a reader would.
"""

import itertools
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from markdown_it import MarkdownIt

from app.cli.main import app
from app.settings import Settings
from tests.e2e.conftest import Installation

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "CONTRIBUTING.md", "SECURITY.md")
DOCS = sorted([*(ROOT / name for name in PAGES), *ROOT.glob("docs/**/*.md")])
MARKER = re.compile(r"<!-- not run by tests:(.*?)-->", re.DOTALL)
COMMAND = re.compile(
    r"^\s*(\S*bin/)?(halflayer|make|python|pip|docker|kubectl|curl)\b", re.MULTILINE
)
LANGUAGES = {"sh", "python", "json", "yaml", "text"}

ADDED = {
    r"-m kdcore teacher": "--model.layers 2 --model.hidden-size 32 --model.heads 2 "
    "--model.intermediate-size 64 --model.max-positions 64 --seq-len 64 "
    "--tokenizer.vocab-size 1000 --schedule.max-steps 2 --evaluation.max-sequences 8 --cache CACHE",
    r"-m kdcore distill": "--schedule.max-steps 2 --evaluation.max-sequences 8 --cache CACHE",
    r"runs submit demo": "--set teacher.schedule.max_steps=4 --set teacher.model.hidden_size=32 "
    "--set teacher.tokenizer.vocab_size=1000 --set teacher.evaluation.max_sequences=8 "
    "--set distill.schedule.max_steps=2 --set distill.evaluation.max_sequences=8",
    r"^curl": "--fail",
}
"""Options for the lines that match."""
NEWEST = (
    "$(halflayer runs list --limit 1 --json | "
    'python -c \'import json, sys; print(json.load(sys.stdin)["items"][0]["id"])\')'
)


@dataclass(frozen=True)
class Block:
    """A fenced or indented block of a document."""

    path: Path
    line: int
    language: str
    code: str
    reason: str | None
    """Why it is not run; None: it is."""

    def __str__(self) -> str:
        return f"{self.path.relative_to(ROOT)}:{self.line}"


def blocks(path: Path) -> Iterator[Block]:
    before = None
    for token in MarkdownIt().parse(path.read_text()):
        if token.type in ("fence", "code_block"):
            assert token.map is not None
            marker = (
                MARKER.search(before.content) if before and before.type == "html_block" else None
            )
            reason = marker[1].strip() if marker else None
            language = token.info.strip() if token.type == "fence" else "indented"
            yield Block(path, token.map[0] + 1, language, token.content, reason)
        before = token


BLOCKS = [block for path in DOCS for block in blocks(path)]
RUN = [block for block in BLOCKS if block.reason is None and block.language in ("sh", "python")]


def script(block: Block, meant: dict[str, str]) -> str:
    """The block's commands, short and with what a reader would fill in."""
    lines = []
    for line in block.code.splitlines():
        command = re.sub(r"\s+#.*", "", line)
        for pattern, options in ADDED.items():
            if re.search(pattern, command):
                command += f" {options}"
        lines.append(command)
    text = "\n".join(lines)
    for name, value in meant.items():
        text = text.replace(name, value)
    return text


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_every_block_has_a_language_and_what_is_not_run_a_reason(block: Block) -> None:
    assert block.language in LANGUAGES, f"{block}: name one of {LANGUAGES} after the fence"
    assert block.reason != "", f"{block}: the marker gives no reason"
    if block.language == "text":
        assert not COMMAND.search(block.code), f"{block}: these are commands, so name sh"
    if block.language == "json":
        json.loads(block.code)
    if block.language == "yaml":
        yaml.safe_load(block.code)


@pytest.mark.parametrize("path", sorted({block.path for block in RUN}), ids=lambda path: path.name)
def test_the_commands_of_a_document_work(
    path: Path, installation: Installation, tmp_path: Path
) -> None:
    url = installation.url
    (tmp_path / ".venv").symlink_to(sys.prefix)
    environment = installation.environment | {
        "PATH": f"{sys.prefix}/bin:{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
    }
    # Those in python use what those in sh have downloaded.
    for block in sorted((b for b in RUN if b.path == path), key=lambda b: b.language == "python"):
        meant = {
            "RUN_ID": NEWEST,
            "CACHE": str(installation.data_dir / "cache"),
            "http://127.0.0.1:8000": url,
            "/backups": str(tmp_path / "backups"),
            "/srv": str(tmp_path / "srv"),
            "path/to/checkpoint": str(
                next((p.parent for p in tmp_path.glob("*/model.safetensors")), "")
            ),
        }
        text = script(block, meant)
        shell = ["bash", "-euxo", "pipefail", "-c", text]
        ended = subprocess.run(
            shell if block.language == "sh" else [sys.executable, "-c", text],
            cwd=tmp_path,
            env=environment,
            input="y\n",
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        said = f"{block}, run as\n{text}\n{ended.stdout}{ended.stderr}"
        assert ended.returncode == 0, said


# --------------------------------------------------------------------- commands within sentences


def spans() -> Iterator[tuple[str, str]]:
    """Where it stands, and the code, of each code span and each line of a block of sh."""
    for path in DOCS:
        for token in MarkdownIt().enable("table").parse(path.read_text()):
            for child in token.children or ():
                if child.type == "code_inline":
                    yield path.name, " ".join(child.content.split())
    for block in BLOCKS:
        if block.language == "sh":
            for line in block.code.replace("\\\n", " ").splitlines():
                yield str(block), line


def test_every_target_of_make_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {
        (where, name) for where, code in spans() for name in re.findall(r"\bmake ([a-z-]+)", code)
    }
    assert len(named) > 5
    assert {(where, name) for where, name in named if name not in targets} == set()


def _slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def _anchors(path: Path) -> set[str]:
    tokens = MarkdownIt().parse(path.read_text())
    pairs = itertools.pairwise(tokens)
    return {_slug(text.content) for opening, text in pairs if opening.type == "heading_open"}


def test_every_link_within_the_documents_leads_to_a_file_and_a_heading() -> None:
    seen, broken = 0, []
    for path in DOCS:
        for token in MarkdownIt().enable("table").parse(path.read_text()):
            for child in token.children or ():
                link = str(child.attrs.get("href") or child.attrs.get("src") or "")
                if not link or "://" in link:
                    continue
                seen += 1
                name, _, anchor = link.partition("#")
                target = path.parent / name if name else path
                if not target.exists() or (anchor and anchor not in _anchors(target)):
                    broken.append((path.name, link))
    assert seen > 20
    assert broken == []


def test_every_file_named_exists() -> None:
    tops = "kdcore|app|worker|faults|tests|benchmarks|alembic|scripts|docs|deploy|docker|frontend"
    named = {(where, code) for where, code in spans() if re.fullmatch(rf"({tops})/[\w./*-]*", code)}
    assert len(named) > 40
    assert {(where, code) for where, code in named if not list(ROOT.glob(code))} == set()


def test_every_setting_named_exists() -> None:
    known = {f"HALFLAYER_{name.upper()}" for name in Settings.model_fields}
    known |= set(re.findall(r"HALFLAYER_[A-Z_]+", (ROOT / "docker-compose.yml").read_text()))
    named = {
        (where, name) for where, code in spans() for name in re.findall(r"HALFLAYER_[A-Z_]+", code)
    }
    assert len(named) > 20
    assert {(where, name) for where, name in named if name not in known | {"HALFLAYER_"}} == set()


def test_every_command_and_flag_of_halflayer_exists() -> None:
    seen, wrong = 0, []
    for where, code in spans():
        if not (found := re.search(r"(?:^|bin/|api |-- |: )halflayer (.*)", code)):
            continue
        seen += 1
        command: Any = typer.main.get_command(app)
        words = shlex.split(found[1].partition(")")[0], comments=True)
        while words and words[0] in getattr(command, "commands", {}):
            command, words = command.commands[words[0]], words[1:]
        flags = {flag for each in command.params for flag in (*each.opts, *each.secondary_opts)}
        if command.name == "worker":  # hands all its flags on
            flags |= set(words)
        if (words and hasattr(command, "commands")) or {w for w in words if w[:2] == "--"} - flags:
            wrong.append((where, code))
    assert seen > 10
    assert wrong == []
