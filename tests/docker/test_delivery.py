"""1,000 uploads through the functions, while the queue redelivers at random and containers are killed."""

import base64
import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shutterless.bundles import find_bundle, read_bundle
from shutterless.classifier import Classifier
from tests.docker.containers import Died, Function
from tests.lambdas.driver import Queue, s3_event, s3_record

pytestmark = [pytest.mark.needs("docker", "postgres"), pytest.mark.timeout(1800)]

ROOT = Path(__file__).parents[2]
UPLOADS, PICTURES = 1_000, 40
KILLED, TWICE = 0.05, 0.1  # of all batches: the container dies at some moment of it; another one has it at the same time
LONGEST_S = 0.15  # until it dies


class Unruly:
    """Containers of infer that die. Calling it is what an event source mapping does with a batch."""

    def __init__(self, seed: int, start: Callable[[], Function]) -> None:
        self.random, self.start, self.killed = random.Random(seed), start, 0
        self.containers = [start(), start()]

    def __call__(self, event: dict) -> Any:
        if self.random.random() < TWICE:
            other = threading.Thread(target=self._deliver, args=(1, event))
            other.start()
            reply = self._deliver(0, event)
            other.join()
        else:
            reply = self._deliver(0, event)
        if reply is None:
            raise Died
        return reply

    def _deliver(self, which: int, event: dict) -> Any:
        """The reply; None when the container did not live to give it."""
        container = self.containers[which]
        reaper = None
        if self.random.random() < KILLED:
            reaper = threading.Timer(self.random.uniform(0, LONGEST_S), container.kill)
            reaper.start()
        try:
            return container.invoke(event)
        except Died:
            self.killed += 1
            return None
        finally:
            if reaper:
                reaper.join()
                container.remove()
                self.containers[which] = self.start()


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_thousand_uploads_are_a_thousand_rows_each_with_the_answer_of_its_picture(seed, start_in_vpc, database, cloud, draw,
                                                                                   encode):
    pictures = [encode(draw((64, 64), seed=1000 * seed + n), "JPEG") for n in range(PICTURES)]
    upload, queue = start_in_vpc("upload"), Queue(seed, max_receives=20)
    shown = {}
    for n in range(UPLOADS):
        status, receipt = upload.ask({"image_b64": base64.b64encode(pictures[n % PICTURES]).decode()})
        assert status == 202
        shown[receipt["request_id"]] = n % PICTURES
        queue.send(s3_event(s3_record(receipt["bucket"], receipt["s3_key"])))
    unruly = Unruly(seed, lambda: start_in_vpc("infer"))
    queue.drive(unruly)

    assert unruly.killed > 0
    assert queue.redelivered > 0
    assert queue.dead == []
    rows = [row for row in database.run("SELECT request_id, status, predicted_label, confidence FROM results")
            if row[0] in shown]
    assert len(rows) == UPLOADS
    assert {status for _, status, _, _ in rows} == {"done"}
    classifier = Classifier(read_bundle(find_bundle("eurosat-lite0", ROOT / "models")))
    direct = [classifier.predict(picture).prediction for picture in pictures]
    assert [row[2] for row in rows] == [direct[shown[row[0]]].label for row in rows]
    np.testing.assert_allclose([row[3] for row in rows], [direct[shown[row[0]]].confidence for row in rows], atol=1e-5)
