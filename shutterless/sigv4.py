"""AWS Signature Version 4 by hand: boto3 takes ten times as long to import as a signature takes to make.

https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from urllib.parse import quote

ALGORITHM = "AWS4-HMAC-SHA256"
EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()
UNSIGNED = "UNSIGNED-PAYLOAD"
UNRESERVED = "-_.~"
RDS_TOKEN_S = 900  # the most that RDS takes: how long a connection may be opened with a token, not how long it may last

Pairs = Iterable[tuple[str, str]]


@dataclass(frozen=True)
class Credentials:
    """An access key; `token` belongs to one that ends. Secrets stay out of repr."""

    access_key: str
    secret_key: str = field(repr=False)
    token: str | None = field(default=None, repr=False)


@dataclass(frozen=True, kw_only=True)
class Signer:
    """Signs for one service in one region, such as "s3" in "eu-central-1"."""

    service: str
    region: str
    credentials: Credentials

    def headers(self, method: str, host: str, path: str, query: Pairs = (), headers: Mapping[str, str] | None = None, *,
                payload_sha256: str = EMPTY_SHA256, now_s: float | None = None) -> dict[str, str]:
        """Headers to send: `headers` with host, date, token and authorization beside them, names in lower case.

        path, query: not percent-encoded; `target` encodes them for the request line. now_s: Unix time.
        """
        moment = _timestamp(now_s)
        sent = {name.lower(): " ".join(value.split()) for name, value in (headers or {}).items()}
        sent |= {"host": host, "x-amz-date": moment}
        if self.credentials.token:
            sent["x-amz-security-token"] = self.credentials.token
        if self.service == "s3":
            sent["x-amz-content-sha256"] = payload_sha256
        signed = ";".join(sorted(sent))
        canonical = "".join(f"{name}:{sent[name]}\n" for name in sorted(sent))
        request = "\n".join((method, _encoded_path(path), _encoded_query(query), canonical, signed, payload_sha256))
        sent["authorization"] = (f"{ALGORITHM} Credential={self.credentials.access_key}/{self._scope(moment)}, "
                                 f"SignedHeaders={signed}, Signature={self._signature(moment, request)}")
        return sent

    def url(self, method: str, url: str, path: str, query: Pairs = (), *, expires_s: int, payload_sha256: str = UNSIGNED,
            now_s: float | None = None) -> str:
        """A presigned address that works without any header. url: scheme and host, such as https://example.org."""
        moment, host = _timestamp(now_s), url.partition("://")[2]
        pairs = [*query, ("X-Amz-Algorithm", ALGORITHM),
                 ("X-Amz-Credential", f"{self.credentials.access_key}/{self._scope(moment)}"), ("X-Amz-Date", moment),
                 ("X-Amz-Expires", str(expires_s)), ("X-Amz-SignedHeaders", "host")]
        pairs += [("X-Amz-Security-Token", self.credentials.token)] if self.credentials.token else []
        request = "\n".join((method, _encoded_path(path), _encoded_query(pairs), f"host:{host}\n", "host", payload_sha256))
        shown = "&".join(f"{_encoded(name)}={_encoded(value)}" for name, value in pairs)
        return f"{url}{_encoded_path(path)}?{shown}&X-Amz-Signature={self._signature(moment, request)}"

    def _scope(self, moment: str) -> str:
        return f"{moment[:8]}/{self.region}/{self.service}/aws4_request"

    def _signature(self, moment: str, canonical_request: str) -> str:
        key = f"AWS4{self.credentials.secret_key}".encode()
        for part in (moment[:8], self.region, self.service, "aws4_request"):
            key = hmac.digest(key, part.encode(), "sha256")
        digest = hashlib.sha256(canonical_request.encode()).hexdigest()
        text = "\n".join((ALGORITHM, moment, self._scope(moment), digest))
        return hmac.digest(key, text.encode(), "sha256").hex()


def target(path: str, query: Pairs = ()) -> str:
    """What stands in the request line."""
    encoded = _encoded_query(query)
    return _encoded_path(path) + (f"?{encoded}" if encoded else "")


def rds_token(host: str, port: int, user: str, region: str, credentials: Credentials, *, now_s: float | None = None) -> str:
    """The password of a database user with IAM authentication, made without asking anyone; good for RDS_TOKEN_S seconds."""
    signer = Signer(service="rds-db", region=region, credentials=credentials)
    url = signer.url("GET", f"https://{host}:{port}", "/", [("Action", "connect"), ("DBUser", user)], expires_s=RDS_TOKEN_S,
                     payload_sha256=EMPTY_SHA256, now_s=now_s)
    return url.removeprefix("https://")


def _timestamp(now_s: float | None) -> str:
    return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now_s))


def _encoded(text: str) -> str:
    return quote(text, safe=UNRESERVED)


def _encoded_path(path: str) -> str:
    return quote(path or "/", safe=UNRESERVED + "/")


def _encoded_query(pairs: Pairs) -> str:
    return "&".join(f"{name}={value}" for name, value in sorted((_encoded(name), _encoded(value)) for name, value in pairs))
