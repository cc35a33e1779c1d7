"""The collaborators of all routes, built once per process."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from threading import Thread

from fastapi import Request

from onprem.batching import Batcher
from onprem.cpus import wherever_i_may
from onprem.intake import Intake
from onprem.pending import Announced, Pending, most_announced
from onprem.policies import Policies, Reception
from onprem.solitude import Solitude
from onprem.spools import Spools
from onprem.storage import Storage
from onprem.tallies import Tallies
from onprem.worker import Worker
from shutterless.pictures import SMALL_PIXELS, Limits
from shutterless.settings import Settings
from shutterless.shelf import Shelf

SPOOLED_BESIDE = 100_000_000  # bytes on the disk beside two whole batches


@dataclass(frozen=True, kw_only=True)
class Door:
    """batcher: where pictures are classified, and decoded where that is quick; compute: where they are decoded else, never more
    than settings.workers at once. opening: gets ready beside the first answers what batches need.

    quick_limits: of a picture that is decoded in milliseconds. spools: of batches; form_spools: of forms: without a
    key, nobody may take what batches need. filing: how many files of batches may be in memory. pending: how many uploads may
    wait for their answers; announced: how many of them for their picture. solitude: whether the client that asks is alone.
    """

    settings: Settings
    limits: Limits
    quick_limits: Limits
    intake: Intake
    shelf: Shelf
    compute: ThreadPoolExecutor
    batcher: Batcher
    opening: Thread
    storage: Storage
    worker: Worker
    tallies: Tallies
    spools: Spools
    form_spools: Spools
    filing: asyncio.Semaphore
    pending: Pending
    announced: Announced
    solitude: Solitude
    policies: Policies
    reception: Reception

    def start(self) -> None:
        """The worker; and beside the first answers, what batches need."""
        self.worker.start()
        self.opening.start()

    def stop(self) -> None:
        """Finish what was taken. Blocks."""
        self.worker.stop()
        self.opening.join()
        self.batcher.stop()
        self.compute.shutdown()
        self.storage.close()


def build_door(settings: Settings) -> Door:
    """Opens the default model; the database is opened by `start`, in the background. Raises BadBundle, NotFound."""
    limits = Limits(max_bytes=settings.max_bytes, max_pixels=settings.max_pixels, max_side=settings.max_side)
    shelf = Shelf(settings, threads=settings.server_threads)
    storage, tallies = Storage(settings), Tallies()
    compute = ThreadPoolExecutor(settings.workers, thread_name_prefix="compute",
                                 initializer=wherever_i_may())  # a runner of batches may start them, which stays on one CPU
    worker = Worker(storage=storage, shelf=shelf, compute=compute, limits=limits, batch=settings.workers,
                    tallies=tallies)
    batcher = Batcher(compute, runners=-(-settings.workers // (settings.threads or 1)), ran=tallies.ran)
    quick_limits = replace(limits, max_pixels=min(limits.max_pixels, SMALL_PIXELS))
    spools = Spools(settings.var_dir / "incoming", max_requests=settings.max_waiting,
                    max_held_bytes=2 * max(settings.batch_bytes, settings.max_bytes) + SPOOLED_BESIDE)
    form_spools = Spools(settings.var_dir / "incoming", max_requests=settings.max_waiting,
                         max_held_bytes=settings.max_waiting * settings.max_bytes)
    policies = Policies(settings.form_secret, settings.var_dir / "form-secret")
    intake = Intake(max_bytes=settings.max_bytes, max_requests=settings.max_waiting)
    opening = Thread(target=shelf.default.open_for_batches, name="opening")
    return Door(settings=settings, limits=limits, quick_limits=quick_limits, shelf=shelf, storage=storage, compute=compute,
                batcher=batcher, opening=opening, worker=worker, tallies=tallies, intake=intake, spools=spools, policies=policies,
                reception=Reception(), form_spools=form_spools, filing=asyncio.Semaphore(settings.workers),
                solitude=Solitude(), pending=Pending(settings.max_pending, lambda most: storage.results.count_pending(most)),
                announced=Announced(most_announced(settings.max_pending), lambda most: storage.results.expected(most)))


def door_of(request: Request) -> Door:
    """The door that this request came through."""
    door: Door = request.app.state.door
    return door
