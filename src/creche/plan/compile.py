"""Spec and Machine to a Plan: the order of everything, in one readable function."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from operator import attrgetter

from attrs import evolve, field, fields, frozen

from ..errors import SpecError, UnsupportedError
from ..hostview import HostListing
from ..kernelfs import Shown
from ..machine import KERNEL_FLOOR, Machine
from ..spec.filesystem import Bind, Overlay
from ..spec.spec import Spec
from ..values import Value
from . import steps as st
from .command import Account, Descriptor, Limited, capability_mask, confining_steps, exec_step, listens
from .guard import guard_steps
from .ids import RANGE, Identity, identity, map_steps, may_set_groups, no_groups, outside
from .mounts import MS_PRIVATE, Mounts
from .pieces import FIRST, RDONLY, UPPER_SIZE, inodes_of, layers_text
from .renewal import check_history, check_renewable, keeps_mounts, keeps_sources, keyring_steps, lets_keys
from .view import View, may_share, view_of

__all__ = ["Context", "Plan", "compile", "compile_layers", "compile_reset", "likely", "needs_scratch", "steps_of_command"]

CLONE = {
    "user": 0x1000_0000, "mount": 0x0002_0000, "pid": 0x2000_0000, "network": 0x4000_0000,
    "ipc": 0x0800_0000, "uts": 0x0400_0000, "cgroup": 0x0200_0000, "time": 0x0000_0080,
}  # fmt: skip


@frozen(kw_only=True, eq=False, repr=False)
class Context(Value):
    """What a compilation needs to know beside Spec and Machine; all of it values."""

    view: HostListing = field(factory=HostListing)
    base: int | None = None  #: the first id of the range reserved for the container
    count: int = RANGE
    scratch: str | None = None  #: a folder for a throw-away upper layer, where tmpfs can't be one
    caller: Mapping[str, str] = field(factory=dict)  #: the caller's environment, for inherit_env
    init_cgroups: int = 0  #: descriptors of cgroup.procs that the init enters
    command_cgroups: int = 0  #: and that a command enters
    rlimits: Limited = (("core", (1, 1)),)  #: those of a command whose Spec does not say otherwise
    shared: bool = False  #: whether what a HostView shows is taken from what all containers share, where that may be
    held: bool = False  #: whether the range's lock travels with the setup, for the init to keep
    below: tuple[str, ...] | None = None  #: the layers that it is a branch of, the lowest first, whose tree travels with the setup
    room: int = UPPER_SIZE  #: bytes of a history's layers
    kernels: Mapping[str, Shown] = field(factory=dict)  #: which of the Spec's sources show files of the kernel (`kernelfs`)
    nested: bool = False  #: whether it lies within another with the same ids, whose mounts it is made of (`plan.nesting`)
    for_forks: tuple[tuple[str, bool], ...] = ()  #: folders that a template's container has for those that are forked from it (`plan.nesting`)


@frozen(kw_only=True, eq=False, repr=False)
class Plan(Value):
    """What the kernel will be told, in order: by the parent, by the init (or the child), by the first command.

    `command` is empty for a container without one, and where its user must first be looked up inside.
    """

    parent: tuple[st.Step, ...]
    setup: tuple[st.Step, ...]
    command: tuple[st.Step, ...]
    who: Identity
    new: tuple[str, ...]  #: namespaces made by the one clone3, by their Spec names
    joins: tuple[tuple[str, str | int], ...]  #: namespaces entered before it: (name, path or descriptor)
    init: bool
    caller_is_root: bool = False  #: the caller's own id is the container's uid 0
    at_once: bool = False  #: the init is executed while its maps are written
    descriptors: tuple[Descriptor, ...] = ()
    view: View | None = None  #: what the container shares with others; it comes with the setup, as its last descriptor
    listens: bool = False  #: the command brings a listener with it

    @property
    def flags(self) -> int:
        """clone3's flags for the new namespaces."""
        return sum(CLONE[name] for name in self.new)

    @property
    def ambient(self) -> bool:
        """Whether the init must carry capabilities over its exec: it has power in a user namespace by no id of its own.

        A caller who is uid 0 there has them all by that (capabilities(7)): the maps are written before the exec.
        """
        return ("user" in self.new and not self.caller_is_root) or any(name == "user" for name, _ in self.joins)


def needs_scratch(spec: Spec, machine: Machine) -> int:
    """How many throw-away upper layers must lie on disk: all of them, in a user namespace before Linux 6.6."""
    if machine.tmpfs_user_xattr or spec.namespaces.user is False:
        return 0
    return sum(isinstance(layer, Overlay) and layer.upper is None for layer in (spec.rootfs, *spec.mounts))


def account_of(spec: Spec, machine: Machine, who: Identity) -> Account | None:
    """Who the command is, as far as the Spec alone says; None where a name must be looked up inside."""
    ref = spec.user_ref
    groups = spec.groups or ()
    if (ref is not None and (ref.name is not None or ref.group is not None)) or any(isinstance(group, str) for group in groups):
        return None
    if ref is None or ref.uid is None:
        return Account(who.uid, who.gid, tuple(int(group) for group in groups))
    gid = ref.gid
    if gid is None:
        gid = ref.uid if who.maps_group(ref.uid) else who.gid
    return Account(ref.uid, gid, tuple(int(group) for group in groups))


def descriptors_of(spec: Spec) -> tuple[Descriptor, ...]:
    """The command's descriptors in the order in which they travel: standard ones first, unless a terminal is those."""
    standard = [] if spec.tty is not None else [Descriptor(n, s == "pipe") for n, s in enumerate((spec.stdin, spec.stdout, spec.stderr))]
    return (*standard, *(Descriptor(number) for number in spec.pass_fds))


_OF_ITS_OWN = ("command", "env", "inherit_env")
_rest = attrgetter(*(item.name for item in fields(Spec) if item.name not in _OF_ITS_OWN))
_around = attrgetter(*(item.name for item in fields(Context) if item.name not in ("base", "caller")))
_KINDS = 16
_kinds: tuple[tuple[object, Spec, Machine, Context, Plan], ...] = ()  # the last one used comes first


def compile(spec: Spec, machine: Machine, context: Context) -> Plan:
    """Compile a Spec for a Machine. Pure: the same values give the same Plan.

    Specs that differ in their words and variables alone, of which a service has few kinds, are compiled once; what each container has of
    its own, a range of ids among it, is put in.
    Raises SpecError and UnsupportedError for what this machine and user can't do.
    """
    global _kinds
    same = spec.command is None, _around(context), _rest(spec)
    for kind in _kinds:
        known, first, where, before, plan = kind
        if machine is where and known == same:
            if kind is not _kinds[0]:
                _kinds = (kind, *(other for other in _kinds if other is not kind))
            return _adapted(plan, first, before, spec, machine, context)
    plan = _compile(spec, machine, context)
    # What a mount's own ids are outside differs among equal ones; and a file of the caller's is not kept open here.
    if not any(isinstance(mount, Bind) and mount.uid_map for mount in spec.mounts) and all(isinstance(end, str) for end in (spec.stdin, spec.stdout, spec.stderr)):
        _kinds = ((same, spec, machine, context, plan), *_kinds[: _KINDS - 1])
    return plan


def likely(spec: Spec, machine: Machine) -> Plan | None:
    """The last one's Plan, where this Spec's will probably have the child made in the same way: it is made while the Plan is compiled."""
    if not _kinds:
        return None
    _, last, where, _, plan = _kinds[0]
    same = machine is where and (spec.init, spec.namespaces, spec.uid_map, spec.gid_map) == (last.init, last.namespaces, last.uid_map, last.gid_map)
    return plan if same and plan.init and not plan.joins else None


def _adapted(plan: Plan, first: Spec, before: Context, spec: Spec, machine: Machine, context: Context) -> Plan:
    """The Plan of another of its kind: no Step names an id outside but those that write the maps, which come first."""
    who, parent, command = plan.who, plan.parent, plan.command
    if context.base != before.base:
        who = identity(spec, machine, context.base, context.count)
        maps = map_steps(spec, machine, who)
        who = who if who.idmaps == plan.who.idmaps else evolve(who, idmaps=plan.who.idmaps)
        parent = (*maps, *parent[len(maps) :])
    if command and (spec.inherit_env or first.inherit_env or spec.command != first.command or spec.env != first.env):
        account = account_of(spec, machine, who)
        assert spec.command is not None and account is not None
        command = (*command[:-1], exec_step(spec, spec.command, account, context.caller))
    return evolve(plan, parent=parent, command=command, who=who)


def _compile(spec: Spec, machine: Machine, context: Context) -> Plan:
    if machine.kernel < KERNEL_FLOOR:
        raise UnsupportedError(f"Linux {machine.release}: creche needs 5.14 or later", "boot a newer kernel")
    kinds = {name: getattr(spec.namespaces, name) for name in CLONE}
    if kinds["user"] is False and machine.is_root and machine.initial_user_namespace and not spec.security.privileged:
        raise SpecError(
            "namespaces.user", False,
            "without a user namespace the container is the host's root: give Security(privileged=True) if that is meant",
        )  # fmt: skip
    if kinds["user"] is False and not machine.is_root and any(value is True for name, value in kinds.items()):
        raise UnsupportedError("new namespaces without a user namespace, which only root can make", "leave namespaces.user True")
    new = tuple(name for name, value in kinds.items() if value is True and not (name == "time" and _own_time(spec)))
    joins = tuple((name, value) for name, value in kinds.items() if not isinstance(value, bool))
    if _own_time(spec) and machine.kernel < (6, 3):
        raise UnsupportedError(f"a time namespace without an init on Linux {machine.release}: execve enters it from 6.3 on", "leave init True")
    check_history(spec, machine)
    who = identity(spec, machine, context.base, context.count)
    if context.nested:
        who = evolve(who, idmaps=False)  # what there is has been idmapped already
    hosts_root = machine.initial_user_namespace and any(item.outside == 0 for item in who.uid_map)
    if hosts_root and kinds["mount"] is not True and not spec.security.privileged:
        raise SpecError(
            "uid_map", spec.uid_map,
            "it maps the host's root, to whom /proc/sys would be open without any capability: leave namespaces.mount True, which "
            "makes that read-only, map other ids, or give Security(privileged=True) if that is meant",
        )  # fmt: skip
    setup, trees = _remembered_setup(spec, machine, who, context)

    parent = map_steps(spec, machine, who)
    if spec.time_offsets and not _own_time(spec):
        parent.append(st.ProcWrite(text="timens_offsets", text2=_offsets(spec), blame="time_offsets"))
    if spec.oom_score_adj is not None and not spec.has_init:
        # A copy of our memory may not open its own: it became undumpable with its ids, and proc(5) gives it to the host's root.
        parent.append(st.ProcWrite(text="oom_score_adj", text2=str(spec.oom_score_adj), blame="oom_score_adj"))
    parent += trees
    parent += [st.Enter(slot=st.PASSED + index, blame="limits") for index in range(context.init_cgroups)]

    command: tuple[st.Step, ...] = ()
    descriptors = descriptors_of(spec)
    account = account_of(spec, machine, who)
    if spec.tty is not None and not spec.has_init:
        raise SpecError("tty", spec.tty, "a terminal is opened by the init: leave init and namespaces.pid True")
    if spec.command is not None and account is None and not spec.has_init:
        raise SpecError("user", spec.user, "without an init of ours a name can't be looked up inside: give numbers")
    if spec.command is not None and account is not None:
        command = steps_of_command(spec, spec.command, machine, who, account, context)
    # It is undumpable from its exec on, and its files in /proc are the host's root's then (proc(5)). A time namespace is entered
    # by an exec, with the offsets that it has by then.
    at_once = spec.has_init and not joins and machine.is_root and machine.initial_user_namespace and "CAP_DAC_OVERRIDE" in machine.capabilities
    plan = Plan(
        parent=tuple(parent), setup=setup, command=command, who=who, new=new, joins=joins,
        init=spec.has_init, caller_is_root=outside(who.uid_map, 0) == machine.euid, descriptors=descriptors,
        view=view_of(spec, machine, context.view) if _shares(spec, machine, context) else None, listens=listens(command),
    )  # fmt: skip
    return evolve(plan, at_once=at_once and plan.ambient and all(isinstance(step, (st.Map, st.Idmap)) for step in parent))


def _shares(spec: Spec, machine: Machine, context: Context) -> bool:
    return context.shared and may_share(spec, machine)


def _own_time(spec: Spec) -> bool:
    """Whether the child makes its time namespace itself, for its exec: one that is born there has its offsets fixed already."""
    return spec.namespaces.time is True and not spec.has_init


def _offsets(spec: Spec) -> str:
    """As timens_offsets takes them (time_namespaces(7)): whole seconds, also negative ones, and nanoseconds forward from there."""
    lines = []
    for clock, value in spec.time_offsets.items():
        nanoseconds = round(value * 1e9)
        lines.append(f"{clock} {nanoseconds // 10**9} {nanoseconds % 10**9}\n")
    return "".join(lines)


_SETUPS = _CONFINED = 64
_confined: dict[object, tuple[Spec, Machine, tuple[st.Step, ...]]] = {}


def steps_of_command(spec: Spec, words: tuple[str, ...], machine: Machine, who: Identity, account: Account, context: Context) -> tuple[st.Step, ...]:
    """The Steps of the command `words`, a container's first or a later one; in all else it is as `spec` says.

    All but the last are compiled once for commands that differ in their words and variables alone, wherever their ids are outside.
    """
    key = (
        id(spec.security), id(spec.namespaces), id(machine), spec.init, spec.tty is None, spec.stdin == "pipe", spec.stdout == "pipe", spec.stderr == "pipe",
        spec.pass_fds, spec.user is None, spec.cwd, spec.umask, spec.nice, spec.oom_score_adj, tuple(spec.rlimits.items()),
        account.uid, account.gid, account.groups, who.new, who.private, who.setgroups, who.uid, who.maps(account.uid), who.maps_group(account.gid),
        context.command_cgroups, context.rlimits,
    )  # fmt: skip
    found = _confined.get(key)
    if found is None:
        steps = confining_steps(spec, machine, who, account, descriptors_of(spec), cgroups=context.command_cgroups, rlimits=context.rlimits)
        if len(_confined) >= _CONFINED:
            del _confined[next(iter(_confined))]
        # spec and machine are kept with it, so that their ids (and those of the spec's parts) stay theirs
        found = _confined[key] = spec, machine, tuple(steps)
    return (*found[2], exec_step(spec, words, account, context.caller))


_setups: dict[object, tuple[Machine, HostListing, tuple[tuple[st.Step, ...], tuple[st.Step, ...]]]] = {}


def compile_reset(spec: Spec, machine: Machine, who: Identity, context: Context, uids: Set[int]) -> tuple[st.Step, ...]:
    """What the init does, once everything is killed, to be as it was at the start. The arguments are those of the start, and the
    uids that commands had since.

    Raises UnsupportedError where something of a guest's would stay.
    """
    check_renewable(spec)
    keyrings = keyring_steps(spec, machine, {who.uid, *uids})
    setup = _remembered_setup(spec, machine, who, context, again=True)[0]
    return (*keyrings, *setup) if keyrings else setup


SPARE = 64  # inodes for the directories of one more layer, and of its mounts
_layers: dict[object, tuple[Spec, Machine, tuple[st.Step, ...]]] = {}


def compile_layers(
    spec: Spec, machine: Machine, who: Identity, context: Context, names: Sequence[str], group: str | None = None, members: Sequence[str] = (),
) -> tuple[st.Step, ...]:  # fmt: skip
    """What the init does to have these layers of a history in its root: a new one to be written to, its work directory, the lower
    ones from the topmost on. With `group` that is the lowest, in place of the Spec's own: an overlay of layers and these, mounted there
    before, or made first of its `members`, the topmost first.
    """
    key = id(spec), id(machine), who.idmaps, context.room
    found = _layers.get(key)
    if found is None:
        mounts = _mounts(spec, machine, who, context, again=True)
        mounts.other_layers()
        if len(_layers) >= _SETUPS:
            del _layers[next(iter(_layers))]
        most = inodes_of(context.room)
        steps = (
            *mounts.host, st.Room(slot=st.LAYERS, a=most, b=SPARE, blame="rootfs.history"), *mounts.build, st.Pivot(blame="rootfs"),
            st.Keep(slot=st.ROOT), st.Room(slot=st.LAYERS, a=most, blame="rootfs.history"),
        )  # fmt: skip
        found = _layers[key] = spec, machine, steps  # kept with it, so that their ids stay theirs
    steps = found[2]
    if group is None:
        return _with_layers(steps, names)
    begin = next(index for index, step in enumerate(steps) if isinstance(step, st.FsOpen))
    end = next(index for index, step in enumerate(steps) if isinstance(step, st.FsMount))
    made: tuple[st.Step, ...] = ()
    if members:
        mount = evolve(steps[end], a=steps[end].a | RDONLY)
        stage = st.Stage(slot=mount.slot, slot2=st.LAYERS, text=group, blame="rootfs.history")
        made = (*_with_layers(steps[begin:end], ("", "", *members)), mount, stage)
    over = tuple(step for step in steps[begin : end + 1] if not isinstance(step, st.FsFd))
    return (*steps[:begin], *made, *_with_layers(over, (*names, group)), *steps[end + 1 :])


def _with_layers(steps: tuple[st.Step, ...], names: Sequence[str]) -> tuple[st.Step, ...]:
    return tuple(evolve(step, text=layers_text(names)) if isinstance(step, st.Layers) else step for step in steps)


def _mounts(spec: Spec, machine: Machine, who: Identity, context: Context, *, again: bool) -> Mounts:
    branch = None if context.below is None else st.PASSED + int(context.held)
    shared = _shares(spec, machine, context)
    first = st.PASSED + int(context.held) + int(branch is not None) + int(shared)
    return Mounts(spec, machine, who, context.view, context.kernels, context.scratch, first=first, again=again, branch=branch, room=context.room, shared=shared, nested=context.nested, for_forks=context.for_forks)


def _remembered_setup(
    spec: Spec, machine: Machine, who: Identity, context: Context, again: bool = False
) -> tuple[tuple[st.Step, ...], tuple[st.Step, ...]]:
    """`_setup`, once for Specs that differ in their command alone: a service has few kinds of containers."""
    security = spec.security
    key = (
        spec.init, spec.rootfs, spec.mounts, spec.devices, spec.namespaces, spec.hostname or spec.name, spec.domainname, tuple(spec.sysctl.items()),
        security.masked_paths, security.readonly_paths, security.no_new_privs, security.privileged, tuple(security.capabilities),
        who.new, who.private, who.idmaps, who.setgroups, who.uid, who.gid, who.maps_group(5), context.scratch, context.held, context.shared, context.nested, context.for_forks, id(machine), id(context.view),
        spec.has_init, tuple(spec.time_offsets.items()), again, keeps_sources(spec, context.view), tuple(context.kernels.items()), lets_keys(spec, machine),
        (who.uid_map, who.gid_map) if any(isinstance(mount, Bind) and mount.uid_map for mount in spec.mounts) else None,
        context.below is None, context.room,
    )  # fmt: skip
    found = _setups.get(key)
    if found is None:
        if len(_setups) >= _SETUPS:
            del _setups[next(iter(_setups))]
        # machine and view are kept with it, so that their ids stay theirs
        found = _setups[key] = machine, context.view, _setup(spec, machine, who, context, again)
    setup, trees = found[2]
    return (_with_layers(setup, (*FIRST, *reversed(context.below))), trees) if context.below else found[2]


def _setup(spec: Spec, machine: Machine, who: Identity, context: Context, again: bool) -> tuple[tuple[st.Step, ...], tuple[st.Step, ...]]:
    """What the init does before the first command, or `again` for a reset; and the trees that its parent makes for it."""
    kinds = {name: getattr(spec.namespaces, name) for name in CLONE}
    mounts = _mounts(spec, machine, who, context, again=again)
    setup: list[st.Step] = []
    if again:  # what can't be emptied is made anew
        setup.append(st.Unshare(a=sum(CLONE[name] for name in ("ipc", "network", "uts") if kinds[name] is True), blame="namespaces"))
        if keeps_mounts(spec, context.view):
            proc = mounts.renew()
            values = _kernel_values(spec, proc, again)
            return (*setup, *mounts.build, *values, st.Unstage(slot=mounts.stage), *_names(spec, kinds)), ()
    elif context.held:
        setup.append(st.Keep(slot=st.HELD, slot2=st.PASSED))
    if mounts.shared and not again:
        setup.append(st.Keep(slot=st.VIEW, slot2=st.PASSED + int(context.held)))
    if kinds["mount"] is True:
        mounts.root()
        mounts.base()
        mounts.all_mounts()
        if not again:
            setup.append(st.Propagation(a=MS_PRIVATE))  # before the first mount: nothing of ours may appear on the host
        setup += mounts.host  # the host's paths, opened as the caller
    else:
        setup += [st.Open(slot=st.ROOT, text="/", flags=st.DIRECTORY), st.Open(slot=st.PROC, text="/proc", flags=st.DIRECTORY)]
    if _own_time(spec):
        setup.append(st.Unshare(a=CLONE["time"], blame="namespaces.time"))
        if spec.time_offsets:  # while /proc/self is the caller's: after a change of ids it is not
            setup.append(st.Open(slot=st.PROC, text="/proc", flags=st.DIRECTORY))
            setup.append(st.Write(slot=st.PROC, text="self/timens_offsets", text2=_offsets(spec), blame="time_offsets"))
    if spec.has_init and may_set_groups(machine, who) and not again:
        setup.append(no_groups(spec))  # what is opened for box.get is opened by an init without the caller's groups, too
    if not again and (who.new or not isinstance(kinds["user"], bool)):
        setup.append(st.Identity(a=who.uid, b=who.gid, blame="uid_map"))  # from here on as the container's root
    if not again and lets_keys(spec, machine):
        setup.append(st.Keyrings(blame="security.seccomp"))
    if kinds["mount"] is True:
        setup += mounts.build
        mounts.build = []
        setup += _kernel_values(spec, st.PROC, again)  # before /proc/sys becomes read-only
        mounts.covers()
        setup += mounts.build
        setup += mounts.late
        if spec.rootfs is not None:
            stays = mounts.sourced and not again
            setup.append(st.Pivot(slot=mounts.stage if stays else st.NONE, blame="rootfs"))
            if stays:
                setup.append(st.Keep(slot=st.SOURCES, slot2=mounts.stage))
            if mounts.layers is not None and spec.has_init:
                setup.append(st.Keep(slot=st.LAYERS, slot2=mounts.layers))
    else:
        setup += _kernel_values(spec, st.PROC, again)
    setup += _names(spec, kinds)
    if not again:  # what follows is for ever
        if kinds["user"] is True and spec.has_init and (not spec.security.privileged or spec.security.capabilities):
            # Once for all commands, none of which can have another list: each would copy its credentials for each of them.
            setup.append(st.Capabilities(a=capability_mask(spec), flags=st.BOUNDING, blame="security.capabilities"))
        setup += guard_steps(spec, machine)
    return tuple(setup), tuple(mounts.parent)


def _kernel_values(spec: Spec, proc: int, again: bool) -> list[st.Step]:
    """What is written below /proc/sys."""
    values: list[st.Step] = [st.Write(slot=proc, text="sys/" + name.replace(".", "/"), text2=value, blame=f"sysctl.{name}") for name, value in spec.sysctl.items()]
    if again:  # or their numbers would tell how many there were: proc_sys_kernel(5)
        values.append(st.Write(slot=proc, text="sys/kernel/ns_last_pid", text2="1", flags=st.OPTIONAL, blame="namespaces.pid"))
    return values


def _names(spec: Spec, kinds: Mapping[str, object]) -> list[st.Step]:
    """What namespaces have beside mounts, and what the init keeps of these."""
    steps: list[st.Step] = []
    if kinds["uts"] is True:
        steps.append(st.Hostname(text=spec.hostname or spec.name or "creche", blame="hostname"))
        steps.append(st.Domainname(text=spec.domainname or "(none)", blame="domainname"))
    if kinds["network"] is True:
        steps.append(st.Loopback(blame="namespaces.network"))
    return [*steps, st.Keep(slot=st.ROOT), st.Keep(slot=st.PROC)]
