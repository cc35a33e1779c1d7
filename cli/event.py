"""Write the Lambda event that a picture would arrive in.

JSON on standard output, for the runtime emulator, `aws lambda invoke` or a test:

  rest   POST of the picture through API Gateway's REST API
  http   the same through API Gateway's HTTP API
  url    the same through a function URL
  bare   {"image_b64": "..."}, as people write by hand
  s3     an SQS message that says that S3 has the picture; put it there first (standard error says where)

examples:
  shutterless event tile.jpg > event.json
  shutterless event tile.jpg --kind http --query 'top=3' | curl -d @- localhost:9000/2015-03-31/functions/function/invocations
"""

from __future__ import annotations

import argparse
import base64
import json
import sys
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl, quote_plus

from shutterless.errors import BadRequest
from shutterless.formats import sniff

Event = dict[str, Any]
MAX_BYTES = 4_500_000  # what a request to Lambda carries, in base64
REQUEST_ID = "c6af9ac6-7b61-11e6-9a41-93e8deadbeef"
STAGE = "dev"
HOST = "1234567890.execute-api.us-east-1.amazonaws.com"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What `event` takes."""
    parser.add_argument("picture", metavar="PICTURE", help="a file, or - for the bytes on standard input")
    parser.add_argument("--kind", choices=("rest", "http", "url", "bare", "s3"), default="rest",
                        help="whose event (default: rest)")
    parser.add_argument("--route", default="/predict", metavar="PATH", help="what it asks for (default: /predict)")
    parser.add_argument("--query", default="", metavar="QUERY", help="what stands behind the ?, such as 'top=3&model=land'")
    parser.add_argument("--bucket", default="uploads", help="with --kind s3: where the picture lies (default: uploads)")


def run(arguments: argparse.Namespace) -> int:
    """Print it."""
    from cli.sources import find_sources

    source, *others = find_sources([arguments.picture], MAX_BYTES)
    if others:
        raise BadRequest("PICTURE: expected one picture, got a folder of several. Give one of its files.")
    picture = source.read(MAX_BYTES)
    if len(picture) > MAX_BYTES and arguments.kind != "s3":
        raise BadRequest(f"PICTURE: expected at most {MAX_BYTES:,} bytes, which is what a request to Lambda carries, got more. "
                         "Save it smaller, or use --kind s3.")
    if not arguments.route.startswith("/"):
        raise BadRequest(f"--route: expected a path that begins with /, got {arguments.route[:80]!r}. Correct it.")
    event = (s3(picture, arguments.bucket) if arguments.kind == "s3"
             else KINDS[arguments.kind](picture, arguments.route, arguments.query))
    json.dump(event, sys.stdout, indent=2)
    print()
    return 0


def rest(picture: bytes, route: str, query: str) -> Event:
    """https://docs.aws.amazon.com/apigateway/latest/developerguide/set-up-lambda-proxy-integrations.html"""
    headers = {"Accept": "*/*", "Content-Type": _content_type(picture), "Host": HOST}
    pairs = parse_qsl(query, keep_blank_values=True)
    return {
        "resource": route, "path": route, "httpMethod": "POST", "headers": headers,
        "multiValueHeaders": {name: [value] for name, value in headers.items()},
        "queryStringParameters": dict(pairs) or None,
        "multiValueQueryStringParameters": {name: [v for n, v in pairs if n == name] for name, _ in pairs} or None,
        "pathParameters": None, "stageVariables": None,
        "requestContext": {"resourcePath": route, "httpMethod": "POST", "path": f"/{STAGE}{route}", "stage": STAGE,
                           "protocol": "HTTP/1.1", "requestId": REQUEST_ID, "identity": {"sourceIp": "127.0.0.1"}},
        "body": base64.b64encode(picture).decode(), "isBase64Encoded": True}


def http(picture: bytes, route: str, query: str, stage: str = STAGE) -> Event:
    """https://docs.aws.amazon.com/apigateway/latest/developerguide/http-api-develop-integrations-lambda.html"""
    path = route if stage == "$default" else f"/{stage}{route}"
    key = "$default" if stage == "$default" else f"POST {route}"
    pairs = parse_qsl(query, keep_blank_values=True)
    values = {name: ",".join(v for n, v in pairs if n == name) for name, _ in pairs}
    return {
        "version": "2.0", "routeKey": key, "rawPath": path, "rawQueryString": query,
        "headers": {"accept": "*/*", "content-type": _content_type(picture), "host": HOST},
        **({"queryStringParameters": values} if values else {}),
        "requestContext": {"routeKey": key, "stage": stage, "requestId": REQUEST_ID,
                           "http": {"method": "POST", "path": path, "protocol": "HTTP/1.1", "sourceIp": "127.0.0.1"}},
        "body": base64.b64encode(picture).decode(), "isBase64Encoded": True}


def url(picture: bytes, route: str, query: str) -> Event:
    """https://docs.aws.amazon.com/lambda/latest/dg/urls-invocation.html"""
    return http(picture, route, query, stage="$default")


def bare(picture: bytes, route: str, query: str) -> Event:
    """The picture and the query's fields; the function has one route for what has none."""
    return {"image_b64": base64.b64encode(picture).decode(), **dict(parse_qsl(query))}


def s3(picture: bytes, bucket: str) -> Event:
    """https://docs.aws.amazon.com/AmazonS3/latest/userguide/notification-content-structure.html, in an SQS message."""
    found = sniff(picture)
    key = f"uploads/classify/{REQUEST_ID}.{found.extension if found else 'bin'}"
    print(f"Put the picture at s3://{bucket}/{key} before you send this event.", file=sys.stderr)
    notification = {"Records": [{
        "eventVersion": "2.1", "eventSource": "aws:s3", "awsRegion": "us-east-1", "eventTime": "2026-01-01T00:00:00.000Z",
        "eventName": "ObjectCreated:Put",
        "s3": {"s3SchemaVersion": "1.0", "bucket": {"name": bucket, "arn": f"arn:aws:s3:::{bucket}"},
               "object": {"key": quote_plus(key, safe="/"), "size": len(picture)}}}]}
    return {"Records": [{
        "messageId": REQUEST_ID, "receiptHandle": "receipt", "body": json.dumps(notification), "messageAttributes": {},
        "attributes": {"ApproximateReceiveCount": "1", "SentTimestamp": "1767225600000",
                       "ApproximateFirstReceiveTimestamp": "1767225600000"},
        "eventSource": "aws:sqs", "eventSourceARN": "arn:aws:sqs:us-east-1:123456789012:uploads", "awsRegion": "us-east-1"}]}


KINDS: dict[str, Callable[[bytes, str, str], Event]] = {"rest": rest, "http": http, "url": url, "bare": bare}


def _content_type(picture: bytes) -> str:
    found = sniff(picture)
    return found.content_type if found else "application/octet-stream"
