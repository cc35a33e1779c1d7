"""Results and pictures of this server, opened behind its back: the database's libraries cost half a second."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Literal

from shutterless.errors import Unavailable
from shutterless.settings import Settings

if TYPE_CHECKING:
    from shutterless.objects import Objects
    from shutterless.results import Results

PATIENCE_S = 10.0  # how long a request waits for the opening
RETRY_S = 1.0
HEAD_START_S = 0.5  # the first answers of /predict do not share a CPU with the opening, unless someone asks for it

log = logging.getLogger(__name__)


class Outage:
    """Tells the operator once that something fails, with the reason, and once that it works again."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._known = False

    def goes_on(self) -> None:
        """Call it where the failure is caught."""
        if not self._known:
            log.exception(self._what)
        self._known = True

    def ended(self) -> None:
        """Call it at every success."""
        if self._known:
            log.warning("It is over: %s", self._what)
        self._known = False


class Storage:
    """Who asks before it is open waits, in a thread of its own: never use it on the event loop."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._wanted, self._opened = threading.Event(), threading.Event()
        self._open_pair: tuple[Results, Objects] | None = None

    @property
    def results(self) -> Results:
        """Raises Unavailable when the database cannot be opened within PATIENCE_S."""
        return self._wait()[0]

    @property
    def objects(self) -> Objects:
        """Raises Unavailable when storage cannot be opened within PATIENCE_S."""
        return self._wait()[1]

    @property
    def bucket(self) -> str:
        """Of the S3 that holds the pictures; "local" for a folder."""
        url = self._settings.objects_url
        return url.removeprefix("s3://").partition("/")[0] if url.startswith("s3://") else "local"

    def state(self) -> Literal["ok", "opening", "unavailable"]:
        """Blocks while the database is asked."""
        if self._open_pair is None:
            return "opening"
        try:
            self._open_pair[0].ping()
        except Unavailable:
            return "unavailable"
        return "ok"

    def open(self, stopping: threading.Event) -> None:
        """Migrate and open, again and again until it works or `stopping` is set."""
        self._wanted.wait(HEAD_START_S)
        outage = Outage("The database or the folder of pictures does not open; trying again every second")
        while not self._opened.is_set() and not stopping.is_set():
            try:
                self._open()
                outage.ended()
            except Exception:  # logged, and tried again until it works
                outage.goes_on()
                stopping.wait(RETRY_S)

    def close(self) -> None:
        if self._open_pair is not None:
            self._open_pair[0].close()

    def _open(self) -> None:
        from shutterless.objects import open_objects
        from shutterless.results import migrate, open_results

        url = self._settings.database_url
        migrate(url)
        results = open_results(url)
        if url.startswith("sqlite"):  # a file has one server; what a killed one had claimed is free again
            results.release_claims()
        self._open_pair = results, open_objects(self._settings.objects_url)
        self._opened.set()

    def _wait(self) -> tuple[Results, Objects]:
        self._wanted.set()
        self._opened.wait(PATIENCE_S)
        if self._open_pair is None:
            raise Unavailable("The database is not open yet. Try again in a moment.")
        return self._open_pair
