import asyncio
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from onprem import batching, cpus
from onprem.batching import Batcher, Ready
from onprem.cpus import one_each, stay_on, waking_on, wherever_i_may
from shutterless.bundles import read_bundle
from shutterless.classifier import Classifier

needs_affinity = pytest.mark.skipif(not cpus.CAN_TELL, reason="only Linux can be told; that others are not is tested everywhere")
SECONDS = 30
PICTURES = 40
MINE = sorted(os.sched_getaffinity(0)) if cpus.CAN_TELL else []


@pytest.fixture
def other() -> Iterator[int]:
    """The native id of a thread that waits."""
    done = threading.Event()
    thread = threading.Thread(target=done.wait, args=(SECONDS,))
    thread.start()
    assert thread.native_id is not None
    yield thread.native_id
    done.set()
    thread.join()


@pytest.mark.parametrize(("allowed", "threads", "found"), [
    ({0, 1}, 2, [0, 1]), ({7, 3}, 2, [3, 7]), ({0, 1, 2, 3}, 2, [None, None]), ({0, 1}, 4, [None] * 4), ({0}, 1, [None]),
])
def test_each_thread_has_a_cpu_where_there_is_one_for_each_and_no_more(monkeypatch, allowed: set[int], threads: int,
                                                                       found: list[int | None]) -> None:
    monkeypatch.setattr(cpus, "CAN_TELL", True)
    monkeypatch.setattr(os, "sched_getaffinity", lambda who: allowed, raising=False)
    assert one_each(threads) == found


def test_where_the_system_cannot_be_told_nothing_is(monkeypatch, other) -> None:
    monkeypatch.setattr(cpus, "CAN_TELL", False)
    for name in ("sched_getaffinity", "sched_setaffinity"):
        monkeypatch.delattr(os, name, raising=False)  # as there: to ask for it would be an error
    assert one_each(2) == [None, None]
    stay_on(None)
    wherever_i_may()()
    with waking_on(None, other):
        pass


@needs_affinity
def test_a_thread_is_woken_where_it_should_be_and_may_run_anywhere_afterwards(other) -> None:
    for cpu in MINE:
        with suppress(KeyError), waking_on(cpu, other):
            assert os.sched_getaffinity(other) == {cpu}
            raise KeyError
        assert os.sched_getaffinity(other) == set(MINE)


@needs_affinity
def test_who_may_not_run_there_stays_where_it_is(other) -> None:
    os.sched_setaffinity(other, MINE[:1])
    with waking_on(max(MINE) + 1, other):
        assert os.sched_getaffinity(other) == set(MINE[:1])


@needs_affinity
def test_a_thread_that_has_ended_is_no_error() -> None:
    thread = threading.Thread(target=lambda: None)
    thread.start()
    thread.join()
    assert thread.native_id is not None
    with waking_on(MINE[0], thread.native_id):
        pass


@needs_affinity
def test_a_cpu_that_was_taken_away_is_no_error() -> None:
    stay_on(4_000)
    assert os.sched_getaffinity(0) == set(MINE)


@needs_affinity
def test_runners_stay_on_their_cpus_and_nobody_else_does(monkeypatch, bundle_folder, jpeg) -> None:
    """Not those that they start, and not the event loop that they wake."""
    seen: dict[str, set[frozenset[int]]] = {"run": set(), "prepare": set()}
    monkeypatch.setattr(batching, "one_each", lambda runners: (MINE * runners)[:runners])

    class Noted(Classifier):
        def classify(self, pixels):
            seen["run"].add(frozenset(os.sched_getaffinity(0)))
            threading.Event().wait(0.02)  # so that all runners have something to do
            return super().classify(pixels)

    classifier = Noted(read_bundle(bundle_folder))

    def prepare() -> Ready:
        seen["prepare"].add(frozenset(os.sched_getaffinity(0)))
        return Ready(classifier, classifier.prepare(jpeg()), 1)

    async def ask() -> set[int]:
        async with asyncio.timeout(SECONDS):
            await asyncio.gather(*(batcher.answer(prepare, lambda: None) for _ in range(PICTURES)))
        return os.sched_getaffinity(0)

    with ThreadPoolExecutor(4, initializer=wherever_i_may()) as compute:
        batcher = Batcher(compute, runners=2)
        assert asyncio.run(ask()) == set(MINE)
        batcher.stop()
    assert seen == {"run": {frozenset({cpu}) for cpu in MINE[:2]}, "prepare": {frozenset(MINE)}}


@needs_affinity
def test_the_server_leaves_its_other_threads_free(open_door) -> None:
    client = open_door(workers=len(MINE))
    assert client.door.compute.submit(os.sched_getaffinity, 0).result(SECONDS) == set(MINE)
    assert os.sched_getaffinity(0) == set(MINE)
