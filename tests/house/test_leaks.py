"""The look at the world: each kind of leftover is seen, and a test that leaves one fails."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from leaks import World, left_since

TESTS = Path(__file__).parent.parent


def _environment() -> dict[str, str]:
    """Ours without what `.ci/run` tells this run alone: where its results go, which tests it shall run."""
    return {name: value for name, value in os.environ.items() if not name.startswith("CRECHE_")}


def test_nothing_done_nothing_left() -> None:
    assert left_since(World.now(), grace=0) == []


def test_a_descriptor_is_seen() -> None:
    before = World.now()
    one, two = os.pipe()
    try:
        left = left_since(before, grace=0)
        assert len(left) == 2 and left[0].startswith(f"descriptors: {one} -> pipe:"), left
    finally:
        os.close(one)
        os.close(two)


def test_a_descriptor_that_became_another_file_is_seen() -> None:
    """Closing one and opening something else under its number is a leak all the same."""
    one = os.open("/dev/null", os.O_RDONLY)
    before = World.now()
    os.close(one)
    other = os.open("/dev/zero", os.O_RDONLY)
    try:
        assert other == one
        assert left_since(before, grace=0) == [f"descriptors: {other} -> /dev/zero"]
    finally:
        os.close(other)


def test_a_running_child_and_a_zombie_are_seen() -> None:
    before = World.now()
    child = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    assert child.stdin
    try:
        assert f"children: {child.pid} cat" in left_since(before, grace=0)
        child.stdin.close()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert left_since(before, grace=0) == [f"children: {child.pid} cat (a zombie)"]
    finally:
        child.wait()


def test_a_thread_is_seen_but_for_the_few_that_spawn() -> None:
    before = World.now()
    end = threading.Event()
    threads = [threading.Thread(target=end.wait, name=name) for name in ("creche-spawn-1", "somebody")]
    for thread in threads:
        thread.start()
    try:
        assert left_since(before, grace=0) == [f"threads: {threads[1].native_id} somebody"]
    finally:
        end.set()
        for thread in threads:
            thread.join()


def test_a_temporary_file_is_seen() -> None:
    before = World.now()
    folder = tempfile.mkdtemp(prefix="creche-upper-")
    try:
        assert left_since(before, grace=0) == [f"files: {folder}"]
    finally:
        os.rmdir(folder)


def test_what_goes_away_in_time_is_no_leak() -> None:
    before = World.now()
    reading, writing = os.pipe()
    thread = threading.Thread(target=lambda: (os.read(reading, 1), os.close(reading), os.close(writing)))
    thread.start()
    os.write(writing, b"x")
    assert left_since(before) == []
    thread.join()


def test_a_test_that_leaks_fails(tmp_path: Path) -> None:
    """The fixture itself, in a run of its own: the leaking test is an error, its neighbour passes."""
    suite = tmp_path / "test_two.py"
    suite.write_text(
        "import os, leaks\n"
        "leaks.GRACE = 0.1\n"
        "def test_leaks(): os.open('/dev/zero', os.O_RDONLY)\n"
        "def test_does_not(): os.close(os.open('/dev/zero', os.O_RDONLY))\n"
    )
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "leaks",
        "-p",
        "no:cacheprovider",
        "--rootdir",
        tmp_path,
        suite,
    ]
    run = subprocess.run(
        command,
        env={**_environment(), "PYTHONPATH": str(TESTS)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 1, run.stdout + run.stderr
    assert "2 passed, 1 error" in run.stdout
    assert "left behind by this test" in run.stdout and "-> /dev/zero" in run.stdout
