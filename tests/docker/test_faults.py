"""What may go wrong around a batch loses no picture and answers none twice."""

import io
import struct
import threading
import time
import uuid
import zlib

import pytest

from tests.docker.containers import Died
from tests.lambdas.driver import s3_event, s3_record, sqs_event

pytestmark = [pytest.mark.needs("docker", "postgres"), pytest.mark.timeout(900)]

GROUP = 8  # pictures that infer settles together: a longer batch takes several steps


@pytest.fixture
def put(cloud, draw, encode):
    """`put()`: a picture in the bucket, with its notification's record; `put(content)`: those bytes."""
    def put(picture: bytes | None = None) -> dict:
        key = f"uploads/classify/{uuid.uuid4()}.jpg"
        picture = encode(draw((64, 64), seed=uuid.uuid4().int % 10_000), "JPEG") if picture is None else picture
        return s3_record("uploads", key, cloud.s3.put_object(Bucket="uploads", Key=key, Body=picture)["VersionId"])
    return put


@pytest.fixture
def infer(start_in_vpc):
    return start_in_vpc("infer")


@pytest.fixture
def rows(database):
    """`rows(records)`: status and duplicates of each picture's row, in the order of the records."""
    def rows(records: list[dict]) -> list[tuple[str, int]]:
        found = database.run("SELECT object_key, status, duplicates FROM results")
        return [(status, duplicates) for record in records for key, status, duplicates in found
                if key == record["s3"]["object"]["key"]]
    return rows


def batch(records, only=None) -> dict:
    event = sqs_event(*(s3_event(record) for record in records))
    return {"Records": [message for message in event["Records"] if only is None or message["messageId"] in only]}


def failed(reply: dict) -> set[str]:
    return {failure["itemIdentifier"] for failure in reply["batchItemFailures"]}


def await_row(rows, records) -> None:
    deadline = time.monotonic() + 60
    while not any(status == "done" for status, _ in rows(records)):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def in_background(do):
    """Starts it; the returned function waits for its result, or raises what it raised."""
    box: dict = {}

    def work() -> None:
        try:
            box["result"] = do()
        except Exception as error:  # raised where the result is asked for
            box["error"] = error

    thread = threading.Thread(target=work)
    thread.start()

    def result():
        thread.join()
        if "error" in box:
            raise box["error"]
        return box["result"]
    return result


def test_a_database_that_stops_and_starts_in_the_middle_of_a_batch_costs_retries_and_no_result(infer, put, rows, cloud, database):
    records = [put() for _ in range(GROUP + 4)]
    infer.invoke(batch([put()]))  # warm: the model and the connection are open
    cloud.door.faults += ["none"] * GROUP + ["slow"] * 8  # the second group waits for S3
    reply = in_background(lambda: infer.invoke(batch(records)))
    await_row(rows, records)
    database.stop()
    try:
        again = failed(reply())
    finally:
        database.start()
    assert again
    assert failed(infer.invoke(batch(records, again))) == set()
    assert [status for status, _ in rows(records)] == ["done"] * len(records)


def test_a_database_that_is_down_sends_the_whole_batch_back(infer, put, rows, database):
    records = [put() for _ in range(3)]
    database.stop()
    try:
        assert len(failed(infer.invoke(batch(records)))) == 3
    finally:
        database.start()
    assert failed(infer.invoke(batch(records))) == set()
    assert rows(records) == [("done", 0)] * 3


def test_s3_that_refuses_for_a_while_sends_pictures_back(infer, put, rows, cloud):
    records = [put() for _ in range(4)]
    infer.invoke(batch([put()]))
    cloud.door.faults += ["503"] * 8
    again = failed(infer.invoke(batch(records)))
    cloud.door.faults.clear()
    assert again
    assert failed(infer.invoke(batch(records, again))) == set()
    assert [status for status, _ in rows(records)] == ["done"] * 4


def test_slow_s3_is_waited_for(infer, put, rows, cloud):
    records = [put() for _ in range(4)]
    cloud.door.faults += ["slow"] * 8
    assert failed(infer.invoke(batch(records))) == set()
    assert rows(records) == [("done", 0)] * 4


def test_a_container_killed_between_row_and_acknowledgement_leaves_one_row(infer, start_in_vpc, put, rows, cloud):
    records = [put() for _ in range(GROUP + 2)]
    infer.invoke(batch([put()]))
    cloud.door.faults += ["none"] * GROUP + ["slow"] * 8
    reply = in_background(lambda: infer.invoke(batch(records)))
    await_row(rows, records)
    infer.kill()
    with pytest.raises(Died):
        reply()
    done = [status for status, _ in rows(records)].count("done")
    assert 0 < done < len(records)

    cloud.door.faults.clear()
    assert failed(start_in_vpc("infer").invoke(batch(records))) == set()
    assert [status for status, _ in rows(records)] == ["done"] * len(records)
    assert sum(duplicates for _, duplicates in rows(records)) == done


def test_a_bomb_in_a_batch_harms_nobody_else(infer, put, rows):
    records = [put(), put(png_bomb(30_000)), put(b""), put(b"not a picture"), put()]
    assert failed(infer.invoke(batch(records))) == set()
    assert [status for status, _ in rows(records)] == ["done", "failed", "failed", "failed", "done"]


def test_two_containers_that_get_the_same_batch_at_once_make_one_row_each(infer, start_in_vpc, put, rows):
    other = start_in_vpc("infer")
    records = [put() for _ in range(GROUP)]
    replies = [in_background(lambda one=one: one.invoke(batch(records))) for one in (infer, other)]
    assert [failed(reply()) for reply in replies] == [set(), set()]
    assert [status for status, _ in rows(records)] == ["done"] * GROUP


def test_an_upload_without_a_database_is_told_to_try_again_and_keeps_nothing(start_in_vpc, database, cloud, tile_event):
    upload = start_in_vpc("upload")
    stored = len(cloud.s3.list_objects_v2(Bucket="uploads").get("Contents", []))
    database.stop()
    try:
        status, problem = upload.ask(tile_event)
    finally:
        database.start()
    assert (status, problem["title"]) == (503, "Try again")
    assert len(cloud.s3.list_objects_v2(Bucket="uploads").get("Contents", [])) == stored
    assert upload.ask(tile_event)[0] == 202


def test_an_upload_that_s3_refuses_is_a_failed_row_and_not_a_pending_one(start_in_vpc, database, cloud, tile_event):
    upload = start_in_vpc("upload")
    assert upload.ask(tile_event)[0] == 202
    cloud.door.faults += ["503"] * 20
    status, problem = upload.ask(tile_event)
    assert status == 503
    assert database.run(f"SELECT status FROM results WHERE request_id = '{problem['request_id']}'") == [("failed",)]


@pytest.fixture
def tile_event(draw, encode) -> dict:
    import base64

    return {"image_b64": base64.b64encode(encode(draw((64, 64)), "JPEG")).decode()}


def png_bomb(side: int) -> bytes:
    """A PNG of side x side black pixels in some kilobytes."""
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    packer, lines = zlib.compressobj(9), io.BytesIO()
    for _ in range(side):
        lines.write(packer.compress(bytes(1 + side // 8)))
    lines.write(packer.flush())
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0))
            + chunk(b"IDAT", lines.getvalue()) + chunk(b"IEND", b""))
