"""Whose name we sign in: the environment's access key, or the one that a container's host hands out (Lambda with SnapStart)."""

from __future__ import annotations

import json
import threading
import time
from calendar import timegm
from collections.abc import Mapping

from shutterless.errors import BadSettings, Unavailable
from shutterless.sigv4 import Credentials

RENEW_S = 300  # before they end
TIMEOUT_S = 2.0


class CredentialSource:
    """Credentials of this process; those that end are asked for again in time. One source serves all threads."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self._lock = threading.Lock()
        self._kept: tuple[Credentials, float] | None = None

    def get(self) -> Credentials:
        """Raises BadSettings where there are none, Unavailable where the host that has them does not answer."""
        key, secret = self._environ.get("AWS_ACCESS_KEY_ID"), self._environ.get("AWS_SECRET_ACCESS_KEY")
        if key and secret:
            return Credentials(key, secret, self._environ.get("AWS_SESSION_TOKEN") or None)
        with self._lock:
            if self._kept is None or self._kept[1] - RENEW_S < time.time():
                self._kept = self._ask()
            return self._kept[0]

    def forget(self) -> None:
        """After a snapshot was restored, or when AWS says that they have ended."""
        with self._lock:
            self._kept = None

    def _ask(self) -> tuple[Credentials, float]:
        """https://docs.aws.amazon.com/sdkref/latest/guide/feature-container-credentials.html"""
        from http.client import HTTPException

        url = self._environ.get("AWS_CONTAINER_CREDENTIALS_FULL_URI", "")
        if not url.startswith(("http://127.0.0.1", "http://localhost", "http://169.254.", "http://[", "https://")):
            raise BadSettings("AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY: expected an access key, got none. Set both (and "
                              "AWS_SESSION_TOKEN for one that ends), or give the function a role.")
        try:
            answer = self._answer(url)
            ends_s = timegm(time.strptime(answer["Expiration"], "%Y-%m-%dT%H:%M:%SZ"))
            return Credentials(answer["AccessKeyId"], answer["SecretAccessKey"], answer.get("Token")), ends_s
        except (OSError, HTTPException, ValueError, KeyError, TypeError) as error:
            raise Unavailable("The role's credentials cannot be had: the container's host does not answer. Try again in a "
                              "moment.") from error

    def _answer(self, url: str) -> dict[str, str]:
        from http.client import HTTPConnection, HTTPSConnection
        from urllib.parse import urlsplit

        parts = urlsplit(url)
        kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
        connection = kind(parts.hostname or "", parts.port, timeout=TIMEOUT_S)
        try:
            token = self._environ.get("AWS_CONTAINER_AUTHORIZATION_TOKEN")
            connection.request("GET", f"{parts.path}?{parts.query}" if parts.query else parts.path,
                               headers={"Authorization": token} if token else {})
            answer: dict[str, str] = json.loads(connection.getresponse().read())
            return answer
        finally:
            connection.close()
