"""The models that answer: the default is opened at start, others at first use, once."""

from __future__ import annotations

import logging
import re
import threading
from collections import OrderedDict
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

from shutterless.bodies import Submission
from shutterless.bundles import MANIFEST, Bundle, find_bundle, list_bundles
from shutterless.classifier import Answer, Classifier
from shutterless.errors import BadBundle, NotFound
from shutterless.manifests import parse_manifest
from shutterless.opening import default_bundle, open_bundle
from shutterless.pictures import Limits
from shutterless.sessions import Session
from shutterless.settings import Settings

SLOW_S = 0.01  # of one picture with one thread: for a faster network, more threads cost CPU and gain nothing
CAPACITY = 4  # models open at the same time beside the default
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}(/[A-Za-z0-9_-][A-Za-z0-9._-]{0,63})?")

log = logging.getLogger(__name__)


class Shelf:
    """Open classifiers by folder; beyond CAPACITY, the one that was asked least recently is closed.

    Building it raises BadBundle, NotFound or BadSettings when the default must not or cannot be served.
    """

    def __init__(self, settings: Settings, *, capacity: int = CAPACITY, session: Session | None = None, threads: int = 1) -> None:
        """`session`: of the default's bundle, where it is open already. threads: of a slow network's session, where the settings
        say nothing; a fast one has a single thread."""
        self._models_dir = settings.models_dir.resolve()
        self._settings, self._threads = settings, threads
        self._limits = Limits(max_bytes=settings.max_bytes, max_pixels=settings.max_pixels, max_side=settings.max_side)
        self._capacity = capacity
        self._opening = threading.Lock()
        self._open: OrderedDict[Path, Classifier] = OrderedDict()
        self.default = self._opened(session.bundle if session else default_bundle(settings), session)

    def classifier(self, model: str | None = None) -> Classifier:
        """The classifier of "name" (newest version) or "name/version"; the default for None.

        Blocks while a bundle is read. Raises NotFound for a model that is not there, BadBundle for a broken one.
        """
        if model is None:
            return self.default
        folder = self._chosen(model)
        if folder == self.default.bundle.folder:
            return self.default
        with self._opening:  # so that each is opened once; answering does not hold the lock
            if folder not in self._open:
                self._open[folder] = self._opened(open_bundle(self._settings, folder))
            self._open.move_to_end(folder)
            if len(self._open) > self._capacity:
                self._open.popitem(last=False)
            return self._open[folder]

    def answer(self, submission: Submission, *, model: str | None, top: int, limits: Limits | None = None) -> Answer:
        """What one picture shows: by `model`, else by the submission's own field `model`, else by the default. `limits`
        replace those of the settings.

        Raises as `classifier` and `Classifier.predict` do.
        """
        return self.asked(submission, model).predict(submission.picture, top=top, limits=limits or self._limits)

    def asked(self, submission: Submission, model: str | None) -> Classifier:
        """`model`, else the submission's own field `model`, else the default. Raises as `classifier` does."""
        return self.classifier(model or submission.fields.get("model") or None)

    def listing(self) -> list[dict[str, Any]]:
        """What can be asked for, for /models: the default first, then the newest version of each other model."""
        default = self.default.bundle.folder
        others = [folder for folder in list_bundles(self._models_dir) if folder != default]
        entries = [(folder, _entry(folder)) for folder in (default, *others)]
        return [entry | {"default": folder == default} for folder, entry in entries if entry]

    def _chosen(self, model: str) -> Path:
        """A client's word may name what lies in models_dir, or the default, and no other place of this machine."""
        ours = self.default.manifest
        if model == f"{ours.name}/{ours.version}":
            return self.default.bundle.folder
        if _NAME.fullmatch(model):
            try:
                folder = find_bundle(model, self._models_dir)
            except NotFound:
                folder = Path()
            if folder.is_relative_to(self._models_dir):
                return folder
        if model == ours.name:  # it lies elsewhere: MODEL_URI
            return self.default.bundle.folder
        raise NotFound(f"There is no model {model[:80]!r}. GET /models lists those that answer.")

    def _opened(self, bundle: Bundle, session: Session | None = None) -> Classifier:
        classifier = self._warm(bundle, self._settings.threads or 1, session)
        if session or self._settings.threads or self._threads == 1 or classifier.run_s < SLOW_S:
            return classifier
        return self._warm(bundle, self._threads)

    def _warm(self, bundle: Bundle, threads: int, session: Session | None = None) -> Classifier:
        classifier = Classifier(bundle, session=session or Session(bundle, threads, self._settings.threads or 1))
        classifier.warm_up()
        return classifier


def _entry(folder: Path) -> dict[str, Any] | None:
    """A bundle as its manifest describes it, None for a broken one; its files are checked when it is first asked."""
    try:
        text = (folder / MANIFEST).read_bytes()
        manifest = parse_manifest(text)
    except (OSError, BadBundle) as error:
        log.warning("The bundle %s is left out of /models: %s", folder, error)
        return None
    return {"name": manifest.name, "version": manifest.version, "sha256": sha256(text).hexdigest(),
            "task": manifest.task, "labels": manifest.labels, "precision": manifest.precision,
            "input": asdict(manifest.input)}
