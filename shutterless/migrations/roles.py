"""One database role per function on AWS, with the rights that its statements need and no other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

EXPIRE = "status, error, finished_at, claimed_until"  # the columns that Results.expire writes
ARRIVAL = ("request_id, task, status, image_name, object_key, object_version, content_type, true_label, asked_model, "
           "created_at, claimed_until")
READER, READERS = "shutterless_reader", 2  # and how many of it may be connected: stages.py leaves room for two
RIGHTS = {
    "shutterless_upload": (f"INSERT ({ARRIVAL})", "SELECT (id, request_id, status)", f"UPDATE ({EXPIRE})"),
    "shutterless_infer": ("SELECT", "INSERT", "UPDATE"),
    "shutterless_query": ("SELECT", "DELETE", f"UPDATE ({EXPIRE})"),
    READER: ("SELECT",),  # an operator, through the function migrate
}
_MAKERS = ("shutterless_upload", "shutterless_infer")  # of rows, so of ids
_IAM = "rds_iam"  # https://docs.aws.amazon.com/AmazonRDS/latest/UserGuide/UsingWithRDS.IAMDBAuth.DBAccounts.html


def grant_roles(connection: sa.Connection, passwords: Mapping[str, str | None]) -> None:
    """Make the roles of `passwords` (names of RIGHTS) where they are missing, and give each exactly its rights.

    Where the database knows IAM, that is how they log in; elsewhere by password, or, for None, as the server lets them.
    """
    has_iam = connection.exec_driver_sql("SELECT 1 FROM pg_roles WHERE rolname = %s", (_IAM,)).scalar() is not None
    schema, database = connection.exec_driver_sql("SELECT current_schema(), current_database()").one()
    for role, password in passwords.items():
        name = _quoted(role)
        _make(connection, role)
        if has_iam:
            connection.exec_driver_sql(f"GRANT {_IAM} TO {name}")
        elif password is not None:
            connection.exec_driver_sql(f"ALTER ROLE {name} PASSWORD {_literal(_verifier(connection, role, password))}")
        statements = [f"GRANT CONNECT ON DATABASE {_quoted(database)} TO {name}",
                      f"GRANT USAGE ON SCHEMA {_quoted(schema)} TO {name}",
                      f"REVOKE ALL ON {_quoted(schema)}.results FROM {name}",
                      *(f"GRANT {right} ON {_quoted(schema)}.results TO {name}" for right in RIGHTS[role])]
        if role in _MAKERS:
            statements.append(f"GRANT USAGE ON SEQUENCE {_quoted(schema)}.results_id_seq TO {name}")
        if role == READER:
            statements.append(f"ALTER ROLE {name} CONNECTION LIMIT {READERS}")
        for statement in statements:
            connection.exec_driver_sql(statement)


def _make(connection: sa.Connection, role: str) -> None:
    """Roles belong to all databases of a server, so that another deploy may make the same one at this moment."""
    connection.exec_driver_sql(f"DO $$ BEGIN CREATE ROLE {_quoted(role)} LOGIN; "
                               "EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$")


def _verifier(connection: sa.Connection, role: str, password: str) -> str:
    """What the server keeps of a password. It is made here: a statement that fails stands in the server's log, and in ours."""
    driver: Any = connection.connection.driver_connection
    verifier: bytes = driver.pgconn.encrypt_password(password.encode(), role.encode(), b"scram-sha-256")
    return verifier.decode()


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _literal(text: str) -> str:
    """For statements that take no parameters. exec_driver_sql without parameters sends % as it is."""
    return "E'" + text.replace("\\", "\\\\").replace("'", "''") + "'"
