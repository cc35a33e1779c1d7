import threading
from concurrent.futures import ThreadPoolExecutor

import httpx

from onprem.solitude import COMPANY_S, Solitude
from shutterless.classifier import Answer, Classifier


def test_a_client_is_alone_until_another_asks_and_when_that_is_long_ago() -> None:
    now = [0.0]
    solitude = Solitude(now=lambda: now[0])
    assert [solitude.asked("a"), solitude.asked("a"), solitude.asked("b"), solitude.asked("a"), solitude.asked("a")] == [
        True, True, False, False, True]
    now[0] += COMPANY_S
    assert solitude.asked("b")


def test_clients_of_a_fast_model_that_ask_at_the_same_time_are_batched(open_door, jpeg, monkeypatch) -> None:
    client, batched = open_door(), []
    answers = Classifier.answers

    def noted(self: Classifier, pictures: list, top: int) -> list[Answer]:
        batched.extend([threading.current_thread().name.startswith("batch")] * len(pictures))
        found = answers(self, pictures, top)
        self.run_s = 0.001  # fast, however busy this machine is
        return found

    monkeypatch.setattr(Classifier, "answers", noted)
    monkeypatch.setattr("onprem.solitude.COMPANY_S", 10.0)

    def ask(colour: str) -> set[str]:
        through_proxy = {"x-forwarded-for": "192.0.2.1"}  # as all of a proxy's clients, or all behind one router
        with httpx.Client(base_url=client.base_url, headers=through_proxy, timeout=60) as own:
            return {own.post("/predict", content=jpeg(colour)).json()["label"] for _ in range(30)}

    colours = ["red", "green", "blue", "red", "green", "blue"]
    with ThreadPoolExecutor(len(colours)) as pool:
        assert list(pool.map(ask, colours)) == [{colour} for colour in colours]
    assert len(batched) == 30 * len(colours)
    assert sum(batched) > len(batched) / 2
