"""The cold path: beside the imports, one thread reads the bundle, checks it, opens its graph and runs it once."""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import TYPE_CHECKING

from lambdas.metrics import write_line
from shutterless.errors import BadBundle, Permanent, ShutterlessError
from shutterless.opening import default_bundle
from shutterless.settings import Settings

if TYPE_CHECKING:
    from shutterless.sessions import Session
    from shutterless.shelf import Shelf

HASTE_S = 0.0005  # how long a thread may keep Python's lock from the other, which has the network to run


class Steps:
    """What a new container did before its first answer, and the milliseconds that each step took.

    fetch (from S3) or verify (baked in), session (the graph is opened) and warm-up (it is run once) follow each other beside
    imports; wait is for them, when the imports are done; start is all of it.
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
    """The models that a function answers with. Making one begins to open the default, in the background."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.steps = Steps()
        self._began = perf_counter()
        self._shelf: Shelf | None = None
        self._opening = threading.Lock()
        self._default: _Default | None = _Default(settings, self.steps)

    @contextmanager
    def opening(self) -> Iterator[None]:
        """Import in the block what the function needs beside the model: it opens meanwhile, and is ready at the block's end.
        What goes wrong with it stands in the log, and in the answers' place."""
        interval_s = sys.getswitchinterval()
        sys.setswitchinterval(HASTE_S)
        gc.disable()  # imports make much and free little
        try:
            with self.steps.step("imports"):
                import shutterless.sessions
                yield
                import shutterless.shelf  # noqa: F401  for `_open`, which would import it after INIT
            self.shelf()
        except ShutterlessError as error:
            write_line({"level": "ERROR", "error": f"The model does not open: {error}"})
        finally:
            gc.freeze()  # what is there now stays: later collections need not look at it
            gc.enable()
            sys.setswitchinterval(interval_s)

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
                    self._default = None
                    raise BadBundle(str(error)) from error
                except Exception:  # raised again, whatever it is: the next call reads anew
                    self._default = None
                    raise
            return self._shelf

    def is_open(self) -> bool:
        """Whether it answers. Does not wait."""
        return self._shelf is not None

    def _open(self) -> Shelf:
        from shutterless.shelf import Shelf

        if self._default is None:  # not before it is asked for: between calls, Lambda freezes what runs
            self._began, self._default = perf_counter(), _Default(self.settings, self.steps)
        with self.steps.step("wait"):
            session = self._default.result()
        shelf = Shelf(self.settings, session=session)
        self.steps.spent_ms["start"] = 1000 * (perf_counter() - self._began)
        return shelf


class _Default:
    """The default model's graph, which a thread opens once each byte of its bundle was compared with its digest."""

    def __init__(self, settings: Settings, steps: Steps) -> None:
        self._settings, self._steps = settings, steps
        self._session: Session | None = None
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._open, name="model", daemon=True)
        self._thread.start()

    def _open(self) -> None:
        from_s3 = (self._settings.model_uri or "").startswith("s3://")
        try:
            with self._steps.step("fetch" if from_s3 else "verify"):
                bundle = default_bundle(self._settings)
            from shutterless.sessions import Session  # mostly waits for the main thread, which is importing it

            with self._steps.step("session"):
                session = Session(bundle, self._settings.threads or 1)
            with self._steps.step("warm-up"):
                session.warm_up()
            self._session = session
        except Exception as error:  # raised again where the result is asked for
            self._error = error

    def result(self) -> Session:
        self._thread.join()
        if self._session is None:
            assert self._error is not None  # noqa: S101  a thread ends with the one or with the other
            raise self._error.with_traceback(None)  # else it would hold on to the frames of every call before
        return self._session
