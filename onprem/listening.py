"""Where the server can be reached, and the moment from which it can."""

from __future__ import annotations

import ipaddress
import resource
import socket
from contextlib import suppress

import uvicorn

from shutterless.errors import BadSettings

OTHER_FILES = 256  # of databases, pictures and forms


class AnnouncingServer(uvicorn.Server):
    """Says where it listens as soon as it answers there: scripts and people wait for that line."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listener in sockets or []:
            host, port = listener.getsockname()[:2]
            host = f"[{host}]" if ":" in host else host
            print(f"Listening on http://{host}:{port}", flush=True)  # noqa: T201


def affordable(connections: int) -> int:
    """As many of these connections as the system lets this process have beside its other files; the soft limit is raised to the
    hard one, as far as needed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + OTHER_FILES
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):  # macOS has a lower limit that it does not tell
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
    return connections if soft == resource.RLIM_INFINITY else max(min(connections, soft - OTHER_FILES), 1)


def listen(host: str, port: int, *, locked: bool) -> socket.socket:
    """A socket that takes connections from now on; they wait until the server has started. Port 0: any free one.

    locked: whether a key is needed to get in. Raises BadSettings for an address that cannot be had, and for one that
    others can reach when the door is not locked.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except OSError:
        raise BadSettings(f"SHUTTERLESS_HOST: expected a host name or address of this machine, got {host!r}. "
                          "Use 127.0.0.1.") from None
    if not locked and not ipaddress.ip_address(address[0]).is_loopback:
        raise BadSettings(f"SHUTTERLESS_HOST is {host}, which other machines can reach, and no key is set. "
                          "Set SHUTTERLESS_API_KEYS or SHUTTERLESS_API_KEYS_FILE, or SHUTTERLESS_HOST=127.0.0.1.")
    try:
        return socket.create_server(address[:2], family=family, backlog=2048)
    except OSError:
        raise BadSettings(f"Port {port} of {host} cannot be had: another program listens there, or the system forbids "
                          "it. Stop that program, or choose another SHUTTERLESS_PORT.") from None
