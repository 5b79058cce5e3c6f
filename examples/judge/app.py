"""The web service: takes submissions, judges them one after the other, and tells everybody who watches."""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
from judging import MOST_SOURCE, Verdict, available, judge
from problems import Problem
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from creche import CrecheError, Exit
from creche.units import format_seconds, format_size

__all__ = ["Service", "make_app"]

_PAGE = Path(__file__).parent / "page"
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:;"
    " form-action 'none'; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
_KEPT = 200  # submissions that are remembered
_BEAT = 15.0  # seconds after which a silent stream says that it lives


class _Refused(Exception):
    """A request that makes no sense: a status and a sentence for whoever sent it."""

    def __init__(self, status: int, sentence: str) -> None:
        self.status = status
        super().__init__(sentence)


@dataclass
class _Submission:
    """One submission: what all may see, and for its sender what the compiler said."""

    number: int
    problem: str
    language: str
    source: str
    version: int = 0
    state: str = "waiting"
    verdict: Verdict | None = None
    tests: list[str] = field(default_factory=list)
    seconds: float = 0.0
    memory: int = 0
    said: str = ""
    key: str = field(default_factory=lambda: secrets.token_urlsafe(16))

    def shown(self) -> dict[str, Any]:
        """What everybody may see."""
        return {
            "number": self.number,
            "problem": self.problem,
            "language": self.language,
            "state": self.state,
            "verdict": self.verdict and self.verdict.name,
            "words": self.verdict and self.verdict.value,
            "tests": self.tests,
            "seconds": self.seconds,
            "memory": self.memory,
        }


class Service:
    """Submissions in the order of their coming, so many judged at a time; the news go to whoever watches."""

    def __init__(self, problems: dict[str, Problem], at_once: int, waiting: int, cgroups: bool) -> None:
        self._problems = problems
        self._languages = available()
        self._cgroups = cgroups
        self._at_once = at_once
        self._send, self._receive = anyio.create_memory_object_stream[_Submission](waiting)
        self._known: dict[int, _Submission] = {}
        self._version = 0
        self._news = anyio.Event()
        self._closed = False

    @asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        """Judge while the block lasts."""
        async with anyio.create_task_group() as tasks:
            for _ in range(self._at_once):
                tasks.start_soon(self._work)
            yield
            tasks.cancel_scope.cancel()
        self._send.close()
        self._receive.close()

    def close(self) -> None:
        """End the streams of those who watch."""
        self._closed = True
        self._tell()

    def _tell(self, about: _Submission | None = None) -> None:
        if about is not None:
            self._version += 1
            about.version = self._version
        news, self._news = self._news, anyio.Event()
        news.set()

    async def _work(self) -> None:
        async for submission in self._receive:
            problem, language = self._problems[submission.problem], self._languages[submission.language]

            async def tell(number: int, verdict: Verdict, exit: Exit, it: _Submission = submission) -> None:
                it.tests.append(verdict.name)
                it.seconds = max(it.seconds, exit.usage.cpu)
                it.memory = max(it.memory, exit.usage.memory_peak or 0)
                self._tell(it)

            submission.state = "judging"
            self._tell(submission)
            try:
                found = await judge(language, submission.source, problem, tell, cgroups=self._cgroups)
                submission.verdict, submission.said, submission.state = found.verdict, found.said, "done"
            except (CrecheError, OSError) as error:  # not the submission's fault, and so no verdict on it
                submission.said, submission.state = str(error), "failed"
            self._tell(submission)

    # ---- requests ----

    async def about(self, request: Request) -> Response:
        """The problems and the languages."""
        return JSONResponse(
            {
                "problems": [
                    {
                        "id": key,
                        "title": it.title,
                        "statement": it.statement.strip(),
                        "bounds": f"{format_seconds(it.seconds)} of processor, {format_size(it.memory)} of memory,"
                        f" {format_size(it.output)} of output; {len(it.tests)} tests",
                        "example": it.tests[0].input.decode(),
                        "answer": it.tests[0].expected.decode(),
                    }
                    for key, it in self._problems.items()
                ],
                "languages": [
                    {"id": key, "name": it.name, "example": it.example} for key, it in self._languages.items()
                ],
            },
            headers=_HEADERS,
        )

    async def submit(self, request: Request) -> Response:
        """POST a submission; the answer has its number, and the key by which its sender reads more."""
        try:
            problem, language, source = await self._asked(request)
        except _Refused as refused:
            return JSONResponse({"error": str(refused)}, refused.status)
        submission = _Submission(max(self._known, default=0) + 1, problem, language, source)
        try:
            self._send.send_nowait(submission)
        except anyio.WouldBlock:
            return JSONResponse({"error": "Too many submissions wait for their turn: try again soon."}, 503)
        self._known[submission.number] = submission
        done = [number for number, it in self._known.items() if it.state in ("done", "failed")]
        for number in done[: max(0, len(self._known) - _KEPT)]:
            del self._known[number]
        self._tell(submission)
        return JSONResponse({"number": submission.number, "key": submission.key}, 202)

    async def _asked(self, request: Request) -> tuple[str, str, str]:
        # Another site's page could send a form to us unasked, but not JSON: browsers ask us first, and we don't answer.
        if request.headers.get("content-type", "").partition(";")[0] != "application/json":
            raise _Refused(415, "Send JSON.")
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > 4 * MOST_SOURCE:
                raise _Refused(413, f"The program is too large: at most {MOST_SOURCE >> 10} KiB are taken.")
        try:
            given = json.loads(body)
            problem, language, source = given["problem"], given["language"], given["source"]
            if not (isinstance(problem, str) and isinstance(language, str)):
                raise TypeError
            size = len(source.encode())
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise _Refused(400, 'Send {"problem": "…", "language": "…", "source": "…"}.') from None
        if problem not in self._problems or language not in self._languages:
            raise _Refused(400, "There is no such problem or language here.")
        if not source.strip():
            raise _Refused(400, "There is no program: type one.")
        if size > MOST_SOURCE:
            raise _Refused(413, f"The program is too large: at most {MOST_SOURCE >> 10} KiB are taken.")
        return problem, language, source

    async def detail(self, request: Request) -> Response:
        """What was said to a submission: only for who has its key."""
        it = self._known.get(request.path_params["number"])
        if it is None or not secrets.compare_digest(it.key, request.query_params.get("key", "")):
            return JSONResponse({"error": "There is no such submission, or the key is not its."}, 404)
        return JSONResponse({**it.shown(), "said": it.said}, headers=_HEADERS)

    async def watch(self, request: Request) -> Response:
        """Server-sent events: each submission that is known, and again each time it changes."""
        return StreamingResponse(self._events(), media_type="text/event-stream", headers=_HEADERS)

    async def _events(self) -> AsyncIterator[str]:
        seen = 0
        while not self._closed:
            news = self._news
            # Only the latest state of each is sent: a slow reader misses steps, and nothing piles up for it here.
            fresh = [it for it in self._known.values() if it.version > seen]
            for it in sorted(fresh, key=lambda it: it.version):
                seen = max(seen, it.version)
                yield f"data: {json.dumps(it.shown())}\n\n"
            with anyio.move_on_after(_BEAT) as quiet:
                await news.wait()
            if quiet.cancelled_caught:
                yield ": here\n\n"


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
            Route("/events", service.watch),
            Route("/submissions", service.submit, methods=["POST"]),
            Route("/submissions/{number:int}", service.detail),
        ],
        # A foreign name that was made to point here (DNS rebinding) is not ours to answer.
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=hosts)],
    )
