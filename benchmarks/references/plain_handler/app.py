"""A classifier on Lambda as such handlers are usually written: torch in the image, weights from S3, a row in PostgreSQL.

It is what ours is measured against, so it is written with care: clients and model at module level, where a warm container
finds them again, inference mode, and no work that ours does not do.
"""

import base64
import io
import json
import os
import time
from typing import Any

import boto3
import psycopg2
import torch
from PIL import Image
from torchvision import models, transforms

started = time.perf_counter()
WEIGHTS = "/tmp/weights.pth"  # noqa: S108  the only folder that a function may write to
boto3.client("s3").download_file(os.environ["WEIGHTS_BUCKET"], os.environ["WEIGHTS_KEY"], WEIGHTS)
model = models.resnet50(num_classes=int(os.environ["CLASSES"]))
model.load_state_dict(torch.load(WEIGHTS, map_location="cpu", weights_only=True))
model.eval()
transform = transforms.Compose([
    transforms.Resize((224, 224)), transforms.ToTensor(),
    transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])])
model_load_s = time.perf_counter() - started


def handler(event: dict[str, Any], context: object) -> dict[str, Any]:
    started = time.perf_counter()
    picture = Image.open(io.BytesIO(base64.b64decode(event["body"]))).convert("RGB")
    batch = transform(picture).unsqueeze(0)
    prepared = time.perf_counter()
    with torch.inference_mode():
        confidences = model(batch).softmax(1)[0]
    inference_s = time.perf_counter() - prepared
    confidence, index = confidences.max(0)
    answer = {"pred_index": int(index), "confidence": float(confidence), "timings": {
        "model_load_s": model_load_s, "preprocess_s": prepared - started, "inference_s": inference_s}}
    if "DATABASE_URL" in os.environ:
        save(answer)
    return {"statusCode": 200, "headers": {"content-type": "application/json"}, "body": json.dumps(answer)}


def save(answer: dict[str, Any]) -> None:
    with psycopg2.connect(os.environ["DATABASE_URL"]) as connection, connection.cursor() as cursor:
        cursor.execute("INSERT INTO predictions (pred_index, confidence) VALUES (%s, %s)",
                       (answer["pred_index"], answer["confidence"]))
