"""What can be seen without asking anybody: Python, torch, settings, the data folder, the page."""

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
"""With less, a few runs' checkpoints may fill the disk."""
TORCH_S = 180
LOOPBACK = frozenset({"127.0.0.1", "localhost", "[::1]", "::1"})
# In a process of its own: the command line must not wait for torch at every start.
_TORCH = """
import json, torch
print(json.dumps([torch.__version__, [
    torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())
] if torch.cuda.is_available() else []]))
"""


def python() -> Iterator[Finding]:
    """This very interpreter."""
    yield ok("python", f"Python {platform.python_version()}, Halflayer {__version__}")


def torch() -> Iterator[Finding]:
    """Whether torch loads, and which devices it sees."""
    try:
        importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        yield warning(
            "torch",
            "PyTorch is not installed; an API needs none, a worker does",
            "where a worker runs: pip install -r requirements-torch.lock",
        )
        return
    done = subprocess.run(
        [sys.executable, "-P", "-c", _TORCH],
        capture_output=True,
        text=True,
        timeout=TORCH_S,
        check=False,
    )
    if done.returncode != 0:
        words = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        remedy = "pip install -r requirements-torch.lock"
        yield failed("torch", f"PyTorch does not load: {words}", remedy)
        return
    version, gpus = json.loads(done.stdout)
    yield ok("torch", f"PyTorch {version}")
    if not gpus and shutil.which("nvidia-smi"):
        yield warning(
            "devices",
            "this machine has an NVIDIA driver, but PyTorch sees no GPU",
            "install PyTorch's build for CUDA, and look at CUDA_VISIBLE_DEVICES",
        )
    else:
        yield ok("devices", ", ".join(gpus) or f"CPU with {os.cpu_count()} cores, no GPU")


def data_folder(settings: Settings) -> Iterator[Finding]:
    """Exists, can be written, belongs to us alone, and has room."""
    folder = settings.data_dir.resolve()
    if not folder.is_dir():
        yield failed(
            "data folder",
            f"{folder} is not there",
            "`halflayer up` makes it; or name the right one in HALFLAYER_DATA_DIR",
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
            f"{folder} cannot be written: {error.strerror or error}",
            f"give it to the user that runs Halflayer: chown -R {os.geteuid()} {folder}",
        )
        return
    yield ok("data folder", f"{folder} can be written")
    opened = " ".join(map(str, open_to_others(settings)))
    if opened:
        yield warning(
            "permissions",
            f"other users of this machine can look into {opened}, and read uploads, models, tokens",
            f"chmod go-rwx {opened}",
        )
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < MIN_FREE_BYTES:
        yield failed("free space", f"only {size(free_bytes)} are left", "delete runs or uploads")
    elif free_bytes < COMFORTABLE_BYTES:
        yield warning("free space", f"{size(free_bytes)} are left", "delete runs or uploads")
    else:
        yield ok("free space", f"{size(free_bytes)} are left")


def page(settings: Settings) -> Iterator[Finding]:
    """Whether there is a page to serve."""
    folder = frontend_dir(settings)
    if (folder / "index.html").is_file():
        yield ok("page", f"built, in {folder}")
    else:
        yield failed("page", f"not built: {folder} has no index.html", "make frontend")


def settings_that_do_not_fit(settings: Settings) -> Iterator[Finding]:
    """Settings that are valid one by one, but not together."""
    found = list(_misfits(settings))
    yield from found or [ok("settings", "fit together")]


def _misfits(settings: Settings) -> Iterator[Finding]:
    public = [host for host in settings.accepted_hosts if host not in LOOPBACK]
    known = {f"HALFLAYER_{name.upper()}" for name in Settings.model_fields}
    for name in sorted(name for name in os.environ if name.startswith("HALFLAYER_")):
        if name.upper() not in known:
            yield warning("settings", f"{name} is no setting", "look for a typing mistake in it")
    if "*" in settings.accepted_hosts:
        yield warning(
            "settings",
            "the API answers to any host name, so that a page elsewhere can reach it by its own",
            "list the real names in HALFLAYER_ALLOWED_HOSTS",
        )
    elif public and not settings.secure_cookies:
        yield warning(
            "settings",
            f"browsers reach the API as {public[0]}, and their cookies may go over plain HTTP",
            "serve it over TLS and set HALFLAYER_SECURE_COOKIES=true",
        )
    if settings.host not in LOOPBACK and not public and not settings.public_url:
        yield warning(
            "settings",
            f"the API listens on {settings.host}, but answers to names of this machine only",
            "set HALFLAYER_PUBLIC_URL to the address that browsers use",
        )
    if settings.lease_s < 3 * settings.heartbeat_s:
        yield failed(
            "settings",
            f"a run is taken from its worker after {settings.lease_s:g} s without a beat, and it "
            f"beats every {settings.heartbeat_s:g} s: one late beat would cost a run its worker",
            "set HALFLAYER_LEASE_S to three times HALFLAYER_HEARTBEAT_S at least",
        )
