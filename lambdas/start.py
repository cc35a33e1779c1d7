"""The cold path: the bundle is read and checked in the background while Python imports; then it is opened and warmed up."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import TYPE_CHECKING

from lambdas.metrics import write_line
from shutterless.errors import BadBundle, Permanent, ShutterlessError
from shutterless.settings import Settings

if TYPE_CHECKING:
    from shutterless.bundles import Bundle
    from shutterless.shelf import Shelf


class Steps:
    """What a new container did before its first answer, and the milliseconds that each step took.

    fetch (from S3) or verify (baked in) runs beside imports; wait is for it, when the imports are done; session opens the
    graph; warm-up takes one picture through it; start is all of it.
    """

    def __init__(self) -> None:
        self.spent_ms: dict[str, float] = {}
        self._told = threading.Lock()  # taken by the first answer, and never given back

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        began = perf_counter()
        try:
            yield
        finally:
            self.spent_ms[name] = 1000 * (perf_counter() - began)

    def tell_once(self) -> dict[str, float]:
        """The steps, for the first answer; nothing for all others."""
        return dict(self.spent_ms) if self._told.acquire(blocking=False) else {}

    def forget(self) -> None:
        """The copy of a snapshot did not take these steps itself."""
        self.spent_ms.clear()


class Model:
    """The models that a function answers with. Making one begins to read the default's bundle, in the background."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.steps = Steps()
        self._shelf: Shelf | None = None
        self._opening = threading.Lock()
        self._reading = _Reading(settings, self.steps)

    def open(self) -> None:
        """Have everything ready for the first event. What goes wrong stands in the log, and in the answers' place."""
        gc.disable()  # imports make much and free little
        try:
            self.shelf()
        except ShutterlessError as error:
            write_line({"level": "ERROR", "error": f"The model does not open: {error}"})
        gc.freeze()  # what is there now stays: later collections need not look at it
        gc.enable()

    def shelf(self) -> Shelf:
        """Raises BadBundle for a model that cannot be served, Unavailable where S3 does not answer. The next call asks again,
        unless the bundle itself is broken: the others' cause may have been mended, and this container may live for hours."""
        with self._opening:
            if self._shelf is None:
                try:
                    self._shelf = self._open()
                except BadBundle:
                    raise
                except Permanent as error:
                    self._reading = _Reading(self.settings, self.steps)
                    raise BadBundle(str(error)) from error
                except Exception:  # raised again, whatever it is: the next call reads anew
                    self._reading = _Reading(self.settings, self.steps)
                    raise
            return self._shelf

    def is_open(self) -> bool:
        """Whether it answers. Does not wait."""
        return self._shelf is not None

    def _open(self) -> Shelf:
        began = perf_counter()
        with self.steps.step("imports"):
            from shutterless.shelf import Shelf
        with self.steps.step("wait"):
            bundle = self._reading.result()
        with self.steps.step("warm-up"):
            shelf = Shelf(self.settings, bundle=bundle)
        self.steps.spent_ms["session"] = 1000 * shelf.default.model_load_s
        self.steps.spent_ms["warm-up"] -= self.steps.spent_ms["session"]
        self.steps.spent_ms["start"] = 1000 * (perf_counter() - began)
        return shelf


class _Reading:
    """A bundle that a thread reads and checks."""

    def __init__(self, settings: Settings, steps: Steps) -> None:
        self._settings, self._steps = settings, steps
        self._bundle: Bundle | None = None
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._read, name="bundle", daemon=True)
        self._thread.start()

    def _read(self) -> None:
        from_s3 = (self._settings.model_uri or "").startswith("s3://")
        try:
            with self._steps.step("fetch" if from_s3 else "verify"):
                from shutterless.opening import default_bundle

                self._bundle = default_bundle(self._settings)
        except Exception as error:  # raised again where the result is asked for
            self._error = error

    def result(self) -> Bundle:
        self._thread.join()
        if self._bundle is None:
            assert self._error is not None  # noqa: S101  a thread ends with the one or with the other
            raise self._error
        return self._bundle
