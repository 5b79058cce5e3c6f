"""The control socket: its owner is served, others and rubbish are not, and nothing that comes in harms the supervisor."""

from __future__ import annotations

import json
import os
import socket
import tempfile
import threading
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
from supervisor.fakes import World, settle

from creche.errors import CrecheError
from creche.supervisor import Supervisor
from creche.supervisor import control as room
from creche.supervisor.control import AlreadyRunning, Control, Place, ask
from needs import needs


@pytest.fixture
def world():
    return World()


@pytest.fixture
def short():
    """A folder with a short name: an address of a Unix socket has 107 bytes, and the tests bind and connect by path."""
    with tempfile.TemporaryDirectory(prefix="ctl-", dir="/tmp") as folder:
        yield Path(folder)


@pytest.fixture
def place(short):
    place = Place(short / "run" / "creche", "shop")
    with place.claim():
        yield place


async def asked(place, **request):
    return await anyio.to_thread.run_sync(lambda: list(ask(place, request)))


async def raw(place, data, *, end=True):
    """Whatever comes back for these bytes."""
    async with await anyio.connect_unix(place.socket) as stream:
        await stream.send(data)
        if end:
            await stream.send_eof()
        said = b""
        with anyio.fail_after(5):
            try:
                while True:
                    said += await stream.receive()
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                return said


async def test_the_owner_sees_and_moves_children(world, place):
    children = [world.child("db"), world.child("web", count=1)]
    async with Supervisor(children, intensity=None) as sup, anyio.create_task_group() as tasks:
        await tasks.start(Control(sup, place).serve)
        await sup.wait_ready()
        ((told),) = await asked(place, do="ps")
        assert [(row["name"], row["state"], row["wanted"]) for row in told["children"]] == [
            ("db", "ready", "up"),
            ("web.1", "ready", "up"),
        ]
        assert (await asked(place, do="ping"))[0]["pid"] == os.getpid()
        await asked(place, do="restart", names=["db"])
        await asked(place, do="scale", names=["web"], count=2)
        await asked(place, do="stop", names=["web.1"])
        await sup.wait_ready()
        assert sup["db"].life == 2 and sup["web.1"].state == "down" and sup["web.2"].state == "ready"
        await asked(place, do="start", names=["web"])
        await sup.wait_ready()
        assert sup["web.1"].state == "ready"
        world.boxes["db"].print(b"a line\n")
        await settle()
        assert await asked(place, do="logs", names=["db"]) == [{"child": "db", "line": "a line"}]
        assert (await asked(place, do="exec", names=["db"], command=["x"]))[0]["ok"]
        await asked(place, do="stop")
        await sup.wait()
        tasks.cancel_scope.cancel()
    assert not place.socket.exists()


async def test_figures_and_last_lines_are_told(world, place):
    async with Supervisor([world.child("a"), world.child("b")]) as sup, anyio.create_task_group() as tasks:
        await tasks.start(Control(sup, place).serve)
        await sup.wait_ready()
        world.boxes["a"].memory = 5000
        world.boxes["a"].print(b"one\ntwo\n")
        await settle()
        a, b = await asked(place, do="stats")
        assert (a["name"], a["state"], a["stats"]["memory"]["current"], a["line"]) == (
            "a",
            "ready",
            5000,
            "two",
        )
        assert (b["name"], b["line"]) == ("b", None) and b["at"] >= a["at"]
        await sup.stop("b")
        (b,) = await asked(place, do="stats", names=["b"])
        assert (b["state"], b["stats"]) == ("down", None)
        with pytest.raises(CrecheError, match="the children are: a, b"):
            await asked(place, do="stats", names=["c"])
        tasks.cancel_scope.cancel()


async def test_events_are_told_as_they_happen(world, place):
    async with Supervisor([world.child("a")], intensity=None) as sup, anyio.create_task_group() as tasks:
        await tasks.start(Control(sup, place).serve)
        await sup.wait_ready()
        async with await anyio.connect_unix(place.socket) as stream:
            await stream.send(b'{"do": "events"}\n')
            assert json.loads(await stream.receive()) == {"ok": True}
            sup.restart("a")
            with anyio.fail_after(5):
                assert b"ChildStopping" in await stream.receive()
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize("do", ["exec", "logs", "events"])
async def test_what_is_done_for_one_who_has_gone_is_ended(world, place, do):
    """Though nothing comes that he would have to be told of; as long as he is there, it goes on."""
    async with Supervisor([world.child("a")]) as sup, anyio.create_task_group() as tasks:
        control = Control(sup, place)
        await tasks.start(control.serve)
        await sup.wait_ready()
        box = world.boxes["a"]
        box.endless = True
        request = {"do": do, "names": ["a"], "command": ["endless"], "follow": True}
        stream = await anyio.connect_unix(place.socket)
        async with stream:
            await stream.send(json.dumps(request).encode() + b"\n")
            for _ in range(5):
                await asked(place, do="ping")
            assert control._clients >= 1 and box.running == (do == "exec")
        with anyio.fail_after(5):
            while control._clients or box.running:
                await anyio.sleep(0.001)
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"rubbish\n", "one line of JSON"),
        (b"\xff\xfe\n", "one line of JSON"),
        (b"[" * 50_000 + b"\n", "one line of JSON"),
        (b"[]\n", "give an object"),
        (b"{}\n", "ping, ps"),
        (b'{"do": ["ps"]}\n', "ping, ps"),
        (b'{"do": "restart", "names": ["nobody"]}\n', "the children are: a"),
        (b'{"do": "restart", "names": "a"}\n', "a list of names"),
        (b'{"do": "scale", "names": ["a"], "count": "2"}\n', "give a number"),
        (b'{"do": "scale", "names": ["a"], "count": 2}\n', "single child"),
        (b'{"do": "exec", "names": ["a"], "command": "ls"}\n', "a list of words"),
        (b'{"do": "exec", "names": ["many"], "command": ["ls"]}\n', "name one: many.1, many.2"),
        (b'{"do": "reload"}\n', "nothing to reload from"),
        (b"x" * 200_000, "at most"),
        (b"no end of line", None),
        (b"", None),
    ],
)
async def test_rubbish_is_answered_and_does_no_harm(world, place, data, word):
    children = [world.child("a"), world.child("many", count=2)]
    async with Supervisor(children) as sup, anyio.create_task_group() as tasks:
        await tasks.start(Control(sup, place).serve)
        await sup.wait_ready()
        try:
            said = await raw(place, data)
        except anyio.BrokenResourceError:  # it hung up while we were still sending too much
            said = b'{"error": "at most"}'
        if word is None:
            assert said == b""
        else:
            assert word in json.loads(said)["error"]
        assert (await asked(place, do="ping"))[0]["ok"]
        tasks.cancel_scope.cancel()


async def test_another_user_is_refused(world, place):
    """The control is every other test here: the same request, of the right user."""
    if os.geteuid() == 0:  # root may always ask, so the one who asks has to be somebody else
        uid, other = 0, 4_000_000
    else:
        uid, other = os.geteuid() + 1, None
    async with Supervisor([world.child("a")]) as sup, anyio.create_task_group() as tasks:
        await tasks.start(Control(sup, place, uid=uid).serve)
        if other is None:
            said = await raw(place, b'{"do": "ps"}\n')
        else:
            for path in (place.folder.parent, place.folder):
                path.chmod(0o755)
            place.socket.chmod(0o666)
            said = await anyio.to_thread.run_sync(partial(_as_another, place, other))
        assert "may ask" in json.loads(said)["error"]
        tasks.cancel_scope.cancel()


def _as_another(place, uid):
    """What the socket says to a process of another user."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.chdir(place.folder)
            os.setresuid(uid, uid, uid)
            sock.connect(place.socket.name)
            sock.sendall(b'{"do": "ps"}\n')
            os.write(write, sock.recv(1000))
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    os.close(write)
    sock.close()
    with os.fdopen(read, "rb") as pipe:
        return pipe.read()


async def test_a_request_that_does_not_come_is_not_waited_for_ever(world, place, monkeypatch):
    monkeypatch.setattr(room, "PATIENCE", 0.05)
    async with Supervisor([world.child("a")]) as sup, anyio.create_task_group() as tasks:
        await tasks.start(Control(sup, place).serve)
        assert "was not there within" in json.loads(await raw(place, b"{", end=False))["error"]
        tasks.cancel_scope.cancel()


def test_a_second_one_says_who_runs_it(place):
    with pytest.raises(AlreadyRunning, match=f"the process {os.getpid()} already"), place.claim():
        pass


def test_one_that_hangs_up_with_the_request_unread_is_told_as_ended(place):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place.socket))
        listener.listen()

        def hang_up():
            connection, _ = listener.accept()
            connection.recv(1, socket.MSG_PEEK)  # a close with something unread is a reset: unix(7)
            connection.close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        with pytest.raises(CrecheError, match="shop hung up before it had answered: it does not run any more"):
            list(ask(place, {"do": "ping"}))
        thread.join()


def test_a_socket_that_a_killed_one_left_is_no_hindrance(short):
    place = Place(short / "run", "shop")
    with place.claim(), socket.socket(socket.AF_UNIX) as left:
        left.bind(str(place.socket))
    with pytest.raises(CrecheError, match="does not run"):
        list(ask(place, {"do": "ping"}))
    with place.claim():
        assert not place.socket.exists()


def test_a_login_finds_what_a_service_runs_and_the_other_way_round(short, monkeypatch):
    """One has a runtime directory, the other none. Who chose a directory of his own means that one."""
    login, service = short / "login", short / "service"
    monkeypatch.setattr(room, "usual", lambda: (str(login), str(service)))

    def found(base):
        if base is None:
            monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
        else:
            monkeypatch.setenv("XDG_RUNTIME_DIR", str(base))
        return Place.of("shop").folder.parent

    assert (found(login), found(None)) == (login, service), "the control: nobody runs it"
    for where in (login, service):
        runs = Place(where / "creche", "shop")
        with runs.claim(), socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(runs.socket))
            assert (found(login), found(None)) == (login, service), "nobody listens yet"
            listener.listen()
            assert (found(login), found(None)) == (where, where)
            assert found(short / "own") == short / "own"
            found(login)
            with pytest.raises(AlreadyRunning), Place.of("shop").claim():
                pass


@needs("root")
def test_nothing_is_said_to_a_socket_of_somebody_else(short):
    """Anyone may make the folder in /tmp first. The control is the test before: ours is asked."""
    place = Place(short, "shop")
    short.chmod(0o755)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place.socket))
        child = os.fork()  # the credentials are those of who listens: unix(7)
        if child == 0:
            try:
                os.setresuid(4_000_000, 4_000_000, 4_000_000)
                listener.listen()
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        with pytest.raises(CrecheError, match="is the user 4000000's, and nothing is said to it"):
            list(ask(place, {"do": "ps"}))
        assert not place.runs()
        listener.settimeout(20)
        for _ in range(2):
            connection, _ = listener.accept()
            with connection:
                assert connection.recv(100) == b""


def test_a_folder_that_others_can_enter_is_not_used(tmp_path):
    place = Place(tmp_path / "run", "shop")
    place.folder.mkdir()
    place.folder.chmod(0o755)
    with pytest.raises(CrecheError, match="mode 0700"), place.claim():
        pass
