"""What a form of ours allows: one picture's key, type and size until a moment, signed, so that nobody has to remember it."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from tempfile import NamedTemporaryFile

from shutterless.errors import BadSettings, Overloaded
from shutterless.objects import explained

SECRET_BYTES = 32
FIELDS = ("key", "Content-Type")


class BadForm(Exception):
    """A form that is not ours, was changed, or is over. Its message is for the client."""


@dataclass(frozen=True, kw_only=True)
class Policy:
    """One picture: where it is kept, and what it has to be."""

    key: str
    content_type: str
    size_bytes: int
    expires_at: datetime


class Policies:
    """Signs and checks. The secret is `secret`, or else in `file`, which the first server makes for itself and all that come
    after it."""

    def __init__(self, secret: str | None, file: Path) -> None:
        self._given, self._file = secret, file

    @cached_property
    def secret(self) -> bytes:
        """Blocks at its first use. Raises Unavailable when the file can be neither read nor made, BadSettings for a file that
        holds something else."""
        return self._given.encode() if self._given else _kept_secret(self._file)

    def fields(self, policy: Policy) -> dict[str, str]:
        """The fields of a form; their names are those of S3's, but for the signature's."""
        document = {"expiration": policy.expires_at.isoformat(),
                    "conditions": [{"key": policy.key}, {"Content-Type": policy.content_type},
                                   ["content-length-range", policy.size_bytes, policy.size_bytes]]}
        encoded = base64.b64encode(json.dumps(document).encode()).decode()
        return {"key": policy.key, "Content-Type": policy.content_type, "policy": encoded, "signature": self._sign(encoded)}

    def read(self, fields: Mapping[str, str], now: datetime) -> Policy:
        """The policy of a form that came back. Raises BadForm: the signature is looked at before anything else is read."""
        encoded = fields.get("policy", "")
        if not hmac.compare_digest(self._sign(encoded).encode(), fields.get("signature", "").encode("utf-8", "replace")):
            raise BadForm("The form's signature does not fit its policy. Send all fields as they were given, before the file.")
        document = json.loads(base64.b64decode(encoded))
        (key, content_type, (_, size_bytes, _)) = document["conditions"]
        policy = Policy(key=key["key"], content_type=content_type["Content-Type"], size_bytes=size_bytes,
                        expires_at=datetime.fromisoformat(document["expiration"]))
        if policy.expires_at < now:
            raise BadForm("The form is over. Ask POST /uploads for a new one.")
        for name, expected in zip(FIELDS, (policy.key, policy.content_type), strict=True):
            if fields.get(name) != expected:
                raise BadForm(f"{name}: expected {expected}, as the form's policy says, got something else. Send the fields "
                              "as they were given, before the file.")
        return policy

    def _sign(self, encoded: str) -> str:
        return hmac.new(self.secret, b"form " + encoded.encode("utf-8", "replace"), hashlib.sha256).hexdigest()


class Reception:
    """Forms that are being received and stored, each once at a time. Only the event loop uses it."""

    def __init__(self) -> None:
        self.under_way: set[str] = set()

    @contextmanager
    def of(self, request_id: str) -> Iterator[None]:
        """Raises Overloaded when the same form is under way already."""
        if request_id in self.under_way:
            raise Overloaded("This picture is being received already. Ask for its result, or send it again in a second.")
        self.under_way.add(request_id)
        try:
            yield
        finally:
            self.under_way.discard(request_id)


def _kept_secret(file: Path) -> bytes:
    """Of all servers that share a folder, one makes the secret; nobody ever sees half of it, or another user any of it."""
    with explained("read"):
        if not file.exists():
            _make_secret(file)
        secret = file.read_bytes().strip()
    if len(secret) < SECRET_BYTES:
        raise BadSettings("The file of the secret that signs forms is too short. Delete it: the server makes a new one.")
    return secret


def _make_secret(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with NamedTemporaryFile(dir=file.parent, prefix=".form-") as made:  # its mode is 0600
        made.write(secrets.token_hex(SECRET_BYTES).encode())
        made.flush()
        os.fsync(made.fileno())
        try:
            os.link(made.name, file)
        except FileExistsError:
            return  # another server was first
    folder = os.open(file.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
