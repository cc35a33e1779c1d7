"""What bodies look like, for /openapi.json only: answers are not built from these, tests hold them together."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from shutterless.statuses import Status


class Schema(BaseModel):
    """Base: the document promises that nothing else comes, so a test fails when a field is forgotten here."""

    model_config = ConfigDict(extra="forbid")


class Problem(Schema):
    """RFC 9457."""

    type: str
    title: str
    status: int
    detail: str = Field(description="What was expected, what came, and what to do.")
    request_id: str


class Ranked(Schema):
    index: int
    label: str
    confidence: float = Field(ge=0, le=1)


class Model(Schema):
    name: str
    version: str
    sha256: str


class Timings(Schema):
    """Seconds."""

    model_load_s: float
    preprocess_s: float
    inference_s: float


class Prediction(Schema):
    pred_index: int
    label: str
    confidence: float = Field(ge=0, le=1)
    top: list[Ranked]
    in_distribution: bool | None = Field(description="False: the picture is unlike what the model learned from.")
    timings: Timings
    model: Model
    cold_start: bool


class Receipt(Schema):
    request_id: str
    bucket: str
    s3_key: str
    content_type: str
    status: Literal["pending"]


class Form(Schema):
    """Where and how to send the picture that was announced: all fields, then the file as `file`."""

    request_id: str
    url: str
    fields: dict[str, str]
    expires_at: datetime
    max_bytes: int


class SystemResources(Schema):
    cpu_percent: float = Field(description="Of all CPUs, since the last call.")
    process_rss_bytes: int
    load_1m: float


class Uploaded(Schema):
    prediction_id: int = Field(description="GET /results?id= has the record.")
    request_id: str
    filename: str | None
    predicted_label: str
    true_label: str | None
    confidence: float = Field(ge=0, le=1)
    inference_ms: float
    latency_ms: float
    resources: SystemResources


class FailedFile(Schema):
    filename: str | None
    error: str = Field(description="What was expected, what came, and what to do.")


class Batch(Schema):
    """Both in the order of the files."""

    results: list[Uploaded]
    failed: list[FailedFile]


class ErrorNote(Schema):
    title: str
    detail: str


class Record(Schema):
    id: int
    request_id: str
    task: str
    status: Status
    image_name: str | None
    predicted_label: str | None
    confidence: float | None
    top: list[Ranked] | None
    caption: str | None
    in_distribution: bool | None
    true_label: str | None
    model: Model | None
    inference_ms: float | None
    latency_ms: float | None
    queue_ms: float | None
    created_at: datetime
    finished_at: datetime | None
    error: ErrorNote | None


class Records(Schema):
    count: int
    results: list[Record]
    next_cursor: str | None = Field(default=None, description="Asks for the next, older page; null on the last one.")


class ListedModel(Schema):
    name: str
    version: str
    sha256: str
    task: str
    labels: list[str]
    precision: str
    input: dict[str, Any]
    default: bool


class Models(Schema):
    models: list[ListedModel]


class LabelCount(Schema):
    label: str
    count: int


class Latency(Schema):
    """Of what arrived in one bucket of time: milliseconds from arrival to outcome."""

    start: datetime
    count: int
    p50_ms: float
    p95_ms: float
    p99_ms: float


class Accuracy(Schema):
    """Over the results whose true label is known."""

    n: int
    correct: int
    accuracy: float | None


class Confusion(Schema):
    """How often pictures of a true label were answered with a label."""

    true_label: str
    predicted_label: str
    count: int


class Stats(Schema):
    total_predictions: int
    label_distribution: list[LabelCount]
    by_status: dict[str, int]
    latency: list[Latency]
    accuracy: Accuracy
    confusion: list[Confusion]
    system_resources: SystemResources


class Health(Schema):
    status: Literal["ok"]
    ready: bool = Field(description="Both ways are open: /predict answers at once, results can be stored.")
    checks: dict[str, Literal["ok", "opening", "unavailable"]]
    max_inline_bytes: int = Field(description="Largest picture that a body may carry.")
    version: str


class Alive(Schema):
    status: Literal["ok"]


class Ready(Schema):
    status: Literal["ok"]
    checks: dict[str, Literal["ok"]]
