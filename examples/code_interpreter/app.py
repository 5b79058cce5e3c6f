"""The web service: sessions, each a sandbox that lives until its page is closed or nobody asks it anything for a while."""

from __future__ import annotations

import json
import logging
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
from sandbox import Sandbox
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from creche import CrecheError, FileError, Limits

__all__ = ["Service", "make_app"]

_log = logging.getLogger("code_interpreter")

_PAGE = Path(__file__).parent / "page"
_CODE = 256 << 10  # bytes of a request that runs code
_FILE = 16 << 20  # bytes of a file that comes or goes
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:;"
    " form-action 'none'; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


class _Refused(Exception):
    """A request that can't be answered: a status and a sentence for whoever sent it."""

    def __init__(self, status: int, sentence: str) -> None:
        self.status = status
        super().__init__(sentence)


class _Session:
    """A sandbox, who uses it now, and since when nobody has."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        self.users = 0
        self.since = time.monotonic()
        self.over = anyio.Event()

    def __enter__(self) -> Sandbox:
        self.users += 1
        return self.sandbox

    def __exit__(self, *_: object) -> None:
        self.users -= 1
        self.since = time.monotonic()


class Service:
    """So many sessions at a time; each holds a container for as long as it is used."""

    def __init__(self, limits: Limits, timeout: float, idle: float, most: int) -> None:
        self._limits, self._timeout, self._idle, self._most = limits, timeout, idle, most
        self._sessions: dict[str, _Session] = {}
        self._open = 0  # sessions, those that start or end included
        self._tasks: anyio.abc.TaskGroup

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Sessions live while the block lasts."""
        async with anyio.create_task_group() as self._tasks:
            self._tasks.start_soon(self._sweep)
            yield
            self._tasks.cancel_scope.cancel()

    def close(self) -> None:
        """End all sessions, and with them the streams of what runs in them."""
        for session in self._sessions.values():
            session.over.set()

    async def _sweep(self) -> None:
        while True:
            now = time.monotonic()
            for session in self._sessions.values():
                if not session.users and now - session.since > self._idle:
                    session.over.set()
            await anyio.sleep(min(self._idle / 4, 5.0))

    async def _live(self, *, task_status: anyio.abc.TaskStatus[str]) -> None:
        """One session, from its start to its end."""
        ident = secrets.token_urlsafe(16)
        if self._open >= self._most:  # asked here, where nobody else comes between the question and the count
            raise _Refused(503, "Too many sessions are open: try again later.")
        self._open += 1
        try:
            async with Sandbox(limits=self._limits) as sandbox:
                session = self._sessions[ident] = _Session(sandbox)
                task_status.started(ident)
                await session.over.wait()
        except (CrecheError, OSError) as error:
            if ident not in self._sessions:  # it never began, and whoever asked for it is told
                raise
            _log.error("a session did not end as it should: %s", error)  # no reason to end the others
        finally:
            self._open -= 1
            self._sessions.pop(ident, None)

    def _find(self, request: Request) -> _Session:
        session = self._sessions.get(request.path_params["ident"])
        if session is None or session.over.is_set():
            raise _Refused(410, "This session has ended. Reload the page for a new one.")
        return session

    # ---- requests ----

    async def start(self, request: Request) -> Response:
        """POST: a session, by its key. Whoever has the key has the session."""
        _only_ours(request)
        try:
            ident = await self._tasks.start(self._live)
        except (CrecheError, OSError) as error:
            raise _Refused(500, str(error)) from None
        return JSONResponse({"id": ident, "timeout": self._timeout}, 201, _HEADERS)

    async def end(self, request: Request) -> Response:
        """End a session."""
        self._find(request).over.set()
        return Response(status_code=204)

    async def run(self, request: Request) -> Any:
        """POST code; the answer is a stream of server-sent events, and lasts as long as the cell."""
        _only_ours(request)
        session = self._find(request)
        try:
            code = json.loads(await _body(request, _CODE))["code"]
            code.encode()
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise _Refused(400, 'Send {"code": "…"}.') from None
        return _Stream(session, code, self._timeout)

    async def interrupt(self, request: Request) -> Response:
        """POST: KeyboardInterrupt in the cell that runs."""
        _only_ours(request)
        self._find(request).sandbox.interrupt()
        return Response(status_code=204)

    async def files(self, request: Request) -> Response:
        """The names in the session's directory."""
        with self._find(request) as sandbox:
            return JSONResponse(
                {"files": sorted(await sandbox.box.listdir("/work", max_files=1000))}, headers=_HEADERS
            )

    async def put(self, request: Request) -> Response:
        """PUT a file into the session's directory."""
        with self._find(request) as sandbox:
            await sandbox.box.put(_path(request), bytes(await _body(request, _FILE)))
        return Response(status_code=204)

    async def get(self, request: Request) -> Response:
        """A file of the session's, as something to be saved and never to be shown: it is a guest's."""
        with self._find(request) as sandbox:
            data = await sandbox.box.get(_path(request), max_bytes=_FILE)
        headers = {**_HEADERS, "Content-Disposition": "attachment"}
        return Response(data, media_type="application/octet-stream", headers=headers)


class _Stream:
    """An answer that lasts as long as its cell: when the browser goes away the cell is cancelled."""

    def __init__(self, session: _Session, code: str, timeout: float) -> None:
        self._session, self._code, self._timeout = session, code, timeout

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {**_HEADERS, "Content-Type": "text/event-stream"}
        encoded = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": 200, "headers": encoded})

        async def tell(event: str, **fields: Any) -> None:
            text = f"event: {event}\ndata: {json.dumps(fields)}\n\n"
            await send({"type": "http.response.body", "body": text.encode(), "more_body": True})

        async with anyio.create_task_group() as tasks:

            async def until_gone() -> None:
                while (await receive())["type"] != "http.disconnect":
                    pass
                tasks.cancel_scope.cancel()

            async def until_over() -> None:
                await self._session.over.wait()
                tasks.cancel_scope.cancel()

            tasks.start_soon(until_gone)
            tasks.start_soon(until_over)
            with self._session as sandbox:
                began = time.monotonic()
                try:
                    cell = await sandbox.python(self._code, timeout=self._timeout, tell=tell)
                    lost = cell.variables_lost
                    await tell("done", ok=cell.ok, seconds=time.monotonic() - began, variables_lost=lost)
                except CrecheError as error:
                    await tell("error", name="Ended", traceback=f"{error}\n")
            await send({"type": "http.response.body", "body": b"", "more_body": False})
            tasks.cancel_scope.cancel()


def _only_ours(request: Request) -> None:
    # Another site's page could send a form to us unasked, but not JSON: browsers ask us first, and we don't answer.
    if request.headers.get("content-type", "").partition(";")[0] != "application/json":
        raise _Refused(415, "Send JSON.")


async def _body(request: Request, most: int) -> bytearray:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > most:
            raise _Refused(413, f"That is too large: at most {most >> 10} KiB are taken.")
    return body


def _path(request: Request) -> str:
    name = request.path_params["name"]
    if name in (".", "..") or "/" in name or len(name.encode()) > 255:
        raise _Refused(400, "A file's name has no slash, and at most 255 bytes.")
    return f"/work/{name}"


async def _refused(request: Request, error: Exception) -> Response:
    if isinstance(error, FileError):
        return JSONResponse({"error": str(error)}, 409, _HEADERS)
    return JSONResponse({"error": str(error)}, error.status if isinstance(error, _Refused) else 500, _HEADERS)


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
            Route("/sessions", service.start, methods=["POST"]),
            Route("/sessions/{ident}", service.end, methods=["DELETE"]),
            Route("/sessions/{ident}/run", service.run, methods=["POST"]),
            Route("/sessions/{ident}/interrupt", service.interrupt, methods=["POST"]),
            Route("/sessions/{ident}/files", service.files),
            Route("/sessions/{ident}/files/{name}", service.get),
            Route("/sessions/{ident}/files/{name}", service.put, methods=["PUT"]),
        ],
        exception_handlers={_Refused: _refused, CrecheError: _refused},
        # A foreign name that was made to point here (DNS rebinding) is not ours to answer.
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=hosts)],
    )
