"""A transient scope with Delegate=yes, asked of systemd over D-Bus, for this process to have room in."""

from __future__ import annotations

import os
from collections.abc import Mapping

import anyio
from jeepney import DBusAddress, MatchRule, new_method_call
from jeepney.bus import get_connectable_addresses

from ..errors import CgroupError
from . import files
from .dbus import SECONDS, connected
from .hierarchy import memberships
from .owner import start_time

_MANAGER = DBusAddress(
    "/org/freedesktop/systemd1",
    bus_name="org.freedesktop.systemd1",
    interface="org.freedesktop.systemd1.Manager",
)
_REFUSED = "org.freedesktop.DBus.Error.AccessDenied"


def absent(environ: Mapping[str, str]) -> str | None:
    """Why systemd cannot be asked, or None: it must run here, and have a bus for our user."""
    if not os.path.isdir("/run/systemd/system"):
        return "systemd does not run here"
    try:
        path = bus_path(environ)
    except CgroupError as error:
        return str(error)
    if not path.startswith("\0") and not os.path.exists(path):
        return f"there is no D-Bus at {path}" + (
            "" if os.geteuid() == 0 else " (no systemd --user for this user)"
        )
    return None


def bus_path(environ: Mapping[str, str]) -> str:
    """The socket of the bus to ask: root's is the system's, everybody else's that of their own systemd --user."""
    root = os.geteuid() == 0
    variable = "DBUS_SYSTEM_BUS_ADDRESS" if root else "DBUS_SESSION_BUS_ADDRESS"
    if address := environ.get(variable):
        try:
            return str(next(iter(get_connectable_addresses(address))))
        except (RuntimeError, ValueError, StopIteration) as error:
            raise CgroupError(
                f"{variable}={address!r}", hint="an address such as unix:path=/run/user/1000/bus"
            ) from error
    if root:
        return "/run/dbus/system_bus_socket"
    return os.path.join(environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.geteuid()}", "bus")


def scope_name(pid: int) -> str:
    """What our scope is called: by pid and start time, so that no second process meets the name."""
    return f"creche-{pid}-{start_time(pid)}.scope"


async def delegates(environ: Mapping[str, str], unit: str) -> bool:
    """Whether the manager behind our bus knows *unit* and has it delegated. Raises CgroupError as `connected` does."""
    kind = {".scope": "Scope", ".service": "Service"}.get(os.path.splitext(unit)[1])
    if kind is None:
        return False
    async with connected(bus_path(environ)) as bus:
        try:
            (path,) = await bus.call(new_method_call(_MANAGER, "GetUnit", "s", (unit,)))
        except CgroupError as error:
            if "NoSuchUnit" in error.message:
                return False  # it is another manager's
            raise
        properties = DBusAddress(path, _MANAGER.bus_name, "org.freedesktop.DBus.Properties")
        asked = (f"org.freedesktop.systemd1.{kind}", "Delegate")
        (answer,) = await bus.call(new_method_call(properties, "Get", "ss", asked))
        return bool(answer[1])


async def enter_scope(environ: Mapping[str, str], seconds: float = SECONDS) -> str:
    """Have systemd move this process into a delegated scope of its own; the scope's name.

    Returns once systemd's job is done and the kernel says that we are inside. Raises CgroupError: the bus cannot be
    reached, hangs, dies, answers nonsense, or systemd refuses.
    """
    name = scope_name(os.getpid())
    try:
        await start_scope(bus_path(environ), name, os.getpid(), seconds)
    except CgroupError as error:
        if "UnitExists" not in error.message:  # else another task of this process is asking for it just now
            raise
    for _ in range(100):
        if memberships(files.read("/proc/self/cgroup")).get("", "").endswith("/" + name):
            return name
        await anyio.sleep(0.005)
    raise CgroupError(f"systemd said that {name} is started, and this process is not in it")


async def start_scope(path: str, name: str, pid: int, seconds: float = SECONDS) -> None:
    """StartTransientUnit for *pid*, over the bus at *path*, and the end of its job (org.freedesktop.systemd1(5))."""
    removed = MatchRule(
        type="signal", interface=_MANAGER.interface, member="JobRemoved", path=_MANAGER.object_path
    )
    properties = [
        ("Description", ("s", f"cgroups of creche, process {pid}")),
        ("PIDs", ("au", [pid])),
        ("Delegate", ("b", True)),
        ("CollectMode", ("s", "inactive-or-failed")),
    ]
    start = new_method_call(
        _MANAGER, "StartTransientUnit", "ssa(sv)a(sa(sv))", (name, "fail", properties, [])
    )
    async with connected(path, seconds=seconds) as bus:
        await bus.watch(removed)
        try:
            reply = await bus.call(start)
        except CgroupError as error:
            raise _refusal(error) from error
        job = reply[0]
        if not isinstance(job, str):
            raise TypeError(f"a job's path, not {job!r}")
        _, _, _, result = await bus.signal(removed, lambda body: len(body) == 4 and body[1] == job)
    if result != "done":
        raise CgroupError(f"systemd's job for {name} ended as {result!r}", hint=f"see journalctl -u {name}")


def _refusal(error: CgroupError) -> CgroupError:
    hint = error.hint
    if _REFUSED in error.message or "InteractiveAuthorizationRequired" in error.message:
        hint = "systemd allows it to root and to the user's own systemd --user only: add Delegate=yes to the unit"
    return CgroupError(f"systemd refuses a scope: {error.message}", error.path, error.errno, hint)
