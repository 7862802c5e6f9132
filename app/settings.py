"""Settings of a Halflayer installation, from `HALFLAYER_*` variables; reads nothing else."""

from functools import cached_property
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import AnyHttpUrl, Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

LogFormat = Literal["text", "json"]


class Settings(BaseSettings):
    """Each field is one environment variable, `HALFLAYER_` and its name in capitals."""

    model_config = SettingsConfigDict(
        env_prefix="HALFLAYER_", use_attribute_docstrings=True, extra="ignore"
    )

    data_dir: Path = Path("data")
    """Folder for the database, uploads, run folders and artifacts. All hosts share it, unless
    `storage_url` names a store that they share instead; then each has one of its own."""
    database_url: str = ""
    """SQLAlchemy URL; empty means SQLite in the data folder."""
    broker_url: str = "redis://127.0.0.1:6379/0"
    """Redis or Valkey that carries the doorbells."""
    storage_url: str = ""
    """fsspec URL of the store, such as s3://bucket/halflayer; empty means a folder in the data
    folder. In a store that is no folder lie uploads and copies of checkpoints too, so that hosts
    need share nothing else."""
    mirror_every_s: float = Field(default=30.0, ge=0)
    """A checkpoint is copied to such a store at most this often."""
    host: str = "127.0.0.1"
    """Address that the API listens on."""
    port: int = Field(default=8000, ge=0, le=65535)
    """Port that the API listens on."""
    public_url: str = ""
    """URL under which browsers reach the API, such as https://halflayer.example: where printed
    links lead. Empty means `host` and `port`."""
    allowed_hosts: list[str] = ["127.0.0.1", "localhost", "[::1]"]
    """Host names that requests may name (JSON list), beside those of `public_url` and `host`;
    others get 400."""
    frontend_dir: Path | None = None
    """Folder of the built page; empty means the one in the package."""
    max_upload_bytes: int = 2 * 1024**3
    """Largest upload."""
    max_uploads: int = Field(default=40, ge=1)
    """Uploads at a time, those that wait for their check included, half of them from one token;
    others get 503."""
    upload_timeout_s: float = Field(default=30.0, gt=0)
    """An upload of which nothing arrives for this long, or 16 KiB/s less on average, gets 408."""
    max_body_bytes: int = 2 * 1024**2
    """Largest body of any other request."""
    max_held_body_bytes: int = 32 * 1024**2
    """Bodies other than uploads that are in memory at a time, a quarter of them from one token or
    address; others get 503."""
    body_timeout_s: float = Field(default=10.0, gt=0)
    """The same as `upload_timeout_s`, for all other bodies."""
    header_timeout_s: float = Field(default=10.0, gt=0)
    """A connection that sends no whole head of a request for this long is closed."""
    max_connections: int = Field(default=6_000, ge=1)
    """Connections at a time, live streams included, for each API process; the limit of open files
    less 192 if that is fewer. Beyond it those that are not signed in make room, then 503."""
    max_connections_per_address: int = Field(default=1_000, ge=1)
    """The same for one address. Behind a reverse proxy all connections come from the proxy's: set
    it to `max_connections` there."""
    max_streams: int = Field(default=5_000, ge=0)
    """Pages and tools that may watch runs live at once, for each API process; others get 503."""
    stream_patience_s: float = Field(default=120.0, gt=0)
    """A reader of a live stream, or of any other answer, that takes nothing for this long is cut
    off."""
    log_format: LogFormat = "text"
    """`text` for people, `json` for one JSON object a line."""
    device: str = "auto"
    """What a worker trains on: `auto` (GPUs, else the CPU), `cpu`, `cuda` (an error without a
    GPU), `cuda:N`, or the UUID of a GPU or MIG instance."""
    heartbeat_s: float = Field(default=10.0, gt=0)
    """A supervisor beats this often."""
    lease_s: float = Field(default=60.0, gt=0)
    """A run without a beat for this long, on the watcher's own clock, is taken back."""
    ring_again_s: float = Field(default=15.0, gt=0)
    """A queued run whose doorbell seems lost is rung again after this time."""
    stop_grace_s: float = Field(default=30.0, ge=0)
    """A trainer asked to stop is killed after this time."""
    hung_after_s: float = Field(default=1800.0, gt=0)
    """A trainer that says nothing for this long, and for five times as long as it ever did, is
    killed; its run goes on from its last checkpoint."""
    standby: bool = True
    """Each worker keeps a process ready that has loaded the libraries: the next run starts seconds
    earlier, for some 400 MiB."""
    max_attempts_without_progress: int = Field(default=3, ge=1)
    """Attempts in a row without a newer checkpoint before a run fails as `worker_lost`, or as
    `device_lost`."""
    session_days: float = Field(default=30.0, gt=0)
    """A browser stays signed in this long."""
    secure_cookies: bool = False
    """Send cookies over HTTPS only; switch on behind TLS."""
    token: SecretStr | None = None
    """API token for the command line when it talks to a remote server."""
    server: str | None = None
    """URL of a remote server for the command line."""

    @field_validator("public_url")
    @classmethod
    def _is_origin(cls, value: str) -> str:
        if not value:
            return ""
        url = AnyHttpUrl(value)
        if url.path not in (None, "/") or url.query or url.fragment or url.username or url.password:
            raise ValueError("must be http:// or https://, a host, and a port if need be; no path")
        return str(url).rstrip("/")

    @property
    def local_url(self) -> str:
        """Where this machine reaches an API that listens on `host` and `port`."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"

    @property
    def accepted_hosts(self) -> list[str]:
        """`allowed_hosts`, and the hosts of the links that this installation prints itself."""
        own = [urlsplit(url).hostname for url in (self.public_url, self.local_url)]
        return [*self.allowed_hosts, *(host for host in own if host)]

    @cached_property
    def resolved_database_url(self) -> str:
        if self.database_url:
            return self.database_url
        return f"sqlite:///{(self.data_dir / 'halflayer.db').resolve()}"

    @cached_property
    def resolved_storage_url(self) -> str:
        if self.storage_url:
            return self.storage_url
        return (self.data_dir / "artifacts").resolve().as_uri()

    @property
    def work_dir(self) -> Path:
        """Where trainers work; checkpoints to resume from live here."""
        return self.data_dir / "work"

    @property
    def uploads_dir(self) -> Path:
        return self.data_dir / "uploads"

    @property
    def cache_dir(self) -> Path:
        """Tokenised corpora and trained tokenizers, shared by all runs."""
        return self.data_dir / "cache"
