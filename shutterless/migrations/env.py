"""Alembic's entry: run the steps on the connection that `shutterless.results.migrate` hands over, in its transaction.

By hand (`alembic revision`), the database is DATABASE_URL's.
"""

import os

import sqlalchemy as sa
from alembic import context

from shutterless.results import metadata
from shutterless.settings import Settings


def run(connection: sa.Connection) -> None:
    context.configure(connection=connection, target_metadata=metadata)
    with context.begin_transaction():
        context.run_migrations()


if "connection" in context.config.attributes:
    run(context.config.attributes["connection"])
else:
    address = sa.make_url(Settings.from_environment(os.environ).database_url)
    if address.drivername != "sqlite":
        address = address.set(drivername="postgresql+psycopg")
    with sa.create_engine(address).connect() as own_connection:
        run(own_connection)
