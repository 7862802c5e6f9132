"""docker-compose.yml, the images' packages and scripts/make-env; needs no engine.

What only an engine can show, `scripts/check-compose --run` does.
"""

import os
import re
import shutil
import stat
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

from app.settings import Settings
from tests.fixtures.packages import closure

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
IMAGE_VOLUMES = {"postgres": "/var/lib/postgresql", "valkey": "/data"}
"""Of the images that are not ours."""


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_has_no_rights_that_it_does_not_need(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    if name in IMAGE_VOLUMES:
        assert service["user"] == "999:999"
    else:
        kind = "worker" if name.startswith("worker") else "api"
        assert "USER 10001" in (ROOT / "docker" / f"{kind}.Dockerfile").read_text()


@pytest.mark.parametrize("name", SERVICES)
def test_down_leaves_no_nameless_volume(name: str) -> None:
    service = SERVICES[name]
    named = [each.split(":") for each in service.get("volumes", [])]
    assert {source for source, _ in named} <= set(COMPOSE["volumes"])
    mounted = {target for _, target in named} | set(service["tmpfs"])
    assert IMAGE_VOLUMES.get(name, "/data") in mounted


def test_each_image_is_built_once() -> None:
    built = [service["image"] for service in SERVICES.values() if "build" in service]
    assert len(built) == len(set(built))
    assert SERVICES["migrate"]["image"] == SERVICES["api"]["image"]


def test_postgres_is_healthy_only_once_it_listens_for_the_others() -> None:
    test = SERVICES["postgres"]["healthcheck"]["test"]
    assert test[test.index("-h") + 1] == "127.0.0.1"


def test_links_lead_to_the_published_port() -> None:
    environment = SERVICES["api"]["environment"]
    assert set(environment) <= {f"HALFLAYER_{name.upper()}" for name in Settings.model_fields}
    assert "${HALFLAYER_PORT:-8000}" in environment["HALFLAYER_PUBLIC_URL"]
    assert SERVICES["api"]["ports"] == ["127.0.0.1:${HALFLAYER_PORT:-8000}:8000"]


def test_a_worker_has_time_to_save() -> None:
    for name in ("worker-gpu", "worker-cpu"):
        assert int(SERVICES[name]["stop_grace_period"][:-1]) > Settings().stop_grace_s


@pytest.mark.integration
def test_make_env_writes_private_passwords_once(tmp_path: Path) -> None:
    script = tmp_path / "scripts" / "make-env"
    script.parent.mkdir()
    shutil.copy(ROOT / "scripts" / "make-env", script)

    def make(*arguments: str, **variables: str) -> int:
        environment = {"PATH": os.environ["PATH"], **variables}
        done = subprocess.run(
            [script, *arguments], env=environment, capture_output=True, check=False
        )
        return done.returncode

    file = tmp_path / ".env"
    assert make() == 2
    assert make("tpu") == 2
    assert not file.exists()
    assert make("cpu") == 0
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    text = file.read_text()
    values = dict(re.findall(r"^(\w+)=(.*)$", text, re.MULTILINE))
    assert values["COMPOSE_PROFILES"] == "cpu"
    assert values["POSTGRES_PASSWORD"] != values["REDIS_PASSWORD"]
    for name in ("POSTGRES_PASSWORD", "REDIS_PASSWORD"):
        assert re.fullmatch(r"[0-9a-f]{48}", values[name])
    # All that docker-compose.yml refuses to start without is there.
    needed = re.findall(r"\$\{(\w+):\?", (ROOT / "docker-compose.yml").read_text())
    assert set(needed) == set(values)
    # The volumes open with these passwords only.
    assert make("gpu") == 1
    assert file.read_text() == text
    # What the shell exports goes before .env: it is what compose would start the database with.
    file.unlink()
    assert make("gpu", POSTGRES_PASSWORD="0ld") == 0
    assert "\nPOSTGRES_PASSWORD=0ld\n" in file.read_text()


# ------------------------------------------------------------------------------- the API's image


def _locked(name: str) -> dict[str, str]:
    text = (ROOT / name).read_text()
    return dict(re.findall(r"^([a-z0-9._-]+)==(\S+)", text, re.MULTILINE))


def test_the_api_image_has_nothing_that_only_torch_needs() -> None:
    assert "-r requirements-api.lock" in (ROOT / "docker" / "api.Dockerfile").read_text()
    assert not {"torch", "sympy", "networkx", "mpmath"} & set(_locked("requirements-api.lock"))
    text = tomllib.loads((ROOT / "pyproject.toml").read_text())
    needs = text["project"]["dependencies"] + text["project"]["optional-dependencies"]["s3"]
    needs = [each for each in needs if Requirement(each).name != "torch"]
    everything, api = _locked("requirements-s3.lock"), _locked("requirements-api.lock")
    assert api.items() < everything.items()
    assert closure(needs) <= set(api)
    assert set(everything) - set(api) <= closure(["torch"]) - closure(needs)


WITHOUT = """
import importlib.machinery, importlib.metadata, pkgutil, re, sys
lock = set(re.findall(r"^([a-z0-9._-]+)==", open("requirements-api.lock").read(), re.MULTILINE))
names = importlib.metadata.packages_distributions()
there = {top for top, owners in names.items()
         if {re.sub(r"[-_.]+", "-", each).lower() for each in owners} & (lock | {"halflayer"})}
missing = set(names) - there - set(sys.modules)
assert {"torch", "sympy", "networkx", "mpmath"} <= missing
class Image(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name.partition(".")[0] not in missing:
            return super().find_spec(name, path, target)
sys.meta_path = [Image if each is importlib.machinery.PathFinder else each
                 for each in sys.meta_path]
import app
for module in pkgutil.walk_packages(app.__path__, "app."):
    __import__(module.name)
import datasets, pyarrow.parquet, s3fs, tokenizers, transformers
"""


@pytest.mark.integration
def test_the_api_runs_with_the_packages_of_its_image() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
