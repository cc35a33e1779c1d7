"""Functions in their containers, and how containers reach what runs on this machine."""

from __future__ import annotations

import http.client
import json
import socket
import socketserver
import threading
import time
from contextlib import suppress
from typing import Any

Event = dict[str, Any]
PATH = "/2015-03-31/functions/function/invocations"
START_S, ANSWER_S = 30, 120


class Died(Exception):
    """The container ended before it answered."""


class FunctionError(Exception):
    """The handler raised: Lambda would call the invocation failed."""


class Function:
    """A container with one function under the runtime interface emulator, which takes one call at a time."""

    def __init__(self, client: Any, image: str, handler: str, environment: dict[str, str] | None = None, **options: Any) -> None:
        self._container = client.containers.run(image, [handler], detach=True, environment=environment or {},
                                                ports={"8080/tcp": ("127.0.0.1", None)}, **options)
        try:
            self._container.reload()
            self._port = int(self._container.ports["8080/tcp"][0]["HostPort"])
            self._await_emulator()
        except BaseException:
            self.remove()
            raise

    def invoke(self, event: Any) -> Any:
        """What the handler returns. Raises Died, or FunctionError when the handler raised."""
        try:
            answer = json.loads(self._request("POST", PATH, json.dumps(event)))
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise Died(self.log()[-2000:]) from error
        if isinstance(answer, dict) and "errorType" in answer:
            raise FunctionError(answer)
        return answer

    def ask(self, event: Any) -> tuple[int, Any]:
        """Status and body of an HTTP function's answer, the body read as JSON."""
        answer = self.invoke(event)
        return answer["statusCode"], json.loads(answer["body"] or "null")

    def kill(self) -> None:
        """kill -9."""
        with suppress(Exception):  # it may have ended already
            self._container.kill()

    def log(self) -> str:
        return str(self._container.logs().decode(errors="replace"))

    def run(self, *command: str) -> str:
        """A command in the container, as its user; its output."""
        code, output = self._container.exec_run(list(command))
        assert code == 0, output
        return str(output.decode())

    def remove(self) -> None:
        with suppress(Exception):  # it may be gone already
            self._container.remove(force=True)

    def _request(self, method: str, path: str, body: str | None = None) -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=ANSWER_S)
        try:
            connection.request(method, path, body)
            return connection.getresponse().read()
        finally:
            connection.close()

    def _await_emulator(self) -> None:
        """Docker's proxy takes connections before the emulator does, and then drops them."""
        deadline = time.monotonic() + START_S
        while True:
            try:
                self._request("GET", "/")
                return
            except (OSError, http.client.HTTPException):
                if time.monotonic() > deadline:
                    raise Died(self.log()) from None
                time.sleep(0.02)


class Forwarder:
    """A TCP port on `host` that leads to an address of this machine: (host, port), or the path of a Unix socket."""

    def __init__(self, host: str, target: tuple[str, int] | str) -> None:
        class Relay(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                with suppress(OSError), socket.socket(socket.AF_UNIX if isinstance(target, str) else socket.AF_INET) as there:
                    there.connect(target)
                    back = threading.Thread(target=_pump, args=(there, self.request), daemon=True)
                    back.start()
                    _pump(self.request, there)
                    back.join()

        class Server(socketserver.ThreadingTCPServer):
            allow_reuse_address = daemon_threads = True
            request_queue_size = 64

        self._server = Server((host, 0), Relay)
        self.port = int(self._server.server_address[1])
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while content := source.recv(65536):
            sink.sendall(content)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)
