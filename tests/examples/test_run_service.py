"""examples/run_service: its page in a real browser, and the service by itself, hostile requests and lost readers included."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import struct
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from examples.browser import Browser, browser

from needs import missing, needs

pytestmark = [needs("native", "userns"), pytest.mark.slow]

SERVICE = [sys.executable, str(Path(__file__).parents[2] / "examples" / "run_service")]
PATIENCE = 60.0


class Service:
    """The example, running."""

    def __init__(self, *words: object) -> None:
        limits = [] if missing("limits") is None else ["--no-limits"]
        command = [*SERVICE, "--port", "0", *limits, *map(str, words)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self.process.stdout is not None and self.process.stderr is not None
        line = self.process.stdout.readline()
        assert line.startswith("run_service: http://"), self.process.stderr.read()
        self.address = line.split()[1]
        self.port = int(self.address.rstrip("/").rpartition(":")[2])

    def end(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, str]:
        """Its exit status, and what it had to complain about."""
        self.process.send_signal(number)
        complaints = self.process.communicate(timeout=PATIENCE)[1]
        return self.process.returncode, complaints

    @contextlib.contextmanager
    def asked(
        self, method: str, path: str, body: bytes | None = None, **headers: str
    ) -> Iterator[http.client.HTTPResponse]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.request(
                method, path, body, {name.replace("_", "-"): value for name, value in headers.items()}
            )
            yield connection.getresponse()
        finally:
            connection.close()

    @contextlib.contextmanager
    def run(
        self, program: str, language: str = "python", stdin: str = ""
    ) -> Iterator[Iterator[tuple[str, Any]]]:
        """The events of one run, as they come; leaving the block early is what a closed page does."""
        body = json.dumps({"language": language, "program": program, "stdin": stdin}).encode()
        with self.asked("POST", "/runs", body, content_type="application/json") as answer:
            assert answer.status == 200, answer.read()
            yield events(answer)


def events(answer: http.client.HTTPResponse) -> Iterator[tuple[str, Any]]:
    while line := answer.readline().decode():
        name = line.removeprefix("event: ").strip()
        yield name, json.loads(answer.readline().decode().removeprefix("data: "))
        answer.readline()


@contextlib.contextmanager
def service(*words: object) -> Iterator[Service]:
    held = Service(*words)
    try:
        yield held
    finally:
        if held.process.returncode is None:
            assert held.end() == (0, "")


def running(token: str) -> bool:
    """Whether any process of this machine, those in containers too, has `token` in its command line."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if token.encode() in (folder / "cmdline").read_bytes():
                return True
    return False


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


@pytest.fixture
def token() -> str:
    """Something that stands in the command lines of this test's programs alone."""
    return f"creche-{uuid.uuid4().hex}"


# ---- the service by itself ----


@pytest.mark.parametrize("loop", ["asyncio", "trio", "uvloop"])
def test_output_comes_while_the_program_runs(loop: str) -> None:
    """The program never ends by itself, so what is read of it is read while it runs: no clock decides."""
    with service("--loop", loop, "--timeout", 100) as it:
        program = "import sys; sys.stdout.write('first\\n')\nwhile True: pass"
        with it.run(program) as stream:
            assert next(stream)[0] == "waiting"
            name, started = next(stream)
            assert name == "started"
            assert next(stream) == ("output", {"stream": "out", "text": "first\n"})
            with it.asked("DELETE", f"/runs/{started['id']}") as answer:
                assert answer.status == 204
            name, end = next(stream)
            assert (name, end["reason"], end["signal"]) == ("exit", "killed", 9)
            assert list(stream) == []
        with it.run(
            "import sys; print(input()[::-1], file=sys.stderr); sys.exit(3)", stdin="abc\n"
        ) as stream:
            last = list(stream)
        assert "".join(fields["text"] for name, fields in last if name == "output") == "cba\n"
        assert last[-1][1]["code"] == 3 and last[-1][1]["ok"] is False


@pytest.mark.parametrize("loop", ["asyncio", "trio", "uvloop"])
def test_who_goes_away_takes_the_program_along(loop: str, token: str) -> None:
    with service("--loop", loop, "--timeout", 100) as it:
        with it.run(f"exec sh -c 'trap \"\" TERM INT; while :; do sleep 1; done' {token}", "shell") as stream:
            assert [next(stream)[0] for _ in range(2)] == ["waiting", "started"]
            until(lambda: running(token), "it runs")
        until(lambda: not running(token), "it outlived its reader")


def test_bounds_hold_and_are_told() -> None:
    with service("--timeout", "5", "--max-output", "10K") as it:
        with it.run("import sys, time; sys.stdout.write('x\\n'); time.sleep(1000)") as stream:
            *before, (name, end) = stream
        assert ("output", {"stream": "out", "text": "x\n"}) in before
        assert (name, end["reason"]) == ("exit", "timeout") and "timeout is 5 s" in end["sentence"]
        with it.run("while True: print('x' * 100)") as stream:
            *before, (name, end) = stream
        assert end["reason"] == "output_limit"
        assert sum(len(fields["text"]) for name, fields in before if name == "output") <= 10 << 10


@needs("limits")
def test_memory_is_a_limit() -> None:
    with service("--memory", "48M") as it, it.run("held = bytearray(b'x' * (200 << 20))") as stream:
        *_, (name, end) = stream
    assert (name, end["reason"]) == ("exit", "oom") and "limits.memory" in end["sentence"]


def test_a_run_is_stopped_at_whatever_moment() -> None:
    """Right after its name is known: while it waits, while its container starts, while it runs; each time it ends."""
    with service("--jobs", 2, "--timeout", 100) as it:
        for moment in range(12):
            with it.run("while True: pass") as stream:
                _, waiting = next(stream)
                for _ in range(moment % 2):
                    next(stream)
                with it.asked("DELETE", f"/runs/{waiting['id']}") as answer:
                    assert answer.status == 204
                *_, (name, end) = stream
                assert (name, end.get("reason")) in {("exit", "killed"), ("error", None)}


def test_one_waits_for_its_turn_and_the_next_is_sent_away(token: str) -> None:
    endless = f"exec sh -c 'while :; do sleep 1; done' {token}"
    with service("--jobs", 1, "--waiting", 1, "--timeout", 100) as it, it.run(endless, "shell") as first:
        assert [next(first)[0] for _ in range(2)] == ["waiting", "started"]
        with it.run("print('my turn')") as second:
            assert next(second)[0] == "waiting"
            body = json.dumps({"language": "python", "program": "pass"}).encode()
            # The second one's "waiting" is told a moment before it waits.
            until(lambda: _status(it, body) == 503, "a third one is sent away")
            with it.asked("DELETE", "/runs/unknown") as answer:
                assert answer.status == 204
            first.close()
            it.process.send_signal(signal.SIGTERM)
            assert next(second) == ("error", {"sentence": "The service is closing."})
        assert it.process.wait(PATIENCE) == 0
        assert it.process.communicate() == ("", "")
    assert not running(token)


def _status(it: Service, body: bytes) -> int:
    with it.asked("POST", "/runs", body, content_type="application/json") as answer:
        return answer.status


def test_a_signal_ends_the_service_and_what_runs_in_it(token: str) -> None:
    with service("--timeout", 100) as it:
        with it.run(f"exec sh -c 'trap \"\" TERM INT; while :; do sleep 1; done' {token}", "shell") as stream:
            assert [next(stream)[0] for _ in range(2)] == ["waiting", "started"]
            it.process.send_signal(signal.SIGINT)
            assert [name for name, _ in stream] == ["exit"]
        assert it.process.wait(PATIENCE) == 0
        assert it.process.communicate() == ("", "")
    assert not running(token)


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ({"content_type": "text/plain"}, b'{"language": "python", "program": "pass"}', 415),
        ({"content_type": "application/json"}, b"[]", 400),
        ({"content_type": "application/json"}, b"[" * 100_000, 400),
        ({"content_type": "application/json"}, b'{"language": "cobol", "program": "pass"}', 400),
        ({"content_type": "application/json"}, b'{"language": "python", "program": " "}', 400),
        ({"content_type": "application/json"}, b'{"language": "python", "program": "\\ud800"}', 400),
        ({"content_type": "application/json"}, b'{"language": "python", "program": 1}', 400),
        ({"content_type": "application/json"}, b" " * (300 << 10), 413),
        (
            {"content_type": "application/json", "host": "evil.example"},
            b'{"language": "python", "program": "pass"}',
            400,
        ),
    ],
)
def test_bad_requests_are_refused_with_a_sentence(
    shared: Service, headers: dict[str, str], body: bytes, status: int
) -> None:
    with shared.asked("POST", "/runs", body, **headers) as answer:
        assert answer.status == status
        assert len(answer.read().split()) > 1


@pytest.fixture(scope="module")
def shared() -> Iterator[Service]:
    with service("--timeout", 100) as it:  # longer than our patience: nothing ends because its time is over
        yield it


def test_options_that_make_no_sense_and_machines_that_cannot(tmp_path: Path) -> None:
    for words, complaint in (
        (["--memory", "much"], "limits.memory"),
        (["--jobs", "0"], "--jobs: at least 1"),
    ):
        done = subprocess.run(
            [*SERVICE, *words], capture_output=True, text=True, timeout=PATIENCE, check=False
        )
        assert done.returncode == 2 and complaint in done.stderr
    environment = {**os.environ, "CRECHE_CGROUP": str(tmp_path)}  # no cgroup file system
    done = subprocess.run(
        [*SERVICE, "--port", "0"],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        env=environment,
    )
    assert done.returncode == 125 and "creche doctor" in done.stderr and "Traceback" not in done.stderr


# ---- the page ----


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as it:
        yield it


@pytest.fixture
def page(shared: Service, chromium: Browser) -> Iterator[Browser]:
    """The page as it opens for the first time; whatever the browser complains about fails the test."""
    chromium.open(shared.address)
    chromium.script("localStorage.clear()")
    chromium.open(shared.address)
    chromium.until("!document.querySelector('#run').disabled", "the page is ready")
    yield chromium
    chromium.open("about:blank")
    assert chromium.complaints() == []


STATE = "document.querySelector('#state').dataset.state"
OUTPUT = "document.querySelector('#output').textContent"


@needs("chromium", "chromedriver")
def test_a_program_is_typed_and_its_output_is_seen_while_it_runs(page: Browser, tmp_path: Path) -> None:
    page.type("#program", "import time\nprint('one')\ntime.sleep(4)\nprint('<b>two</b>')")
    page.click("#run")
    page.until(f"{OUTPUT} === 'one\\n' && {STATE} === 'running'", "the first line, and it runs still")
    page.until(f"{STATE} === 'good'", "it ended well")
    assert page.text("#output") == "one\n<b>two</b>\n", "markup of the guest's is text"
    assert page.text("#state") == "Ended well" and page.text("#wall").endswith("s")
    page.picture(tmp_path / "page.png")
    width, height = struct.unpack(">II", (tmp_path / "page.png").read_bytes()[16:24])
    assert width > 300 and height > 300


@needs("chromium", "chromedriver")
def test_everything_can_be_done_with_keys(page: Browser) -> None:
    assert page.focus() == "program", "one can begin to type at once"
    page.type("#program", "while True: pass")
    page.press("control", "enter")
    page.until(f"{STATE} === 'running'", "Ctrl+Enter runs it")
    page.press("escape")
    page.until(f"{STATE} === 'bad'", "Escape stops it")
    assert page.text("#state") == "Stopped" and page.focus() == "program"
    seen = []
    for _ in range(4):
        page.press("tab")
        seen.append(
            page.script("const at = document.activeElement; return at.id || at.tagName.toLowerCase()")
        )
    assert seen[:3] == ["summary", "copy", "output"] or seen[:2] == ["summary", "output"], (
        "no field is a trap"
    )
    page.type("#program", "for a in 'xy':\nprint(a)", clear=True)
    assert page.script("return document.querySelector('#program').value") == "for a in 'xy':\n    print(a)"


@needs("chromium", "chromedriver")
def test_the_stop_button_and_the_closed_page_end_a_program(page: Browser, token: str) -> None:
    page.script(
        "const it = document.querySelector('#language'); it.value = 'shell'; it.dispatchEvent(new Event('change'))"
    )
    for leave in (lambda: page.click("#stop"), lambda: page.open("about:blank")):
        page.type("#program", f"exec sh -c 'trap \"\" TERM; echo here; while :; do sleep 1; done' {token}")
        page.click("#run")
        page.until(f"{OUTPUT} === 'here\\n'", "it runs")
        leave()
        until(lambda: not running(token), "it runs still")


@needs("chromium", "chromedriver")
def test_errors_are_seen_and_escapes_are_not_obeyed(page: Browser) -> None:
    page.type("#program", " ")
    page.click("#run")
    page.until("!document.querySelector('#error').hidden", "an error is shown")
    assert page.text("#error") == "There is no program: type one."
    assert [line for line in page.complaints() if "400" not in line] == []
    page.type("#program", "import sys\nsys.stderr.write('\\x1b[31m\\x07 \\u202e')\nsys.exit(4)")
    page.click("#run")
    page.until(f"{STATE} === 'bad'", "it ended")
    assert page.text("#state") == "Ended with status 4"
    assert page.text("#output .err") == r"\x1b[31m\x07 \u202e"
    assert page.script("return document.querySelector('#error').hidden")


@needs("chromium", "chromedriver")
def test_light_dark_and_narrow(page: Browser) -> None:
    ground = "return getComputedStyle(document.body).backgroundColor"
    page.prefer("light")
    light = page.script(ground)
    page.prefer("dark")
    dark = page.script(ground)
    assert light != dark
    page.click("#theme")
    assert page.script(ground) == light, "whoever says light gets light"
    page.size(360, 700)
    assert page.script("return document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    page.click("#run")
    page.until(f"{STATE} === 'good'", "the example runs on a telephone too")
