"""`creche run` as a program: exact bytes, exit statuses, signals, pipes that close; everything through real processes."""

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from needs import needs

pytestmark = needs("native", "userns")
CRECHE = [sys.executable, "-m", "creche.cli"]


def creche(*arguments: str, **more: Any) -> subprocess.CompletedProcess[bytes]:
    """Run the program to its end; its input is empty unless given."""
    more.setdefault("stdin", subprocess.DEVNULL) if "input" not in more else None
    return subprocess.run([*CRECHE, *arguments], capture_output=True, check=False, timeout=60, **more)


def shell(script: str, **more: Any) -> subprocess.CompletedProcess[bytes]:
    """Run a bash script in which `creche` is our program."""
    words = " ".join(CRECHE)
    script = f'creche() {{ {words} "$@"; }}\n{script}'
    return subprocess.run(["bash", "-c", script], capture_output=True, check=False, timeout=60, **more)


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (("true",), 0),
        (("false",), 1),
        (("sh", "-c", "exit 7"), 7),
        (("sh", "-c", "kill -TERM $$"), 128 + signal.SIGTERM),
        (("sh", "-c", "kill -KILL $$"), 128 + signal.SIGKILL),
        (("no-such-command",), 127),
        (("/no/such/file",), 127),
        (("/etc/passwd",), 126),
        (("/usr",), 126),
        (("-w", "/no/such/dir", "true"), 125),
        (("-m", "12 apples", "true"), 125),
        (("--no-such-option", "true"), 125),
        (("-v", "/no/such/source:/x", "true"), 125),
        ((), 125),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else str(value),
)
def test_exit_statuses(arguments: tuple[str, ...], status: int) -> None:
    """docker run's numbers: the command's own, 128 + N, 125 to 127 for what is ours to say."""
    run = creche("run", *arguments)
    assert run.returncode == status, run.stderr
    assert bool(run.stderr) is (status in (125, 126, 127)), run.stderr


def test_a_timeout_is_124_and_keeps_what_was_written() -> None:
    """As timeout(1); what the command had written before is there."""
    run = creche("run", "--timeout", "2.5", "sh", "-c", "echo early; exec sleep 60")
    assert (run.returncode, run.stdout) == (124, b"early\n")
    assert b"--timeout 2.5 is over" in run.stderr


def test_every_byte_is_exact(tmp_path: Path) -> None:
    """A megabyte of all bytes through files and through pipes, none added, none lost, none translated."""
    data = random.Random(7).randbytes(1 << 20)
    (tmp_path / "in").write_bytes(data)
    with open(tmp_path / "in", "rb") as source, open(tmp_path / "out", "wb") as target:
        subprocess.run([*CRECHE, "run", "cat"], stdin=source, stdout=target, check=True, timeout=60)
    assert (tmp_path / "out").read_bytes() == data
    assert creche("run", "cat", input=data).stdout == data


def test_stderr_is_its_own() -> None:
    """The two outputs stay apart."""
    run = creche("run", "sh", "-c", "echo out; echo err >&2")
    assert (run.stdout, run.stderr) == (b"out\n", b"err\n")


def test_a_reader_that_goes_away_is_the_commands_sigpipe() -> None:
    """`creche run yes | head -1` ends at once, quietly, with 128 + SIGPIPE."""
    run = shell("creche run yes | head -1; echo ${PIPESTATUS[0]}")
    assert run.stdout.split() == [b"y", b"141"]
    assert run.stderr == b""


def test_our_own_output_into_a_closed_pipe() -> None:
    """No traceback when nobody reads the help."""
    run = shell("creche run --help | true; echo ${PIPESTATUS[0]}")
    assert run.stderr == b""


def test_closed_descriptors() -> None:
    """Ours may be closed: the command then has /dev/null, and nothing of ours slips in under that number."""
    run = shell("creche run sh -c 'readlink /proc/self/fd/0 >&2' <&- >&-")
    assert run.stderr.strip() == b"/dev/null"


def test_no_interactive_gives_no_input() -> None:
    """The command's input is empty, ours is left alone."""
    run = creche("run", "--no-interactive", "cat", input=b"not for you")
    assert (run.returncode, run.stdout) == (0, b"")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_signals_are_handed_on(number: signal.Signals) -> None:
    """What people and service managers send us is meant for the command, which decides how it ends."""
    script = f"trap 'echo got; exit 3' {number.name[3:]}; echo ready; while :; do sleep 0.05; done"
    with subprocess.Popen([*CRECHE, "run", "sh", "-c", script], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(number)
        assert process.stdout.read() == b"got\n"
        assert process.wait(timeout=30) == 3


def test_when_we_are_killed_everything_in_it_dies() -> None:
    """kill -9 of the command line leaves no process: whoever held the pipe is gone."""
    script = "sleep 1000 & echo ready; sleep 1000"
    with subprocess.Popen([*CRECHE, "run", "sh", "-c", script], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.kill()
        assert process.stdout.read() == b"", "end of file: no process in it holds the pipe any more"


def test_what_the_options_ask_for_is_so(tmp_path: Path) -> None:
    """A few options end to end; the table of all of them is in test_options.py."""
    (tmp_path / "file").write_text("seen\n")
    tmp_path.chmod(
        0o755
    )  # root's container has ids of its own, and a read-only bind shows the host's as strangers
    run = creche(
        *(
            "run",
            "-v",
            f"{tmp_path}:/work:ro",
            "-w",
            "/work",
            "-e",
            "A=1",
            "--hostname",
            "box",
            "--tmpfs",
            "/t",
        ),
        *(
            "sh",
            "-c",
            "cat file; echo $A $(hostname) $(pwd); touch /t/x && ls /t; touch /work/no 2>/dev/null || echo ro",
        ),
    )
    assert run.stdout.decode().split() == ["seen", "1", "box", "/work", "x", "ro"], run.stderr


def test_the_default_hides_what_is_personal() -> None:
    """No home, no variables of ours, no network."""
    run = creche(
        *(
            "run",
            "sh",
            "-c",
            "ls -A /home /root /run 2>/dev/null | grep -v : ; echo [$SECRET]; ls /sys/class/net 2>/dev/null",
        ),
        env={**os.environ, "SECRET": "hush"},
    )
    assert run.stdout.split() == [b"[]"], run.stdout


def test_a_spec_file_and_overrides(tmp_path: Path) -> None:
    """TOML and JSON, options over them."""
    (tmp_path / "a.toml").write_text(
        'command = ["sh", "-c", "echo $A $B"]\nenv = { A = "1", B = "2", PATH = "/usr/bin:/bin" }\n'
    )
    (tmp_path / "a.json").write_text(
        json.dumps({"command": ["sh", "-c", "echo json $A"], "env": {"A": "1", "PATH": "/bin"}})
    )
    assert creche("run", "-f", str(tmp_path / "a.toml"), "-e", "B=3").stdout == b"1 3\n"
    assert creche("run", "--spec", str(tmp_path / "a.json")).stdout == b"json 1\n"
    assert creche("run", "-f", str(tmp_path / "a.toml"), "echo", "else").stdout == b"else\n"
    broken = tmp_path / "broken.toml"
    broken.write_text("[limits]\nmemory = 'much'\n")
    run = creche("run", "-f", str(broken), "true")
    assert run.returncode == 125
    assert b"limits.memory" in run.stderr and b"Traceback" not in run.stderr
    assert creche("run", "-f", "/no/such.toml", "true").returncode == 125


def test_what_a_spec_file_says_of_its_descriptors_stays(tmp_path: Path) -> None:
    """`stdin = "null"` is not undone because we have an input."""
    (tmp_path / "a.toml").write_text('command = ["cat"]\nstdin = "null"\n')
    run = creche("run", "-f", str(tmp_path / "a.toml"), input=b"not for you")
    assert (run.returncode, run.stdout) == (0, b"")


def test_a_terminal_without_one_of_ours() -> None:
    """-t gives the command a terminal though we have pipes: it echoes, and its newlines are a terminal's.

    What is typed before the command prints is echoed before that, so it is typed when the command has asked.
    """
    script = "test -t 0 && test -t 1 && echo yes; read x; echo got $x"
    command = [*CRECHE, "run", "-t", "sh", "-c", script]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None
        assert process.stdout.readline() == b"yes\r\n"
        process.stdin.write(b"word\n")
        process.stdin.flush()
        assert process.stdout.read() == b"word\r\ngot word\r\n"
        assert process.wait(30) == 0


@needs("limits")
def test_out_of_memory_is_said() -> None:
    """137 alone tells nobody: the sentence names the limit."""
    run = creche(
        "run",
        "-m",
        "48M",
        "python3",
        "-c",
        "x = bytearray(1 << 30)\nfor i in range(0, len(x), 4096): x[i] = 1",
    )
    assert run.returncode == 137, run.stderr
    assert b"limits.memory" in run.stderr


def test_a_word_that_names_a_file_of_ours_is_a_word(tmp_path: Path) -> None:
    """Whether we may read that file is nobody's business: the command has another file system."""
    (tmp_path / "locked").touch(0)
    run = creche("run", "echo", str(tmp_path / "locked"), str(tmp_path))
    assert run.stdout.split() == [bytes(tmp_path / "locked"), bytes(tmp_path)], run.stderr


def test_two_hundred_words_of_any_bytes() -> None:
    """Arguments are bytes: what is no UTF-8 arrives as it was."""
    words = [bytes([7 + number % 200, 200 + number % 50]) for number in range(200)]
    run = subprocess.run(
        [*CRECHE, "run", "printf", "%s|", *words], capture_output=True, check=True, timeout=60
    )
    assert run.stdout == b"".join(word + b"|" for word in words)
