"""Settings of an installation, from `HALFLAYER_*` environment variables only."""

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
    `storage_url` names a shared store; then each host has its own."""
    database_url: str = ""
    """SQLAlchemy URL; empty means SQLite in the data folder."""
    broker_url: str = "redis://127.0.0.1:6379/0"
    """Redis or Valkey for the job queue."""
    storage_url: str = ""
    """fsspec URL of the artifact store, such as s3://bucket/halflayer; empty means a folder in
    `data_dir`. A remote store also holds uploads and copies of checkpoints, so that hosts share
    nothing else."""
    mirror_every_s: float = Field(default=30.0, ge=0)
    """Minimum interval between copies of checkpoints to a remote store."""
    host: str = "127.0.0.1"
    """Address that the API listens on."""
    port: int = Field(default=8000, ge=0, le=65535)
    """Port that the API listens on."""
    public_url: str = ""
    """URL of the API for browsers, such as https://halflayer.example, used in printed links. Empty
    means `host` and `port`."""
    allowed_hosts: list[str] = ["127.0.0.1", "localhost", "[::1]"]
    """Accepted Host headers (JSON list), beside those of `public_url` and `host`; others
    get 400."""
    frontend_dir: Path | None = None
    """Folder of the built web page; empty means the one in the package."""
    max_upload_bytes: int = 2 * 1024**3
    """Largest upload."""
    max_uploads: int = Field(default=40, ge=1)
    """Maximum concurrent uploads, including those waiting for inspection, half of them per token;
    others get 503."""
    upload_timeout_s: float = Field(default=30.0, gt=0)
    """An upload gets 408 if nothing arrives for this long, or less than 16 KiB/s on average."""
    max_body_bytes: int = 2 * 1024**2
    """Largest body of any other request."""
    max_held_body_bytes: int = 32 * 1024**2
    """Maximum total size of other request bodies in memory, a quarter of it per token or address;
    others get 503."""
    body_timeout_s: float = Field(default=10.0, gt=0)
    """Like `upload_timeout_s`, for all other request bodies."""
    header_timeout_s: float = Field(default=10.0, gt=0)
    """A connection without complete request headers for this long is closed."""
    max_connections: int = Field(default=6_000, ge=1)
    """Maximum connections per API process, live streams included; at most the limit of open files
    minus 192. Beyond it, unauthenticated connections are closed, then new ones get 503."""
    max_connections_per_address: int = Field(default=1_000, ge=1)
    """Maximum connections per client address. Behind a reverse proxy set it to `max_connections`,
    since all connections come from the proxy."""
    max_streams: int = Field(default=5_000, ge=0)
    """Maximum live streams per API process; others get 503."""
    write_timeout_s: float = Field(default=120.0, gt=0)
    """A client that reads nothing of a response or live stream for this long is disconnected."""
    log_format: LogFormat = "text"
    """`text` for people, `json` for one JSON object a line."""
    device: str = "auto"
    """Training device: `auto` (GPUs, else the CPU), `cpu`, `cuda` (fails without a GPU), `cuda:N`,
    or the UUID of a GPU or MIG instance."""
    heartbeat_s: float = Field(default=10.0, gt=0)
    """Interval of worker heartbeats."""
    lease_s: float = Field(default=60.0, gt=0)
    """A run without a heartbeat for this long is recovered from its worker."""
    requeue_after_s: float = Field(default=15.0, gt=0)
    """A run queued for this long is enqueued again if its job seems lost."""
    stop_grace_s: float = Field(default=30.0, ge=0)
    """A trainer is killed this long after it was asked to stop."""
    hung_after_s: float = Field(default=1800.0, gt=0)
    """A trainer that reports nothing for this long, and for five times its longest pause so far, is
    killed; its run resumes from the last checkpoint."""
    standby: bool = True
    """Each worker keeps a process with loaded libraries ready: the next run starts seconds earlier,
    for about 400 MiB."""
    max_attempts_without_progress: int = Field(default=3, ge=1)
    """Consecutive attempts without a new checkpoint before a run fails as `worker_lost` or
    `device_lost`."""
    session_days: float = Field(default=30.0, gt=0)
    """Lifetime of browser sessions."""
    secure_cookies: bool = False
    """Send cookies over HTTPS only; enable behind TLS."""
    token: SecretStr | None = None
    """API token for the command line with a remote server."""
    server: str | None = None
    """URL of a remote server for the command line."""

    @field_validator("public_url")
    @classmethod
    def _is_origin(cls, value: str) -> str:
        if not value:
            return ""
        url = AnyHttpUrl(value)
        if url.path not in (None, "/") or url.query or url.fragment or url.username or url.password:
            raise ValueError(
                "must be http:// or https:// with a host and an optional port, no path"
            )
        return str(url).rstrip("/")

    @property
    def local_url(self) -> str:
        """URL of the API for clients on this machine."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"

    @property
    def accepted_hosts(self) -> list[str]:
        """`allowed_hosts`, and the hosts of printed links."""
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
        """Work folders of trainers, with checkpoints to resume from."""
        return self.data_dir / "work"

    @property
    def uploads_dir(self) -> Path:
        return self.data_dir / "uploads"

    @property
    def cache_dir(self) -> Path:
        """Tokenised corpora and trained tokenizers, shared by all runs."""
        return self.data_dir / "cache"
