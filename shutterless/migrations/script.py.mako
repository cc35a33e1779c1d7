"""${message}"""

import sqlalchemy as sa
from alembic import op

revision = ${repr(up_revision)}  # write it into migrations/__init__.py as HEAD
down_revision = ${repr(down_revision)}


def upgrade() -> None:
    ${upgrades if upgrades else "raise NotImplementedError"}
