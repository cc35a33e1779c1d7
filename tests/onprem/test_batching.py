import asyncio
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import ParamSpec, TypeVar

import httpx
import numpy as np
import pytest

from onprem import batching
from onprem.batching import MAX_BATCH, Batcher, Ready
from shutterless.bundles import read_bundle
from shutterless.classifier import Answer, Classifier
from shutterless.errors import BadBundle, BadPicture

COLOURS = ("red", "green", "blue")
SECONDS = 30
P, T = ParamSpec("P"), TypeVar("T")


@pytest.fixture
def compute() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as compute:
        yield compute


@pytest.fixture
def batcher(compute: ThreadPoolExecutor) -> Iterator[Batcher]:
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
        self.open.wait(SECONDS)
        self.batches.append(len(pixels))
        return super().classify(pixels)


@pytest.fixture
def classifier(bundle_folder: Path) -> Noted:
    return Noted(bundle_folder)


def prepared(classifier: Classifier, picture: bytes, top: int = 3) -> Callable[[], Ready]:
    return lambda: Ready(classifier, classifier.prepare(picture), top)


def refuse() -> Ready:
    raise AssertionError("this picture is prepared soon")


def asked(batcher: Batcher, classifier: Classifier, pictures: list[bytes], top: int = 3) -> list[asyncio.Future[Answer]]:
    """Every other one is prepared by who runs it, the rest before."""
    ways = [prepared(classifier, picture, top) for picture in pictures]
    return [batcher.answer(refuse, way) if n % 2 else batcher.answer(way) for n, way in enumerate(ways)]


async def settled(answers: list[asyncio.Future[Answer]]) -> list[Answer | BaseException]:
    async with asyncio.timeout(SECONDS):
        return await asyncio.gather(*answers, return_exceptions=True)


def labels(answers: list[Answer | BaseException]) -> list[str]:
    return [answer.prediction.label if isinstance(answer, Answer) else type(answer).__name__ for answer in answers]


def test_pictures_that_wait_for_the_network_are_run_together_and_each_gets_its_own_answer(batcher, classifier, jpeg) -> None:
    async def ask() -> list[Answer | BaseException]:
        answers = asked(batcher, classifier, [jpeg("red")] + [jpeg(COLOURS[n % 3]) for n in range(12)])
        await asyncio.sleep(0.05)
        classifier.open.set()
        return await settled(answers)

    assert labels(asyncio.run(ask())) == ["red", *(COLOURS[n % 3] for n in range(12))]
    assert sum(classifier.batches) == 13
    assert max(classifier.batches) > 1


def test_a_picture_that_comes_alone_is_run_alone_and_at_once(batcher, classifier, jpeg, monkeypatch) -> None:
    monkeypatch.setattr(batching, "COMPANY_S", 2 * SECONDS)
    classifier.open.set()

    async def ask() -> list[str]:
        return [labels(await settled([batcher.answer(refuse, prepared(classifier, jpeg(colour)))]))[0] for colour in COLOURS]

    assert asyncio.run(ask()) == list(COLOURS)
    assert classifier.batches == [1, 1, 1]


def test_those_that_were_there_a_moment_ago_are_waited_for(batcher, classifier, jpeg, monkeypatch) -> None:
    monkeypatch.setattr(batching, "COMPANY_S", 2.0)
    ways = [prepared(classifier, jpeg(colour)) for colour in ("red", "blue")]

    async def ask() -> None:
        first = batcher.answer(refuse, ways[0])
        await asyncio.sleep(0.05)  # the runner is busy with it
        both = [batcher.answer(refuse, way) for way in ways]
        classifier.open.set()
        await settled([first, *both])
        for _ in range(3):
            answers = [batcher.answer(refuse, ways[0])]
            await asyncio.sleep(0.05)
            answers.append(batcher.answer(refuse, ways[1]))
            await settled(answers)

    asyncio.run(ask())
    assert classifier.batches == [1, 2, 2, 2, 2]


def test_who_does_not_come_again_is_not_waited_for_long(batcher, classifier, jpeg) -> None:
    async def ask() -> list[Answer | BaseException]:
        crowd = asked(batcher, classifier, [jpeg("red")] * 12)
        await asyncio.sleep(0.05)
        classifier.open.set()
        await settled(crowd)
        return [(await settled([answer]))[0] for answer in [batcher.answer(refuse, prepared(classifier, jpeg("blue")))]]

    assert labels(asyncio.run(ask())) == ["blue"]
    assert classifier.batches[-1] == 1


def test_no_batch_is_larger_than_its_bound(batcher, classifier, jpeg) -> None:
    async def ask() -> list[Answer | BaseException]:
        answers = asked(batcher, classifier, [jpeg("red")] * (3 * MAX_BATCH))
        await asyncio.sleep(0.2)
        classifier.open.set()
        return await settled(answers)

    assert set(labels(asyncio.run(ask()))) == {"red"}
    assert max(classifier.batches) <= MAX_BATCH
    assert sum(classifier.batches) == 3 * MAX_BATCH


def test_a_bad_picture_spoils_no_other(batcher, classifier, jpeg) -> None:
    good, bad = jpeg("green"), jpeg("green")[:200]
    classifier.open.set()

    async def ask() -> list[Answer | BaseException]:
        return await settled(asked(batcher, classifier, [good, bad, good, b"", b"", good, bad]))

    spoilt = BadPicture.__name__
    assert labels(asyncio.run(ask())) == ["green", spoilt, "green", spoilt, spoilt, "green", spoilt]


def test_a_picture_that_the_network_cannot_answer_spoils_no_other(batcher, classifier, jpeg, monkeypatch) -> None:
    def classify(self: Noted, pixels: np.ndarray) -> np.ndarray:
        logits = Noted.classify(self, pixels)
        logits[pixels[:, 0, 0, 2] > 100] = np.nan  # blue
        return logits

    monkeypatch.setattr(classifier, "classify", lambda pixels: classify(classifier, pixels))

    async def ask() -> list[Answer | BaseException]:
        answers = asked(batcher, classifier, [jpeg("red"), jpeg("red"), jpeg("blue"), jpeg("green")])
        await asyncio.sleep(0.05)
        classifier.open.set()
        return await settled(answers)

    assert labels(asyncio.run(ask())) == ["red", "red", BadBundle.__name__, "green"]


def test_models_and_numbers_of_labels_are_not_mixed(batcher, classifier, make_bundle, jpeg, tmp_path) -> None:
    other = Noted(make_bundle(tmp_path / "models", name="other", side=48))
    asks = [(model, top) for model in (classifier, other) for top in (1, 2, 3)] * 3

    async def ask() -> list[Answer | BaseException]:
        answers = [batcher.answer(refuse, prepared(model, jpeg("blue"), top)) for model, top in asks]
        await asyncio.sleep(0.05)
        classifier.open.set()
        other.open.set()
        return await settled(answers)

    got = [(answer.model["name"], len(answer.prediction.top)) for answer in asyncio.run(ask()) if isinstance(answer, Answer)]
    assert got == [(model.model["name"], top) for model, top in asks]


def test_a_picture_gets_the_same_answer_whoever_is_in_its_batch(batcher, classifier, jpeg) -> None:
    classifier.open.set()
    alone = {colour: classifier.predict(jpeg(colour)).prediction.confidence for colour in COLOURS}
    classifier.open.clear()
    colours = [COLOURS[n % 3] for n in range(16)]

    async def ask() -> list[Answer | BaseException]:
        answers = asked(batcher, classifier, [jpeg(colour) for colour in colours])
        await asyncio.sleep(0.05)
        classifier.open.set()
        return await settled(answers)

    for colour, answer in zip(colours, asyncio.run(ask()), strict=True):
        assert isinstance(answer, Answer)
        assert answer.prediction.confidence == pytest.approx(alone[colour], abs=1e-5)
    assert max(classifier.batches) > 1


def test_what_takes_long_to_prepare_is_prepared_elsewhere(batcher, classifier, jpeg) -> None:
    classifier.open.set()
    threads: list[str] = []

    def prepare() -> Ready:
        threads.append(threading.current_thread().name)
        return prepared(classifier, jpeg("green"))()

    async def ask() -> list[Answer | BaseException]:
        return await settled([batcher.answer(prepare, lambda: None)])

    assert labels(asyncio.run(ask())) == ["green"]
    assert not threads[0].startswith("batch")


class AtOnce(Executor):
    """Does what it is given before it says that it took it, as a thread may that is faster than who asked."""

    def submit(self, work: Callable[P, T], /, *arguments: P.args, **named: P.kwargs) -> Future[T]:
        done: Future[T] = Future()
        done.set_result(work(*arguments, **named))
        return done


def test_what_is_handed_on_is_run_once_however_soon_it_is_prepared(classifier, jpeg) -> None:
    classifier.open.set()
    batcher = Batcher(AtOnce(), runners=1)

    async def ask() -> list[Answer | BaseException]:
        return await settled([batcher.answer(prepared(classifier, jpeg(colour)), lambda: None) for colour in COLOURS])

    assert labels(asyncio.run(ask())) == list(COLOURS)
    batcher.stop()
    assert sum(classifier.batches) == len(COLOURS)


def test_nothing_of_a_picture_stays_when_it_is_answered(batcher, classifier, jpeg) -> None:
    classifier.open.set()

    async def ask() -> weakref.ref[Callable[[], Ready]]:
        way = prepared(classifier, jpeg("red"))
        assert labels(await settled([batcher.answer(refuse, way)])) == ["red"]
        return weakref.ref(way)

    kept = asyncio.run(ask())
    deadline = time.monotonic() + SECONDS
    while kept() is not None and time.monotonic() < deadline:
        time.sleep(0.01)  # the runner goes on to wait
    assert kept() is None


def test_after_a_rest_a_crowd_is_shared_by_all_runners(compute, classifier, jpeg) -> None:
    batcher = Batcher(compute, runners=4)
    way = prepared(classifier, jpeg("green"))
    classifier.open.set()

    async def ask() -> None:
        await settled([batcher.answer(refuse, way) for _ in range(64)])
        await asyncio.sleep(0.2)
        classifier.batches.clear()
        classifier.open.clear()
        answers = [batcher.answer(refuse, way) for _ in range(16)]
        await asyncio.sleep(0.2)
        classifier.open.set()
        await settled(answers)

    asyncio.run(ask())
    batcher.stop()
    assert max(classifier.batches[:4]) <= 8


def test_nobody_takes_what_others_will_wait_for(compute, classifier, jpeg) -> None:
    batcher = Batcher(compute, runners=2)
    way = prepared(classifier, jpeg("green"))

    async def ask() -> None:
        answers = []
        for _ in range(2):
            answers.append(batcher.answer(refuse, way))
            await asyncio.sleep(0.05)  # one runner is busy with it
        answers += [batcher.answer(refuse, way) for _ in range(6)]
        classifier.open.set()
        await settled(answers)

    asyncio.run(ask())
    batcher.stop()
    assert max(classifier.batches) <= 4, classifier.batches


def test_who_no_longer_waits_is_not_run(compute, batcher, classifier, jpeg) -> None:
    async def ask() -> list[Answer | BaseException]:
        first = batcher.answer(refuse, prepared(classifier, jpeg("red")))
        await asyncio.sleep(0.05)  # the runner is busy with it
        ways = [prepared(classifier, jpeg(colour)) for colour in COLOURS]
        given_up, kept = [batcher.answer(refuse, ways[0]), batcher.answer(ways[1])], batcher.answer(ways[2])
        for answer in given_up:
            answer.cancel()
        classifier.open.set()
        return await settled([first, kept])

    assert labels(asyncio.run(ask())) == ["red", "blue"]
    batcher.stop()  # it waits for nobody who went
    assert sum(classifier.batches) == 2


def test_a_picture_that_cannot_be_handed_on_is_told_so(classifier, jpeg) -> None:
    compute = ThreadPoolExecutor(1)
    batcher = Batcher(compute, runners=1)
    compute.shutdown()
    way = prepared(classifier, jpeg("red"))

    async def ask() -> list[str]:
        with pytest.raises(RuntimeError):
            batcher.answer(way)
        return labels(await settled([batcher.answer(way, lambda: None)]))

    assert asyncio.run(ask()) == ["RuntimeError"]
    batcher.stop()


def test_stopping_finishes_what_is_in_hand(compute, classifier, jpeg) -> None:
    batcher = Batcher(compute, runners=2)

    async def ask() -> list[Answer | BaseException]:
        answers = asked(batcher, classifier, [jpeg("green")] * 20)
        threading.Timer(0.1, classifier.open.set).start()
        await asyncio.to_thread(batcher.stop)
        return await settled(answers)

    assert set(labels(asyncio.run(ask()))) == {"green"}


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


@pytest.mark.parametrize(("workers", "threads", "runners"), [(1, 0, 1), (2, 0, 2), (8, 0, 8), (2, 4, 1), (16, 4, 4), (5, 2, 3)])
def test_batches_use_all_workers_whatever_threads_each_has(open_door, workers: int, threads: int, runners: int) -> None:
    before = set(threading.enumerate())
    open_door(workers=workers, threads=threads)
    assert sum(thread.name.startswith("batch_") for thread in set(threading.enumerate()) - before) == runners
