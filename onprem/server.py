"""From settings to a running server, fast: nothing is imported before it is needed."""

from __future__ import annotations

import gc
from contextlib import suppress

from shutterless.settings import Settings

STOP_S = 30  # how long requests in hand may take after Ctrl+C or SIGTERM


def serve(settings: Settings) -> None:
    """Listen until a signal comes; then finish what was taken.

    Raises BadSettings, BadBundle or NotFound, with a sentence for the operator, before anything is answered.
    """
    gc.disable()  # imports make much and free little: looking for garbage costs 0.15 of 1 s
    from onprem.listening import AnnouncingServer, affordable, listen

    listener = listen(settings.host, settings.port, locked=bool(settings.api_keys or settings.api_keys_file))
    import uvicorn

    from onprem.app import create_app
    from onprem.heads import bounded_to

    app = create_app(settings)
    server = AnnouncingServer(uvicorn.Config(
        app, http=bounded_to(affordable(settings.max_connections), app.state.express), ws="none", lifespan="on", access_log=False,
        server_header=False, log_level="warning", timeout_graceful_shutdown=STOP_S))
    gc.freeze()  # what is there now stays: later collections need not look at it
    gc.enable()
    with suppress(KeyboardInterrupt):  # uvicorn raises it again after its graceful stop
        server.run(sockets=[listener])
