"""The table `results`."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    moment = sa.DateTime(timezone=True)
    op.create_table(
        "results",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
        sa.Column("request_id", sa.Text, nullable=False),
        sa.Column("task", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("image_name", sa.Text),
        sa.Column("object_key", sa.Text),
        sa.Column("object_version", sa.Text),
        sa.Column("content_type", sa.Text),
        sa.Column("predicted_label", sa.Text),
        sa.Column("pred_index", sa.Integer),
        sa.Column("confidence", sa.Double),
        sa.Column("top", sa.JSON),
        sa.Column("caption", sa.Text),
        sa.Column("in_distribution", sa.Boolean),
        sa.Column("true_label", sa.Text),
        sa.Column("asked_model", sa.Text),
        sa.Column("model_name", sa.Text),
        sa.Column("model_version", sa.Text),
        sa.Column("model_sha256", sa.Text),
        sa.Column("inference_ms", sa.Double),
        sa.Column("latency_ms", sa.Double),
        sa.Column("queue_ms", sa.Double),
        sa.Column("created_at", moment, nullable=False),
        sa.Column("finished_at", moment),
        sa.Column("error", sa.JSON),
        sa.Column("duplicates", sa.Integer, nullable=False, server_default="0"),
        sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
        sa.Column("claimed_until", moment),
        sa.UniqueConstraint("request_id", name="results_request_id_key"),
        sa.CheckConstraint("status IN ('pending', 'done', 'failed', 'stalled')", name="results_status_check"),
        sqlite_autoincrement=True,
    )
    op.create_index("results_status_id", "results", ["status", "id"])
    op.create_index("results_predicted_label_id", "results", ["predicted_label", "id"])
    op.create_index("results_created_at", "results", ["created_at", "latency_ms"])
    op.create_index("results_labels", "results", ["true_label", "predicted_label"])
