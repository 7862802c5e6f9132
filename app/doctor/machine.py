"""Checks that need no other service: Python, torch, settings, the data folder, the page."""

import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator

from app.doctor.findings import Finding, failed, ok, size, warning
from app.private_files import open_to_others
from app.settings import Settings
from app.storage import MIN_FREE_BYTES
from app.web.static import frontend_dir
from kdcore import __version__

COMFORTABLE_BYTES = 5 * 1024**3
"""With less, the checkpoints of a few runs may fill the disk."""
TORCH_S = 180
LOOPBACK = frozenset({"127.0.0.1", "localhost", "[::1]", "::1"})
# In a child process: loading torch would slow down every command.
_TORCH = """
import json, torch
print(json.dumps([torch.__version__, [
    torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())
] if torch.cuda.is_available() else []]))
"""


def python() -> Iterator[Finding]:
    """The Python interpreter."""
    yield ok("python", f"Python {platform.python_version()}, Halflayer {__version__}")


def torch() -> Iterator[Finding]:
    """Whether torch loads, and which devices it sees."""
    try:
        importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        yield warning(
            "torch",
            "PyTorch is not installed; workers need it, an API does not",
            "on worker hosts: pip install -r requirements-torch.lock",
        )
        return
    done = _load_torch()
    if done.returncode != 0:
        message = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        remedy = "pip install -r requirements-torch.lock"
        yield failed("torch", f"PyTorch does not load: {message}", remedy)
        return
    version, gpus = json.loads(done.stdout)
    yield ok("torch", f"PyTorch {version}")
    if not gpus and shutil.which("nvidia-smi"):
        yield warning(
            "devices",
            "this machine has an NVIDIA driver, but PyTorch sees no GPU",
            "install a CUDA build of PyTorch and check CUDA_VISIBLE_DEVICES",
        )
    else:
        yield ok("devices", ", ".join(gpus) or f"CPU with {os.cpu_count()} cores, no GPU")


def no_worker_because(settings: Settings) -> str:
    """Why no worker can start on the device of the settings; empty if one can."""
    if settings.device in ("auto", "cpu"):
        return ""
    done = _load_torch()
    if done.returncode == 0 and json.loads(done.stdout)[1]:
        return ""
    return f"HALFLAYER_DEVICE is {settings.device}, but PyTorch finds no GPU"


def _load_torch() -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-P", "-c", _TORCH],
        capture_output=True,
        text=True,
        timeout=TORCH_S,
        check=False,
    )


def data_folder(settings: Settings) -> Iterator[Finding]:
    """Exists, is writable, is private, and has free space."""
    folder = settings.data_dir.resolve()
    if not folder.is_dir():
        yield failed(
            "data folder",
            f"{folder} does not exist",
            "`halflayer up` creates it; or set HALFLAYER_DATA_DIR",
        )
        return
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"x")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        yield failed(
            "data folder",
            f"{folder} is not writable: {error.strerror or error}",
            f"make the user that runs Halflayer its owner: chown -R {os.geteuid()} {folder}",
        )
        return
    yield ok("data folder", f"{folder} is writable")
    opened = " ".join(map(str, open_to_others(settings)))
    if opened:
        yield warning(
            "permissions",
            f"other users of this machine can read uploads, models and tokens in {opened}",
            f"chmod go-rwx {opened}",
        )
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < MIN_FREE_BYTES:
        yield failed("free space", f"only {size(free_bytes)} left", "delete runs or uploads")
    elif free_bytes < COMFORTABLE_BYTES:
        yield warning("free space", f"{size(free_bytes)} left", "delete runs or uploads")
    else:
        yield ok("free space", f"{size(free_bytes)} left")


def page(settings: Settings) -> Iterator[Finding]:
    """Whether the web page is built."""
    folder = frontend_dir(settings)
    if (folder / "index.html").is_file():
        yield ok("page", f"built, in {folder}")
    else:
        yield failed("page", f"not built: {folder} has no index.html", "make frontend")


def inconsistent_settings(settings: Settings) -> Iterator[Finding]:
    """Settings that are valid alone, but not together."""
    found = list(_inconsistencies(settings))
    yield from found or [ok("settings", "consistent")]


def _inconsistencies(settings: Settings) -> Iterator[Finding]:
    public = [host for host in settings.accepted_hosts if host not in LOOPBACK]
    known = {f"HALFLAYER_{name.upper()}" for name in Settings.model_fields}
    for name in sorted(name for name in os.environ if name.startswith("HALFLAYER_")):
        if name.upper() not in known:
            yield warning("settings", f"unknown setting {name}", "check the spelling")
    if "*" in settings.accepted_hosts:
        yield warning(
            "settings",
            "the API accepts any host name, which allows DNS rebinding from other pages",
            "list its host names in HALFLAYER_ALLOWED_HOSTS",
        )
    elif public and not settings.secure_cookies:
        yield warning(
            "settings",
            f"browsers reach the API as {public[0]}, and cookies may be sent over plain HTTP",
            "serve it over TLS and set HALFLAYER_SECURE_COOKIES=true",
        )
    if settings.host not in LOOPBACK and not public and not settings.public_url:
        yield warning(
            "settings",
            f"the API listens on {settings.host}, but accepts local host names only",
            "set HALFLAYER_PUBLIC_URL to the URL that browsers use",
        )
    if settings.lease_s < 3 * settings.heartbeat_s:
        yield failed(
            "settings",
            f"the lease of {settings.lease_s:g} s is too short for a heartbeat every "
            f"{settings.heartbeat_s:g} s: one late heartbeat could take a run from its worker",
            "set HALFLAYER_LEASE_S to at least three times HALFLAYER_HEARTBEAT_S",
        )
