"""The run-time settings of every door, read once from the environment. `.env.example` lists the same names."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from shutterless.errors import BadSettings

_SLUG = r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}"
CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")  # cgroup v2, as a container sees its own
MOST_THREADS = 4  # more were not measured, and a small network has no work for them
_MODELS = Path(__file__).parent.parent / "models"


def usable_cpus() -> int:
    """CPUs that this process may run on, or as many as its container's CPU quota is worth, rounded up, where that is less."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with suppress(OSError, ValueError):  # no container, or no quota: "max"
        quota_us, period_us = map(int, CPU_QUOTA.read_text().split())
        return max(1, min(cpus, -(-quota_us // period_us)))
    return cpus


# Readers: text of a variable -> value, or ValueError(what was expected).

def _text(expected: str, pattern: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(expected)
        return text
    return read


def _integer(low: int, high: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not re.fullmatch(r"[0-9_]{1,12}", text) or not low <= int(text.replace("_", "") or -1) <= high:
            raise ValueError(f"an integer from {low} to {high}")
        return int(text.replace("_", ""))
    return read


def _listed(expected: str, pattern: str) -> Callable[[str], tuple[str, ...]]:
    def read(text: str) -> tuple[str, ...]:
        items = tuple(item.strip() for item in text.split(",") if item.strip())
        if not all(re.fullmatch(pattern, item) for item in items):
            raise ValueError(expected)
        return items
    return read


_folder_or_s3 = _text("a folder, or s3://bucket or s3://bucket/prefix",
                      r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/.*)?|(?!\w+://).+")
_database = _text("sqlite:///FILE or postgresql://USER@HOST/DATABASE",
                  r"sqlite:///(?!:memory:)[^?]+|postgres(ql)?(\+psycopg)?://.+")


def _variable(name: str, read: Callable[[str], Any], default: Any = None, *, secret: bool = False) -> Any:
    """A field that comes from the environment variable `name`. A secret stays out of repr and of error messages."""
    return field(default=default, repr=not secret, metadata={"name": name, "read": read, "secret": secret})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a door needs to know before it starts. Units end the names.

    model: bundle that answers, "name" (its newest version) or "name/version".
    model_uri: folder of that bundle, or its address in S3, instead of one in models_dir.
    signing_key: file of the public key with which every bundle must be signed; None takes unsigned ones too.
    database_url: default, SQLite in var_dir. objects_url: a folder (default, in var_dir), or s3://bucket/prefix.
    max_bytes, max_pixels, max_side (pixels): limits of a picture, held before it is decoded.
    threads: ONNX Runtime's threads for one inference; 0: 1, but server_threads on the server, for lone pictures of a slow one.
    workers: pictures that are worked on at the same time (default: usable_cpus).
    max_waiting: requests that may wait for a worker; the next one is told to come back.
    max_pending: rows that may wait for their answer, or, a few of them, for their picture; the next upload is told to come back.
    batch_files, batch_bytes: of one batch, all of its pictures together.
    max_connections: at the same time; past them, idle and slow ones are closed, and then new ones are told to come back.
    api_keys, api_keys_file (one a line, read anew when it changes): any of them opens every route; none leaves the door open.
    metrics_key: opens /metrics alone.
    rate_per_s, rate_burst: how many requests a key has in a second, and at once (default: a second's); 0: as many as it likes.
    form_secret: signs the forms of POST /uploads (default: made once, in var_dir). public_url: where clients reach this server.
    cors_origins: pages that may call.
    stage: what a Lambda function's logs and metrics are told apart by.
    database_auth: "password" (in database_url) or "iam" (a token of AWS); database_ca: file of the certificates that vouch
    for the database. role_password: of the database's roles that the function migrate makes, where IAM does not know them.
    max_receives: how often SQS delivers a message before it is a dead letter.
    """

    model: str = _variable("SHUTTERLESS_MODEL", _text("a bundle as NAME or NAME/VERSION", f"{_SLUG}(/{_SLUG})?"),
                           "eurosat-lite0")
    model_uri: str | None = _variable("MODEL_URI", _text("a folder, or s3://BUCKET/PREFIX/NAME/VERSION with or without "
                                                         "@sha256:DIGEST", r"s3://[^/]+/.+|(?!\w+://).+"))
    models_dir: Path = _variable("SHUTTERLESS_MODELS_DIR", Path, _MODELS)  # noqa: RUF009  a Path never changes
    signing_key: Path | None = _variable("SHUTTERLESS_SIGNING_KEY", Path)  # noqa: RUF009
    var_dir: Path = _variable("SHUTTERLESS_VAR_DIR", Path, Path("var"))  # noqa: RUF009
    database_url: str = _variable("DATABASE_URL", _database, "", secret=True)
    objects_url: str = _variable("SHUTTERLESS_OBJECTS", _folder_or_s3, "")
    max_bytes: int = _variable("SHUTTERLESS_MAX_BYTES", _integer(1, 1_000_000_000), 20_000_000)
    max_pixels: int = _variable("SHUTTERLESS_MAX_PIXELS", _integer(1, 1_000_000_000), 40_000_000)
    max_side: int = _variable("SHUTTERLESS_MAX_SIDE", _integer(1, 1_000_000), 16_384)
    threads: int = _variable("SHUTTERLESS_THREADS", _integer(1, 256), 0)
    workers: int = _variable("SHUTTERLESS_WORKERS", _integer(1, 1_024), 0)
    max_waiting: int = _variable("SHUTTERLESS_MAX_WAITING", _integer(1, 100_000), 64)
    max_pending: int = _variable("SHUTTERLESS_MAX_PENDING", _integer(1, 100_000_000), 100_000)
    max_connections: int = _variable("SHUTTERLESS_MAX_CONNECTIONS", _integer(1, 1_000_000), 4_096)
    batch_files: int = _variable("SHUTTERLESS_BATCH_FILES", _integer(1, 500), 500)
    batch_bytes: int = _variable("SHUTTERLESS_BATCH_BYTES", _integer(1, 10_000_000_000), 500_000_000)
    api_keys: tuple[str, ...] = _variable(
        "SHUTTERLESS_API_KEYS", _listed("keys of printable ASCII without spaces, separated by commas", "[!-~]+"), (),
        secret=True)
    metrics_key: str | None = _variable("SHUTTERLESS_METRICS_KEY", _text("printable ASCII without spaces", "[!-~]+"), secret=True)
    api_keys_file: Path | None = _variable("SHUTTERLESS_API_KEYS_FILE", Path)  # noqa: RUF009
    rate_per_s: int = _variable("SHUTTERLESS_RATE_PER_S", _integer(0, 1_000_000), 0)
    rate_burst: int = _variable("SHUTTERLESS_RATE_BURST", _integer(0, 1_000_000), 0)
    form_secret: str | None = _variable("SHUTTERLESS_FORM_SECRET", _text("at least 32 characters", ".{32,}"), secret=True)
    public_url: str | None = _variable("SHUTTERLESS_PUBLIC_URL", _text("an address like https://example.org",
                                                                       r"https?://[^\s?#@]+"))
    cors_origins: tuple[str, ...] = _variable(
        "SHUTTERLESS_CORS_ORIGINS",
        _listed("exact origins like https://example.org, separated by commas", r"https?://[^\s/*?#@]+"), ())
    host: str = _variable("SHUTTERLESS_HOST", _text("a host name or address", r"[A-Za-z0-9._:-]+"), "127.0.0.1")
    port: int = _variable("SHUTTERLESS_PORT", _integer(0, 65_535), 8_000)
    stage: str = _variable("SHUTTERLESS_STAGE", _text("a stage's name", _SLUG), "local")
    database_auth: str = _variable("SHUTTERLESS_DATABASE_AUTH", _text("password or iam", "password|iam"), "password")
    database_ca: Path | None = _variable("SHUTTERLESS_DATABASE_CA", Path)  # noqa: RUF009
    role_password: str | None = _variable("SHUTTERLESS_ROLE_PASSWORD", _text("one line", ".+"), secret=True)
    max_receives: int = _variable("SHUTTERLESS_MAX_RECEIVES", _integer(1, 1_000), 5)

    def __post_init__(self) -> None:
        if not self.database_url:
            object.__setattr__(self, "database_url", f"sqlite:///{self.var_dir}/shutterless.db")
        if not self.objects_url:
            object.__setattr__(self, "objects_url", f"{self.var_dir}/objects")
        if not self.workers:
            object.__setattr__(self, "workers", usable_cpus())

    @property
    def server_threads(self) -> int:
        """For one inference of a slow network on a server that has its CPUs for itself: a picture that comes alone is answered
        by all of them."""
        return min(self.workers, MOST_THREADS)

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> Settings:
        """Read every variable; an empty one counts as not set. Raises BadSettings naming all that do not fit."""
        values: dict[str, Any] = {}
        complaints = []
        for variable in fields(cls):
            name, text = variable.metadata["name"], environ.get(variable.metadata["name"], "").strip()
            try:
                values |= {variable.name: variable.metadata["read"](text)} if text else {}
            except ValueError as expected:
                got = "a value that is not shown" if variable.metadata["secret"] else repr(text[:40])
                complaints.append(f"  {name}: expected {expected}, got {got}")
        if complaints:
            raise BadSettings("\n".join(["These environment variables do not fit:", *complaints,
                                         "Correct them; .env.example describes every name."]))
        return cls(**values)


def variable_names() -> tuple[str, ...]:
    """Names of all environment variables that Settings reads, in the order of its fields."""
    return tuple(variable.metadata["name"] for variable in fields(Settings))
