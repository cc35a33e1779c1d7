"""A bundle's graph, open. It knows nothing of pictures, so that a cold start has it running while Pillow is being imported."""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from shutterless.bundles import Bundle, as_portable, for_batches
from shutterless.errors import BadBundle

SLOW_S = 0.05  # a run that takes so long is not repeated at start
LOG_ERRORS, LOG_NOTHING = 3, 4  # onnxruntime's severities
BATCH = 4  # pictures, from which on a graph for batches, or a thread for each batch, takes less CPU
SPIN_US = 100  # of a thread beside the caller's, which takes on the next operator without having to be woken for it

PORTABLE_LEVEL = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
OPTIMISED_LEVEL = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL  # it is done already
BATCHED_LEVEL = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC  # it turns weights that are kept once, for both graphs

log = logging.getLogger(__name__)


class Session:
    """Any number of threads may `run` it at the same time.

    load_s: seconds that opening it took. run_s: seconds of one picture through the network; known after `warm_up`.
    """

    def __init__(self, bundle: Bundle, threads: int = 1, batch_threads: int | None = None) -> None:
        """threads: for fewer than BATCH pictures at a time. batch_threads: for that many and more (None: the same); where batches
        run side by side, those of one thread each do not wait for each other's. Raises BadBundle when the graph cannot be
        opened or does not fit the manifest."""
        started = time.perf_counter()
        self.bundle = bundle
        self.threads, self._batch_threads = threads, batch_threads or threads
        self._session = open_session(bundle, threads)
        self._input, self._output = _check_graph(self._session, bundle)
        self._for_batches: onnxruntime.InferenceSession | None = None
        self._opening = threading.Lock()  # taken once and never given back
        self._blank: NDArray[np.float32] | None = None
        self.load_s = time.perf_counter() - started
        self.run_s = float("inf")

    def run(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 (N, side, side, 3) -> logits float32 (N, classes)."""
        if len(pixels) >= BATCH:
            self.open_for_batches()
        session = self._session if len(pixels) < BATCH else self._for_batches or self._session
        logits: NDArray[np.float32] = session.run([self._output], {self._input: pixels})[0]
        return logits

    def open_for_batches(self) -> None:
        """Take some tenths of a second now, which the first batch would wait for. Later calls, and those that come meanwhile, do
        nothing. In the bundle the two graphs share their weights; in memory most of them are packed for each."""
        if not self._opening.acquire(blocking=False):
            return
        with_kernels = _open_with_kernels(self.bundle) if self._batch_threads == 1 else None
        if with_kernels is not None and self.threads == 1 and self.bundle.manifest.precision == "int8":
            self._session = with_kernels  # for single pictures, too: it gives the same answers sooner
        elif with_kernels is not None:
            self._for_batches = with_kernels
        elif self.bundle.batched or self.threads != self._batch_threads:
            self._for_batches = _open_for_batches(self.bundle, self._batch_threads)

    def warm_up(self) -> NDArray[np.float32]:
        """Run it on black, so that the first picture finds all allocated; the logits (1, classes). Later calls run nothing."""
        if self._blank is None:
            side = self.bundle.manifest.input.side
            black = np.zeros((1, side, side, 3), np.uint8)
            self._blank = self._timed_run(black)
            if self.run_s < SLOW_S:  # the first run takes longer than those after it: worth knowing of a fast network alone
                self._timed_run(black)
        return self._blank

    def _timed_run(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        started = time.perf_counter()
        logits = self.run(pixels)
        self.run_s = time.perf_counter() - started
        return logits


def open_session(bundle: Bundle, threads: int) -> onnxruntime.InferenceSession:
    """The graph that was optimised for this machine, as it is, or else the portable one, optimised now.

    Raises BadBundle when the portable one cannot be opened either.
    """
    path, optimised = bundle.graph()
    try:
        return _session(bundle, path, session_options(threads, level=OPTIMISED_LEVEL if optimised else PORTABLE_LEVEL))
    except BadBundle:
        if not optimised:
            raise
    log.warning("%s of %s cannot be opened here, though it was made for such machines; the portable graph answers.", path,
                bundle.manifest.name)
    return open_session(as_portable(bundle), threads)


def _open_for_batches(bundle: Bundle, threads: int) -> onnxruntime.InferenceSession | None:
    """None, and a line in the log, where it cannot be opened: batches go on as single pictures do."""
    try:
        batched = for_batches(bundle)
        if not bundle.batched:
            return open_session(batched, threads)
        return _session(batched, batched.graph()[0], session_options(threads, level=BATCHED_LEVEL))
    except BadBundle as error:
        log.warning("%s has no graph for batches that can be opened here: %s", bundle.manifest.name, error)
        return None


def _open_with_kernels(bundle: Bundle) -> onnxruntime.InferenceSession | None:
    """The graph that was optimised for this machine, with kernels of our own, which run on one thread and take a batch as one;
    None where they cannot be had, and where the graph has convolutions or additions that they are not for."""
    path, optimised = bundle.graph()
    if not optimised:
        return None
    from shutterless import kernels

    for library in kernels.libraries(bundle.manifest.precision):
        options = session_options(1, level=OPTIMISED_LEVEL)
        options.log_severity_level = LOG_NOTHING  # a graph that it is not for is nothing to report
        try:
            options.register_custom_ops_library(str(library))
        except Exception as error:  # onnxruntime's errors have no other common base
            log.warning("%s cannot be used here: %s", library.name, error)
            continue
        try:
            return _session(bundle, path, options)
        except BadBundle as error:
            log.debug("%s runs with onnxruntime's kernels: %s", bundle.manifest.name, error.__cause__)
            return None
    return None


def session_options(threads: int, *, level: onnxruntime.GraphOptimizationLevel) -> onnxruntime.SessionOptions:
    """As every door sets them: `threads` that fall asleep soon after their last work, since cores are shared."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = level
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = LOG_ERRORS
    options.add_session_config_entry("session.intra_op.spin_duration_us", str(SPIN_US))
    return options


def _session(bundle: Bundle, path: str, options: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
    try:
        return onnxruntime.InferenceSession(bundle.folder / path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no other common base
        raise BadBundle(f"{path}: expected a graph for onnxruntime {onnxruntime.__version__}, got one that it "
                        "cannot open. Export the bundle again.") from error


def _check_graph(session: onnxruntime.InferenceSession, bundle: Bundle) -> tuple[str, str]:
    """Names of the graph's input and output, which must be what the manifest promises."""
    side, classes = bundle.manifest.input.side, len(bundle.manifest.labels)
    pictures, logits = session.get_inputs(), session.get_outputs()
    _expect(bundle, "input", pictures, "tensor(uint8)", [side, side, 3])
    _expect(bundle, "output", logits, "tensor(float)", [classes])
    return pictures[0].name, logits[0].name


def _expect(bundle: Bundle, what: str, ports: list[Any], kind: str, shape: list[int]) -> None:
    """One port of any name; its first dimension, the batch, is free, the others are as given."""
    got = [(port.type, port.shape) for port in ports]
    fits = len(ports) == 1 and ports[0].type == kind and ports[0].shape[1:] == shape
    if not fits or isinstance(ports[0].shape[0], int):
        raise BadBundle(f"{bundle.graph()[0]}: expected one {what} {kind} of shape {['N', *shape]}, as the manifest says, "
                        f"got {got}. Export the bundle again.")
