import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path

import httpx
import numpy as np
import pytest

from onprem.batching import MAX_BATCH, Batcher, Ready
from onprem.door import count_runners
from shutterless.bundles import read_bundle
from shutterless.classifier import Answer, Classifier
from shutterless.errors import BadBundle, BadPicture

COLOURS = ("red", "green", "blue")


@pytest.fixture
def batcher() -> Iterator[Batcher]:
    with ThreadPoolExecutor(4) as compute:
        batcher = Batcher(compute, runners=1)
        yield batcher
    batcher.stop()


class Noted(Classifier):
    """A classifier that keeps the size of each batch, and lets none pass before `open` is set."""

    def __init__(self, folder: Path) -> None:
        super().__init__(read_bundle(folder), threads=1)
        self.batches: list[int] = []
        self.open = threading.Event()

    def classify(self, pixels: np.ndarray) -> np.ndarray:
        self.open.wait(30)
        self.batches.append(len(pixels))
        return super().classify(pixels)


@pytest.fixture
def classifier(bundle_folder: Path) -> Noted:
    return Noted(bundle_folder)


def asked(batcher: Batcher, classifier: Classifier, pictures: list[bytes], top: int = 3) -> list[Future[Answer]]:
    return [batcher.answer(lambda picture=picture: Ready(classifier, classifier.prepare(picture), top))
            for picture in pictures]


def test_pictures_that_wait_for_the_network_are_run_together_and_each_gets_its_own_answer(batcher, classifier, jpeg) -> None:
    first = asked(batcher, classifier, [jpeg("red")])
    rest = asked(batcher, classifier, [jpeg(COLOURS[n % 3]) for n in range(12)])
    classifier.open.set()
    assert first[0].result(30).prediction.label == "red"
    assert [answer.result(30).prediction.label for answer in rest] == [COLOURS[n % 3] for n in range(12)]
    assert sum(classifier.batches) == 13
    assert max(classifier.batches) > 1


def test_a_picture_that_comes_alone_is_run_alone(batcher, classifier, jpeg) -> None:
    classifier.open.set()
    for colour in COLOURS:
        assert asked(batcher, classifier, [jpeg(colour)])[0].result(30).prediction.label == colour
    assert classifier.batches == [1, 1, 1]


def test_no_batch_is_larger_than_its_bound(batcher, classifier, jpeg) -> None:
    answers = asked(batcher, classifier, [jpeg("red")] * (3 * MAX_BATCH))
    wait(answers, timeout=0.2)
    classifier.open.set()
    assert {answer.result(30).prediction.label for answer in answers} == {"red"}
    assert max(classifier.batches) <= MAX_BATCH


def test_a_bad_picture_spoils_no_other(batcher, classifier, jpeg) -> None:
    good, bad = jpeg("green"), jpeg("green")[:200]
    answers = asked(batcher, classifier, [good, bad, good, b"", good])
    classifier.open.set()
    assert [type(answer.exception(30)) for answer in answers] == [type(None), BadPicture, type(None), BadPicture, type(None)]


def test_a_picture_that_the_network_cannot_answer_spoils_no_other(batcher, classifier, jpeg, monkeypatch) -> None:
    def classify(self: Noted, pixels: np.ndarray) -> np.ndarray:
        logits = Noted.classify(self, pixels)
        logits[pixels[:, 0, 0, 2] > 100] = np.nan  # blue
        return logits

    monkeypatch.setattr(classifier, "classify", lambda pixels: classify(classifier, pixels))
    answers = asked(batcher, classifier, [jpeg("red"), jpeg("red"), jpeg("blue"), jpeg("green")])
    classifier.open.set()
    assert [type(answer.exception(30)) for answer in answers] == [type(None), type(None), BadBundle, type(None)]


def test_models_and_numbers_of_labels_are_not_mixed(batcher, classifier, make_bundle, jpeg, tmp_path) -> None:
    other = Noted(make_bundle(tmp_path / "models", name="other", side=48))
    asks = [(model, top) for model in (classifier, other) for top in (1, 2, 3)] * 3
    answers = [asked(batcher, model, [jpeg("blue")], top)[0] for model, top in asks]
    classifier.open.set()
    other.open.set()
    got = [(answer.result(30).model["name"], len(answer.result(30).prediction.top)) for answer in answers]
    assert got == [(model.model["name"], top) for model, top in asks]


def test_a_picture_gets_the_same_answer_whoever_is_in_its_batch(batcher, classifier, jpeg) -> None:
    classifier.open.set()
    alone = {colour: classifier.predict(jpeg(colour)).prediction.confidence for colour in COLOURS}
    classifier.open.clear()
    colours = [COLOURS[n % 3] for n in range(16)]
    answers = asked(batcher, classifier, [jpeg(colour) for colour in colours])
    classifier.open.set()
    for colour, answer in zip(colours, answers, strict=True):
        assert answer.result(30).prediction.confidence == pytest.approx(alone[colour], abs=1e-5)
    assert max(classifier.batches) > 1


def test_who_no_longer_waits_is_not_run(classifier, jpeg) -> None:
    with ThreadPoolExecutor(1) as compute:
        batcher, busy = Batcher(compute, runners=1), threading.Event()
        compute.submit(busy.wait, 30)
        given_up, kept = asked(batcher, classifier, [jpeg("red"), jpeg("blue")])
        assert given_up.cancel()
        busy.set()
        classifier.open.set()
        assert kept.result(30).prediction.label == "blue"
    batcher.stop()
    assert classifier.batches == [1]


def test_stopping_finishes_what_is_in_hand(classifier, jpeg) -> None:
    with ThreadPoolExecutor(2) as compute:
        batcher = Batcher(compute, runners=2)
        answers = asked(batcher, classifier, [jpeg("green")] * 20)
        threading.Timer(0.1, classifier.open.set).start()
    batcher.stop()
    assert {answer.result(0).prediction.label for answer in answers} == {"green"}


def test_the_server_runs_requests_that_come_together_as_batches(open_door, jpeg, monkeypatch) -> None:
    client, sizes = open_door(), []
    answers = Classifier.answers

    def noted(self: Classifier, pictures: list, top: int) -> list[Answer]:
        sizes.append(len(pictures))
        threading.Event().wait(0.05)  # a network that takes its time
        return answers(self, pictures, top)

    client.door.shelf.default.run_s = 0.05
    monkeypatch.setattr(Classifier, "answers", noted)

    async def ask_all(colours: list[str]) -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=client.base_url, timeout=60) as own:
            return await asyncio.gather(*(own.post("/predict", content=jpeg(colour)) for colour in colours))

    colours = [COLOURS[n % 3] for n in range(24)]
    assert [answer.json()["label"] for answer in asyncio.run(ask_all(colours))] == colours
    assert sum(sizes) == 24
    assert len(sizes) < 24


@pytest.mark.parametrize(("workers", "threads", "runners"), [(1, 1, 1), (2, 2, 2), (2, 4, 2), (8, 1, 8), (16, 4, 4)])
def test_batches_use_all_workers_whatever_threads_each_has(workers, threads, runners) -> None:
    assert count_runners(workers, threads) == runners
