"""infer: SQS -> S3 -> classify -> results. The asynchronous way after the 202."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lambdas.batch import Batch, Job
from lambdas.environment import read_settings
from lambdas.events import time_left_ms
from lambdas.metrics import write
from lambdas.notices import read_messages
from lambdas.predictions import MAX_LABELS
from lambdas.start import Model
from lambdas.storage import Storage, is_container, open_storage
from shutterless.classifier import Classifier
from shutterless.errors import Unavailable
from shutterless.pictures import Limits
from shutterless.results import Outcome
from shutterless.settings import Settings
from shutterless.settling import Work
from shutterless.shelf import Shelf

Prepared = tuple[Classifier, NDArray[np.uint8]]


class Classification:
    """The classifiers, as a batch uses them."""

    def __init__(self, shelf: Shelf, settings: Settings) -> None:
        self.shelf = shelf
        self._limits = Limits(max_bytes=settings.max_bytes, max_pixels=settings.max_pixels, max_side=settings.max_side)

    def prepare(self, picture: bytes, asked_model: str | None) -> Prepared:
        classifier = self.shelf.classifier(asked_model)
        return classifier, classifier.pixels(picture, self._limits)

    def answer(self, prepared: Sequence[Prepared], works: Sequence[Work]) -> list[Outcome]:
        """One run for all that asked for the same model, which nearly always is all."""
        outcomes: dict[int, Outcome] = {}
        for classifier in {id(classifier): classifier for classifier, _ in prepared}.values():
            chosen = [at for at, (other, _) in enumerate(prepared) if other is classifier]
            started = perf_counter()
            predictions = classifier.predictions(classifier.classify(np.stack([prepared[at][1] for at in chosen])))
            share_s = (perf_counter() - started) / len(chosen)
            outcomes |= {at: works[at].done(prediction, classifier.model, share_s)
                         for at, prediction in zip(chosen, predictions, strict=True)}
        return [outcomes[at] for at in range(len(prepared))]


class Container:
    """What one container keeps from one batch to the next."""

    def __init__(self, settings: Settings, storage: Storage) -> None:
        self.settings, self.storage = settings, storage
        self._model = Model(settings)

    def classification(self) -> Classification:
        """The models, opened by the first who asks; again, if that failed. Raises BadBundle, Unavailable."""
        return Classification(self._model.shelf(), self.settings)

    def is_counted(self, label: str | None) -> bool:
        """Whether predictions are counted by this label: it is one of a few, and CloudWatch can write it."""
        labels = self._model.shelf().default.manifest.labels
        return len(labels) <= MAX_LABELS and label in labels and str(label).isascii()


def infer(event: Any, context: Any, container: Container) -> dict[str, Any]:
    """Settle every picture that the event names; the reply names the messages that SQS shall deliver again.

    Raises BadRequest for an event of another kind, and Unavailable when S3's own delivery has to come again.
    """
    started = perf_counter()
    settings = container.settings
    batch = Batch(storage=container.storage, answerer=container.classification, max_bytes=settings.max_bytes,
                  max_receives=settings.max_receives, time_left_s=lambda: time_left_ms(context) / 1000,
                  tell=lambda job, outcome: _tell(container, job, outcome))
    messages = read_messages(event)
    left = batch.settle(messages)
    write({"Function": "infer", "Stage": settings.stage}, {"Messages": len(messages), **batch.counts},
          {"Duration": 1000 * (perf_counter() - started)})
    if any(message.id is None for message in left):
        raise Unavailable("Not every picture of this notification could be settled. Deliver it again.")
    return {"batchItemFailures": [{"itemIdentifier": message.id} for message in left]}


def _tell(container: Container, job: Job, outcome: Outcome) -> None:
    """One line for each picture, and what CloudWatch counts."""
    properties = {"Function": "infer", "Stage": container.settings.stage, "request_id": job.request_id,
                  "status": outcome.status, "receives": job.receives}
    counts, apart = {"Failures" if outcome.error else "Predictions": 1}, {}
    if outcome.error:
        properties["Reason"], apart["Failures"] = outcome.error["title"], "Reason"
    elif container.is_counted(outcome.predicted_label):
        properties["Label"], apart["Predictions"] = outcome.predicted_label, "Label"
    measured = {"QueueTime": outcome.queue_ms, "Latency": outcome.latency_ms, "Inference": outcome.inference_ms}
    shares = {} if outcome.confidence is None else {"Confidence": outcome.confidence}
    write(properties, counts, {name: value for name, value in measured.items() if value is not None}, apart=apart, shares=shares)


@cache
def _container() -> Container:
    settings = read_settings(os.environ)
    return Container(settings, open_storage(settings))


def handler(event: Any, context: Any) -> dict[str, Any]:
    """Lambda's entry."""
    return infer(event, context, _container())


if is_container():
    _container().storage.open(_container().classification)
