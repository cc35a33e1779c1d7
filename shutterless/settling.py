"""What a picture came to, as it is recorded, whichever door took it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, cast

from shutterless.errors import BadPicture, NotFound, Permanent

if TYPE_CHECKING:
    from shutterless.classifier import Prediction
    from shutterless.results import ErrorNote, Model, Outcome

# The picture's own faults. All other errors are not: they are tried again, and end as stalled.
HOPELESS = (BadPicture, NotFound)
STALLED: ErrorNote = {
    "title": "Given up for now",
    "detail": "It failed several times for reasons that are not the picture's. The picture is kept: tell the operator the "
              "request_id."}


@dataclass(frozen=True)
class Work:
    """On a picture that came at `created_at`; it begins when this is made."""

    created_at: datetime
    began_at: datetime = field(default_factory=lambda: datetime.now(UTC))

    def done(self, prediction: Prediction, model: dict[str, str], inference_s: float) -> Outcome:
        """The network's answer. inference_s: the network's time for it, or for the batch that it was in."""
        from shutterless.results import Outcome

        return Outcome(predicted_label=prediction.label, pred_index=prediction.pred_index,
                       confidence=prediction.confidence, top=prediction.ranked(),
                       in_distribution=prediction.in_distribution, model=cast("Model", model), inference_ms=1000 * inference_s,
                       queue_ms=self._queue_ms(), latency_ms=_ms_between(self.created_at, datetime.now(UTC)))

    def failed(self, error: Permanent) -> Outcome:
        """One of HOPELESS: there will be no answer."""
        from shutterless.results import Outcome

        return Outcome(error={"title": error.title, "detail": str(error)}, queue_ms=self._queue_ms(),
                       latency_ms=_ms_between(self.created_at, datetime.now(UTC)))

    def _queue_ms(self) -> float:
        return _ms_between(self.created_at, self.began_at)


def _ms_between(start: datetime, end: datetime) -> float:
    """Never below 0: the row's clock may be another machine's."""
    return max((end - start).total_seconds() * 1000, 0.0)
