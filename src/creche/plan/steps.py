"""The Steps of a Plan as frozen values: what the kernel is told, in which phase, and which field of the Spec to blame."""

from __future__ import annotations

from typing import Any, ClassVar

from attrs import asdict, field, frozen

from ..values import Value

__all__ = ["NONE", "PASSED", "Step"]

NONE = 0xFFFF  #: no slot
ROOT, PROC, DEVPTS, TERMINAL = 0, 1, 2, 3  #: the slots that the init keeps (native/abi.h)
RULES, HELD = 4, 5  #: a command's Landlock ruleset; the lock of a range of ids, kept by the init
VIEW, GIVEN = 8, 9  #: what a HostView shares with others, kept by the init; what goes to whoever supervises
SOURCES, LAYERS = 6, 7  #: kept by the init: the stage beneath its root, where its root's throw-away upper layer lies
PASSED = 16  #: the first slot of the descriptors that come with a message
IDMAPPED = 512  #: the first slot of the trees that the parent makes for its child

OPTIONAL, RECURSIVE, DIRECTORY, KEEP_SLOT, INSIDE, NO_LINK = 1, 2, 4, 8, 32, 64
GROUP_MAP, DENY_SETGROUPS, NO_ROOT, USERXATTR, NOT_INHERITED, BOUNDING, OWN = 128, 256, 512, 1024, 2048, 4096, 8192


def _bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogateescape")


@frozen(kw_only=True, eq=False, repr=False)
class Step(Value):
    """One thing that the kernel is told. A Step is whole: it needs no neighbour to be understood.

    The fields are those of `struct creche_step`; what they mean to each opcode is said in its class, and `blame` is
    the field of the Spec that an error will name.
    """

    op: ClassVar[str] = ""
    slot: int = NONE
    slot2: int = NONE
    flags: int = 0
    text: bytes = field(default=b"", converter=_bytes)
    text2: bytes = field(default=b"", converter=_bytes)
    text3: bytes = field(default=b"", converter=_bytes)
    a: int = 0
    b: int = 0
    blame: str = ""

    @property
    def name(self) -> str:
        """The step's name for people: its opcode in small letters."""
        return self.op.lower()

    def record(self) -> dict[str, Any]:
        """The fields that are set, as plain values (for JSON)."""
        values = asdict(self)
        blank = {
            "slot": NONE,
            "slot2": NONE,
            "flags": 0,
            "text": b"",
            "text2": b"",
            "text3": b"",
            "a": 0,
            "b": 0,
            "blame": "",
        }
        shown = {key: value for key, value in values.items() if value != blank[key]}
        return {
            "op": self.op,
            **{
                k: v.decode("utf-8", "backslashreplace") if isinstance(v, bytes) else v
                for k, v in shown.items()
            },
        }


# fmt: off
class Open(Step): "`slot` becomes a place: the path `text`, on the caller's side or INSIDE."; op = "OPEN"
class OpenTree(Step): "`slot` becomes a detached copy of the mounts at `text` (below slot2, where given)."; op = "OPEN_TREE"
class MountAttr(Step): "Sets the mount attributes `a` and clears `b` on the tree in `slot`."; op = "MOUNT_ATTR"
class Propagation(Step): "Sets the propagation of every mount to `a`, before anything is mounted."; op = "PROPAGATION"
class Identity(Step): "The init becomes uid `a` and gid `b` of the container."; op = "IDENTITY"
class FsOpen(Step): "`slot` becomes the context of a new file system of type `text`."; op = "FS_OPEN"
class FsString(Step): "Sets the parameter `text` to `text2`."; op = "FS_STRING"
class FsFlag(Step): "Sets the flag `text`."; op = "FS_FLAG"
class FsFd(Step): "Sets the parameter `text` to the path of what slot2 holds."; op = "FS_FD"
class Layers(Step): "Gives an overlay the layers of the names `text` below slot2: the upper one and its work directory, which are made (no names: none), then the lower ones."; op = "LAYERS"
class Room(Step): "Lets the tmpfs in `slot` have `b` inodes more than it uses, and `a` at least."; op = "ROOM"
class FsMount(Step): "`slot` turns from a context into a detached mount with the attributes `a`."; op = "FS_MOUNT"
class FsReadOnly(Step): "The file system of the mount in `slot` itself becomes read-only: every mount of it is, for good."; op = "FS_READ_ONLY"
class Unowned(Step): "What lies in the detached mount `slot` itself is idmapped to nobody: no container's root owns it."; op = "UNOWNED"
class OverlayOld(Step): "`slot` becomes an overlay of the lowers `a`…`a+b-1`, upper slot2, work slot2+1 (before 6.7)."; op = "OVERLAY_OLD"
class Stage(Step): "Attaches `slot` over the old root, or at a new name `text` of the staged slot2, so that trees can be taken from it."; op = "STAGE"
class Unstage(Step): "Detaches what is staged in `slot`, with all below it."; op = "UNSTAGE"
class Root(Step): "The tree in `slot` becomes the container's root."; op = "ROOT"
class Attach(Step): "Attaches the tree in `slot` at `text`, resolved inside the root; makes the target where it is not there."; op = "ATTACH"
class Mask(Step): "Covers `text` (below slot2, or inside the root) with an empty directory or file (text2, text3 below the staged `slot`); absent is well too."; op = "MASK"
class ReadOnly(Step): "Makes `text` (below `slot`, or inside the root) read-only, with all below it; absent is well too."; op = "READ_ONLY"
class MakeDirectory(Step): "A directory `text` inside, with mode `a`."; op = "MKDIR"
class MakeSymlink(Step): "A symbolic link at `text2` to `text`."; op = "SYMLINK"
class MakeFile(Step): "A file `text` (below `slot`, or inside the root) with the bytes `text2` and mode `a`."; op = "FILE"
class LinkTree(Step): "`slot` becomes a tree of its own made of the name `text` below slot2."; op = "LINK_TREE"
class Pivot(Step): "The container's root becomes /, the old root goes; what is staged in `slot` stays beneath it."; op = "PIVOT"
class Hostname(Step): "sethostname(2) to `text`."; op = "HOSTNAME"
class Domainname(Step): "setdomainname(2) to `text`."; op = "DOMAINNAME"
class Loopback(Step): "Brings lo up."; op = "LOOPBACK"
class Write(Step): "Writes `text2` to the kernel's file `text` below `slot`; OWN: on the mount that the slot holds, and no other."; op = "WRITE"
class Close(Step): "Empties `slot`."; op = "CLOSE"
class Keep(Step): "The init keeps `slot` after its setup."; op = "KEEP"
class SetSid(Step): "A session of its own."; op = "SETSID"
class Pty(Step): "`slot` becomes the command's end of its terminal, owned by uid `a` where b is 1."; op = "PTY"
class Descriptors(Step): "Puts descriptors at their numbers: pairs of (slot, number); a: 0 is the controlling terminal."; op = "DESCRIPTORS"
class Own(Step): "Gives the pipe in `slot` to uid `a`, gid `b`."; op = "OWN"
class Rlimit(Step): "prlimit(2): the resource `slot`, soft `a`, hard `b`."; op = "RLIMIT"
class Umask(Step): "umask(2) `a`."; op = "UMASK"
class Nice(Step): "setpriority(2) `a`."; op = "NICE"
class Cgroup(Step): "The command enters the cgroup whose cgroup.procs is in `slot`."; op = "CGROUP"
class Unshare(Step): "unshare(2) with the flags `a`."; op = "UNSHARE"
class KeepCaps(Step): "Capabilities outlive the change of ids that follows."; op = "KEEP_CAPS"
class Groups(Step): "setgroups(2) to the gids in `text`."; op = "GROUPS"
class User(Step): "The command becomes uid `a`, gid `b`."; op = "USER"
class Capabilities(Step): "Keeps the capabilities in the mask `a`, in every set, and no others; NOT_INHERITED: all that are permitted, none for others to inherit; BOUNDING: in the bounding set alone."; op = "CAPABILITIES"
class NoNewPrivs(Step): "prctl(2) PR_SET_NO_NEW_PRIVS."; op = "NO_NEW_PRIVS"
class Chdir(Step): "The working directory `text`, resolved inside."; op = "CHDIR"
class Signals(Step): "Every signal's disposition to its default (a: they are the init's, which are), none blocked."; op = "SIGNALS"
class LandlockRuleset(Step): "`slot` becomes a ruleset that handles the file rights `a`, the network rights `b` and the scopes `text`."; op = "LANDLOCK"
class LandlockPath(Step): "Allows the rights `a` at and below `text`."; op = "LANDLOCK_PATH"
class LandlockPort(Step): "Allows the right `a` for the port `b`."; op = "LANDLOCK_PORT"
class LandlockRestrict(Step): "Puts the ruleset in `slot` in force."; op = "LANDLOCK_RESTRICT"
class Seccomp(Step): "Puts the BPF program `text` in force with the flags `a`; a listener (NEW_LISTENER) goes to whoever started the command."; op = "SECCOMP"
class Exec(Step): "Executes argv `text` (`a` strings) with environment `text2` (`b`) from the first of the places `text3`, or the program at the descriptor numbered `slot`."; op = "EXEC"
class Map(Step): "Writes the child's uid_map (gid_map) itself."; op = "MAP"
class MapTool(Step): "Writes it by newuidmap(1) (newgidmap) `text` with the arguments `text2`."; op = "MAP_TOOL"
class ProcWrite(Step): "Writes `text2` to the child's /proc file `text`."; op = "PROC_WRITE"
class Idmap(Step): "`slot` becomes a detached copy of the host's `text`, idmapped to the child's user namespace, or by the maps `text2` (uids) and `text3` (gids)."; op = "IDMAP"
class Enter(Step): "Puts the child into the cgroup whose cgroup.procs is in `slot`."; op = "ENTER"
class Keyrings(Step): "A session keyring of its own, and empty ones for the uids in `text` (for those of a reset)."; op = "KEYRINGS"
# fmt: on


def _all() -> dict[str, type[Step]]:
    return {cls.op: cls for cls in Step.__subclasses__()}


STEPS = _all()  #: opcode to class, for the tests that hold it against native/abi.h
