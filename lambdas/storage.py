"""Results and pictures as the functions in the VPC reach them: opened at first use, kept while the container lives."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from threading import Thread
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from lambdas.door import Door
from lambdas.environment import read_settings
from lambdas.metrics import write_line
from lambdas.snapshots import before_snapshot, on_restore
from shutterless.credentials import CredentialSource
from shutterless.errors import BadSettings
from shutterless.settings import Settings

if TYPE_CHECKING:
    from shutterless.aws import S3Objects
    from shutterless.results import Reach, Results

ANSWER_S = 8.0  # of the database
IDLE_S = 60.0  # a frozen container's connection is the server's to end
OPEN_S = 3.0  # of the ten seconds that Lambda gives a container to start
S3_CONNECT_S, S3_READ_S, S3_ATTEMPTS = 1.0, 4.0, 2  # the queue, or the client, tries again as well


class Storage:
    """One per container. Raises BadSettings for settings that cannot work, at first use."""

    def __init__(self, settings: Settings, environ: Mapping[str, str]) -> None:
        self._settings, self._environ = settings, environ
        self._credentials = CredentialSource(environ)
        self._stores: dict[str, S3Objects] = {}

    @cached_property
    def results(self) -> Results:
        from shutterless.results import open_results

        return open_results(database_url(self._settings), reach=self.reach(answer_s=ANSWER_S))

    def reach(self, *, answer_s: float) -> Reach:
        """How the database is reached: one connection, with a new token or the address's password."""
        from shutterless.results import Reach

        return Reach(connections=1, answer_s=answer_s, idle_s=IDLE_S, ca=self._settings.database_ca,
                     password=self._token() if self._settings.database_auth == "iam" else None)

    @property
    def bucket(self) -> str:
        """That new pictures go to."""
        bucket, _, prefix = self._settings.objects_url.removeprefix("s3://").partition("/")
        if not self._settings.objects_url.startswith("s3://") or prefix:
            raise BadSettings("SHUTTERLESS_OBJECTS: expected s3://bucket, without a prefix, got something else. Keys begin "
                              "with uploads/, where the bucket's notification looks.")
        return bucket

    @property
    def objects(self) -> S3Objects:
        """The pictures in `bucket`."""
        return self.objects_in(self.bucket)

    def objects_in(self, bucket: str) -> S3Objects:
        """The objects of a bucket that an event names."""
        from shutterless.aws import S3Objects

        if bucket not in self._stores:
            self._stores[bucket] = S3Objects(bucket, connect_timeout_s=S3_CONNECT_S, read_timeout_s=S3_READ_S,
                                             attempts=S3_ATTEMPTS)
        return self._stores[bucket]

    def open(self, beside: Callable[[], object]) -> None:
        """Before the first request, where a container starts: the database is opened while `beside` is done. What fails now is
        tried again when it is needed, and told then."""
        database = Thread(target=_quietly, args=(lambda: self.results.ping(),), daemon=True)
        database.start()
        _quietly(beside)
        database.join(OPEN_S)

    def close(self) -> None:
        """End all connections and forget credentials; the next use opens new ones. For SnapStart, on both of its sides."""
        if "results" in vars(self):
            self.results.close()
        self._stores.clear()
        self._credentials.forget()

    def _token(self) -> Callable[[], str]:
        from shutterless.sigv4 import rds_token

        address = urlsplit(database_url(self._settings))
        region = self._environ.get("AWS_REGION") or self._environ.get("AWS_DEFAULT_REGION")
        if not (address.hostname and address.username and region and self._settings.database_ca):
            raise BadSettings("SHUTTERLESS_DATABASE_AUTH=iam: expected DATABASE_URL=postgresql://USER@HOST/DATABASE, AWS_REGION "
                              "and SHUTTERLESS_DATABASE_CA, got less. Set all three.")
        make = partial(rds_token, address.hostname, address.port or 5432, unquote(address.username), region)
        return lambda: make(self._credentials.get())


def database_url(settings: Settings) -> str:
    """The address of a database that outlives the container. Raises BadSettings."""
    if settings.database_url.startswith("sqlite"):
        raise BadSettings("DATABASE_URL: expected postgresql://USER@HOST/DATABASE, got none, or a file that would end with the "
                          "container. Set it.")
    return settings.database_url


def _quietly(do: Callable[[], object]) -> None:
    try:
        do()
    except Exception as error:  # logged; the first request meets it again, and tells
        write_line({"level": "WARNING", "error": repr(error)[:500]})


def open_storage(settings: Settings) -> Storage:
    """This container's. SnapStart copies a container: nothing that is open or secret may be copied with it."""
    storage = Storage(settings, os.environ)
    before_snapshot(storage.close)
    on_restore(storage.close)
    return storage


def open_here(open_door: Callable[[Settings, Storage], Door]) -> Door:
    """The door of an HTTP function with storage, by this container's environment; during INIT, all behind it is opened."""
    settings = read_settings(os.environ)
    storage = open_storage(settings)
    if is_container():
        storage.open(lambda: storage.objects)
    return open_door(settings, storage)


def is_container() -> bool:
    """Whether this is Lambda, or its emulator, and not a test or the build: then INIT, which has the faster CPU, opens all."""
    return "AWS_LAMBDA_RUNTIME_API" in os.environ
