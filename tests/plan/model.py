"""Runs a Plan without a kernel, and says which promise it breaks: the order of things is what keeps a guest in."""

from __future__ import annotations

from attrs import define, field

from creche.plan import steps as st
from creche.plan.compile import Plan
from creche.spec import Spec

#: Steps that name something of the host's by path, and need what the caller may reach.
HOST_PATHS = (st.OpenTree,)
MOUNTS = (
    st.FsOpen, st.FsString, st.FsFlag, st.FsFd, st.FsMount, st.OverlayOld, st.Stage, st.Unstage, st.Root, st.Attach, st.Mask, st.ReadOnly,
    st.MountAttr, st.Unowned, st.LinkTree, st.MakeDirectory, st.MakeFile, st.MakeSymlink, st.Pivot, st.OpenTree, st.Propagation,
)  # fmt: skip
BEFORE_PRIVILEGE_GOES = (st.Pty, st.Own, st.Cgroup, st.Unshare, st.Rlimit, st.Nice, st.Write, st.Groups, st.User)


class Broken(AssertionError):
    """What a Plan may not do."""


@define
class Model:
    """The state that the promises speak of."""

    filled: set[int] = field(factory=set)
    mounted: bool = False
    private: bool = False
    groups: bool = False
    identity: bool = False
    pivoted: bool = False
    filtered: bool = False
    rooted: bool = False
    staged: set[int] = field(factory=set)
    kept: set[int] = field(factory=set)


def must(true: object, text: str) -> None:
    if not true:
        raise Broken(text)


def check(plan: Plan, spec: Spec) -> None:
    """Raise Broken where the Plan breaks a promise."""
    parent(plan)
    view(plan, spec)
    setup(plan, spec)
    if plan.command:
        command(plan, spec)


def parent(plan: Plan) -> None:
    """The maps before anything that needs the child's namespace to have them: user_namespaces(7), mount_setattr(2)."""
    mapped = 0
    slots = []
    for step in plan.parent:
        if isinstance(step, (st.Map, st.MapTool)):
            must(not slots, "a tree is idmapped before the maps are written")
            group = bool(step.flags & st.GROUP_MAP)
            must(group is (mapped == 0), "gid_map comes first, since setgroups must be denied before it")
            mapped += 1
        elif isinstance(step, st.Idmap):
            must(mapped == 2 or step.text2, "a tree is idmapped to a namespace without maps")
            slots.append(step.slot)
    must(slots == list(range(st.IDMAPPED, st.IDMAPPED + len(slots))), "trees travel in the order of their slots")
    must(mapped == (2 if "user" in plan.new else 0), "a new user namespace has both maps, and no other has any")


def view(plan: Plan, spec: Spec) -> None:
    """What containers share is made by a process like their inits, and no mount of it can be written to."""
    if plan.view is None:
        return
    must({"user", "mount"} <= set(plan.new) and plan.init, "a container without namespaces of its own shares a view")
    m = Model()
    for step in plan.view.setup:
        _setup_step(m, step, plan, spec)
    kinds = [type(step) for step in plan.view.setup]
    must(kinds[-4:] == [st.Unowned, st.FsReadOnly, st.MountAttr, st.Keep], "it is given away before it is nobody's and read-only for good")
    must(st.GIVEN in m.kept, "it is not given away")


def setup(plan: Plan, spec: Spec) -> None:
    m = Model()
    held = any(isinstance(step, st.Keep) and step.slot == st.HELD for step in plan.setup)
    m.filled |= set(range(st.PASSED, st.PASSED + int(held) + int(plan.view is not None) + sum(isinstance(step, st.Idmap) for step in plan.parent)))
    for step in plan.setup:
        _setup_step(m, step, plan, spec)
    if "mount" in plan.new:
        must(m.pivoted is (spec.rootfs is not None), "a container with a root of its own pivots into it")
    if "user" in plan.new and plan.init and plan.who.setgroups:
        must(m.groups, "the init keeps none of the caller's groups")
    must({st.ROOT, st.PROC} <= m.kept, "the init keeps its root and its proc")
    must(not (spec.rootfs is None and m.staged), "what is staged over the caller's own root is taken away")


def _setup_step(m: Model, step: st.Step, plan: Plan, spec: Spec) -> None:
    must(not m.filtered, f"{step.name} after the init's filter")
    must(step.slot == st.NONE or step.slot < 1024, "a slot beyond the last")
    if isinstance(step, MOUNTS):
        must("mount" in plan.new, f"{step.name} in a mount namespace that is not ours")
        must(not m.pivoted, f"{step.name} after the pivot")
        must(m.private or isinstance(step, st.Propagation), f"{step.name} before propagation is cut")
    if isinstance(step, HOST_PATHS) or (isinstance(step, st.Open) and not step.flags & st.INSIDE and step.slot2 == st.NONE):
        must(not m.pivoted, f"the host's {step.text!r} after the pivot")
        must(not m.mounted, f"the host's {step.text!r} is looked up among mounts of ours")
        must(not m.identity, f"the host's {step.text!r} by the container's root, not by the caller")
    if isinstance(step, st.Propagation):
        must(not m.mounted and not m.private, "propagation is cut once, first")
        m.private = True
    elif isinstance(step, st.Groups):
        must(not m.identity, "groups are dropped by whom the caller's power lets")
        m.groups = True
    elif isinstance(step, st.Identity):
        must(not m.mounted, "what is made belongs to the container's root")
        m.identity = True
    elif isinstance(step, (st.Stage, st.Root, st.Attach)):
        must(step.slot in m.filled, f"{step.name} of an empty slot {step.slot}")
        must(m.identity or "user" not in plan.new, "mounts are made by the container's root")
        m.mounted = True
        if isinstance(step, st.Stage):
            must(not m.rooted or step.slot2 in m.staged, "a stage over the container's root would stay there for ever")
            m.staged.add(step.slot)
        elif isinstance(step, st.Root):
            must(not m.rooted, "there is one root")
            m.rooted = True
            m.filled.add(st.ROOT)
    elif isinstance(step, st.Unstage):
        m.staged.clear()
    elif isinstance(step, st.Pivot):
        must(m.rooted, "a pivot into nothing")
        m.pivoted = True
    elif isinstance(step, st.Capabilities):
        must(m.identity and step.flags == st.BOUNDING, "the init keeps what it needs, its commands' bounding set alone goes")
        must(bin(step.a).count("1") == len(spec.security.capabilities), "the bounding set is the Spec's list")
    elif isinstance(step, st.Seccomp):
        m.filtered = True
    elif isinstance(step, st.Keep):
        must(step.slot < 64, "the init keeps the first slots only")
        if step.slot2 != st.NONE:
            must(step.slot2 in m.filled, "what is kept is one of the descriptors that came, or what was made")
            m.filled.add(step.slot)
        must(step.slot in m.filled, f"keeps an empty slot {step.slot}")
        m.kept.add(step.slot)
    if isinstance(step, (st.Open, st.OpenTree, st.FsOpen, st.LinkTree, st.OverlayOld)):
        m.filled.add(step.slot)
    if isinstance(step, st.MountAttr):
        must(step.slot in m.filled and not step.b, "an attribute is taken away, or set on nothing")
    if isinstance(step, (st.Attach,)) and not step.flags & st.KEEP_SLOT:
        m.filled.discard(step.slot)
    if isinstance(step, st.Close):
        m.filled.discard(step.slot)
    for slot in [step.slot2] if isinstance(step, (st.FsFd, st.LinkTree)) else []:
        must(slot in m.filled, f"{step.name} with an empty slot {slot}")


#: What a command is told, in this order and no other; each at most as often as it makes sense.
ORDER = [
    st.SetSid, st.Pty, st.Own, st.Cgroup, st.Unshare, st.Descriptors, st.Nice, st.Rlimit, st.Umask, st.Write, st.KeepCaps, st.Groups,
    st.User, st.Write, st.Capabilities, st.NoNewPrivs, st.Chdir, st.LandlockRuleset, st.LandlockPath, st.LandlockPort, st.LandlockRestrict,
    st.Rlimit, st.Signals, st.Seccomp, st.Exec,
]  # fmt: skip


def command(plan: Plan, spec: Spec) -> None:
    """Privileges only shrink, the working directory is entered as the command's user, and nothing comes between filter and exec."""
    at = 0
    for step in plan.command:
        while at < len(ORDER) and type(step) is not ORDER[at]:
            at += 1
        must(at < len(ORDER), f"{step.name} is out of order")
    kinds = [type(step) for step in plan.command]
    must(kinds[-1] is st.Exec and kinds.count(st.Exec) == 1, "the last Step executes the command")
    must(kinds.count(st.Descriptors) == 1 and kinds.count(st.Signals) == 1, "descriptors and signals are put right once")
    must(all(bool(step.a) == plan.init for step in plan.command if isinstance(step, st.Signals)), "without an init signals are put right one by one")
    security = spec.security
    if security.seccomp is not None and not security.privileged:
        must(kinds[-2] is st.Seccomp, "the filter is the last thing before exec")
    if security.no_new_privs:
        must(st.NoNewPrivs in kinds, "no_new_privs is promised")
    if not security.privileged:
        caps = [step for step in plan.command if isinstance(step, st.Capabilities)]
        must(len(caps) == 1 and bin(caps[0].a).count("1") == len(security.capabilities), "capabilities are those of the Spec")
    if "user" in plan.new:
        must(st.User in kinds, "a command in a new user namespace is somebody there")
