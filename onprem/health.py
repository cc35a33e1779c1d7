"""`python -m onprem.health`: exit code 0 when the server of this container is ready, else 1 and why."""

import http.client
import json
import os
import sys

from shutterless.settings import Settings

ANSWER_S = 4.0
HERE = "127.0.0.1"
ANY_ADDRESS = ("0.0.0.0", "::")  # noqa: S104  compared with, not listened on


def complaint(settings: Settings) -> str | None:
    """What is wrong with the server that these settings describe; None when it is ready."""
    host = HERE if settings.host in ANY_ADDRESS else settings.host
    connection = http.client.HTTPConnection(host, settings.port, timeout=ANSWER_S)
    try:
        connection.request("GET", "/health")
        health = json.loads(connection.getresponse().read())
    except (OSError, http.client.HTTPException, ValueError):
        return f"The server does not answer on port {settings.port}."
    finally:
        connection.close()
    return None if health.get("ready") else f"The server is not ready: {health.get('checks')}."


if __name__ == "__main__":
    sys.exit(complaint(Settings.from_environment(os.environ)))
