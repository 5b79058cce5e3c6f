"""A project file (creche.toml): workers as text, to the children and options of a Supervisor."""

from __future__ import annotations

import os
import re
import socket
import stat
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import evolve, fields, frozen

from creche.errors import SpecError
from creche.spec import Spec
from creche.spec.load import from_dict
from creche.supervisor import probes
from creche.supervisor.admission import Admission
from creche.supervisor.childspec import ChildSpec, Output, Recycle
from creche.supervisor.notify import with_env
from creche.supervisor.restarts import Backoff

_OPTIONS = ("strategy", "intensity", "period", "auto_shutdown", "keep")
_PLAIN = ("restart", "count", "depends_on", "start_timeout", "shutdown", "stop_signal", "stop_command", "success",
          "listen", "tenant", "significant")  # fmt: skip
_VALUES: dict[str, Any] = {"backoff": Backoff, "recycle": Recycle, "output": Output}
_PROBES: dict[str, tuple[type, str | None]] = {
    "http": (probes.Http, "to"),
    "connect": (probes.Connect, "to"),
    "command": (probes.Command, "command"),
    "line": (probes.Line, "pattern"),
    "delay": (probes.Delay, "seconds"),
    "notify": (probes.Notify, None),
    "completed": (probes.Completed, None),
}
_LARGEST = 4 << 20  # bytes of a project file


@frozen(kw_only=True)
class Project:
    """What a project file says. `options` are a Supervisor's; `sockets` are addresses to listen on, by name."""

    name: str
    path: Path
    children: tuple[ChildSpec, ...]
    options: dict[str, Any]
    sockets: dict[str, str]

    def listen(self) -> dict[str, socket.socket]:
        """Open the sockets; all of them, or none and an OSError."""
        opened: dict[str, socket.socket] = {}
        try:
            for name, address in self.sockets.items():
                opened[name] = _listener(address, self.path.parent)
        except BaseException:
            for sock in opened.values():
                sock.close()
            raise
        return opened


def load(path: Path) -> Project:
    """The project in a file. Raises SpecError with the path of the field, and OSError."""
    return project(_read(path), path)


def name_of(path: Path) -> str:
    """The name alone, which is all that it takes to reach a running project, also where the rest makes no sense."""
    return _name(_read(path), path)


def _read(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        text = file.read(_LARGEST + 1)
    if len(text) > _LARGEST:
        raise SpecError(str(path), f"{len(text)} bytes", f"a project file has {_LARGEST} at most")
    try:
        return tomllib.loads(text.decode("utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SpecError(str(path), str(error), "give a project in TOML") from None


def project(data: Mapping[str, Any], path: Path) -> Project:
    """The project in such a dict as TOML gives. Raises SpecError with the path of the field."""
    _known(data, ("name", "workers", "sockets", "admission", *_OPTIONS), "")
    name = _name(data, path)
    workers = _table(data.get("workers", {}), "workers")
    if not workers:
        raise SpecError("workers", workers, "give at least one: [workers.web] with a command")
    options = {key: data[key] for key in _OPTIONS if key in data}
    if "admission" in data:
        options["admission"] = _built(Admission, data["admission"], "admission")
    sockets = _table(data.get("sockets", {}), "sockets")
    for key, address in sockets.items():
        if not isinstance(address, str) or not (
            address.startswith(("/", "./")) or _HOST_PORT.fullmatch(address)
        ):
            raise SpecError(f"sockets.{key}", address, "give 'HOST:PORT', or the path of a Unix socket")
    return Project(
        name=name,
        path=path,
        children=tuple(_worker(key, _table(value, f"workers.{key}"), path) for key, value in workers.items()),
        options=options,
        sockets=dict(sockets),
    )


def _name(data: Mapping[str, Any], path: Path) -> str:
    """`name`, or the folder's for want of one."""
    name = data.get("name", path.resolve().parent.name)
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}", name):
        raise SpecError("name", name, "give letters, digits, '-', '_' and '.', at most 63")
    return name


_HOST_PORT = re.compile(r"(\[[0-9A-Fa-f:]+\]|[A-Za-z0-9.-]*):([0-9]{1,5})")


def _worker(name: str, data: Mapping[str, Any], path: Path) -> ChildSpec:
    place = f"workers.{name}"
    for key in data.keys() & {field.name for field in fields(Spec)} - {"command"}:
        raise SpecError(f"{place}.{key}", data[key], f"it is a field of the Spec: write it in [{place}.spec]")
    _known(data, ("command", "spec", "env_file", "readiness", "liveness", *_PLAIN, *_VALUES), place)
    given = dict(_table(data.get("spec", {}), f"{place}.spec"))
    if "command" in data:
        given["command"] = data["command"]
    if isinstance(given.get("mounts"), list):
        given["mounts"] = [_from_here(mount, path.parent) for mount in given["mounts"]]
    try:
        spec = from_dict(given)
    except SpecError as error:
        raise SpecError(f"{place}.spec.{error.field}", error.value, error.wish) from None
    if spec.command is None:
        raise SpecError(f"{place}.command", None, "give the command, as a list of words")
    if "env_file" in data:
        spec = with_env(spec, _environment(path.parent / str(data["env_file"]), f"{place}.env_file"))
    rest: dict[str, Any] = {key: data[key] for key in _PLAIN if key in data}
    for key, kind in _VALUES.items():
        if key in data:
            rest[key] = _built(kind, data[key], f"{place}.{key}")
    for key in ("readiness", "liveness"):
        if key in data:
            rest[key] = _probe(_table(data[key], f"{place}.{key}"), f"{place}.{key}")
    child: ChildSpec = _said(place, lambda: ChildSpec(name, _patient(spec), **rest))
    return child


def _from_here(mount: object, folder: Path) -> object:
    """A bind's source is seen from the project's folder, as a person would write it."""
    if isinstance(mount, Mapping) and mount.get("type") == "bind" and isinstance(mount.get("source"), str):
        return {**mount, "source": str((folder / mount["source"]).resolve())}
    return mount


def _patient(spec: Spec) -> Spec:
    """Nobody feeds a worker's stdin."""
    return evolve(spec, stdin="null") if spec.stdin == "pipe" and spec.tty is None else spec


def _probe(data: Mapping[str, Any], place: str) -> Any:
    kinds = [key for key in data if key in _PROBES]
    # {command = […]} and {http = 80, path = "/"}: the kind is a key, and its value the kind's first field.
    if len(kinds) != 1:
        raise SpecError(place, dict(data), f"give one kind of probe: {', '.join(_PROBES)}")
    cls, first = _PROBES[kinds[0]]
    rest = {key: value for key, value in data.items() if key != kinds[0]}
    if first is not None:
        rest[first] = data[kinds[0]]
    elif data[kinds[0]] is not True:
        raise SpecError(f"{place}.{kinds[0]}", data[kinds[0]], "give true")
    return _built(cls, rest, place)


def _built(cls: type, data: object, place: str) -> Any:
    table = _table(data, place)
    _known(table, [field.alias or field.name for field in fields(cls) if field.init], place)
    return _said(place, lambda: cls(**table))


def _said(place: str, build: Any) -> Any:
    """Errors of a class told with their place in the file."""
    try:
        return build()
    except SpecError as error:
        field = error.field.partition(".")[2] or error.field
        raise SpecError(f"{place}.{field}", error.value, error.wish) from None
    except TypeError as error:
        raise SpecError(place, str(error), "a value there has the wrong type, or one is missing") from None


def _table(value: object, place: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise SpecError(place, value, "give a table")
    return value


def _known(data: Mapping[str, Any], names: Any, place: str) -> None:
    for key in data:
        if key not in names:
            raise SpecError(
                f"{place}.{key}".lstrip("."), key, f"there is no such key; there are: {', '.join(names)}"
            )


def _environment(path: Path, place: str) -> dict[str, str]:
    """NAME=value lines, as an EnvironmentFile of systemd's: comments, blank lines, quotes around a whole value."""
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(place, str(path), f"it can't be read: {error}") from None
    found: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text or text[0] in "#;":
            continue
        name, equals, value = text.partition("=")
        if not equals or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name.strip()):
            raise SpecError(f"{place}:{number}", "its value", "give NAME=value lines")
        value = value.strip()
        if len(value) >= 2 and value[0] == value[-1] and value[0] in "'\"":
            value = value[1:-1]
        found[name.strip()] = value
    return found


def _listener(address: str, folder: Path) -> socket.socket:
    if address.startswith(("/", "./")):
        path = str(folder / address)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            if _forsaken(path):
                os.unlink(path)
            sock.bind(path)
            sock.listen(1024)
        except BaseException:
            sock.close()
            raise
        return sock
    host, port = address.rsplit(":", 1)
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, int(port)), family=family, backlog=1024, reuse_port=False)


def _forsaken(path: str) -> bool:
    """Whether a Unix socket is there that nobody listens on: its name outlives whoever bound it (unix(7))."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.setblocking(False)  # to one whose queue is full: that is somebody
        try:
            client.connect(path)
        except ConnectionRefusedError:  # so it is for a file of any other kind
            return stat.S_ISSOCK(os.lstat(path).st_mode)
        except OSError:
            return False  # BlockingIOError: somebody is there; any other is the bind's to tell
        return False
