"""The whole way of a dead letter: stalled, sent back by the command, answered by infer."""

import json
import uuid

import pytest

from cli.main import main
from lambdas.infer import infer
from shutterless.results import Arrival
from shutterless.settling import STALLED
from tests.lambdas.driver import s3_event, s3_record, sqs_event

pytestmark = pytest.mark.needs("postgres")


def test_a_stalled_result_moves_on_and_one_that_was_answered_meanwhile_stays(
        deployed_stage, boto_session, container, bucket, jpeg, context):
    sqs, results, ids = boto_session.client("sqs"), container.storage.results, [str(uuid.uuid4()) for _ in range(2)]
    for request_id in ids:
        key = f"uploads/classify/{request_id}.jpg"
        results.add_pending(request_id, Arrival(object_key=key))
        record = s3_record(bucket, key, container.storage.objects.put(key, jpeg("red"), "image/jpeg"))
        sqs.send_message(QueueUrl=deployed_stage["ClassifyDeadLettersUrl"], MessageBody=json.dumps(s3_event(record)))
        if request_id == ids[0]:
            results.stall(request_id, STALLED)
        else:
            assert infer(sqs_event(s3_event(record)), context, container) == {"batchItemFailures": []}
    answered = results.get(ids[1]).finished_at
    assert main(["redrive", "dev", "--yes"]) == 0
    come = sqs.receive_message(QueueUrl=deployed_stage["ClassifyQueueUrl"], MaxNumberOfMessages=10)["Messages"]
    assert infer(sqs_event(*(json.loads(each["Body"]) for each in come)), context, container) == {"batchItemFailures": []}
    sqs.close()
    moved, stayed = (results.get(request_id) for request_id in ids)
    assert (moved.status, moved.predicted_label, moved.error) == ("done", "red", None)
    assert (stayed.status, stayed.finished_at, stayed.duplicates) == ("done", answered, 1)
