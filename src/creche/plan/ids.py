"""Who a container is outside: the id maps of its user namespace, and what its maker may do about them."""

from __future__ import annotations

from attrs import frozen

from ..errors import SpecError, UnsupportedError
from ..machine import Machine
from ..spec.identity import IdMap, covers
from ..spec.spec import Spec
from ..values import Value
from . import steps as st

__all__ = ["RANGE", "Identity", "identity", "map_steps", "map_text", "may_set_groups", "no_groups", "outside", "through"]

PAGE = 4096  #: a map must come in one write of less than a page: user_namespaces(7)
LINES = 340  #: and have no more than these
RANGE = 65_536  #: ids that a container of root's has by default
_LISTS = 128  # kernel/user.c: UIDHASH_SZ


@frozen(eq=False, repr=False)
class Identity(Value):
    """A container's ids; `maps` empty where there is no new user namespace."""

    uid_map: tuple[IdMap, ...] = ()
    gid_map: tuple[IdMap, ...] = ()
    new: bool = False  #: a user namespace of its own
    private: bool = False  #: the caller's own ids are not mapped: what it owns is nobody's inside
    idmaps: bool = False  #: and writable mounts of the host's files are idmapped, so that files keep their owners
    setgroups: bool = True  #: whether setgroups(2) is allowed inside (user_namespaces(7))
    uid: int = 0  #: the init's ids inside
    gid: int = 0

    def maps(self, uid: int) -> bool:
        return not self.new or covers(self.uid_map, uid)

    def maps_group(self, gid: int) -> bool:
        return not self.new or covers(self.gid_map, gid)


def outside(maps: tuple[IdMap, ...], inside: int) -> int | None:
    """The id outside that `inside` stands for, or None."""
    for item in maps:
        if item.inside <= inside < item.inside + item.count:
            return item.outside + inside - item.inside
    return None


def through(maps: tuple[IdMap, ...], container: tuple[IdMap, ...] | None, field: str) -> tuple[IdMap, ...]:
    """A mount's own maps (seen inside, on the file system) as its user namespace has them: (on the file system, outside).

    An idmapped mount takes each id of the file system for one "inside" and gives the one "outside" to whoever looks
    (mount_setattr(2), idmappings.rst), who sees it through the container's own maps. None: that is the host's.
    """
    lines = []
    for item in maps:
        seen, stored, left = item.inside, item.outside, item.count
        while left:
            part = IdMap(seen, seen, left) if container is None else next((m for m in container if m.inside <= seen < m.inside + m.count), None)
            if part is None:
                raise SpecError(field, item, f"id {seen} is not mapped in the container: widen Spec.{field.rpartition('.')[2]}, or give ids that are")
            count = min(left, part.inside + part.count - seen)
            lines.append(IdMap(stored, part.outside + seen - part.inside, count))
            seen, stored, left = seen + count, stored + count, left - count
    if len(lines) > LINES or len(map_text(tuple(lines))) >= PAGE:
        raise SpecError(field, f"{len(maps)} ranges", f"over the container's own they are {len(lines)}; the kernel takes {LINES}, in {PAGE - 1} bytes: give fewer and larger ones")
    return tuple(lines)


def may_set_groups(machine: Machine, who: Identity) -> bool:
    """Whether setgroups(2) is allowed to the container's root: user_namespaces(7) denies it where an ordinary user maps one id."""
    return who.setgroups if who.new else machine.may_map_ids and not machine.setgroups_denied


def no_groups(spec: Spec) -> st.Groups:
    """The caller's supplementary groups go. In a joined user namespace setgroups may be denied; then they stay (user_namespaces(7))."""
    return st.Groups(flags=0 if isinstance(spec.namespaces.user, bool) else st.OPTIONAL, blame="groups")


def wants_range(spec: Spec, machine: Machine) -> bool:
    """Whether this Spec takes a private range of root's ids, which must be held by nobody else.

    Root of a user namespace that has one id (`unshare -Ur`, bwrap) has none to give, and is nobody's root outside: its
    containers have that one, as an ordinary user's do.
    """
    return (
        spec.namespaces.user is True and spec.uid_map is None and spec.gid_map is None and machine.may_map_ids
        and (bool(machine.subuid) or machine.initial_user_namespace)
    )  # fmt: skip


def identity(spec: Spec, machine: Machine, base: int | None, count: int = RANGE) -> Identity:
    """The ids of this Spec on this machine; `base` is the first id of a range that was reserved for it."""
    if spec.namespaces.user is not True:
        return Identity(
            uid=machine.euid if spec.namespaces.user is False else 0,
            gid=machine.egid if spec.namespaces.user is False else 0,
        )
    ref = spec.user_ref
    if wants_range(spec, machine):
        if base is None:
            raise UnsupportedError(
                "no range of ids is free for the container",
                "give root more of them in /etc/subuid and /etc/subgid (creche:1879048192:6553600), or an explicit uid_map",
            )
        maps = _turned(base, count)
        return Identity(maps, maps, new=True, private=True, idmaps=True)
    uid_map, gid_map = spec.uid_map, spec.gid_map
    if uid_map is None:
        uid = ref.uid if ref is not None and ref.uid is not None else 0
        many = (
            (ref is not None and ref.name not in (None, "root"))
            or bool(spec.groups)
            or (ref is not None and ref.group is not None)
        )
        if many:
            uid_map = _with_sub_ids(
                machine, machine.euid, machine.subuid, "user" if not spec.groups else "groups", spec
            )
        else:
            uid_map = (IdMap(uid, machine.euid, 1),)
    if gid_map is None:
        gid = (ref.gid if ref.gid is not None else (ref.uid or 0)) if ref is not None else 0
        if spec.uid_map is not None and machine.may_map_ids:
            gid_map = uid_map
        elif sum(item.count for item in uid_map) > 1:
            gid_map = _with_sub_ids(machine, machine.egid, machine.subgid, "gid_map", spec)
        else:
            gid_map = (IdMap(gid, machine.egid, 1),)
    alone = (
        not machine.may_map_ids
        and len(gid_map) == 1
        and gid_map[0].count == 1
        and gid_map[0].outside == machine.egid
    )
    private = not any(item.outside <= machine.euid < item.outside + item.count for item in uid_map)
    return Identity(
        uid_map,
        gid_map,
        new=True,
        private=private,
        idmaps=private and machine.is_root,
        setgroups=not alone and not machine.setgroups_denied,
        uid=0 if covers(uid_map, 0) else min(item.inside for item in uid_map),
        gid=0 if covers(gid_map, 0) else min(item.inside for item in gid_map),
    )


def _turned(base: int, count: int) -> tuple[IdMap, ...]:
    """A range's map, turned by another number for each range, so that no two containers' roots have the same low bits.

    The kernel keeps the users that it knows in lists, and picks the list by an id's low bits (kernel/user.c: __uidhashfn). Ranges begin
    at multiples of 65536, so all roots would be in one list, which each change of ids walks under a lock.
    """
    turn = base // RANGE % _LISTS
    if not turn or count != RANGE or base % RANGE:
        return (IdMap(0, base, count),)
    return IdMap(0, base + turn, count - turn), IdMap(count - turn, base, turn)


def _with_sub_ids(
    machine: Machine, own: int, ranges: tuple[tuple[int, int], ...], field: str, spec: Spec
) -> tuple[IdMap, ...]:
    """The caller as root and its sub-ids from 1 on, for Specs whose users are known only inside."""
    if not machine.many_ids:
        raise SpecError(
            field,
            getattr(spec, field, None),
            "it takes ids beside your own: a line for you in /etc/subuid and /etc/subgid (usermod --add-subuids "
            "100000-165535 --add-subgids 100000-165535 NAME) and newuidmap (apt-get install uidmap), or give a number",
        )
    maps = [IdMap(0, own, 1)]
    at = 1
    for first, count in ranges:
        maps.append(IdMap(at, first, min(count, 2**32 - 2 - at)))
        at += count
    return tuple(maps)


def map_text(maps: tuple[IdMap, ...]) -> bytes:
    """As the kernel takes them: user_namespaces(7)."""
    return "".join(f"{item.inside} {item.outside} {item.count}\n" for item in maps).encode()


def map_steps(spec: Spec, machine: Machine, who: Identity) -> list[st.Step]:
    """How the parent writes the maps: itself where it may, else by newuidmap and newgidmap."""
    if not who.new:
        return []
    steps: list[st.Step] = []
    # gid_map first where setgroups must be denied before it: user_namespaces(7)
    for maps, own, ranges, helper, group in (
        (who.gid_map, machine.egid, machine.subgid, machine.newgidmap, True),
        (who.uid_map, machine.euid, machine.subuid, machine.newuidmap, False),
    ):
        field = "gid_map" if group else "uid_map"
        text = map_text(maps)
        if len(text) >= PAGE:
            raise SpecError(field, f"{len(maps)} ranges", f"the kernel takes {PAGE - 1} bytes of them, in one write: give fewer and larger ones")
        alone = len(maps) == 1 and maps[0].count == 1 and maps[0].outside == own
        flags = st.GROUP_MAP if group else 0
        if machine.may_map_ids or alone:
            if group and not machine.may_map_ids:
                flags |= st.DENY_SETGROUPS
            steps.append(st.Map(text=text, flags=flags, blame=field))
            continue
        for index, item in enumerate(maps):
            mine = item.count == 1 and item.outside == own
            if not mine and not any(
                first <= item.outside and item.outside + item.count <= first + count
                for first, count in ranges
            ):
                name = "/etc/subgid" if group else "/etc/subuid"
                raise SpecError(
                    f"{field}[{index}]",
                    item,
                    f"{name} does not give you these ids: add a line there, or choose some that it gives",
                )
        if helper is None:
            tool = "newgidmap" if group else "newuidmap"
            raise UnsupportedError(
                f"{field} needs {tool}, which is not here", "install it: apt-get install uidmap"
            )
        if machine.no_new_privs:
            raise UnsupportedError(
                f"{field} needs {helper.path}, but no_new_privs keeps it from its privilege",
                "start this program without no_new_privs (systemd: NoNewPrivileges=no; Docker: without --security-opt no-new-privileges)",
            )
        words = b"".join(
            str(number).encode() + b"\0"
            for item in maps
            for number in (item.inside, item.outside, item.count)
        )
        steps.append(st.MapTool(text=helper.path, text2=words, flags=flags, blame=field))
    return steps
