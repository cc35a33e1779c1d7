"""The schema's history. `versions/` holds the steps, HEAD names the last: a start need not import Alembic to know."""

HEAD = "0001"
