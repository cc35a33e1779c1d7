"""What happened so far, counted on the way of every request; exposition.py words it for Prometheus.

Plain numbers under one lock: the client library's own would cost each request several times as much, and its import
every start 0.1 s.
"""

from __future__ import annotations

import re
import threading
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shutterless.classifier import Answer
    from shutterless.results import Outcome

# Upper bounds of histograms; one more bucket takes what lies above.
REQUEST_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
COMPUTE_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
UPLOAD_S = (0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)
BATCH = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
CONFIDENCE = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)

MOST_LABELS = 20  # of a model; those that come later are counted together
OTHER = "other"
NO_ROUTE = "none"  # no such address
GONE = 499  # nginx's status for a client that left before its answer
METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
STATES = ("accepted", "done", "failed", "stalled")
FAILURES = {  # those that every server can meet are shown as 0 from the start, so that the first one is seen as a rise
    "request": ("bad_picture", "bad_request", "client_closed_request", "forbidden", "internal_server_error", "overloaded",
                "queue_full", "request_timeout", "too_large", "unavailable", "unsupported_picture"),
    "upload": ("bad_picture", "not_found", "stalled", "temporary", "too_large", "unsupported_picture")}


class Histogram:
    """Counts per bucket and the sum of all; its owner holds the lock."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds, self.counts, self.total = bounds, [0] * (len(bounds) + 1), 0.0

    def observe(self, value: float) -> None:
        """A value equal to a bound counts below it, as Prometheus has it."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


def _histograms(bounds: Sequence[float]) -> Callable[[], defaultdict[Any, Histogram]]:
    return lambda: defaultdict(lambda: Histogram(bounds))


@dataclass
class ModelTally:
    """One bundle's answers. strangers: pictures unlike what it learned from."""

    model: dict[str, str]
    labels: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))
    confidence: Histogram = field(default_factory=lambda: Histogram(CONFIDENCE))
    strangers: int = 0

    def count(self, label: str, confidence: float, in_distribution: bool | None) -> None:
        known = label in self.labels or len(self.labels) < MOST_LABELS
        self.labels[label if known else OTHER] += 1
        self.confidence.observe(confidence)
        self.strangers += in_distribution is False


@dataclass
class Tallies:
    """All counts of one server. Any thread may call the methods; hold `lock` to read the fields.

    paths: of the routes without parameters, which are told by name even where no route was looked for.
    requests: by (route, method, status). latency: seconds by (route, method), from the request's head to the end of its
    answer. failures: by (way, reason), ways being "request" and "upload". uploads: by what became of them, in this process.
    """

    paths: frozenset[str] = frozenset()
    lock: threading.Lock = field(default_factory=threading.Lock)
    in_flight: int = 0
    requests: defaultdict[tuple[str, str, int], int] = field(default_factory=lambda: defaultdict(int))
    latency: defaultdict[tuple[str, str], Histogram] = field(default_factory=_histograms(REQUEST_S))
    failures: defaultdict[tuple[str, str], int] = field(default_factory=lambda: defaultdict(
        int, {(way, reason): 0 for way, reasons in FAILURES.items() for reason in reasons}))
    uploads: dict[str, int] = field(default_factory=lambda: dict.fromkeys(STATES, 0))
    upload_s: Histogram = field(default_factory=lambda: Histogram(UPLOAD_S))
    upload_wait_s: Histogram = field(default_factory=lambda: Histogram(UPLOAD_S))
    decode_s: Histogram = field(default_factory=lambda: Histogram(COMPUTE_S))
    inference_s: Histogram = field(default_factory=lambda: Histogram(COMPUTE_S))
    batch: Histogram = field(default_factory=lambda: Histogram(BATCH))
    models: dict[str, ModelTally] = field(default_factory=dict)

    def began(self) -> None:
        """A request came."""
        with self.lock:
            self.in_flight += 1

    def answered(self, scope: Any, status: int, seconds: float) -> None:
        """It is over. `scope` has a `route` where one was looked for; its state may name the `reason` of a failure."""
        route, method = scope.get("route"), scope["method"]
        asked = scope["path"] if scope["path"] in self.paths else NO_ROUTE  # refused before it came to a route
        path = route.path if route is not None else asked
        method = method if method in METHODS else OTHER
        with self.lock:
            self.in_flight -= 1
            self.requests[path, method, status] += 1
            self.latency[path, method].observe(seconds)
            if status >= 400:
                self.failures["request", scope["state"].get("reason") or _reason_of_status(status)] += 1

    def ran(self, pictures: int, seconds: float) -> None:
        """The network ran once, over so many pictures."""
        with self.lock:
            self.batch.observe(pictures)
            self.inference_s.observe(seconds)

    def predicted(self, answer: Answer) -> None:
        """A picture has its label."""
        prediction = answer.prediction
        with self.lock:
            self.decode_s.observe(answer.timings.decode_s)
            model = self.models.get(answer.model["sha256"]) or self.models.setdefault(
                answer.model["sha256"], ModelTally(answer.model))
            model.count(prediction.label, prediction.confidence, prediction.in_distribution)

    def accepted(self) -> None:
        """An upload has its row."""
        with self.lock:
            self.uploads["accepted"] += 1

    def settled(self, outcome: Outcome) -> None:
        """An upload's outcome is saved."""
        with self.lock:
            self.uploads[outcome.status] += 1
            self.upload_s.observe((outcome.latency_ms or 0.0) / 1000)
            self.upload_wait_s.observe((outcome.queue_ms or 0.0) / 1000)

    def stalled(self) -> None:
        """An upload was given up for now."""
        with self.lock:
            self.uploads["stalled"] += 1
            self.failures["upload", "stalled"] += 1

    def failed(self, reason: str) -> None:
        """Work on an upload failed, for good or until it is tried again."""
        with self.lock:
            self.failures["upload", reason] += 1


def reason_of(error: BaseException) -> str:
    """TooLarge -> too_large: as many reasons as the tree of errors has leaves."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(error).__name__).lower()


def _reason_of_status(status: int) -> str:
    """408 -> request_timeout."""
    if status == GONE:
        return "client_closed_request"
    try:
        return HTTPStatus(status).name.lower()
    except ValueError:
        return OTHER
