"""The web service: a page, and one route that runs a program and streams what happens while it runs."""

from __future__ import annotations

import json
import secrets
from pathlib import Path
from typing import Any

import anyio
from sandbox import Bounds, Language, Tell, languages, play
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from creche import Container, CrecheError
from creche.units import format_seconds

__all__ = ["Service", "make_app"]

_PAGE = Path(__file__).parent / "page"
_LARGEST = 256 << 10  # bytes of a request
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:;"
    " form-action 'none'; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


class _Refused(Exception):
    """A request that makes no sense: a status and a sentence for whoever sent it."""

    def __init__(self, status: int, sentence: str) -> None:
        self.status = status
        super().__init__(sentence)


class _Run:
    """One run from its first moment on: it can be stopped while it waits, while it starts, and while it runs."""

    def __init__(self) -> None:
        self.waiting = anyio.CancelScope()
        self.stopped = False
        self._box: Container | None = None

    def stop(self) -> None:
        """End it, now or as soon as there is a container to end."""
        self.stopped = True
        self.waiting.cancel()
        if self._box is not None:
            self._box.kill()

    def began(self, box: Container) -> None:
        """It has a container."""
        self._box = box
        if self.stopped:
            box.kill()


class Service:
    """So many runs at a time, so many more that may wait for their turn; the next is sent away."""

    def __init__(self, bounds: Bounds, at_once: int, waiting: int) -> None:
        self.bounds = bounds
        self.languages = languages()
        self._turn = anyio.CapacityLimiter(at_once)
        self._waiting = waiting
        self._runs: dict[str, _Run] = {}
        self._closed = False

    def close(self) -> None:
        """Take no more, and end what there is; each stream still tells how its run ended."""
        self._closed = True
        for run in self._runs.values():
            run.stop()

    async def about(self, request: Request) -> Response:
        """What the page must know: the languages there are, and the bounds, in words."""
        limits = self.bounds.limits
        words = [
            f"{format_seconds(self.bounds.timeout)} of time",
            f"{_size(self.bounds.output)} of output",
        ]
        if limits.memory:
            words.insert(0, f"{_size(limits.memory)} of memory")
        if limits.cpus:
            words.insert(1, f"{limits.cpus:g} processor{'' if limits.cpus == 1 else 's'}")
        if limits.pids:
            words.insert(2, f"{limits.pids} processes")
        known = [{"id": key, "name": it.name, "example": it.example} for key, it in self.languages.items()]
        return JSONResponse({"languages": known, "bounds": words}, headers=_HEADERS)

    async def run(self, request: Request) -> Any:
        """POST a program; the answer is a stream of server-sent events, and lasts as long as the run."""
        try:
            language, program, stdin = await self._asked(request)
        except _Refused as refused:
            return JSONResponse({"error": str(refused)}, refused.status)
        if self._closed:
            return JSONResponse({"error": "The service is closing."}, 503)
        if self._turn.statistics().tasks_waiting >= self._waiting:
            return JSONResponse(
                {"error": "Too many programs are waiting for their turn: try again soon."}, 503
            )
        return _Stream(self, language, program, stdin)

    async def _asked(self, request: Request) -> tuple[Language, str, bytes]:
        # Another site's page could send a form to us unasked, but not JSON: browsers ask us first, and we don't answer.
        if request.headers.get("content-type", "").partition(";")[0] != "application/json":
            raise _Refused(415, "Send JSON.")
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > _LARGEST:
                raise _Refused(413, f"The program is too large: at most {_LARGEST >> 10} KiB are taken.")
        try:
            given = json.loads(body)
            program, stdin, key = given["program"], given.get("stdin", ""), given["language"]
            if not (isinstance(program, str) and isinstance(stdin, str) and isinstance(key, str)):
                raise TypeError
            program.encode(), stdin.encode()
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise _Refused(400, 'Send {"language": "…", "program": "…", "stdin": "…"}.') from None
        if key not in self.languages:
            raise _Refused(400, f"There is no such language here: {', '.join(self.languages)} are known.")
        if not program.strip():
            raise _Refused(400, "There is no program: type one.")
        return self.languages[key], program, stdin.encode()

    async def stop(self, request: Request) -> Response:
        """DELETE a run: it ends, and its stream tells how."""
        run = self._runs.get(request.path_params["ident"])
        if run is not None:
            run.stop()
        return Response(status_code=204)

    async def play(self, language: Language, program: str, stdin: bytes, tell: Tell) -> None:
        """Wait for a turn, run, and tell of it."""
        ident = secrets.token_urlsafe(12)
        run = self._runs[ident] = _Run()
        if self._closed:
            run.stop()
        try:
            await tell("waiting", id=ident, others=self._turn.statistics().tasks_waiting)
            with run.waiting:
                await self._turn.acquire()
            if run.waiting.cancelled_caught:
                sentence = (
                    "The service is closing." if self._closed else "It was stopped before its turn came."
                )
                await tell("error", sentence=sentence)
                return
            try:
                await tell("started", id=ident)
                await play(language, program, stdin, self.bounds, tell, run.began)
            except CrecheError as error:
                await tell("error", sentence=str(error))
            finally:
                self._turn.release()
        finally:
            del self._runs[ident]


class _Stream:
    """An answer that lasts as long as its run: when the browser goes away the run is cancelled, and so the container dies."""

    def __init__(self, service: Service, language: Language, program: str, stdin: bytes) -> None:
        self._service = service
        self._given = language, program, stdin

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {
            "Content-Type": "text/event-stream",
            "Cache-Control": "no-store",
            "X-Accel-Buffering": "no",
        }
        raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": 200, "headers": raw})
        lock = anyio.Lock()

        async def tell(event: str, **fields: Any) -> None:
            data = f"event: {event}\ndata: {json.dumps(fields)}\n\n".encode()
            async with lock:  # both of its streams tell, but one at a time
                await send({"type": "http.response.body", "body": data, "more_body": True})

        async with anyio.create_task_group() as tasks:

            async def until_gone() -> None:
                while (await receive())["type"] != "http.disconnect":
                    pass
                tasks.cancel_scope.cancel()

            tasks.start_soon(until_gone)
            await self._service.play(*self._given, tell)
            await send({"type": "http.response.body", "body": b"", "more_body": False})
            tasks.cancel_scope.cancel()


def _size(count: float) -> str:
    return f"{count / 2**20:g} MiB" if count >= 2**20 else f"{count / 2**10:g} KiB"


def _file(name: str) -> Any:
    async def endpoint(request: Request) -> Response:
        return FileResponse(_PAGE / name, headers=_HEADERS)

    return endpoint


def make_app(service: Service, hosts: list[str]) -> Starlette:
    """The service as an ASGI application, for any server that knows how to run one."""
    return Starlette(
        routes=[
            Route("/", _file("index.html")),
            Route("/page.js", _file("page.js")),
            Route("/page.css", _file("page.css")),
            Route("/about", service.about),
            Route("/runs", service.run, methods=["POST"]),
            Route("/runs/{ident}", service.stop, methods=["DELETE"]),
        ],
        # A foreign name that was made to point here (DNS rebinding) is not ours to answer.
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=hosts)],
    )
