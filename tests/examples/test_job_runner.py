"""examples/job_runner on its own programs and on worse ones: what it shows, how it ends, and that nothing stays."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import signal
import sqlite3
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from needs import needs

pytestmark = [needs("native", "userns"), pytest.mark.slow]

EXAMPLES = Path(__file__).parents[2] / "examples"
RUNNER = [sys.executable, str(EXAMPLES / "job_runner")]
PATIENCE = 60.0


def run(*words: object, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*RUNNER, *map(str, words)], capture_output=True, text=True, timeout=PATIENCE, check=False, **options
    )


def table(output: str) -> dict[str, list[str]]:
    """The closing table: a program's name to its cells."""
    lines = output.partition("\nprogram ")[2].splitlines()[1:]
    return {cells[0]: cells[1:] for line in lines if len(cells := re.split(r"  +", line)) > 1}


def marked(token: str) -> list[int]:
    """The processes of this machine, those in containers too, that have `token` in their command line."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if token.encode() in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
    return found


def until(condition: object, what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


@pytest.fixture(autouse=True)
def _open_to_all(tmp_path: Path) -> None:
    """pytest's folders are for their owner alone, and under root a container's user is somebody else."""
    tmp_path.chmod(0o755)


@pytest.fixture
def token() -> str:
    """Something that stands in the command lines of this test's programs alone."""
    return f"creche-{uuid.uuid4().hex}"


@pytest.fixture
def stubborn(tmp_path: Path, token: str) -> Path:
    """A folder of programs that do not want to end, and leave daemons that want it even less."""
    for number in range(3):
        (tmp_path / f"stubborn{number}.sh").write_text(
            "trap '' TERM INT HUP\n"
            f"(exec setsid sh -c 'trap \"\" TERM INT HUP; while :; do sleep 1; done' {token}) &\n"
            f"exec sh -c 'echo here; while :; do sleep 1; done' {token}\n"
        )
    return tmp_path


@pytest.mark.parametrize("loop", ["asyncio", "trio", "uvloop"])
def test_the_programs_of_the_example_end_as_they_should(loop: str) -> None:
    done = run(EXAMPLES / "programs", "-j", 4, "--timeout", 8, "--max-output", "20K", "--loop", loop)
    assert done.returncode == 1 and done.stderr == ""
    ends = {name: cells[:2] for name, cells in table(done.stdout).items()}
    assert ends == {
        "broken.py": ["exited", "status 1"],
        "chatty.py": ["output limit", "signal 9"],
        "colours.py": ["exited", "status 0"],
        "count": ["exited", "status 0"],
        "crash.py": ["signaled", "signal 11"],
        "daemon.sh": ["exited", "status 0"],
        "forever.py": ["timeout", "signal 9"],
        "hello.sh": ["exited", "status 0"],
        "hungry.py": ["exited", "status 0"],
        "primes.py": ["exited", "status 0"],
        "sleeper.py": ["exited", "status 0"],
        "snoop.py": ["exited", "status 0"],
    }
    assert "12 programs, 8 ended well, 4 did not" in done.stdout
    assert "primes.py          │ 33860 primes below 400000" in done.stdout
    for refusal in ("passwords: No such file", "processes: ['1', '2']", "internet: Network is unreachable"):
        assert refusal in done.stdout
    assert not set(map(chr, range(32))) - {"\n"} & set(done.stdout), "a control character came through"
    assert "red\\x1b[0m, a new title: \\x1b]0;owned\\x07" in done.stdout


def test_no_more_run_at_once_than_asked(tmp_path: Path) -> None:
    """The log tells when each begins and ends: never more than two at once, and two when there is work for two."""
    (tmp_path / "list").write_text("sh -c 'echo one; sleep 0.2'  # a comment\n\n" * 5)
    done = run(tmp_path / "list", "-j", 2)
    assert done.returncode == 0, done.stdout
    running = [0]
    for mark in re.findall(r"^\d+:sh +([╷╵])", done.stdout, re.M):
        running.append(running[-1] + (1 if mark == "╷" else -1))
    assert max(running) == 2 and running[-1] == 0 and len(running) == 11


def test_a_single_program_sees_no_neighbours(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("mine")
    (tmp_path / "look.sh").write_text("ls; touch here 2>/dev/null || echo read-only")
    done = run(tmp_path / "look.sh")
    assert "│ look.sh" in done.stdout and "secret" not in done.stdout and "│ read-only" in done.stdout


def test_what_cannot_start_is_told_and_does_not_stop_the_others(tmp_path: Path) -> None:
    (tmp_path / "list").write_text("no-such-program\necho well\n")
    done = run(tmp_path / "list", "-j", 1)
    assert done.returncode == 1
    assert table(done.stdout)["1:no-such-program"] == ["not started"]
    assert table(done.stdout)["2:echo"][:2] == ["exited", "status 0"]
    done = run(tmp_path / "list", "--exit-zero")
    assert done.returncode == 0
    assert table(done.stdout)["1:no-such-program"] == ["not started"]


def test_no_time_at_all_is_a_timeout(tmp_path: Path) -> None:
    (tmp_path / "a.sh").write_text("echo never")
    done = run(tmp_path, "--timeout", "0")
    assert done.returncode == 1 and table(done.stdout)["a.sh"][0] == "timeout"


@needs("limits")
def test_memory_is_a_limit() -> None:
    done = run(EXAMPLES / "programs" / "hungry.py", "--memory", "96M")
    assert table(done.stdout)["hungry.py"][:2] == ["out of memory", "signal 9"]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["nowhere"], "nowhere: there is no such file"),
        ([EXAMPLES / "programs", "-j", "0"], "--jobs: at least 1"),
        ([EXAMPLES / "programs", "--memory", "12 apples"], "limits.memory: '12 apples' is refused"),
        ([EXAMPLES / "programs", "--timeout", "soon"], "--timeout: 'soon' is refused"),
        ([], "required: PATH"),
    ],
)
def test_nonsense_is_refused_before_anything_runs(words: list[object], complaint: str) -> None:
    done = run(*words)
    assert done.returncode == 2 and complaint in " ".join(done.stderr.split()) and done.stdout == ""


def test_what_this_machine_cannot_do_is_an_error_and_not_less_protection(tmp_path: Path) -> None:
    environment = {**os.environ, "CRECHE_CGROUP": str(tmp_path)}  # no cgroup file system
    done = run(EXAMPLES / "programs" / "hello.sh", "--memory", "64M", env=environment)
    assert done.returncode == 125, done.stdout + done.stderr
    assert (
        "creche doctor" in done.stderr and "hello from" not in done.stdout and "Traceback" not in done.stderr
    )


def test_a_reader_that_goes_away_ends_it_quietly(stubborn: Path, token: str) -> None:
    (stubborn / "a.sh").write_text("while :; do echo again; done")
    words = [*RUNNER, str(stubborn), "-j", "4", "--max-output", "none"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as runner:
        assert runner.stdout is not None and runner.stderr is not None
        runner.stdout.readline()
        runner.stdout.close()
        assert runner.wait(PATIENCE) == 1
        assert runner.stderr.read() == ""
    assert not marked(token)


def test_a_reader_that_was_never_there(tmp_path: Path) -> None:
    (tmp_path / "a.sh").write_text("echo once")
    reading, writing = os.pipe()
    os.close(reading)
    try:
        words = [*RUNNER, str(tmp_path)]
        done = subprocess.run(
            words, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=PATIENCE, check=False
        )
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_all_and_the_table_still_comes(
    stubborn: Path, token: str, number: signal.Signals
) -> None:
    words = [*RUNNER, str(stubborn), "-j", "2"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as runner:
        until(lambda: len(marked(token)) == 4, "two programs and their daemons run")
        runner.send_signal(number)
        output = runner.communicate(timeout=PATIENCE)[0]
    assert runner.returncode == 128 + number
    assert not marked(token)
    cells = table(output)
    assert cells["stubborn0.sh"][:2] == cells["stubborn1.sh"][:2] == ["killed", "signal 9"]
    assert cells["stubborn2.sh"] == ["not run"]


def test_nothing_outlives_a_runner_that_was_killed(stubborn: Path, token: str) -> None:
    words = [*RUNNER, str(stubborn), "-j", "3"]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL) as runner:
        until(lambda: len(marked(token)) == 6, "all programs and their daemons run")
        runner.kill()
        runner.wait(PATIENCE)
        until(lambda: not marked(token), "something outlived the runner")


# ---- the queue in a file ----


@pytest.fixture
def gated(tmp_path: Path, token: str) -> Path:
    """A folder with two programs that end at once, one of them badly, and two that wait for a file beside them."""
    folder = tmp_path / "programs"
    folder.mkdir(mode=0o755)
    (folder / "a.sh").write_text("echo well")
    (folder / "b.sh").write_text("exit 3")
    for name in "cd":
        (folder / f"{name}.sh").write_text(
            f"echo begun; until [ -e go ]; do sh -c 'sleep 0.05; :' {token}; done; echo finished"
        )
    return folder


def started(output: str) -> list[str]:
    """The programs that a log says were started, in order."""
    return re.findall(r"^(\S+) +╷ started$", output, re.M)


@pytest.mark.parametrize("loop", ["asyncio", "trio", "uvloop"])
def test_what_was_done_when_the_runner_was_killed_is_not_done_again_and_the_rest_is(
    gated: Path, tmp_path: Path, token: str, loop: str
) -> None:
    words = [gated, "-j", 2, "--queue", tmp_path / "jobs.db", "--loop", loop]
    with subprocess.Popen([*RUNNER, *map(str, words)], stdout=subprocess.PIPE, text=True) as runner:
        assert runner.stdout is not None
        seen = ""
        while seen.count("begun") < 2:  # then the first two are not only dead, but written down
            line = runner.stdout.readline()
            assert line, seen
            seen += line
        runner.kill()
        runner.wait(PATIENCE)
    assert sorted(started(seen)) == ["a.sh", "b.sh", "c.sh", "d.sh"]
    until(lambda: not marked(token), "something outlived the runner")
    (gated / "go").touch()

    done = run(*words)
    assert done.returncode == 1 and done.stderr == ""
    assert sorted(started(done.stdout)) == ["c.sh", "d.sh"] and done.stdout.count("finished") == 2
    cells = {name: row[:2] for name, row in table(done.stdout).items()}
    well = ["exited", "status 0"]
    assert cells == {"a.sh": well, "b.sh": ["exited", "status 3"], "c.sh": well, "d.sh": well}
    assert "4 programs, 3 ended well, 1 did not, 2 of them done before" in done.stdout

    (gated / "b.sh").unlink()
    again = run("--queue", tmp_path / "jobs.db", "--loop", loop)
    assert again.returncode == 1 and started(again.stdout) == []
    assert {name: row[:2] for name, row in table(again.stdout).items()} == cells


def test_without_a_file_all_is_done_again(gated: Path) -> None:
    """The control of the test above."""
    (gated / "go").touch()
    for _ in range(2):
        assert sorted(started(run(gated).stdout)) == ["a.sh", "b.sh", "c.sh", "d.sh"]


def test_what_a_signal_interrupted_is_done_by_the_next_run_and_needs_no_list(
    gated: Path, tmp_path: Path, token: str
) -> None:
    words = [*RUNNER, str(gated), "-j", "1", "--queue", str(tmp_path / "jobs.db")]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as runner:
        until(lambda: marked(token), "the third program runs")
        runner.send_signal(signal.SIGINT)
        output = runner.communicate(timeout=PATIENCE)[0]
    assert runner.returncode == 130 and not marked(token)
    assert table(output)["c.sh"][:2] == ["killed", "signal 9"] and table(output)["d.sh"] == ["not run"]
    (gated / "go").touch()
    done = run("--queue", tmp_path / "jobs.db", "-j", 1)
    assert re.findall(r"│ finished", done.stdout) == ["│ finished"] * 2
    assert table(done.stdout)["c.sh"][:2] == table(done.stdout)["d.sh"][:2] == ["exited", "status 0"]
    assert sorted(table(done.stdout)) == ["a.sh", "b.sh", "c.sh", "d.sh"]


def test_other_bounds_make_another_job_and_the_same_program_twice_is_two(tmp_path: Path) -> None:
    (tmp_path / "a.sh").write_text("echo once")
    words = [tmp_path / "a.sh", tmp_path / "a.sh", "-j", 1, "--queue", tmp_path / "jobs.db"]
    assert started(run(*words).stdout) == ["a.sh", "a.sh"]
    assert started(run(*words).stdout) == []
    assert started(run(*words, "--timeout", 50).stdout) == ["a.sh", "a.sh"]


def test_what_this_machine_cannot_do_leaves_the_jobs_in_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.sh").write_text("echo here")
    words = [tmp_path / "a.sh", "--pids", 10, "--queue", tmp_path / "jobs.db"]
    done = run(*words, env={**os.environ, "CRECHE_CGROUP": str(tmp_path)})  # no cgroup file system
    assert done.returncode == 125 and "creche doctor" in done.stderr
    with contextlib.closing(sqlite3.connect(tmp_path / "jobs.db")) as conn:
        assert conn.execute("SELECT count(*), max(seq) FROM jobs").fetchone() == (1, None), (
            "not a failure of the job"
        )


def test_a_file_that_is_no_queue_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.sh").write_text("echo here")
    done = run(tmp_path / "a.sh", "--queue", tmp_path / "a.sh")
    assert done.returncode == 125 and "a.sh" in done.stderr and "Traceback" not in done.stderr
    assert (tmp_path / "a.sh").read_text() == "echo here"


class Terminal:
    """The runner on a pseudo-terminal, typed at and looked at."""

    def __init__(self, *words: object) -> None:
        self._pid, self._fd = pty.fork()
        if self._pid == 0:
            os.environ["TERM"] = "xterm"
            os.execv(RUNNER[0], [*RUNNER, *map(str, words)])
        self.seen = b""
        self.status: int | None = None

    def read(self) -> bool:
        """Take in what there is; False at the end."""
        try:
            data = os.read(self._fd, 65_536)
        except OSError:  # EIO: all its ends are closed
            return False
        self.seen += data
        return bool(data)

    def until(self, what: bytes) -> None:
        while what not in self.seen:
            assert self.read(), f"it ended without {what!r}: {self.seen!r}"

    def type(self, keys: bytes) -> None:
        os.write(self._fd, keys)

    def end(self) -> int:
        """Read to the end; the exit status."""
        while self.read():
            pass
        self.status = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
        return self.status

    def close(self) -> None:
        if self.status is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
        os.close(self._fd)


@contextlib.contextmanager
def terminal(*words: object) -> Iterator[Terminal]:
    held = Terminal(*words)
    try:
        yield held
    finally:
        held.close()


@pytest.mark.parametrize("loop", ["asyncio", "trio", "uvloop"])
def test_control_c_on_a_terminal_leaves_nothing(stubborn: Path, token: str, loop: str) -> None:
    with terminal(stubborn, "-j", 2, "--loop", loop) as screen:
        for name in (b"stubborn0.sh", b"stubborn1.sh"):
            screen.until(name)
        until(lambda: len(marked(token)) == 4, "two programs and their daemons run")
        screen.until(b"0/3 ended, 2 running")
        screen.type(b"\x03")
        assert screen.end() == 130
    assert not marked(token)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.seen.decode()).replace("\r", "")
    assert table(text)["stubborn0.sh"][:2] == ["killed", "signal 9"]
    assert table(text)["stubborn2.sh"] == ["not run"]
    assert "Traceback" not in text
    assert screen.seen.count(b"\x1b[?7l") == screen.seen.count(b"\x1b[?7h"), (
        "the terminal does not wrap any more"
    )


def test_a_terminal_gets_no_escape_sequence_of_a_guest(tmp_path: Path) -> None:
    """All that reaches it are our own: colours, up, clear this line, wrapping off and on."""
    name = "evil\x1b]0;owned\x07.sh"
    (tmp_path / name).write_text(
        "printf 'title \\033]0;owned\\007 clip \\033]52;c;b3duZWQ=\\007 clear \\033[2J c1 \\302\\2332J bidi \\342\\200\\256 \\377\\n'"
        "; printf 'err \\033[31m\\r\\b\\n' >&2; printf 'no newline \\033[H'; exit 3"
    )
    with terminal(tmp_path) as screen:
        assert screen.end() == 1
    rest = re.sub(rb"\x1b\[(3[0-7]|[012])m|\x1b\[1A|\x1b\[2K|\x1b\[\?7[lh]|\r", b"", screen.seen)
    controls = [byte for byte in rest if byte < 32 and byte != 10]
    assert not controls, rest
    text = rest.decode()
    assert not {"\x9b", "\u202e"} & set(text)
    assert r"\x1b]0;owned\x07 clip \x1b]52;c;b3duZWQ=\x07 clear \x1b[2J c1 \x9b2J bidi \u202e" in text
    assert r"no newline \x1b[H" in text and r"err \x1b[31m\r\x08" in text
