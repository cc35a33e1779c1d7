"""Dead letters on an emulator of SQS: looked at by reason, sent back, and none lost."""

import json
import time

import pytest

from cli.main import main
from infra.deployed import Deployed
from infra.letters import DeadLetters, Letter, _groups

IDS = [f"0000000{n}-0000-0000-0000-000000000000" for n in range(6)]


@pytest.fixture
def sqs(deployed_stage, boto_session):
    client = boto_session.client("sqs")
    yield client
    client.close()


def notice(request_id: str) -> str:
    return json.dumps({"Records": [{"eventSource": "aws:s3", "eventName": "ObjectCreated:Put", "s3": {
        "bucket": {"name": "b"}, "object": {"key": f"uploads/classify/{request_id}.png", "versionId": "1"}}}]})


@pytest.fixture
def die(sqs, deployed_stage):
    def die(*bodies: str) -> None:
        for body in bodies:
            sqs.send_message(QueueUrl=deployed_stage["ClassifyDeadLettersUrl"], MessageBody=body)
    return die


@pytest.fixture
def infer_says(deployed_stage, boto_session):
    client = boto_session.client("logs")

    def infer_says(*entries: dict) -> None:
        group = deployed_stage["InferLog"]
        client.create_log_stream(logGroupName=group, logStreamName="s")
        client.put_log_events(logGroupName=group, logStreamName="s", logEvents=[
            {"timestamp": round(1000 * time.time()) + 1, "message": json.dumps(entry)} for entry in entries])
    yield infer_says
    client.close()


def bodies(sqs, url: str) -> list[str]:
    """What is in a queue, and is taken out of it."""
    found = []
    while come := sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10, VisibilityTimeout=600).get("Messages"):
        found += [each["Body"] for each in come]
    return sorted(found)


def test_without_dead_letters_it_says_so(deployed_stage, capsys):
    assert main(["redrive", "dev"]) == 0
    assert capsys.readouterr().out == "There are no dead letters.\n"


def test_they_are_shown_by_reason_and_sent_back_as_they_were(sqs, deployed_stage, die, infer_says, capsys):
    die(*map(notice, IDS))
    infer_says({"level": "ERROR", "request_id": None, "error": "The database does not answer."},
               {"level": "ERROR", "request_id": IDS[0], "error": "MemoryError()", "trace": "..."},
               {"level": "INFO", "request_id": IDS[1], "error": "no error"})
    assert main(["redrive", "dev", "--yes"]) == 0
    told = capsys.readouterr().out
    words = [line.split() for line in told.splitlines()]
    assert ["classify", "The", "database", "does", "not", "answer.", "5"] in [line[:7] for line in words]
    assert ["classify", "MemoryError()", "1"] in [line[:3] for line in words]
    assert f"uploads/classify/{IDS[0]}.png" in told
    assert "and 2 more" in told
    assert told.endswith("classify: 6 sent back\n")
    assert bodies(sqs, deployed_stage["ClassifyQueueUrl"]) == sorted(map(notice, IDS))
    assert bodies(sqs, deployed_stage["ClassifyDeadLettersUrl"]) == []


@pytest.mark.parametrize(("answer", "sent"), [("n", 0), ("", 0), (None, 0), ("what?", 0), ("y", 1), ("Yes", 1)])
def test_nothing_is_sent_without_a_yes_and_the_others_stay_where_all_can_see_them(
        sqs, deployed_stage, die, capsys, monkeypatch, answer, sent):
    def asked(question: str) -> str:
        print(question)
        if answer is None:
            raise EOFError
        return answer

    die(notice(IDS[0]))
    monkeypatch.setattr("builtins.input", asked)
    assert main(["redrive", "dev"]) == 0
    assert "Send 1 back? [y/N]" in capsys.readouterr().out
    assert bodies(sqs, deployed_stage["ClassifyDeadLettersUrl"]) == [notice(IDS[0])] * (1 - sent)
    assert bodies(sqs, deployed_stage["ClassifyQueueUrl"]) == [notice(IDS[0])] * sent


def test_ctrl_c_at_the_question_leaves_them_where_all_can_see_them(sqs, deployed_stage, die, monkeypatch):
    def interrupted(_: str) -> str:
        raise KeyboardInterrupt

    die(notice(IDS[0]))
    monkeypatch.setattr("builtins.input", interrupted)
    assert main(["redrive", "dev"]) == 130
    assert bodies(sqs, deployed_stage["ClassifyDeadLettersUrl"]) == [notice(IDS[0])]


@pytest.mark.parametrize("body", ["not json", "[]", '{"Records": 7}', '{"Records": [{"eventSource": "aws:sns"}]}', "\x1b[31mred"])
def test_what_nobody_understands_is_shown_and_stays(sqs, deployed_stage, die, capsys, body):
    die(body, notice(IDS[0]))
    assert main(["redrive", "dev", "--yes"]) == 0
    told = capsys.readouterr().out
    assert "malformed: " in told
    assert "\x1b" not in told
    assert bodies(sqs, deployed_stage["ClassifyDeadLettersUrl"]) == [body]
    assert bodies(sqs, deployed_stage["ClassifyQueueUrl"]) == [notice(IDS[0])]


def test_where_none_can_be_sent_nobody_is_asked(die, capsys):
    die("not json")
    assert main(["redrive", "dev"]) == 0
    assert "None of them can be answered" in capsys.readouterr().out


def test_what_the_queue_refuses_is_kept_and_told(sqs, deployed_stage, die, capsys, monkeypatch):
    """The emulator takes all: here it is told to refuse the second of three."""
    class Refusing:
        def __init__(self, real) -> None:
            self._real = real

        def __getattr__(self, name: str):
            return getattr(self._real, name)

        def send_message_batch(self, **asked) -> dict:
            first, second, *others = asked["Entries"]
            answer = self._real.send_message_batch(**asked | {"Entries": [first, *others]})
            return answer | {"Failed": [{"Id": second["Id"], "Code": "InternalError", "SenderFault": False}]}

    real = Deployed.client
    monkeypatch.setattr(Deployed, "client", lambda self, service, **settings: Refusing(real(self, service, **settings))
                        if service == "sqs" else real(self, service, **settings))
    die(*map(notice, IDS[:3]))
    assert main(["redrive", "dev", "--yes"]) == 1
    told = capsys.readouterr()
    assert "classify: 2 sent back, 1 refused, which stay" in told.out
    assert "InternalError" in told.err
    kept, sent = (bodies(sqs, deployed_stage[f"Classify{each}Url"]) for each in ("DeadLetters", "Queue"))
    assert (len(kept), len(sent)) == (1, 2)
    assert sorted(kept + sent) == sorted(map(notice, IDS[:3]))


def test_many_are_sent_and_none_twice(sqs, deployed_stage, die, capsys):
    ids = [f"{n:08x}-0000-0000-0000-000000000000" for n in range(33)]
    die(*map(notice, ids))
    assert main(["redrive", "dev", "--yes"]) == 0
    assert bodies(sqs, deployed_stage["ClassifyQueueUrl"]) == sorted(map(notice, ids))


def test_more_than_are_looked_at_in_one_go_are_told(die, deployed_stage, monkeypatch, capsys):
    monkeypatch.setattr("infra.letters.MOST", 10)
    die(*(notice(f"{n:08x}-0000-0000-0000-000000000000") for n in range(15)))
    assert main(["redrive", "dev", "--yes"]) == 0
    assert "Run the same again." in capsys.readouterr().out
    assert main(["redrive", "dev", "--yes"]) == 0
    with DeadLetters(Deployed("dev"), queue_url=deployed_stage["ClassifyQueueUrl"],
                     dead_letters_url=deployed_stage["ClassifyDeadLettersUrl"]) as box:
        assert box.letters == []


def test_calls_stay_below_what_sqs_takes_at_once():
    letters = [Letter(id=str(n), body="ä" * 60_000, sent_ms=0, receipt="r") for n in range(5)]
    small = [Letter(id=str(n), body="a", sent_ms=0, receipt="r") for n in range(12)]
    assert [len(group) for group in _groups(letters)] == [2, 2, 1]
    assert [len(group) for group in _groups(small)] == [10, 2]
    assert [len(group) for group in _groups([Letter(id="1", body="a" * 1_000_000, sent_ms=0, receipt="r")])] == [1]


def test_a_stage_that_is_not_there_is_told(s3, s3_server, monkeypatch, capsys):
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server[0])
    assert main(["redrive", "staging"]) == 1
    assert "There is no stage staging" in capsys.readouterr().err
