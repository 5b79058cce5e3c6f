"""Project files: what they say becomes children and options, and an error names its place in the file."""

from __future__ import annotations

import errno
import os
import socket
import tomllib
from pathlib import Path

import pytest

from creche.errors import SpecError
from creche.supervisor import (
    Admission,
    Backoff,
    Command,
    Completed,
    Connect,
    Delay,
    Http,
    Line,
    Notify,
    Recycle,
)
from creche.supervisor.project import load, project

WHOLE = """
name = "shop"
strategy = "rest_for_one"
intensity = 5
period = 60.0

[sockets]
web = "127.0.0.1:0"
admin = "./admin.sock"

[admission]
starting = 2

[workers.db]
command = ["./db"]
shutdown = 30.0
readiness = { line = "listening" }
liveness = { command = ["./check"], every = 5.0 }

[workers.db.spec]
cwd = "/srv"
limits = { memory = "1G" }

[workers.web]
command = ["./web"]
count = 4
depends_on = ["db"]
listen = ["web"]
env_file = "web.env"
backoff = { first = 0.5 }
recycle = { age = 3600.0 }
output = { keep = 10 }
readiness = { http = 8000, path = "/health" }
"""


def read(text, folder=Path("/srv/shop")):
    return project(tomllib.loads(text), folder / "creche.toml")


def test_a_whole_project(tmp_path):
    (tmp_path / "web.env").write_text('# comment\n\nGREETING="a b"\nPORT=80\n')
    path = tmp_path / "creche.toml"
    path.write_text(WHOLE)
    told = load(path)
    db, web = told.children
    assert (told.name, told.options["strategy"], told.options["intensity"]) == ("shop", "rest_for_one", 5)
    assert told.options["admission"].starting == Admission(starting=2).starting
    assert (db.spec.command, db.spec.cwd, db.spec.limits.memory) == (("./db",), "/srv", 2**30)
    assert db.readiness == Line("listening") and db.liveness == Command(["./check"], every=5.0)
    assert (web.count, web.depends_on, web.listen) == (4, ("db",), ("web",))
    assert web.spec.env["GREETING"] == "a b" and "PATH" in web.spec.env
    assert web.backoff == Backoff(first=0.5) and web.recycle == Recycle(age=3600.0) and web.output.keep == 10
    assert web.readiness == Http(8000, path="/health")
    sockets = told.listen()
    try:
        assert sorted(sockets) == ["admin", "web"] and (tmp_path / "admin.sock").is_socket()
    finally:
        for sock in sockets.values():
            sock.close()


@pytest.mark.parametrize("there", ["forsaken", "alive", "a file", "nothing"])
def test_a_socket_that_nobody_listens_on_is_replaced_and_nothing_else(tmp_path, there):
    """kill -9 leaves its name behind; a file of any other kind refuses a connection, too."""
    told = read('sockets.admin = "./admin.sock"\n[workers.a]\ncommand = ["x"]', tmp_path)
    path = tmp_path / "admin.sock"
    with socket.socket(socket.AF_UNIX) as other:
        if there in ("forsaken", "alive"):
            other.bind(str(path))
        if there == "alive":
            other.listen(0)
            with socket.socket(socket.AF_UNIX) as first:  # whose connection fills the queue
                first.connect(str(path))
        if there == "a file":
            path.write_text("kept")
        if there in ("forsaken", "nothing"):
            with told.listen()["admin"] as ours, socket.socket(socket.AF_UNIX) as client:
                client.connect(str(path))
                ours.accept()[0].close()
            return
        with pytest.raises(OSError, match=os.strerror(errno.EADDRINUSE)):
            told.listen()
    assert path.is_socket() if there == "alive" else path.read_text() == "kept"


@pytest.mark.parametrize(
    ("text", "probe"),
    [
        ("{notify = true, watchdog = 3.0}", Notify(watchdog=3.0)),
        ("{delay = 1.5}", Delay(1.5)),
        ("{completed = true}", Completed()),
        ('{connect = "/run/x.sock"}', Connect("/run/x.sock")),
    ],
)
def test_kinds_of_probes(text, probe):
    told = read(f'[workers.a]\ncommand = ["x"]\nrestart = "transient"\nreadiness = {text}')
    assert told.children[0].readiness == probe


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("", "workers"),
        ("workers = 3", "workers"),
        ("wrokers = {}", "wrokers"),
        ('name = "a/b"\n[workers.a]\ncommand = ["x"]', "name"),
        ("[workers.a]", "workers.a.command"),
        ('[workers.a]\ncommand = "x"', "workers.a.spec.command"),
        ('[workers.a]\ncommand = ["x"]\nspec = {hostnmae = "y"}', "workers.a.spec.hostnmae"),
        ('[workers.a]\ncommand = ["x"]\nrestrat = "never"', "workers.a.restrat"),
        ('[workers.a]\ncommand = ["x"]\nrestart = "never"', "workers.a.restart"),
        ('[workers.a]\ncommand = ["x"]\nbackoff = {frist = 1}', "workers.a.backoff.frist"),
        ('[workers.a]\ncommand = ["x"]\nbackoff = {first = -1}', "workers.a.backoff.first"),
        ('[workers.a]\ncommand = ["x"]\nreadiness = {}', "workers.a.readiness"),
        ('[workers.a]\ncommand = ["x"]\nreadiness = {delay = 1, line = "x"}', "workers.a.readiness"),
        ('[workers.a]\ncommand = ["x"]\nreadiness = {notify = 1}', "workers.a.readiness.notify"),
        ('[workers.a]\ncommand = ["x"]\nreadiness = {http = 8000}', "workers.a.readiness"),
        ('[workers.a]\ncommand = ["x"]\ncount = "2"', "workers.a.count"),
        ('[workers.a]\ncommand = ["x"]\nenv_file = "/nowhere"', "workers.a.env_file"),
        ('[sockets]\nweb = "80"\n[workers.a]\ncommand = ["x"]', "sockets.web"),
        ('[admission]\nrunning = 0\n[workers.a]\ncommand = ["x"]', "admission.running"),
    ],
)
def test_an_error_names_its_place(text, field):
    with pytest.raises(SpecError) as caught:
        read(text)
    assert caught.value.field == field


def test_an_environment_file_never_shows_its_values(tmp_path):
    (tmp_path / "e").write_text("GOOD=1\nsecret words\n")
    with pytest.raises(SpecError) as caught:
        read('[workers.a]\ncommand = ["x"]\nenv_file = "e"', tmp_path)
    assert "secret" not in str(caught.value) and caught.value.field == "workers.a.env_file:2"


@pytest.mark.parametrize("content", [b"\xff\xfe", b"= 3", b"x" * (5 << 20)])
def test_a_file_that_is_no_project_is_refused(tmp_path, content):
    path = tmp_path / "creche.toml"
    path.write_bytes(content)
    with pytest.raises(SpecError):
        load(path)


def test_a_field_of_the_spec_is_told_where_it_belongs(tmp_path):
    data = {"workers": {"web": {"command": ["x"], "limits": {"memory": "1G"}}}}
    with pytest.raises(SpecError, match=r"write it in \[workers\.web\.spec\]"):
        project(data, tmp_path / "creche.toml")
