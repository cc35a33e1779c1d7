"""Who may come in: keys from the settings, and from a file that may change while the server runs."""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
from pathlib import Path
from time import monotonic

from shutterless.errors import BadSettings

LOOK_S = 1.0  # a changed file counts after this time at most

log = logging.getLogger(__name__)


class Keys:
    """Several keys, each as good as the others. Only the event loop uses it.

    fixed: from the settings. file: one key a line, looked at again every LOOK_S; a file that cannot be read, or that holds
    something else, changes nothing: the door stays as it was. Without both, the door is open.
    """

    def __init__(self, fixed: tuple[str, ...], file: Path | None) -> None:
        """Raises BadSettings for a file without keys."""
        self._fixed = [key.encode() for key in fixed]
        self._file = file
        self._seen = _state(file) if file else None
        self._keys = self._fixed + (_read(file) if file else [])
        self._looked_at = monotonic()

    @property
    def is_open(self) -> bool:
        """No key is asked for."""
        return self._file is None and not self._fixed

    def holder(self, shown: bytes) -> bytes | None:
        """A name for who shows this key, which tells nothing of it; None for a key that is not ours."""
        self._look()
        fits = [hmac.compare_digest(shown, key) for key in self._keys]  # all of them, so that each try takes as long
        return hashlib.sha256(shown).digest()[:8] if any(fits) else None

    def _look(self) -> None:
        if self._file is None or monotonic() - self._looked_at < LOOK_S:
            return
        self._looked_at = monotonic()
        seen = _state(self._file)
        if seen == self._seen:
            return
        self._seen = seen
        try:
            self._keys = self._fixed + _read(self._file)
        except BadSettings as error:
            log.error("The keys stay as they were: %s", error)
        else:
            log.warning("The keys were read anew: there are %d.", len(self._keys))


def _state(file: Path) -> tuple[int, int, int] | None:
    """What changes with a file; None without one."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _read(file: Path) -> list[bytes]:
    """One key a line; empty lines, and those that begin with #, are left out."""
    try:
        lines = [line.strip() for line in file.read_bytes().splitlines()]
    except OSError as error:
        raise BadSettings("SHUTTERLESS_API_KEYS_FILE: expected a file of keys, got none that can be read there. "
                          "Make it, or correct the path.") from error
    keys = [line for line in lines if line and not line.startswith(b"#")]
    if not keys or not all(re.fullmatch(rb"[!-~]+", key) for key in keys):
        raise BadSettings("SHUTTERLESS_API_KEYS_FILE: expected keys of printable ASCII without spaces, one a line, got none, or "
                          "something else. Correct the file.")
    return keys
