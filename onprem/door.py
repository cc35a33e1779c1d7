"""The collaborators of all routes, built once per process."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from fastapi import Request

from onprem.batching import Batcher
from onprem.intake import Intake
from onprem.storage import Storage
from onprem.worker import Worker
from shutterless.pictures import SMALL_PIXELS, Limits
from shutterless.settings import Settings
from shutterless.shelf import Shelf


@dataclass(frozen=True, kw_only=True)
class Door:
    """compute: where pictures are decoded, never more than settings.workers at once; batcher: where they are classified.

    quick_limits: of a picture that is decoded in a few milliseconds at most.
    """

    settings: Settings
    limits: Limits
    quick_limits: Limits
    intake: Intake
    shelf: Shelf
    compute: ThreadPoolExecutor
    batcher: Batcher
    storage: Storage
    worker: Worker

    def start(self) -> None:
        self.worker.start()

    def stop(self) -> None:
        """Finish what was taken. Blocks."""
        self.worker.stop()
        self.compute.shutdown()
        self.batcher.stop()
        self.storage.close()


def build_door(settings: Settings) -> Door:
    """Opens the default model; the database is opened by `start`, in the background. Raises BadBundle, NotFound."""
    limits = Limits(max_bytes=settings.max_bytes, max_pixels=settings.max_pixels, max_side=settings.max_side)
    shelf, storage = Shelf(settings), Storage(settings)
    compute = ThreadPoolExecutor(settings.workers, thread_name_prefix="compute")
    worker = Worker(storage=storage, shelf=shelf, compute=compute, limits=limits, batch=settings.workers)
    intake = Intake(max_bytes=settings.max_bytes, max_requests=settings.max_waiting)
    batcher = Batcher(compute, runners=settings.workers)
    quick_limits = replace(limits, max_pixels=min(limits.max_pixels, SMALL_PIXELS))
    return Door(settings=settings, limits=limits, quick_limits=quick_limits, shelf=shelf, storage=storage, compute=compute,
                batcher=batcher, worker=worker, intake=intake)


def door_of(request: Request) -> Door:
    """The door that this request came through."""
    door: Door = request.app.state.door
    return door
