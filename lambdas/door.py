"""What all HTTP functions share: event -> route -> answer, with an id, a key where one is asked for, and a log line."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

from lambdas.answers import Answer, problem_answer, to_proxy
from lambdas.events import ForeignEvent, Request, new_request_id, read_request
from lambdas.metrics import write, write_line
from shutterless.errors import Overloaded, ShutterlessError
from shutterless.settings import Settings

Route = Callable[[Request], Answer]
OPEN_PATHS = ("/health",)


@dataclass(frozen=True, kw_only=True)
class Door:
    """A function's routes by method and path, such as ("GET", "/results/{request_id}/image").

    function: its name in logs and metrics. bare_path: where a POST goes that was invoked by hand. settings: the keys that
    open it, for function URLs (API Gateway checks its own before it invokes), origins of pages, and the stage's name.
    """

    function: str
    routes: Mapping[tuple[str, str], Route]
    bare_path: str
    settings: Settings


def serve(event: Any, context: Any, door: Door) -> dict[str, Any]:
    """The proxy response to an event; one JSON line says on standard output what became of it.

    Raises ForeignEvent for a batch or a notification, which an answer would acknowledge; nothing else.
    """
    started = perf_counter()
    request_id, request = new_request_id(), None
    try:
        request = read_request(event, context, bare_path=door.bare_path, request_id=request_id)
        answer = _answer(door, request)
        response = to_proxy(answer, has_body=request.method != "HEAD")
    except ForeignEvent:
        raise
    except Exception as error:  # ours too: the client gets a problem, the log the trace
        answer = problem_answer(error, request_id)
        response = to_proxy(answer, has_body=request is None or request.method != "HEAD")
        _log_failure(error, request_id)
    spent_ms = 1000 * (perf_counter() - started)
    response["headers"] |= {"x-request-id": request_id, "server-timing": _server_timing(answer, spent_ms)}
    response["headers"] |= _cors(door, request)
    _log(door, request, request_id, answer, spent_ms)
    return response


def _answer(door: Door, request: Request) -> Answer:
    if request.method == "OPTIONS":
        return _preflight(door, request)
    if not _may_enter(door, request):
        return problem_answer(403, request.request_id)
    found, method = _find(door, request.path), _method(request)
    if not found:
        return problem_answer(404, request.request_id)
    if method not in found:
        return problem_answer(405, request.request_id, headers={"allow": _allowed(found)})
    path, parameters = found[method]
    return door.routes[method, path](replace(request, parameters=parameters) if parameters else request)


def _method(request: Request) -> str:
    return "GET" if request.method == "HEAD" else request.method


def _find(door: Door, path: str) -> dict[str, tuple[str, dict[str, str]]]:
    """Method -> the template that fits this path, and its parameters. A template without parameters goes first."""
    found: dict[str, tuple[str, dict[str, str]]] = {}
    for method, template in sorted(door.routes, key=lambda route: "{" in route[1]):
        parameters = _match(template, path)
        if parameters is not None:
            found.setdefault(method, (template, parameters))
    return found


def _match(template: str, path: str) -> dict[str, str] | None:
    if "{" not in template:
        return {} if template == path else None
    wanted, got = template.split("/"), path.split("/")
    if len(wanted) != len(got):
        return None
    pairs = list(zip(wanted, got, strict=True))
    fits = all(part if name.startswith("{") else name == part for name, part in pairs)
    return {name[1:-1]: part for name, part in pairs if name.startswith("{")} if fits else None


def _allowed(methods: Mapping[str, Any]) -> str:
    return ", ".join(sorted({*methods, "OPTIONS", *(["HEAD"] if "GET" in methods else [])}))


def _may_enter(door: Door, request: Request) -> bool:
    """Who invokes by hand was let in by IAM."""
    if not door.settings.api_keys or request.path in OPEN_PATHS or request.is_bare:
        return True
    from hmac import compare_digest

    shown = request.headers.get("x-api-key", "").encode("utf-8", "replace")
    fits = [compare_digest(shown, key.encode()) for key in door.settings.api_keys]  # all: each try takes as long
    return any(fits)


def _preflight(door: Door, request: Request) -> Answer:
    """For function URLs; API Gateway answers its own. It needs no key, and tells no page that is not allowed anything."""
    methods = _find(door, request.path)
    if not methods:
        return problem_answer(404, request.request_id)
    headers = {"allow": _allowed(methods)}
    if "access-control-allow-origin" in _cors(door, request):
        headers |= {"access-control-allow-methods": ", ".join(sorted(methods)), "access-control-max-age": "600",
                    "access-control-allow-headers": "content-type, x-api-key"}
    return Answer(status=204, headers=headers)


def _cors(door: Door, request: Request | None) -> dict[str, str]:
    origins = door.settings.cors_origins
    if request is None or not origins:
        return {}
    origin = request.headers.get("origin", "")
    allowed = {"access-control-allow-origin": origin,
               "access-control-expose-headers": "X-Request-Id, Server-Timing, Retry-After"} if origin in origins else {}
    return allowed | {"vary": "origin"}


def _server_timing(answer: Answer, spent_ms: float) -> str:
    mine = answer.headers.get("server-timing")
    return f"{mine + ', ' if mine else ''}total;dur={spent_ms:.2f}"


def _log(door: Door, request: Request | None, request_id: str, answer: Answer, spent_ms: float) -> None:
    """Never a body, a header, a query or a path that is no route: they may hold a key or a person's name."""
    path, _ = _find(door, request.path).get(_method(request), (None, None)) if request else (None, None)
    route = f"{_method(request)} {path}" if request and path else None
    properties = {"Function": door.function, "Stage": door.settings.stage, "request_id": request_id, "route": route,
                  "aws_request_id": request.aws_request_id if request else None, "status": answer.status}
    counts, apart = {"Requests": 1, **answer.counts}, {}
    if answer.label is not None:
        properties["Label"], apart["Predictions"] = _dimension(answer.label), "Label"
    if answer.reason is not None:
        properties["Reason"], apart["Failures"], counts["Failures"] = answer.reason, "Reason", 1
    write(properties, counts, {"Latency": spent_ms, **answer.metrics}, apart=apart, shares=answer.shares)


def _dimension(value: str) -> str:
    """What CloudWatch takes as a dimension's value: printable ASCII, not empty, not too long."""
    return ascii(value)[1:-1][:250].strip() or "-"


def _log_failure(error: Exception, request_id: str) -> None:
    """What an operator has to know of an error that is ours. The client sees none of it."""
    if not isinstance(error, ShutterlessError):
        import traceback

        write_line({"level": "ERROR", "request_id": request_id, "error": repr(error)[:2000],
                    "trace": "".join(traceback.format_exception(error))})
    elif error.status >= 500 and not isinstance(error, Overloaded):
        write_line({"level": "ERROR", "request_id": request_id, "error": str(error)})
