"""The schema's history. `versions/` holds the steps, HEAD names the last: a start need not import Alembic to know.

Steps only ever add: the version of the code before each can still work on the schema after it, since both run during a
deploy, and a deploy that is rolled back leaves the schema as it is.
"""

import hashlib
from pathlib import Path

HEAD = "0001"


def migrations_hash() -> str:
    """Digest of all that a deploy does to the database: where it has not changed, nothing is to be done."""
    folder = Path(__file__).parent
    digest = hashlib.sha256()
    for file in [*sorted((folder / "versions").glob("*.py")), folder / "roles.py"]:
        digest.update(f"{file.name} {file.stat().st_size}\n".encode() + file.read_bytes())
    return digest.hexdigest()
