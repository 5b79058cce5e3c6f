"""A Plan as people read it (`creche plan`) and as programs do (`creche plan --json`): the very Steps that would run."""

from __future__ import annotations

import base64
import shlex
import struct
from collections.abc import Callable, Iterator
from typing import Any

from . import steps as st
from .compile import Plan

__all__ = ["as_dict", "as_text"]

_ATTRIBUTES = ((1, "read-only"), (2, "nosuid"), (4, "nodev"), (8, "noexec"))
_RESOURCES = (
    "cpu fsize data stack core rss nproc nofile memlock as locks sigpending msgqueue nice rtprio rttime".split()  # noqa: SIM905
)
_UNLIMITED = 2**64 - 1
_KEPT = {st.HELD: "the lock of its range of ids", st.SOURCES: "what is staged, for resets", st.LAYERS: "where its root's upper layer lies", st.VIEW: "what it shares with others", st.GIVEN: "all of it, to be given away"}


def as_dict(plan: Plan) -> dict[str, Any]:
    """The Plan in types that JSON has: each Step with the fields that are set, bytes that are no text in base64.

    What may be a secret is not told: of a variable its name, of a file's content its size.
    """
    return {
        "namespaces": {"new": list(plan.new), "joined": dict(plan.joins), "clone3_flags": plan.flags},
        "init": plan.init,
        "uid_map": [[item.inside, item.outside, item.count] for item in plan.who.uid_map],
        "gid_map": [[item.inside, item.outside, item.count] for item in plan.who.gid_map],
        **({"view": [_record(step) for step in (*plan.view.parent, *plan.view.setup)]} if plan.view else {}),
        "parent": [_record(step) for step in plan.parent],
        "setup": [_record(step) for step in plan.setup],
        "command": [_record(step) for step in plan.command],
    }


def _record(step: st.Step) -> dict[str, Any]:
    binary = isinstance(step, (st.Seccomp, st.Descriptors, st.Groups, st.LandlockRuleset))
    record = step.record()
    if isinstance(step, st.MakeFile) and step.text2:
        return {**record, "text": _text(step.text), "text2": f"<{len(step.text2)} bytes>"}
    for name in ("text", "text2", "text3"):
        value: bytes = getattr(step, name)
        if not value:
            continue
        if binary:
            record[name] = {"base64": base64.b64encode(value).decode()}
        elif isinstance(step, st.Exec) and name == "text2":
            record[name] = [f"{_text(word.partition(b'=')[0])}=…" for word in value.split(b"\0")[: step.b]]
        elif b"\0" in value:
            record[name] = [_text(word) for word in value.removesuffix(b"\0").split(b"\0")]
        else:
            record[name] = _text(value)
    return record


def as_text(plan: Plan) -> str:
    """Every Step on a line: the kernel's call, what with, and the field of the Spec that asked for it."""
    namer = _Namer()
    lines = [_headline(plan)]
    view = plan.view
    parts = (
        ("What it shares with others, made once in namespaces of its own" if view else "", (*view.parent, *view.setup) if view else ()),
        ("The parent, while the new process waits", plan.parent),
        ("The init, process 1 of the container" if plan.init else "The new process", plan.setup),
        ("The command" if plan.command else "", plan.command),
    )
    for title, steps in parts:
        if not steps:
            continue
        lines += ["", title]
        if steps is plan.setup:
            namer.passed(plan)
        elif steps is plan.command:
            namer.given(plan)
        rows = [namer.row(step) for step in steps]
        width = max(len(call) for call, _, _ in rows)
        for number, (call, what, field) in enumerate(rows, 1):
            line = f"{number:>4}  {call:<{width}}  {what}"
            lines.append(f"{line}    ({field})" if field else line)
    return "\n".join(lines)


def _headline(plan: Plan) -> str:
    new = (
        f"clone3 with new namespaces: {', '.join(plan.new)}" if plan.new else "clone3 without new namespaces"
    )
    joins = "".join(f"\nsetns first: {name} of {value}" for name, value in plan.joins)
    return new + joins


def _text(value: bytes) -> str:
    return value.decode("utf-8", "backslashreplace")


def _shown(value: bytes, longest: int = 160) -> str:
    """Text on one line, without what would move a terminal's cursor."""
    text = "".join(
        char if char.isprintable() else f"\\x{ord(char):02x}"
        for char in _text(value).replace("\n", "; ").strip("; ")
    )
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def _attributes(mask: int) -> str:
    return " ".join(word for bit, word in _ATTRIBUTES if mask & bit)


class _Namer:
    """Remembers what each slot holds, so that a line can say "/usr of the host" and not "slot 20"."""

    def __init__(self) -> None:
        self._names: dict[int, str] = {
            st.ROOT: "/",
            st.PROC: "/proc",
            st.DEVPTS: "/dev/pts",
            st.TERMINAL: "its terminal",
            st.VIEW: "what it shares",
        }
        self._trees: list[str] = []
        self._staged: dict[bytes, str] = {}  # what lies where, until it is taken up from there

    def passed(self, plan: Plan) -> None:
        """The trees that the parent made come to the init as the first descriptors, after the range's lock."""
        held = sum(isinstance(step, st.Keep) and step.slot in (st.HELD, st.VIEW) and step.slot2 != st.NONE for step in plan.setup)
        for index, tree in enumerate(self._trees):
            self._names[st.PASSED + held + index] = tree

    def given(self, plan: Plan) -> None:
        """A command's message brings descriptors of its own: standard ones, passed ones, its cgroup's."""
        self._names = {slot: name for slot, name in self._names.items() if slot < st.PASSED}
        for index, descriptor in enumerate(plan.descriptors):
            self._names[st.PASSED + index] = "a pipe" if descriptor.pipe else "a descriptor of ours"

    def name(self, slot: int) -> str:
        return self._names.get(
            slot, f"descriptor {slot - st.PASSED}" if slot >= st.PASSED else f"slot {slot}"
        )

    def inside(self, slot: int, text: bytes) -> str:
        """A path in the container: *text*, below what *slot* holds."""
        base = "/" if slot == st.NONE else self.name(slot)
        return f"{base.rstrip('/')}/{_shown(text.lstrip(b'/'))}" if text else base

    def row(self, step: st.Step) -> tuple[str, str, str]:
        """(the kernel's call, what with, the Spec's field)."""
        describe = _CALLS.get(step.op)
        call, what = describe(step, self) if describe else (step.name, _shown(step.text))
        if isinstance(step, st.Idmap):
            self._trees.append(f"the host's {_shown(step.text)}, idmapped")
        return call, what, step.blame


def _open(step: st.Step, namer: _Namer) -> tuple[str, str]:
    below = step.slot2 != st.NONE or step.flags & st.INSIDE
    place = namer.inside(step.slot2, step.text) if below else f"the host's {_shown(step.text)}"
    namer._names[step.slot] = place
    return "openat2", place


def _open_tree(step: st.Step, namer: _Namer) -> tuple[str, str]:
    tree = (
        f"{namer.name(step.slot2)}/{_shown(step.text)}"
        if step.slot2 != st.NONE
        else f"the host's {_shown(step.text)}"
    )
    namer._names[step.slot] = tree
    return "open_tree", tree + (" with all below it" if step.flags & st.RECURSIVE else "")


def _idmap(step: st.Step, namer: _Namer) -> tuple[str, str]:
    maps = " and ".join(_ranges(text) for text in (step.text2, step.text3) if text)
    to = f"by {maps}" if maps else "to the container's ids"
    return "open_tree", f"the host's {_shown(step.text)}, idmapped {to}"


def _ranges(text: bytes) -> str:
    lines = (line.split() for line in text.decode().splitlines())
    return ", ".join(f"{inside} is {outside} outside, {count} ids" for inside, outside, count in lines)


def _attr(step: st.Step, namer: _Namer) -> tuple[str, str]:
    cleared = f", no longer {_attributes(step.b)}" if step.b else ""
    below = ", and all below it" if step.flags & st.RECURSIVE else ""
    return "mount_setattr", f"{namer.name(step.slot)}: {_attributes(step.a) or 'nothing'}{cleared}{below}"


def _fs_open(step: st.Step, namer: _Namer) -> tuple[str, str]:
    namer._names[step.slot] = f"the new {_shown(step.text)}"
    return "fsopen", _shown(step.text)


def _fs_mount(step: st.Step, namer: _Namer) -> tuple[str, str]:
    return "fsmount", f"{namer.name(step.slot)}: {_attributes(step.a)}".rstrip(": ")


def _attach(step: st.Step, namer: _Namer) -> tuple[str, str]:
    target = namer.inside(step.slot2, step.text)
    what = f"{namer.name(step.slot)} at {target}"
    if step.flags & st.KEEP_SLOT:
        namer._names[step.slot] = target
    return "move_mount", what


def _stage(step: st.Step, namer: _Namer) -> tuple[str, str]:
    where = f"{namer.name(step.slot2)}/{_shown(step.text)}" if step.text else "the old root, out of sight"
    namer._staged[step.text] = namer.name(step.slot)
    return "move_mount", f"{namer.name(step.slot)} over {where}"


def _root(step: st.Step, namer: _Namer) -> tuple[str, str]:
    what = namer.name(step.slot)
    namer._names[step.slot] = "/"
    return "root", f"{what} becomes the container's /"


def _link_tree(step: st.Step, namer: _Namer) -> tuple[str, str]:
    namer._names[step.slot] = namer._staged.get(step.text, _shown(step.text))
    return "open_tree", f"{_shown(step.text)} of {namer.name(step.slot2)}"


def _overlay_old(step: st.Step, namer: _Namer) -> tuple[str, str]:
    namer._names[step.slot] = "the new overlay"
    return "mount", f"an overlay of {step.b} lower directories"


def _descriptors(step: st.Step, namer: _Namer) -> tuple[str, str]:
    pairs = [struct.unpack_from("<II", step.text, at) for at in range(0, len(step.text) - 7, 8)]
    moved = ", ".join(f"{namer.name(slot)} as {number}" for slot, number in pairs) or "none"
    return "dup3", moved + (", 0 its controlling terminal" if step.a else "")


def _pty(step: st.Step, namer: _Namer) -> tuple[str, str]:
    namer._names[step.slot] = "its terminal"
    return "openat2", "a terminal from the container's own devpts"


def _rlimit(step: st.Step, namer: _Namer) -> tuple[str, str]:
    soft, hard = ("unlimited" if value == _UNLIMITED else str(value) for value in (step.a, step.b))
    name = _RESOURCES[step.slot] if step.slot < len(_RESOURCES) else str(step.slot)
    return "prlimit", f"{name} {soft}" + (f", at most {hard}" if hard != soft else "")


def _groups(step: st.Step, namer: _Namer) -> tuple[str, str]:
    gids = [str(gid) for (gid,) in struct.iter_unpack("<I", step.text[: len(step.text) // 4 * 4])]
    return "setgroups", " ".join(gids) or "none"


def _capabilities(step: st.Step, namer: _Namer) -> tuple[str, str]:
    from ..spec.security import CAPABILITIES

    kept = [name for number, name in enumerate(CAPABILITIES) if step.a >> number & 1]
    if step.flags & st.NOT_INHERITED:
        return "capset", "all that it can have, none for others to inherit"
    if step.flags & st.BOUNDING:
        return "prctl", f"nothing started from here on gains a capability{' but ' if kept else ''}{' '.join(kept)}"
    what = "all that it can have" if len(kept) == len(CAPABILITIES) else " ".join(kept) or "none"
    return "capset", what + (", and root is a user like others" if step.flags & st.NO_ROOT else "")


def _exec(step: st.Step, namer: _Namer) -> tuple[str, str]:
    words = [_text(word) for word in step.text.split(b"\0")[: step.a]]
    variables = [_text(word.partition(b"=")[0]) for word in step.text2.split(b"\0")[: step.b]]
    places = [place for place in step.text3.split(b"\0") if place]
    first = f", the first of {len(places)} places on PATH" if len(places) > 1 else ""
    command = "".join(char if char.isprintable() else "?" for char in shlex.join(words))
    return "execve", f"{command}{first}; environment: {' '.join(variables) or 'empty'}"


def _map(step: st.Step, namer: _Namer) -> tuple[str, str]:
    name = "gid_map" if step.flags & st.GROUP_MAP else "uid_map"
    return name, _ranges(step.text) + (", setgroups denied" if step.flags & st.DENY_SETGROUPS else "")


def _simple(call: str, say: Callable[[st.Step, _Namer], str]) -> Callable[[st.Step, _Namer], tuple[str, str]]:
    return lambda step, namer: (call, say(step, namer))


def _by_opcode() -> Iterator[tuple[str, Callable[[st.Step, _Namer], tuple[str, str]]]]:
    own = {
        st.Open: _open, st.OpenTree: _open_tree, st.Idmap: _idmap, st.MountAttr: _attr, st.FsOpen: _fs_open,
        st.FsMount: _fs_mount, st.Attach: _attach, st.Stage: _stage, st.FsReadOnly: _simple("fsconfig", lambda s, n: f"{n.name(s.slot)}: read-only for good"), st.Unowned: _simple("mount_setattr", lambda s, n: f"{n.name(s.slot)}: idmapped to an id that no container has"), st.Root: _root, st.LinkTree: _link_tree,
        st.OverlayOld: _overlay_old, st.Descriptors: _descriptors, st.Rlimit: _rlimit, st.Groups: _groups,
        st.Capabilities: _capabilities, st.Exec: _exec, st.Map: _map,
        st.Propagation: _simple("mount", lambda s, n: "every mount private: nothing comes in, nothing gets out"),
        st.Identity: _simple("setresuid", lambda s, n: f"uid {s.a}, gid {s.b} of the container"),
        st.FsString: _simple("fsconfig", lambda s, n: f"{n.name(s.slot)}: {_shown(s.text)}={_shown(s.text2)}"),
        st.FsFlag: _simple("fsconfig", lambda s, n: f"{n.name(s.slot)}: {_shown(s.text)}"),
        st.FsFd: _simple("fsconfig", lambda s, n: f"{n.name(s.slot)}: {_shown(s.text)}={n.name(s.slot2)}"),
        st.Unstage: _simple("umount2", lambda s, n: f"{n.name(s.slot)} with all below it"),
        st.Mask: _simple("mask", lambda s, n: f"{n.inside(s.slot2, s.text)} looks empty"),
        st.ReadOnly: _simple("mount_setattr", lambda s, n: f"{n.inside(s.slot, s.text)}: read-only, and all below it"),
        st.MakeDirectory: _simple("mkdirat", lambda s, n: f"{n.inside(s.slot, s.text)}, mode {s.a:o}"),
        st.MakeSymlink: _simple("symlinkat", lambda s, n: f"{n.inside(s.slot, s.text2)} to {_shown(s.text)}"),
        st.MakeFile: _simple("openat2", lambda s, n: f"{n.inside(s.slot, s.text)}, mode {s.a:o}, {len(s.text2)} bytes"),
        st.Pivot: _simple("pivot_root", lambda s, n: "the container's / is all there is; the old root goes" + (", what is staged stays beneath" if s.slot != st.NONE else "")),
        st.Hostname: _simple("sethostname", lambda s, n: _shown(s.text)),
        st.Domainname: _simple("setdomainname", lambda s, n: _shown(s.text)),
        st.Loopback: _simple("ioctl", lambda s, n: "lo up"),
        st.Write: _simple("write", lambda s, n: f"{_shown(s.text2)} to {n.inside(s.slot, s.text)}"),
        st.ProcWrite: _simple("write", lambda s, n: f"{_shown(s.text2)} to the child's {_shown(s.text)}"),
        st.MapTool: _simple("execve", lambda s, n: f"{_shown(s.text)} {_shown(s.text2.replace(bytes(1), b' '))}"),
        st.Close: _simple("close", lambda s, n: n.name(s.slot)),
        st.Keep: _simple("keep", lambda s, n: _KEPT.get(s.slot) or n.name(s.slot)),
        st.SetSid: _simple("setsid", lambda s, n: "a session of its own"),
        st.Pty: _pty,
        st.Own: _simple("fchown", lambda s, n: f"{n.name(s.slot)} to {s.a}:{s.b}"),
        st.Umask: _simple("umask", lambda s, n: f"{s.a:03o}"),
        st.Nice: _simple("setpriority", lambda s, n: str(s.a)),
        st.Cgroup: _simple("write", lambda s, n: "0 to its cgroup.procs"),
        st.Enter: _simple("write", lambda s, n: "the child to its cgroup.procs"),
        st.Unshare: _simple("unshare", lambda s, n: "a view of cgroups that begins at its own" if s.a == 0x0200_0000 else hex(s.a)),
        st.KeepCaps: _simple("prctl", lambda s, n: "capabilities outlive the change of ids"),
        st.User: _simple("setresuid", lambda s, n: f"uid {s.a}, gid {s.b}"),
        st.NoNewPrivs: _simple("prctl", lambda s, n: "no_new_privs: setuid programs gain nothing"),
        st.Chdir: _simple("fchdir", lambda s, n: _shown(s.text)),
        st.Signals: _simple("rt_sigaction", lambda s, n: "every signal to its default, none blocked"),
        st.LandlockRuleset: _simple("landlock", lambda s, n: f"a ruleset for file rights {s.a:#x}, network rights {s.b:#x}{', and for signals and abstract sockets' if s.text else ''}"),
        st.LandlockPath: _simple("landlock", lambda s, n: f"{s.a:#x} at and below {_shown(s.text)}"),
        st.LandlockPort: _simple("landlock", lambda s, n: f"{s.a:#x} for port {s.b}"),
        st.LandlockRestrict: _simple("landlock", lambda s, n: "in force"),
        st.Room: _simple("fsconfig", lambda s, n: f"{n.name(s.slot)}: inodes for {s.b} more, {s.a} at least"),
        st.Layers: _simple("fsconfig", lambda s, n: f"{n.name(s.slot)}: {s.text.count(0)} layers of {n.name(s.slot2)}"),
        st.Keyrings: _simple("keyctl", lambda s, n: f"a session keyring of its own{f', nothing in those of {len(s.text) // 4} users' if s.text else ''}"),
        st.Seccomp: _simple("seccomp", lambda s, n: f"a filter of {len(s.text) // 8} instructions{', with a listener' if s.a & 8 else ''}"),
    }  # fmt: skip
    for cls, describe in own.items():
        yield cls.op, describe


_CALLS = dict(_by_opcode())
