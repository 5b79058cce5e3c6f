"""examples/judge: every verdict in C and in Python, hostile submissions, and its page in a real browser."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from examples.browser import Browser, browser

import creche
from needs import missing, needs

EXAMPLE = Path(__file__).parents[2] / "examples" / "judge"
sys.path.insert(0, str(EXAMPLE))
import judging  # noqa: E402
import problems  # noqa: E402

pytestmark = [needs("native", "userns", "cc"), pytest.mark.slow]

CGROUPS = missing("limits") is None
PATIENCE = 60.0
SUM = problems.Problem(
    "sum",
    "",
    (problems.Test(b"1 2\n", b"3\n"), problems.Test(b"3 4\n", b"7\n")),
    seconds=1.0,
    memory=64 << 20,
)

VERDICTS = {
    ("c", "AC"): '#include <stdio.h>\nint main(void){int a,b;scanf("%d%d",&a,&b);printf("%d  \\n\\n",a+b);}',
    ("c", "WA"): '#include <stdio.h>\nint main(void){puts("3");}',
    ("c", "TLE"): "int main(void){for(volatile int x;;)x=1;}",
    ("c", "MLE"): "#include <stdlib.h>\n#include <string.h>\n"
    "int main(void){for(;;){char*p=malloc(1<<20);if(!p)abort();memset(p,1,1<<20);}}",
    ("c", "RE"): "int main(void){return *(volatile int*)8;}",
    ("c", "OLE"): '#include <stdio.h>\nint main(void){for(;;)puts("again");}',
    ("c", "CE"): "int main(void){return nothing;}",
    ("python", "AC"): "print(sum(map(int, input().split())))",
    ("python", "WA"): "print(3)",
    ("python", "TLE"): "while True: pass",
    ("python", "MLE"): "held = []\nwhile True: held.append(bytearray(b'x' * (1 << 20)))",
    ("python", "RE"): "print(1 / 0)",
    ("python", "OLE"): "while True: print('again')",
    ("python", "CE"): "print(",
}


def judged(language: str, source: str, problem: problems.Problem = SUM, cgroups: bool = CGROUPS) -> Any:
    """The judgement, and the verdicts of the single tests."""
    tests: list[str] = []

    async def tell(number: int, verdict: Any, exit: creche.Exit) -> None:
        tests.append(verdict.name)

    async def main() -> Any:
        return await judging.judge(judging.LANGUAGES[language], source, problem, tell, cgroups=cgroups)

    return anyio.run(main), tests


@pytest.mark.parametrize(("language", "verdict"), VERDICTS)
def test_each_verdict(language: str, verdict: str) -> None:
    found, tests = judged(language, VERDICTS[language, verdict])
    assert found.verdict.name == verdict, found
    assert tests == {"AC": ["AC", "AC"], "WA": ["AC", "WA"], "CE": []}.get(verdict, [verdict])


@pytest.mark.parametrize(("language", "verdict"), VERDICTS)
def test_each_verdict_with_rlimits_alone(language: str, verdict: str) -> None:
    found, _ = judged(language, VERDICTS[language, verdict], cgroups=False)
    assert found.verdict.name == verdict, found


async def test_a_verdict_on_every_loop() -> None:
    async def tell(*_: object) -> None: ...

    found = await judging.judge(
        judging.LANGUAGES["python"], VERDICTS["python", "AC"], SUM, tell, cgroups=CGROUPS
    )
    assert found.verdict is judging.Verdict.AC


def test_waiting_without_working_is_over_too() -> None:
    found, _ = judged("python", "import time; time.sleep(1000)", bounded(SUM, seconds=0.3))
    assert found.verdict.name == "TLE"


def bounded(problem: problems.Problem, **fields: Any) -> problems.Problem:
    """The problem with other bounds."""
    return problems.Problem(**{**problem.__dict__, **fields})


# ---- hostile ones: the attack prints WORKED where it works, which the control shows ----

HOSTILE = {
    "a fork": "import os\nif os.fork() == 0: os._exit(0)\nprint('WORKED')",
    "another program": "import subprocess\nsubprocess.run(['true'])\nprint('WORKED')",
    "the accounts of the host": "print('WORKED' if open('/etc/passwd').read() else '')",
    "a socket": "import socket\nsocket.socket(socket.AF_INET, socket.SOCK_DGRAM)\nprint('WORKED')",
    "a full disk": "open('/tmp/big', 'wb').write(bytes(20 << 20))\nprint('WORKED')",
    "a thousand threads": "import threading, time\nfor _ in range(100): threading.Thread(target=time.sleep, args=(1,), daemon=True).start()\nprint('WORKED')",
}
ANY = problems.Problem("any", "", (problems.Test(b"", b"WORKED\n"),), seconds=2.0, memory=256 << 20)


@pytest.mark.parametrize("attack", HOSTILE)
@pytest.mark.parametrize("cgroups", [CGROUPS, False], ids=["limits", "rlimits"])
def test_an_attack_is_a_runtime_error(attack: str, cgroups: bool) -> None:
    found, tests = judged("python", HOSTILE[attack], ANY, cgroups)
    assert found.verdict.name == "RE" and tests == ["RE"], found
    result = anyio.run(_unprotected, HOSTILE[attack])
    assert result.stdout == b"WORKED\n", "the control: without our bounds it works"


async def _unprotected(source: str) -> creche.Result:
    mounts = [creche.Tmpfs("/tmp", size="64M", mode=0o1777), creche.File("/work/main.py", source)]
    return await creche.run(["python3", "/work/main.py"], mounts=mounts, timeout=20)


def test_the_answers_and_other_submissions_are_nowhere_inside(tmp_path: Path) -> None:
    """Whatever it can read of the file system holds neither the expected output nor a file of the host's."""
    secret = f"secret{uuid.uuid4().hex}"
    (tmp_path / "other.py").write_text(secret)
    look = (
        "import os\nseen = 0\n"
        "for top in ('/work', '/tmp', '/home', '/root', '/var', '/etc', '/out', '/proc/self', '/proc/1'):\n"
        "    for folder, _, names in os.walk(top):\n"
        "        if folder.count('/') > 3 or '/fd' in folder or '/task' in folder: continue\n"
        "        for name in names:\n"
        "            try: text = open(os.path.join(folder, name), 'rb').read(65536)\n"
        "            except OSError: continue\n"
        f"            seen += b'{secret[:6]}' + b'{secret[6:]}' in text\n"
        f"seen += os.path.exists({str(tmp_path)!r})\nprint(seen)\n"
    )
    problem = problems.Problem("any", "", (problems.Test(b"", f"{secret}\n".encode()),), seconds=5.0)
    found, _ = judged("python", look, problem)
    assert found.verdict.name == "WA", found
    zero = problems.Problem("any", "", (problems.Test(b"", b"0\n"),), seconds=5.0)
    found, _ = judged("python", look, zero)
    assert found.verdict.name == "AC", found


BOMBS = {
    "a device that never ends": '#include "/dev/zero"\nint main(void){}',
    "itself": "#include __FILE__\nint main(void){}",
    "macros that double": "".join(f"#define A{n} A{n - 1} A{n - 1}\n" for n in range(1, 40))
    + "#define A0 +1\nint main(void){return 0 A39;}",
    "a program of gigabytes": "char big[1L << 32] = {1};\nint main(void){return big[5];}",
}


@pytest.mark.parametrize("bomb", BOMBS)
@pytest.mark.parametrize("cgroups", [CGROUPS, False], ids=["limits", "rlimits"])
def test_a_compiler_bomb_is_a_compilation_error(
    bomb: str, cgroups: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judging, "COMPILING", judging.Bounds(1.5, 128 << 20, 32, 16 << 20))
    found, tests = judged("c", BOMBS[bomb], cgroups=cgroups)
    assert found.verdict.name == "CE" and tests == [], found
    assert len(found.said) < 40_000


def test_a_file_of_the_host_is_not_quoted_by_the_compiler() -> None:
    found, _ = judged("c", '#include "/etc/passwd"\nint main(void){}')
    assert found.verdict.name == "CE" and "No such file" in found.said and "root" not in found.said


def test_expected_output_is_compared_without_white_space_at_the_ends() -> None:
    assert problems.same(b"1 \n2\n\n", b"1\n2") and not problems.same(b"1\n\n2", b"1\n2")
    assert not problems.same(b" 1", b"1") and problems.same(b"", b"\n")


# ---- the service ----


class Service:
    """The example, running."""

    def __init__(self, *words: object) -> None:
        rlimits = [] if CGROUPS else ["--rlimits"]
        command = [sys.executable, str(EXAMPLE), "--port", "0", *rlimits, *map(str, words)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self.process.stdout is not None and self.process.stderr is not None
        line = self.process.stdout.readline()
        assert line.startswith("judge: http://"), self.process.stderr.read()
        self.address = line.split()[1]
        self.port = int(self.address.rstrip("/").rpartition(":")[2])

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, named)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def submit(self, source: str, language: str = "python", problem: str = "sum") -> dict[str, Any]:
        body = json.dumps({"problem": problem, "language": language, "source": source}).encode()
        status, answer = self.ask("POST", "/submissions", body, content_type="application/json")
        assert status == 202, answer
        return dict(json.loads(answer))

    @contextlib.contextmanager
    def events(self) -> Iterator[Iterator[dict[str, Any]]]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.request("GET", "/events")
            answer = connection.getresponse()
            yield (json.loads(line[6:]) for line in answer if line.startswith(b"data: "))
        finally:
            connection.close()


@contextlib.contextmanager
def service(*words: object) -> Iterator[Service]:
    held = Service(*words)
    try:
        yield held
    finally:
        held.process.send_signal(signal.SIGTERM)
        complaints = held.process.communicate(timeout=PATIENCE)[1]
        assert (held.process.returncode, complaints) == (0, "")


@pytest.fixture(scope="module")
def shared() -> Iterator[Service]:
    with service() as it:
        yield it


@pytest.mark.parametrize("loop", ["asyncio", "trio", "uvloop"])
def test_who_watches_sees_each_step_and_only_the_sender_what_was_said(loop: str) -> None:
    with service("--loop", loop) as it, it.events() as news:
        sent = it.submit(VERDICTS["c", "CE"], "c")
        for seen in news:
            if seen["state"] == "done":
                break
        assert (seen["number"], seen["verdict"], seen["tests"]) == (sent["number"], "CE", [])
        assert "said" not in seen and "key" not in seen and "source" not in seen
        status, detail = it.ask("GET", f"/submissions/{sent['number']}?key={sent['key']}")
        assert status == 200 and "nothing" in json.loads(detail)["said"]
        assert it.ask("GET", f"/submissions/{sent['number']}?key=guess")[0] == 404


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ({"content_type": "text/plain"}, b'{"problem": "sum", "language": "python", "source": "1"}', 415),
        ({"content_type": "application/json"}, b"[" * 100_000, 400),
        ({"content_type": "application/json"}, b'{"problem": [], "language": "python", "source": "1"}', 400),
        ({"content_type": "application/json"}, b'{"problem": "x", "language": "python", "source": "1"}', 400),
        (
            {"content_type": "application/json"},
            b'{"problem": "sum", "language": "python", "source": " "}',
            400,
        ),
        (
            {"content_type": "application/json"},
            b'{"problem": "sum", "language": "c", "source": "\\ud800"}',
            400,
        ),
        ({"content_type": "application/json"}, b" " * (300 << 10), 413),
        ({"content_type": "application/json", "host": "evil.example"}, b"{}", 400),
    ],
)
def test_bad_requests_are_refused(shared: Service, headers: dict[str, str], body: bytes, status: int) -> None:
    told, answer = shared.ask("POST", "/submissions", body, **headers)
    assert told == status and len(answer.split()) > 1


def test_what_cannot_wait_is_sent_away_and_closing_ends_what_runs() -> None:
    with service("--jobs", 1, "--waiting", 1) as it, it.events() as news:
        it.submit("while True: pass", problem="primes")
        while next(news)["state"] != "judging":
            pass
        it.submit("print(1)")
        body = json.dumps({"problem": "sum", "language": "python", "source": "print(1)"}).encode()
        assert it.ask("POST", "/submissions", body, content_type="application/json")[0] == 503


def test_no_place_for_limits_is_refused_unless_asked_otherwise(tmp_path: Path) -> None:
    environment = {**os.environ, "CRECHE_CGROUP": str(tmp_path)}  # no cgroup file system
    done = subprocess.run(
        [sys.executable, str(EXAMPLE), "--port", "0"],
        capture_output=True, text=True, timeout=PATIENCE, check=False, env=environment,
    )  # fmt: skip
    assert done.returncode == 125 and "--rlimits" in done.stderr and "Traceback" not in done.stderr
    (tmp_path / "bad.toml").write_text("title = 'x'\nstatement = 'y'\ntests = []\n")
    done = subprocess.run(
        [sys.executable, str(EXAMPLE), "--problems", str(tmp_path)],
        capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert done.returncode == 2 and "needs tests" in done.stderr


# ---- the page ----


@pytest.fixture
def page(shared: Service) -> Iterator[Browser]:
    with browser() as it:
        it.open(shared.address)
        it.until("!document.querySelector('#submit').disabled", "the page is ready")
        yield it


STATE = "document.querySelector('#state').dataset.state"


@needs("chromium", "chromedriver")
def test_a_submission_is_watched_to_its_verdict(page: Browser, shared: Service) -> None:
    page.type("#source", "a, b = map(int, input().split())\nprint(a + b)", clear=True)
    page.script("document.querySelector('#language').value = 'python'")
    page.press("control", "enter")
    page.until(f"{STATE} === 'good'", "it is accepted")
    assert page.text("#state") == "AC: accepted" and page.text("tr.mine td.good") == "AC"
    page.type(
        "#source",
        "raise SystemExit('<img src=x onerror=alert(1)><script>document.title=\"owned\"</script>\\x1b[31m')",
    )
    page.click("#submit")
    page.until(f"{STATE} === 'bad' && !document.querySelector('#said').hidden", "it failed, and why is said")
    assert page.text("#state") == "RE: runtime error" and "<script>" in page.text("#said")
    assert page.script("return document.title") == "Judge" and "\x1b" not in page.text("#said")
    assert page.script("return document.querySelectorAll('#said *').length") == 0, (
        "markup of a guest's is text"
    )
    page.size(360, 700)
    assert page.script("return document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    if folder := os.environ.get("CRECHE_PICTURES"):
        page.picture(Path(folder) / "judge-phone.png")
        page.size(1200, 760)
        page.picture(Path(folder) / "judge.png")
    page.type("#source", " ")
    page.click("#submit")
    page.until("!document.querySelector('#error').hidden", "an error is shown")
    assert page.text("#error") == "There is no program: type one."
    assert [line for line in page.complaints() if "400" not in line] == []


@needs("chromium", "chromedriver")
def test_a_service_that_is_gone_is_told() -> None:
    with browser() as page:
        with service() as it:
            page.open(it.address)
            page.until("!document.querySelector('#submit').disabled", "the page is ready")
        page.until("!document.querySelector('#error').hidden", "the lost stream is told")
        page.click("#submit")
        page.until(
            "document.querySelector('#error').textContent.includes('be reached')",
            "and so is the failed request",
        )
