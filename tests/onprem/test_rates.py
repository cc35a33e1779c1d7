from onprem.rates import MOST_HOLDERS, Rates


class Clock:
    time = 100.0

    def __call__(self) -> float:
        return self.time


def test_a_burst_passes_and_then_so_many_a_second() -> None:
    clock = Clock()
    rates = Rates(2, 3, now=clock)
    assert [rates.wait_s(b"a") for _ in range(4)] == [0, 0, 0, 0.5]
    assert rates.wait_s(b"b") == 0  # another key
    clock.time += 0.5
    assert [rates.wait_s(b"a") for _ in range(2)] == [0, 0.5]
    clock.time += 1000
    assert [rates.wait_s(b"a") == 0 for _ in range(4)] == [True, True, True, False]


def test_without_a_rate_nobody_waits() -> None:
    rates = Rates(0, 0)
    assert {rates.wait_s(b"a") for _ in range(1000)} == {0}


def test_however_many_keys_there_were_memory_is_bounded() -> None:
    clock = Clock()
    rates = Rates(1, 1000, now=clock)
    for number in range(5 * MOST_HOLDERS):
        clock.time += 0.0001
        rates.wait_s(b"%d" % number)
    assert len(rates._buckets) <= MOST_HOLDERS


def test_who_asks_too_often_is_told_when_to_come_back(open_door, jpeg) -> None:
    client = open_door(api_keys=("one", "two"), rate_per_s=1, rate_burst=3, cors_origins=("http://localhost:5173",))
    headers = {"x-api-key": "one", "origin": "http://localhost:5173"}
    answers = [client.post("/predict", content=jpeg(), headers=headers) for _ in range(40)]
    refused = [answer for answer in answers if answer.status_code == 429]
    assert {answer.status_code for answer in answers} == {200, 429}
    assert refused[0].headers["content-type"] == "application/problem+json"
    assert refused[0].headers["retry-after"] == "1"
    assert refused[0].headers["access-control-allow-origin"] == "http://localhost:5173"
    assert "retry-after" in refused[0].headers["access-control-expose-headers"].lower()
    assert client.post("/predict", content=jpeg(), headers={"x-api-key": "two"}).status_code == 200
    assert {client.get("/health").status_code for _ in range(40)} == {200}
    assert {client.get("/models", headers={"x-api-key": "wrong"}).status_code for _ in range(10)} == {403}
