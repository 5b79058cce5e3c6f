"""examples/code_interpreter: a Python that keeps its variables, its hostile cells, a hundred sessions, and the page."""

from __future__ import annotations

import contextlib
import http.client
import importlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import anyio
import pytest
from examples.browser import browser

from creche import Limits
from needs import missing, needs

pytestmark = [needs("native", "userns"), pytest.mark.slow]

EXAMPLE = Path(__file__).parents[2] / "examples" / "code_interpreter"
PATIENCE = 60.0
CGROUPS = missing("limits") is None
LIMITS = Limits(memory="128M", pids=32) if CGROUPS else Limits()
NUMBER = """
import os, stat
for n in range(3, 256):
    try:
        if stat.S_ISSOCK(os.fstat(n).st_mode): break
    except OSError: pass
"""
PNG = """
import struct, zlib
def part(kind, data): return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
rows = b"".join(b"\\0" + b"".join(bytes((x * 4, y * 4, 128)) for x in range(64)) for y in range(64))
size = struct.pack(">IIBBBBB", 64, 64, 8, 2, 0, 0, 0)
with open("picture.png", "wb") as file:
    written = file.write(b"\\x89PNG\\r\\n\\x1a\\n" + part(b"IHDR", size) + part(b"IDAT", zlib.compress(rows)) + part(b"IEND", b""))
"""


@pytest.fixture(scope="module")
def sandbox() -> Iterator[ModuleType]:
    """The example's module; `sandbox` is a name of another example's too, so it does not stay."""
    sys.path.insert(0, str(EXAMPLE))
    try:
        yield importlib.import_module("sandbox")
    finally:
        sys.path.remove(str(EXAMPLE))
        for name in ("sandbox", "frames"):
            sys.modules.pop(name, None)


# ---- the notebook-like API ----


async def test_variables_stay_and_each_kind_of_answer_comes(sandbox: ModuleType) -> None:
    async with sandbox.Sandbox(limits=LIMITS) as s:
        assert (await s.python("x = 6")).ok
        cell = await s.python("import sys\nprint('out'); print('err', file=sys.stderr)\nx * 7")
        assert (cell.result, cell.stdout, cell.stderr, cell.ok) == ("42", "out\n", "err\n", True)
        cell = await s.python("def f(): 1 / 0\nf()")
        assert (
            cell.error == "ZeroDivisionError"
            and 'File "<cell>", line 2' in cell.traceback
            and "kernel" not in cell.traceback
        )
        assert (await s.python("x +")).error == "SyntaxError" and (await s.python("x")).result == "6"
        assert (await s.python("raise SystemExit(3)")).error == "SystemExit" and (
            await s.python("x")
        ).result == "6"
        cell = await s.python(PNG)
        assert [(it.name, it.kind) for it in cell.pictures] == [("picture.png", "image/png")]
        assert cell.pictures[0].data == await s.box.get("/work/picture.png")
        assert (await s.python("1")).pictures == [], "an old picture is not shown again"


async def test_output_comes_while_the_cell_runs_and_it_can_be_interrupted(sandbox: ModuleType) -> None:
    heard: list[str] = []

    async def tell(event: str, **fields: Any) -> None:
        heard.append(fields.get("text", event))
        s.interrupt()  # the cell never ends by itself, so this is heard while it runs

    async with sandbox.Sandbox(limits=LIMITS) as s:
        await s.python("x = 1")
        cell = await s.python("print('begun', flush=True)\nwhile True: pass", tell=tell)
        assert heard[0].startswith("begun") and cell.error == "KeyboardInterrupt" and not cell.variables_lost
        s.interrupt()  # between two cells it is nothing
        assert (await s.python("x")).result == "1"


LOSING = {
    "it ends itself": ("import os; os._exit(3)", "Died", "status 3"),
    "it does not listen": ("import signal; signal.signal(2, signal.SIG_IGN)\nwhile True: pass", "Timeout", "interrupted"),
    "it says more than it may": (NUMBER + "__import__('os').write(n, b'\\xff' * 8)\nwhile True: pass", "Died", "at most"),
    "it says nonsense": (NUMBER + "__import__('os').write(n, b'\\0\\0\\0\\5xxxxx')\nwhile True: pass", "Died", "no JSON"),
    "its brackets are deep": (
        NUMBER + "d = b'[' * 200000\n__import__('os').write(n, len(d).to_bytes(4, 'big') + d)\nwhile True: pass",
        "Died",
        "no JSON",
    ),
    "it talks without end": (
        NUMBER + "import json, socket\nd = json.dumps({'kind': 'result', 'text': 'x' * 1000000}).encode()\n"
        "s = socket.socket(fileno=n)\nwhile True: s.sendall(len(d).to_bytes(4, 'big') + d)",
        "Died",
        "more than any cell",
    ),
}  # fmt: skip


@pytest.mark.parametrize("way", LOSING)
async def test_a_process_that_is_lost_is_told_and_the_next_call_gets_another(
    sandbox: ModuleType, way: str
) -> None:
    code, name, word = LOSING[way]
    async with sandbox.Sandbox(limits=LIMITS) as s:
        await s.python("x = 1")
        await s.box.put("/work/kept", b"here")
        cell = await s.python(code, timeout=0.5 if name == "Timeout" else 30)
        assert cell.error == name and cell.variables_lost and word in cell.traceback, cell
        assert (await s.python("x")).error == "NameError"
        assert (await s.python("open('kept').read()")).result == "'here'", "files stay"


async def test_time_and_output_are_bounded_and_variables_stay_where_they_can(sandbox: ModuleType) -> None:
    async with sandbox.Sandbox(limits=LIMITS, output=10_000) as s:
        await s.python("x = 1")
        cell = await s.python("while True: pass", timeout=0.3)
        assert cell.error == "Timeout" and not cell.variables_lost
        cell = await s.python("while True: print('again')")
        assert cell.error == "OutputLimit" and len(cell.stdout) <= 10_000
        assert (await s.python("x")).result == "1"


@needs("limits")
async def test_memory_is_bounded(sandbox: ModuleType) -> None:
    async with sandbox.Sandbox(limits=Limits(memory="64M", pids=32)) as s:
        cell = await s.python("held = []\nwhile True: held.append(bytearray(b'x' * (1 << 20)))")
        assert cell.error == "Died" and "out of memory" in cell.traceback
        assert (await s.python("1 + 1")).result == "2"


async def test_one_cell_at_a_time_and_a_cancelled_one_leaves_nothing_to_the_next(sandbox: ModuleType) -> None:
    async with sandbox.Sandbox(limits=LIMITS) as s, anyio.create_task_group() as tasks:
        begun = anyio.Event()

        async def tell(event: str, **fields: Any) -> None:
            begun.set()

        tasks.start_soon(lambda: s.python("print('x', flush=True)\nwhile True: pass", tell=tell))
        await begun.wait()
        tasks.cancel_scope.cancel()
    async with sandbox.Sandbox(limits=LIMITS) as s:
        with anyio.move_on_after(0.3):
            await s.python("while True: print('left')", timeout=100)
        cell = await s.python("print('mine')")
        assert cell.stdout == "mine\n"


# ---- the service ----


class Service:
    """The example, running."""

    def __init__(self, *words: object) -> None:
        limits = ["--memory", "128M"] if CGROUPS else ["--no-limits"]
        command = [sys.executable, str(EXAMPLE), "--port", "0", *limits, *map(str, words)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self.process.stdout is not None and self.process.stderr is not None
        line = self.process.stdout.readline()
        assert line.startswith("code_interpreter: http://"), self.process.stderr.read()
        self.address = line.split()[1]
        self.port = int(self.address.rstrip("/").rpartition(":")[2])

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.request(method, path, body, {"Content-Type": "application/json", **headers})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def session(self) -> str:
        status, answer = self.ask("POST", "/sessions")
        assert status == 201, answer
        return f"/sessions/{json.loads(answer)['id']}"

    def run(self, session: str, code: str) -> list[tuple[str, dict[str, Any]]]:
        """The events of a cell."""
        status, answer = self.ask("POST", f"{session}/run", json.dumps({"code": code}).encode())
        assert status == 200, answer
        parts = [part.split("\n") for part in answer.decode().split("\n\n") if part]
        return [
            (name.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for name, data in parts
        ]


@contextlib.contextmanager
def service(*words: object) -> Iterator[Service]:
    held = Service(*words)
    try:
        yield held
    finally:
        held.process.send_signal(signal.SIGTERM)
        complaints = held.process.communicate(timeout=PATIENCE)[1]
        assert (held.process.returncode, complaints) == (0, "")


@pytest.mark.parametrize("loop", ["asyncio", "trio", "uvloop"])
def test_sessions_are_apart_and_files_go_in_and_out(loop: str) -> None:
    with service("--loop", loop) as it:
        one, two = it.session(), it.session()
        assert it.run(one, "x = 1\nx")[0] == ("result", {"text": "1"})
        assert it.run(two, "x")[0][1]["name"] == "NameError"
        assert it.ask("PUT", f"{one}/files/data.txt", b"from outside")[0] == 204
        assert it.run(one, "open('data.txt').read()")[0][1]["text"] == "'from outside'"
        assert it.ask("GET", f"{one}/files/data.txt") == (200, b"from outside")
        assert json.loads(it.ask("GET", f"{two}/files")[1]) == {"files": []}
        it.run(one, "import os; os.symlink('/kernel/kernel.py', 'link'); os.mkfifo('pipe')")
        assert it.ask("GET", f"{one}/files/pipe")[0] == 409, "a FIFO holds nobody"
        for name in ("..", "%2e%2e", "a%2Fb", "x" * 300):
            assert it.ask("PUT", f"{one}/files/{name}", b"x")[0] in (400, 404, 405), name
        assert it.ask("DELETE", one)[0] == 204
        status, answer = it.ask("GET", f"{one}/files")
        assert status == 410 and b"has ended" in answer


def test_a_hundred_sessions_at_once_and_no_more(tmp_path: Path) -> None:
    with service("--sessions", 100) as it:
        with ThreadPoolExecutor(20) as threads:
            sessions = list(threads.map(lambda _: it.session(), range(100)))
            list(threads.map(lambda at: it.run(sessions[at], f"x = {at}"), range(100)))
            told = list(threads.map(lambda at: it.run(sessions[at], "x")[0], range(100)))
        assert told == [("result", {"text": str(at)}) for at in range(100)]
        status, answer = it.ask("POST", "/sessions")
        assert status == 503 and b"Too many" in answer
        it.ask("DELETE", sessions[0])
        it.ask("GET", sessions[0] + "/files")
        status = 503
        while status == 503:  # its container is ending
            status, _ = it.ask("POST", "/sessions")
        assert status == 201


def test_an_idle_session_is_ended_and_one_that_works_is_not() -> None:
    with service("--idle", "0.4") as it:
        one, two = it.session(), it.session()
        assert it.run(two, "import time; time.sleep(1.5); 'worked'")[0][1]["text"] == "'worked'"
        assert it.ask("GET", f"{one}/files")[0] == 410


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b'{"code": "1"}', {"Content-Type": "text/plain"}, 415),
        (b"[" * 100_000, {}, 400),
        (b'{"code": "\\ud800"}', {}, 400),
        (b'{"code": 1}', {}, 400),
        (b" " * (300 << 10), {}, 413),
        (b'{"code": "1"}', {"Host": "evil.example"}, 400),
    ],
)
def test_bad_requests_are_refused(
    shared: Service, session: str, body: bytes, headers: dict[str, str], status: int
) -> None:
    told, answer = shared.ask("POST", f"{session}/run", body, **headers)
    assert told == status and len(answer.split()) > 1


@pytest.fixture(scope="module")
def shared() -> Iterator[Service]:
    with service() as it:
        yield it


@pytest.fixture(scope="module")
def session(shared: Service) -> str:
    """One for all of these, older than the look at the world before each test."""
    return shared.session()


def test_no_place_for_limits_is_refused_unless_asked_otherwise(tmp_path: Path) -> None:
    environment = {**os.environ, "CRECHE_CGROUP": str(tmp_path)}  # no cgroup file system
    done = subprocess.run(
        [sys.executable, str(EXAMPLE), "--port", "0"],
        capture_output=True, text=True, timeout=PATIENCE, check=False, env=environment,
    )  # fmt: skip
    assert done.returncode == 125 and "--no-limits" in done.stderr and "Traceback" not in done.stderr


# ---- the page ----


STATE = "document.querySelector('#state').dataset.state"


@needs("chromium", "chromedriver")
def test_cells_pictures_files_and_errors_on_the_page(shared: Service, tmp_path: Path) -> None:
    with browser() as page:
        page.open(shared.address)
        page.until("!document.querySelector('#run').disabled", "the session is open")
        assert page.focus() == "code"
        page.type("#code", "import time\nprint('one', flush=True)\ntime.sleep(1000)")
        page.press("control", "enter")
        page.until(
            f"document.querySelector('.stdout')?.textContent === 'one\\n' && {STATE} === 'running'",
            "while it runs",
        )
        page.press("escape")
        page.until(f"{STATE} === 'bad'", "Escape interrupts it")
        assert "KeyboardInterrupt" in page.text(".trace")
        page.script("document.querySelector('#code').value = arguments[0]", PNG)
        page.click("#run")
        page.until("document.querySelector('#output img')?.naturalWidth === 64", "the picture is shown")
        page.until(
            "document.querySelector('#files a')?.textContent === 'picture.png'", "and can be downloaded"
        )
        page.script(
            "document.querySelector('#code').value = arguments[0]",
            "print('<script>document.title=\"owned\"</script><img src=x onerror=alert(1)>\\x1b[2J')",
        )
        page.click("#run")
        page.until("document.querySelectorAll('.stdout').length === 2", "it printed")
        assert page.script("return document.title") == "Python"
        assert page.script("return document.querySelectorAll('#output script, #output pre *').length") == 0
        assert "\x1b" not in page.text("#output") and "<script>" in page.text("#output")
        page.until(f"{STATE} === 'good'", "it is done")
        (tmp_path / "up.txt").write_text("uploaded")
        page.type("#upload", str(tmp_path / "up.txt"), clear=False)
        page.until(
            "[...document.querySelectorAll('#files a')].some((it) => it.textContent === 'up.txt')",
            "it is there",
        )
        if folder := os.environ.get("CRECHE_PICTURES"):
            page.size(1200, 760)
            page.picture(Path(folder) / "interpreter.png")
        page.size(360, 700)
        assert page.script(
            "return document.documentElement.scrollWidth <= document.documentElement.clientWidth"
        )
        if folder := os.environ.get("CRECHE_PICTURES"):
            page.picture(Path(folder) / "interpreter-phone.png")
        assert page.complaints() == []
        page.open("about:blank")


@needs("chromium", "chromedriver")
def test_a_service_that_is_gone_and_a_session_that_is_over_are_told() -> None:
    with browser() as page:
        with service("--idle", "1") as it:
            page.open(it.address)
            page.until("!document.querySelector('#run').disabled", "the session is open")
            page.type("#code", "1")
            page.until("performance.now() > 3000", "it was left alone for long enough")
            page.click("#run")
            page.until(
                "document.querySelector('#error').textContent.includes('has ended')", "the session is over"
            )
        page.click("#run")
        page.until(
            "document.querySelector('#error').textContent.includes('be reached')", "the service is gone"
        )
