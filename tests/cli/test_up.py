"""`creche up` and the commands that reach it, as programs: a project's whole life, and a good child of systemd's."""

from __future__ import annotations

import signal
import socket
from pathlib import Path

import pytest
from cli.project import Folder
from loop.helpers import adopting, alive, below, wait_for

from creche.cli import up
from creche.supervisor.project import load
from needs import needs

pytestmark = [needs("userns"), pytest.mark.slow]

PROJECT = """
name = "shop"
intensity = 5
[workers.db]
command = ["sh", "-c", "echo listening; sleep 1000"]
readiness = { line = "listening" }
shutdown = 0.2
[workers.web]
command = ["sh", "-c", "trap 'exit 0' TERM; echo hello $NAME; while :; do sleep 0.02; done"]
count = 2
env_file = "web.env"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    made = Folder(tmp_path, PROJECT)
    (tmp_path / "web.env").write_text('NAME="you there"\n')
    return made


READY = {"db": "ready", "web.1": "ready", "web.2": "ready"}


def test_the_life_of_a_project(folder: Folder) -> None:
    assert "does not run: start it with `creche up`" in folder.run("ps").stderr
    with folder.up("--quiet") as up:
        folder.until(READY)
        assert folder.run("logs", "web").stdout.splitlines() == [
            f"web.{n}        | hello you there" for n in (1, 2)
        ]
        second = folder.run("up")
        assert second.returncode == 1 and f"shop is run by the process {up.pid} already" in second.stderr
        assert folder.run("scale", "web=3").returncode == 0
        folder.until({**READY, "web.3": "ready"})
        told = folder.run("exec", "web.1", "sh", "-c", "echo $NAME; exit 7")
        assert (told.returncode, told.stdout) == (7, "you there\n")
        folder.run("stop", "web.2")
        folder.until({**READY, "web.2": "down", "web.3": "ready"})
        folder.run("start", "web.2")
        toml = folder.path / "creche.toml"
        toml.write_text(toml.read_text().replace("hello", "hi"))
        assert folder.run("reload").stdout == "replaced: web.1, web.2, web.3\n"
        folder.until(READY)  # the file says two, and what was scaled by hand gives way
        toml.write_text(toml.read_text().replace("command", "commadn"))
        assert "workers.db.commadn" in folder.run("reload").stderr
        assert "the children are: db, web" in folder.run("restart", "nobody").stderr
        assert folder.run("stop", "-f", "nowhere.toml").returncode == 1
        toml.write_text(PROJECT)
        assert folder.run("stop").returncode == 0
        assert up.wait(30) == 0


def test_a_project_that_gives_up_says_why_and_fails(folder: Folder) -> None:
    (folder.path / "creche.toml").write_text(
        'intensity = 1\n[workers.bad]\ncommand = ["sh", "-c", "exit 78"]\n'
    )
    told = folder.run("up", "--quiet")
    assert told.returncode == 1
    assert "gave up on bad: more than 1 restarts" in told.stderr and "status 78" in told.stderr


def test_it_is_a_good_child_of_systemd(folder: Folder) -> None:
    address = str(folder.path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address)
        manager.settimeout(30)
        folder.env |= {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "200000"}
        with folder.up("--quiet") as up:
            assert manager.recv(1000).split(b"\n")[0] == b"READY=1"
            assert manager.recv(1000) == b"WATCHDOG=1"
            up.send_signal(signal.SIGHUP)
            said = [manager.recv(1000)]
            while said[-1] != b"READY=1":
                said.append(manager.recv(1000))
            assert any(message.startswith(b"RELOADING=1\nMONOTONIC_USEC=") for message in said)
            up.send_signal(signal.SIGTERM)
            while said[-1] != b"STOPPING=1":
                said.append(manager.recv(1000))
            assert up.wait(30) == 0


KILLED = """
name = "shop"
[sockets]
web = "127.0.0.1:0"
local = "./web.sock"
[workers.web]
command = ["sh", "-c", "setsid sleep 1000 & echo up; exec sleep 1000"]
count = 3
listen = ["web", "local"]
readiness = { line = "up" }
"""


def test_kill_9_leaves_no_container_and_nothing_in_the_way_of_the_next(folder: Folder) -> None:
    """What it could not clean up is there (its sockets), is told as nobody's, and is replaced."""
    (folder.path / "creche.toml").write_text(KILLED)
    ready = {"web.1": "ready", "web.2": "ready", "web.3": "ready"}
    with adopting():
        with folder.up("--quiet") as up:
            folder.until(ready)
            inside = below(up.pid)
            assert len(inside) >= 3 * 3  # an init, a main command and a daemon in each
            up.kill()
            up.wait(30)
            assert (folder.path / "run" / "creche" / "shop.sock").is_socket() and (folder.path / "web.sock").is_socket()
            told = folder.run("ps")
            assert (told.returncode, told.stdout) == (1, "") and "shop does not run: start it with" in told.stderr
            wait_for(lambda: not any(alive(pid) for pid in inside), "the end of its containers")
        with folder.up("--quiet") as up:
            folder.until(ready)
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(folder.path / "web.sock"))
            folder.run("stop")
            assert up.wait(30) == 0


BRIEF = """
auto_shutdown = "any_significant"
intensity = 0
[workers.rude]
command = ["sh", "-c", 'printf "\\033[2Jboo\\n"; seq 100; exit STATUS']
restart = "transient"
significant = true
"""


BRIEFLY = [f"rude         | {text}" for text in (r"\x1b[2Jboo", *map(str, range(1, 101)))]


@pytest.mark.parametrize(("ends", "status"), [("0", 0), ("78", 1)], ids=["well", "badly"])
def test_all_that_a_brief_worker_printed_is_shown(folder: Folder, ends: str, status: int) -> None:
    """Its first line and its last, though the project ends with it; and no line moves the cursor."""
    (folder.path / "creche.toml").write_text(BRIEF.replace("STATUS", ends))
    told = folder.run("up")
    assert told.returncode == status, told.stderr
    assert told.stdout.splitlines() == BRIEFLY
    assert "rude         * ChildEnded" in told.stderr


async def test_nor_is_anything_lost_where_its_life_is_over_before_we_are_ready(
    folder: Folder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def slow(sup, _reload, *, task_status):
        await sup.wait()
        task_status.started()

    monkeypatch.setattr(up, "_signals", slow)
    monkeypatch.setenv("XDG_RUNTIME_DIR", folder.env["XDG_RUNTIME_DIR"])
    (folder.path / "creche.toml").write_text(BRIEF.replace("STATUS", "0"))
    await up._run(load(folder.path / "creche.toml"), quiet=False)
    assert capsys.readouterr().out.splitlines() == BRIEFLY
