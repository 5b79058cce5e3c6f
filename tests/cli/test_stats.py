"""`creche stats` through pipes: figures of a project that runs, and of what has limits anywhere on this machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest
from cli.project import CRECHE, Folder

from creche.cgroups import living
from needs import needs

pytestmark = [needs("native", "userns", "limits"), pytest.mark.slow]

PROJECT = """
name = "shop"
[workers.free]
command = ["sleep", "1000"]
[workers.held]
command = ["sh", "-c", "echo up; while :; do :; done"]
readiness = { line = "up" }
count = 2
shutdown = 0.1
spec = { limits = { memory = "64M", cpus = 0.2, pids = 16 } }
"""
KEYS = ["name", "pid", "cpu_percent", "cpu", "memory", "io", "pids", "pids_peak", "pressure"]


def test_a_project(tmp_path: Path) -> None:
    folder = Folder(tmp_path, PROJECT)
    with folder.up("--quiet"):
        folder.until({"free": "ready", "held.1": "ready", "held.2": "ready"})
        lines = folder.run("stats", "--no-stream", "--interval", "0.5").stdout.splitlines()
        assert lines[0].split() == [
            "NAME",
            "CPU",
            "MEMORY",
            "PEAK",
            "LIMIT",
            "PIDS",
            "READ",
            "WRITTEN",
            "PRESSURE",
        ]
        rows = {line.split()[0]: line.split() for line in lines[1:4]}
        assert rows["free"][1:] == ["-"] * 8 and rows["held.1"][4:6] == ["64M", "1"]
        assert lines[4].startswith("-: nothing counts free: ")
        told = folder.run("stats", "--no-stream", "--json", "held")
        data = [json.loads(line) for line in told.stdout.splitlines()]
        assert [one["name"] for one in data] == ["held.1", "held.2"]
        assert all(list(one) == KEYS for one in data)
        assert all(one["memory"]["limit"] == 64 << 20 and 0 < one["cpu_percent"] < 60 for one in data)
        assert "the children are: free, held" in folder.run("stats", "--no-stream", "nobody").stderr
        assert folder.run("stats", "--all", "held").returncode == 2


def test_without_a_project_it_names_what_shows_the_others(tmp_path: Path) -> None:
    done = Folder(tmp_path, PROJECT).run("stats", "--no-stream", "--file", "other.toml")
    assert done.returncode == 1 and "there is no project 'other.toml' here" in done.stderr and "--all" in done.stderr


def test_it_goes_on_until_its_reader_has_enough(tmp_path: Path) -> None:
    folder = Folder(tmp_path, PROJECT)
    with folder.up("--quiet"):
        folder.until({"free": "ready", "held.1": "ready", "held.2": "ready"})
        command = [*CRECHE, "stats", "--json", "--interval", "0.1", "held.1"]
        with subprocess.Popen(
            command, cwd=folder.path, env=folder.env, stdout=subprocess.PIPE, text=True
        ) as stats:
            assert stats.stdout is not None
            first = json.loads(stats.stdout.readline())["cpu"]["user"]
            while json.loads(stats.stdout.readline())["cpu"]["user"] <= first:
                pass  # on a busy machine it may get nothing for a while
            stats.send_signal(signal.SIGINT)
            stats.stdout.close()
            assert stats.wait(20) in (0, 141)


def test_all_that_have_limits_and_no_others(tmp_path: Path) -> None:
    """Found by the names of their cgroups; a container without limits has none."""
    say = "echo up; exec sleep 1000"
    with (
        subprocess.Popen(
            [*CRECHE, "run", "--pids", "20", "sh", "-c", say], stdout=subprocess.PIPE
        ) as limited,
        subprocess.Popen([*CRECHE, "run", "sh", "-c", say], stdout=subprocess.PIPE) as free,
    ):
        try:
            for one in (limited, free):
                assert one.stdout is not None and one.stdout.readline() == b"up\n"
            owners = {one.owner: one for one in living()}
            assert limited.pid in owners and free.pid not in owners
            assert owners[limited.pid].stats().pids == 1
            run = subprocess.run(
                [*CRECHE, "stats", "--all", "--json", "--no-stream"],
                capture_output=True,
                text=True,
                check=True,
            )
            told = {one["pid"]: one for one in map(json.loads, run.stdout.splitlines())}
            assert told[limited.pid]["pids"] == 1 and free.pid not in told
        finally:
            limited.terminate()
            free.terminate()
    assert limited.pid not in {one.owner for one in living()}


@needs("root")
def test_another_user_does_not_see_them(tmp_path: Path) -> None:
    """The control is root, who does."""
    with subprocess.Popen(
        [*CRECHE, "run", "--pids", "20", "sh", "-c", "echo up; exec sleep 1000"], stdout=subprocess.PIPE
    ) as limited:
        try:
            assert limited.stdout is not None and limited.stdout.readline() == b"up\n"
            assert limited.pid in {one.owner for one in living()}
            reader, writer = os.pipe()
            child = os.fork()
            if child == 0:
                try:
                    os.setresuid(4_000_000, 4_000_000, 4_000_000)
                    os.write(writer, json.dumps([one.owner for one in living()]).encode())
                finally:
                    os._exit(0)
            os.close(writer)
            with os.fdopen(reader) as pipe:
                assert limited.pid not in json.load(pipe)
            os.waitpid(child, 0)
        finally:
            limited.terminate()
