"""Tallies, queue and process in Prometheus' words. Imported at the first scrape: the client library takes 0.1 s."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from itertools import accumulate
from typing import TYPE_CHECKING

import onnxruntime
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from onprem.tallies import Histogram, Tallies
from shutterless import __version__

if TYPE_CHECKING:
    from onprem.door import Door
    from shutterless.results import Backlog

NAMESPACE = "shutterless"


def expose(door: Door, backlog: Backlog | None, accept: str) -> tuple[bytes, str]:
    """Body and content type: OpenMetrics for those who name it in `accept`, else Prometheus' text format.

    backlog: None where the database did not say.
    """
    registry = CollectorRegistry()
    for collector in (ProcessCollector, PlatformCollector, GCCollector):
        collector(registry=registry)
    registry.register(_Service(door, backlog))
    if "application/openmetrics-text" in accept:
        return openmetrics.generate_latest(registry), openmetrics.CONTENT_TYPE_LATEST  # type: ignore[no-untyped-call]  # theirs
    return generate_latest(registry), CONTENT_TYPE_PLAIN_0_0_4


class _Service(Collector):
    """One scrape."""

    def __init__(self, door: Door, backlog: Backlog | None) -> None:
        self._door, self._backlog = door, backlog

    def collect(self) -> Iterator[Metric]:
        tallies = self._door.tallies
        with tallies.lock:
            yield from (*_requests(tallies), *_compute(tallies), *_models(tallies), *_uploads(tallies))
        yield from _queue(self._backlog)
        yield from self._door_itself()

    def _door_itself(self) -> Iterator[Metric]:
        intake, model = self._door.intake, self._door.shelf.default.model
        yield _gauge("bodies_held", "Request bodies that are whole: waiting or worked on.", intake.requests)
        yield _gauge("bodies_held_limit", "Bodies beyond this are answered 503.", intake.max_requests)
        yield _gauge("bodies_held_bytes", "Bytes of these bodies, and of those that are still coming.", intake.held_bytes)
        yield _gauge("bodies_held_limit_bytes", "Bytes beyond this are answered 503.", intake.max_held_bytes)
        yield _gauge("compute_workers", "Pictures that are worked on at the same time.", self._door.settings.workers)
        yield InfoMetricFamily(f"{NAMESPACE}_build", "What runs here.", {
            "version": __version__, "python": platform.python_version(), "onnxruntime": onnxruntime.__version__})
        yield InfoMetricFamily(f"{NAMESPACE}_model", "The bundle that answers where no other is asked for.", {
            "model": model["name"], "version": model["version"], "sha256": model["sha256"]})


def _requests(tallies: Tallies) -> Iterator[Metric]:
    requests = CounterMetricFamily(f"{NAMESPACE}_http_requests", "Requests answered.", labels=("route", "method", "code"))
    for (route, method, status), count in tallies.requests.items():
        requests.add_metric((route, method, str(status)), count)
    yield requests
    yield _histograms("http_request_duration_seconds", "From a request's head to the end of its answer.", ("route", "method"),
                      tallies.latency.items())
    yield _gauge("http_requests_in_flight", "Requests under way, this one included.", tallies.in_flight)
    failures = CounterMetricFamily(f"{NAMESPACE}_failures", "Requests refused, and uploads that failed or are tried again.",
                                   labels=("way", "reason"))
    for names, count in tallies.failures.items():
        failures.add_metric(names, count)
    yield failures


def _compute(tallies: Tallies) -> Iterator[Metric]:
    yield _histogram("decode_duration_seconds", "Reading one picture, before it is resized.", tallies.decode_s)
    yield _histogram("inference_duration_seconds", "One run of the network, over a whole batch.", tallies.inference_s)
    yield _histogram("inference_batch_size", "Pictures in one run of the network.", tallies.batch)


def _models(tallies: Tallies) -> Iterator[Metric]:
    who = ("model", "version")
    predictions = CounterMetricFamily(f"{NAMESPACE}_predictions", "Answers by label; a model's labels past the first 20 are "
                                      "counted as other.", labels=(*who, "label"))
    strangers = CounterMetricFamily(f"{NAMESPACE}_out_of_distribution", "Pictures unlike what the model learned from.",
                                    labels=who)
    named = [((tally.model["name"], tally.model["version"]), tally) for tally in tallies.models.values()]
    for name, tally in named:
        strangers.add_metric(name, tally.strangers)
        for label, count in tally.labels.items():
            predictions.add_metric((*name, label), count)
    yield predictions
    yield strangers
    yield _histograms("prediction_confidence_ratio", "Calibrated probability of the first label.", who,
                      [(name, tally.confidence) for name, tally in named])


def _uploads(tallies: Tallies) -> Iterator[Metric]:
    uploads = CounterMetricFamily(f"{NAMESPACE}_uploads", "Uploads that came to this state in this process.", labels=["state"])
    for state, count in tallies.uploads.items():
        uploads.add_metric([state], count)
    yield uploads
    yield _histogram("upload_duration_seconds", "From an upload's arrival to its outcome.", tallies.upload_s)
    yield _histogram("upload_wait_seconds", "The part of it before work began.", tallies.upload_wait_s)


def _queue(backlog: Backlog | None) -> Iterator[Metric]:
    yield _gauge("storage_up", "1 where the database answers.", int(backlog is not None))
    if backlog is None:
        return
    queue = GaugeMetricFamily(f"{NAMESPACE}_queue_uploads", "Uploads without an outcome, of all servers on this database.",
                              labels=["state"])
    queue.add_metric(["pending"], backlog.pending)
    queue.add_metric(["stalled"], backlog.stalled)
    yield queue
    oldest = backlog.oldest_at
    age_s = max((datetime.now(UTC) - oldest).total_seconds(), 0.0) if oldest else 0.0
    yield _gauge("queue_oldest_age_seconds", "How long the oldest pending upload has been waiting; 0 when there is none.", age_s)


def _gauge(name: str, about: str, value: float) -> Metric:
    return GaugeMetricFamily(f"{NAMESPACE}_{name}", about, value=value)


def _histogram(name: str, about: str, histogram: Histogram) -> Metric:
    return _histograms(name, about, (), [((), histogram)])


def _histograms(name: str, about: str, labels: tuple[str, ...],
                histograms: Iterable[tuple[tuple[str, ...], Histogram]]) -> Metric:
    family = HistogramMetricFamily(f"{NAMESPACE}_{name}", about, labels=labels)
    for values, histogram in histograms:
        upper = [*map(floatToGoString, histogram.bounds), "+Inf"]
        family.add_metric(values, [*zip(upper, accumulate(histogram.counts), strict=True)], histogram.total)
    return family
