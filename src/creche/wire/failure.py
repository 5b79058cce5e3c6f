"""A failure record to an error: the Spec's field, what the kernel said, and what to do about it."""

from __future__ import annotations

import errno as e
import os
from collections.abc import Callable

from ..errors import SpawnError, UnsupportedError
from ..plan import steps as st
from ..plan.compile import Plan
from ..spec.filesystem import Directory, Overlay
from ..spec.spec import Spec
from .control import Failure

__all__ = ["error_of", "step_of"]

Why = Callable[[str, int], tuple[str, str]]
PARENT, CHILD, SETUP, COMMAND = range(4)
INTERPRETER, CLONE_FAILED, JOIN, INIT, TOOL, LOG, SELF = 1, 2, 3, 4, 5, 6, 8


def step_of(failure: Failure, plan: Plan, command: tuple[st.Step, ...]) -> st.Step | None:
    """The Step that failed, where it was one."""
    steps = {PARENT: plan.parent, SETUP: plan.setup, COMMAND: command}.get(failure.phase, ())
    if failure.detail in (CLONE_FAILED, JOIN, INIT, SELF) or failure.index >= len(steps):
        return None
    return steps[failure.index]


def error_of(failure: Failure, spec: Spec, plan: Plan, command: tuple[st.Step, ...], why: Why) -> SpawnError | UnsupportedError:
    """The typed error for a failure while a container or a command was started.

    `why(what, errno)` finds out, by probing, why namespaces ("clone3"), an id map ("uid_map"), a name ("sethostname"),
    a folder as a layer ("layer PATH") or a file system's mount are forbidden here.
    """
    step = step_of(failure, plan, command)
    text = os.fsdecode(failure.text)
    if step is None:
        return _without_step(failure, spec, plan, text, why)
    if failure.phase == PARENT and failure.errno in (e.EMFILE, e.ENFILE):  # ours, whatever the field
        return SpawnError(f"descriptors exhausted: {step.name} said {_said(failure)}", step=step.name, errno=failure.errno, hint="raise RLIMIT_NOFILE (ulimit -n)")
    message, hint = _explain(failure, step, spec, plan, text, why)
    return SpawnError(message, field=step.blame or None, step=step.name, errno=failure.errno, hint=hint)


def _said(failure: Failure) -> str:
    return f"{os.strerror(failure.errno)} ({e.errorcode.get(failure.errno, failure.errno)})"


def _without_step(failure: Failure, spec: Spec, plan: Plan, text: str, why: Why) -> SpawnError | UnsupportedError:
    error = failure.errno
    if failure.detail == JOIN:
        name = plan.joins[int(text)][0] if text.isdigit() and int(text) < len(plan.joins) else "?"
        alone = "to join a namespace takes CAP_SYS_ADMIN in the user namespace that owns it: join that one too (namespaces.user), or be root"
        other = "it belongs to another user namespace than namespaces.user, in which there is no power over it: give one that was made in that, or leave it out"
        joined = name != "user" and any(kind == "user" for kind, _ in plan.joins)
        return SpawnError(f"namespaces.{name}: setns failed: {_said(failure)}", field=f"namespaces.{name}", step="setns", errno=error, hint=other if joined else alone)
    if failure.detail == SELF:
        return SpawnError(
            f"the container could not be reset: a guest changed {text} of its process 1, and that can't be undone: {_said(failure)}", step="reset", errno=error,
            hint="give the next guest a new container; guests that are another user than the init (Spec.user) can't do so",
        )  # fmt: skip
    if failure.detail == CLONE_FAILED and failure.phase == CHILD:
        if error == e.EAGAIN:
            return SpawnError(
                f"too many processes: clone3 said {_said(failure)}", step="clone3", errno=error,
                hint="raise RLIMIT_NPROC (ulimit -u) or the pids.max of the service (systemd: TasksMax=), or run fewer at once",
            )  # fmt: skip
        if error in (e.ENOMEM,):
            return SpawnError(f"no memory for a process: clone3 said {_said(failure)}", step="clone3", errno=error, hint="free memory, or raise the memory limit of this service")
        if error in (e.EMFILE, e.ENFILE):
            return SpawnError(f"descriptors exhausted: clone3 said {_said(failure)}", step="clone3", errno=error, hint="raise RLIMIT_NOFILE (ulimit -n)")
        if error in (e.EPERM, e.ENOSPC, e.ENOSYS, e.EUSERS, e.EINVAL) and plan.new:
            return _forbidden(error, plan, why)
    if failure.detail == CLONE_FAILED and failure.phase == COMMAND:
        hint = "raise pids in the Spec's limits, or RLIMIT_NPROC" if error == e.EAGAIN else None
        if spec.tty is not None and error in (e.EBADF, e.ENOENT):
            return SpawnError(
                f"tty: no terminal could be opened in the container: {_said(failure)}", field="tty", step="openat2", errno=error,
                hint="it takes a devpts there: mount DevPts() at /dev/pts",
            )  # fmt: skip
        return SpawnError(f"command: the init could not start it: {_said(failure)}", field="command", step="clone3", errno=error, hint=hint)
    if failure.phase == COMMAND and error == e.ECHILD:
        return SpawnError("command: it was killed before it was executed", field="command", step="exec", errno=error, hint="its memory limit may be too small to start in")
    if failure.detail == INIT:
        hint = "vm.memfd_noexec=2 forbids to execute from memory: sysctl vm.memfd_noexec=0" if error == e.EACCES else None
        return SpawnError(f"the init could not be executed: {_said(failure)}", step="init", errno=error, hint=hint)
    if error == e.ECANCELED:
        return SpawnError("the start was cancelled", step="clone3", errno=error)
    hints = {
        e.E2BIG: "without an init 250 idmapped binds and layers are the most: leave init True, or give fewer",
        e.ETOOMANYREFS: "descriptors that a user's programs (a guest's too) have sent and nobody has received are counted together: end the "
        "container that floods them, or keep guests below your own limit (rlimits nofile)",
    }
    hint = hints.get(error)
    return SpawnError(f"the container could not be started: {_said(failure)}", step="spawn", errno=error, hint=hint)


def _forbidden(error: int, plan: Plan, why: Why) -> SpawnError:
    reason, hint = why("clone3" if "user" in plan.new else "clone3 without user", error)
    field = "namespaces.user" if "user" in plan.new else f"namespaces.{plan.new[0]}"
    return SpawnError(f"{field}: {reason}", field=field, step="clone3", errno=error, hint=hint)


def _text(step: st.Step, which: str = "text") -> str:
    return repr(os.fsdecode(getattr(step, which)))


def _explain(failure: Failure, step: st.Step, spec: Spec, plan: Plan, text: str, why: Why) -> tuple[str, str | None]:
    """A sentence and a remedy for each Step and errno that people meet."""
    error, said, field = failure.errno, _said(failure), step.blame
    if isinstance(step, st.Exec):
        return _exec(failure, spec, step, text)
    if failure.detail == TOOL:
        return f"{field}: {_text(step)} refused: {text or said}", "check the lines for you in /etc/subuid and /etc/subgid"
    if isinstance(step, st.Chdir):
        hints = {
            e.ENOENT: "make the directory in the rootfs, or mount something there",
            e.ENOTDIR: "give a directory",
            e.EACCES: "the command's user may not enter it: change its mode or owner, or give another user",
            e.ELOOP: "it is a link that leads nowhere inside, or to /proc's magic",
        }
        return f"cwd: {_text(step)} in the container: {said}", hints.get(error)
    if isinstance(step, (st.Open, st.OpenTree, st.Idmap)) and not step.flags & st.INSIDE:
        return _source(failure, step, spec, why)
    if isinstance(step, (st.Attach, st.MakeDirectory, st.MakeSymlink, st.MakeFile)):
        return _target(failure, step, spec)
    if isinstance(step, (st.FsMount, st.FsString, st.FsFd, st.FsFlag, st.FsOpen, st.OverlayOld)):
        return _filesystem(failure, step, spec, text, why)
    if isinstance(step, st.Open) and field.endswith(".target"):
        return f"{field}: {_text(step)} in the container: {said}", "copy_up takes a directory that is there: make it in the rootfs, or leave copy_up out"
    if isinstance(step, st.Root):
        path = spec.rootfs.path if isinstance(spec.rootfs, Directory) else "the rootfs"
        return f"{field}: {path!r}: {said}", "it must be a directory" if error in (e.EINVAL, e.ENOTDIR) else None
    if error == e.EPERM and (
        (isinstance(step, st.Map) and not step.flags & st.GROUP_MAP) or isinstance(step, (st.Hostname, st.Domainname))
    ):
        reason, hint = why("uid_map" if isinstance(step, st.Map) else f"set{step.name}", error)
        return f"{field}: {reason}", hint
    if error in (e.EPERM, e.EACCES) and isinstance(step, (st.Pivot, st.Propagation, st.Stage, st.Unstage)):
        reason, hint = why("mount", error)
        return f"{field or 'rootfs'}: {step.name}: {reason}", hint
    if isinstance(step, st.Map):
        what = "ids outside must be your own, or root must write them" if error == e.EPERM else "each id may be mapped once, at most 340 lines"
        return f"{field}: the kernel refused {_text(step)}: {said}", what
    if isinstance(step, (st.User, st.Groups)):
        return f"{field}: {said}", "the ids must be mapped in the container: widen uid_map and gid_map"
    if isinstance(step, st.Descriptors) and error in (e.EMFILE, e.EINVAL, e.EBADF):
        return f"{field}: the descriptors could not be put in place: {said}", "numbers above RLIMIT_NOFILE can't be had: raise it, or give lower ones"
    if isinstance(step, st.Rlimit):
        return f"{field}: {said}", "a hard limit can be raised by a privileged caller alone: give one that is not above your own (ulimit -H)"
    if isinstance(step, st.Nice):
        value = step.a - 2**64 if step.a >= 2**63 else step.a
        return f"{field}: {value}: {said}", "a value below the caller's own needs CAP_SYS_NICE outside"
    if isinstance(step, st.Write):
        return _write(failure, step)
    if isinstance(step, st.ProcWrite):
        return f"{field}: {' '.join(os.fsdecode(step.text2).split())!r}: {said}", "offsets may not take a clock below zero or past 146 years: time_namespaces(7)"
    if isinstance(step, st.MountAttr):
        return f"{field}: mount attributes: {said}", "the file system can't be idmapped" if error == e.EINVAL else None
    if isinstance(step, st.Pivot) and error == e.EINVAL:
        return f"rootfs: pivot_root: {said}", "the caller lives on the initial ramfs or in a chroot, where it can't pivot: start it on a mounted root"
    if isinstance(step, st.Seccomp) and error == e.EBUSY:
        return (
            f"{field}: no listener can be had: {said}",
            "a filter around the supervisor (an outer container's) has a listener already, and the kernel allows one: leave notify and seccomp_report out",
        )
    if isinstance(step, st.Seccomp) and error == e.EMFILE:
        return f"{field}: no number for the listener: {said}", "raise rlimits nofile by one: a command that brings a listener needs it while it starts"
    if isinstance(step, (st.Mask, st.ReadOnly)) and error == e.EACCES:
        return (
            f"{field}: {_text(step)}: {said}",
            "files of the kernel are mounted in a folder of the Spec's to which the container's root can't get: give less of it, or paths of your own",
        )
    if isinstance(step, st.Keyrings):
        hint = "this user's keys are used up (kernel.keys.maxkeys, maxbytes): raise them (sysctl), or refuse key calls to guests, as the default filter does"
        return f"{field}: a session keyring: {said}", hint if error == e.EDQUOT else None
    if isinstance(step, (st.Cgroup, st.Enter)):
        return f"limits: the cgroup could not be entered: {said}", "is it still there, and not full (pids) or under a memory limit that is too small?"
    return f"{field + ': ' if field else ''}{step.name}: {said}{': ' + text if text else ''}", None


def _exec(failure: Failure, spec: Spec, step: st.Step, text: str) -> tuple[str, str | None]:
    name, error = repr((spec.command or ("?",))[0]), failure.errno
    if failure.detail == INTERPRETER:
        return (
            f"command: {name}: the file {text!r} is there, but its interpreter is not ({_said(failure)})",
            "for a script that is the program in its #! line (of which a carriage return at its end is a part), for a binary its loader: put it into the rootfs",
        )
    if error == e.ENOENT:
        if "/" in (spec.command or ("",))[0]:
            return f"command: {name} is not in the container ({_said(failure)})", "give a path inside, or mount it there"
        places = os.fsdecode(b":".join(place.rpartition(b"/")[0] for place in step.text3.split(b"\0") if place))
        return f"command: {name} is not found on the container's PATH {places!r} ({_said(failure)})", "install it in the rootfs, mount it, or set PATH in env"
    hints = {
        e.EACCES: "it is a directory, its mode lacks x for the command's user, or it lies on a mount with noexec",
        e.ENOEXEC: "it is for another processor, or a script without #!, or with one that is longer than 255 bytes",
        e.E2BIG: "arguments and environment are larger than a quarter of RLIMIT_STACK, or one of them than 128 KiB",
        e.ENOTDIR: "a part of its path is a file",
        e.EPERM: "a label, a filter or a mount with nosuid forbids it",
        e.ETXTBSY: "somebody holds it open for writing",
        e.ELIBBAD: "its loader is broken",
        e.ENOMEM: "no memory to start it",
    }
    if error == e.EACCES and spec.security.landlock is not None:
        hints[error] = "no rule of security.landlock has it in `execute` (with its loader and libraries in `read`); what no rule names is refused"
    word = "is not executable" if error == e.EACCES else "is of the wrong format" if error == e.ENOEXEC else "could not be executed"
    return f"command: {text or name!s} {word}: {_said(failure)}", hints.get(error)


def _source(failure: Failure, step: st.Step, spec: Spec, why: Why) -> tuple[str, str | None]:
    error, field = failure.errno, step.blame
    overlay = _overlay(spec, field)
    if overlay is not None and error == e.ENOENT and not step.text.startswith(b"/"):  # below the folder that upper and work share
        path = overlay.work if field.endswith(".work") else overlay.upper
        return f"{field}: {path!r}: {_said(failure)}", "it does not exist on the host, or lies on another file system than the other: upper and work must lie on one"
    if isinstance(step, st.OpenTree) and error == e.EINVAL and overlay is not None:
        reason, hint = why(f"layer {os.fsdecode(step.text)}", error)
        return f"{field}: {_text(step)}: {_said(failure)}: {reason}", hint
    if isinstance(step, st.Idmap) and error in (e.EINVAL, e.EPERM, e.EOPNOTSUPP):
        instead = "leave its uid_map and gid_map out" if step.text2 else "mount it read-only, give Bind(…, idmap=False) and files that the container's ids may use"
        if overlay is not None:
            instead = "leave that layer out"
        return f"{field}: {_text(step)} lies on a file system that can't be idmapped ({_said(failure)})", f"{instead}, or move it to ext4, xfs or btrfs"
    if isinstance(step, st.Idmap) and error in (e.ENOSPC, e.EUSERS):
        return f"{field}: no user namespace for the maps of {_text(step)}: {_said(failure)}", "raise user.max_user_namespaces (sysctl), or leave its uid_map and gid_map out"
    hints = {
        e.ENOENT: "it does not exist on the host" + (", or give optional=True" if field.endswith(".source") else ""),
        e.ENOTDIR: "it must be a directory",
        e.EACCES: "the caller may not reach it",
        e.ELOOP: "it is a cycle of links",
        e.EINVAL: "it is not a place that can be bound: a file of /proc, or a mount that was made unbindable",
        e.EPERM: "the surroundings forbid mounts (a seccomp filter or a security module)",
    }
    return f"{field}: {_text(step)}: {_said(failure)}", hints.get(error)


def _target(failure: Failure, step: st.Step, spec: Spec) -> tuple[str, str | None]:
    where = _text(step, "text2" if isinstance(step, st.MakeSymlink) else "text")
    hints = {
        e.ENOENT: "nothing can be made there: it is the kernel's (such as /proc), or was removed meanwhile",
        e.EROFS: "its root is read-only, so the place must be there already: make it in the rootfs, or use an Overlay",
        e.ELOOP: "a link there leads nowhere inside the container, and is not followed out of it",
        e.ENOTDIR: "a part of the path is a file, or a file was to be mounted on a directory",
        e.EEXIST: "something is there already",
        e.EACCES: "the container's root may not write there: make the place in the rootfs, or use an Overlay",
        e.EOVERFLOW: "the rootfs belongs to ids that are not mapped in the container",
        e.ENOSPC: "the file system there is full, or the limit of mounts is reached (fs.mount-max)",
        e.ENAMETOOLONG: "the path is longer than 4,095 bytes",
        e.EINVAL: "a directory can't be mounted on a file, nor a file on a directory",
        e.EPERM: "the surroundings forbid mounts (a seccomp filter or a security module)",
    }
    if isinstance(step, st.Attach) and step.flags & st.NO_LINK and failure.errno == e.ENOTDIR:
        return f"{step.blame}: target {where} in the container: {_said(failure)}", "it must be a directory of the rootfs itself, not a file and not a link"
    if isinstance(step, st.Attach) and failure.errno == e.EPERM and b"/proc" in step.text:
        return f"{step.blame}: {where}: {_said(failure)}", "a fresh /proc would show more than the masked one around us: run the outer container with its /proc unmasked"
    return f"{step.blame or 'mounts'}: target {where} in the container: {_said(failure)}", hints.get(failure.errno)


def _overlay(spec: Spec, field: str) -> Overlay | None:
    """The Overlay that a field names; it has words of its own, since overlayfs keeps its reasons for the kernel's log."""
    for name, layer in (("rootfs", spec.rootfs), *((f"mounts[{index}]", mount) for index, mount in enumerate(spec.mounts))):
        if isinstance(layer, Overlay) and (field == name or field.startswith(name + ".")):
            return layer
    return None


def _write(failure: Failure, step: st.Step) -> tuple[str, str | None]:
    """What a file of the kernel's refused."""
    error, field = failure.errno, step.blame
    hint: str | None = None
    denied = error in (e.EACCES, e.EPERM)
    if error == e.EXDEV:
        hint = "a guest has laid a mount over it, and would have got what it is told: end the container, and leave CAP_SYS_ADMIN out of security.capabilities"
    elif field.startswith("security."):
        name = "AppArmor" if field.endswith("apparmor") else "SELinux"
        hint = f"{name} is not in force in this kernel, or does not know that name: boot with it, load the profile, or leave the field out"
    elif field == "oom_score_adj" and denied:
        hint = "a value below the caller's own needs CAP_SYS_RESOURCE"
    elif error == e.ENOENT:
        hint = "this kernel has no such file"
    elif error in (e.EINVAL, e.ERANGE):
        hint = "the kernel takes another value there"
    elif denied:
        hint = "it is not the container's to change"
    return f"{field}: {_text(step, 'text2')} to {_text(step)}: {_said(failure)}", hint


def _filesystem(failure: Failure, step: st.Step, spec: Spec, text: str, why: Why) -> tuple[str, str | None]:
    said = f"{_said(failure)}{': the file system says ' + repr(text) if failure.detail == LOG and text else ''}"
    field, error = step.blame, failure.errno
    hint: str | None = None
    overlay = _overlay(spec, field)
    if overlay is not None and error == e.ELOOP:
        return f"{field}: lower: one of {list(overlay.lower)} lies in another: {said}", "give lowers that lie beside each other"
    if overlay is not None and overlay.upper is not None and error in (e.EINVAL, e.EXDEV, e.EROFS, e.EOPNOTSUPP):
        return (
            f"{field}: an overlay of upper {overlay.upper!r} and work {overlay.work!r}: {said}",
            "upper and work must lie on one file system, writable and with extended attributes (ext4, xfs, btrfs; not overlayfs, nfs, vfat or proc)",
        )
    if overlay is not None and error == e.EINVAL and not isinstance(step, st.OverlayOld):
        return f"{field}: an overlay of {list(overlay.lower)}: {said}", "each lower must be a directory of a file system that overlayfs can read"
    if error == e.ENODEV:
        hint = "the kernel has no such file system: load its module (modprobe overlay)"
    elif error == e.ESTALE:
        hint = "upper or work belonged to another overlay: give a fresh work folder"
    elif error == e.E2BIG or (error == e.EINVAL and isinstance(step, st.OverlayOld)):
        hint = "before Linux 6.7 all lowers must fit one page of options: give fewer of them"
    elif error in (e.EPERM, e.EACCES):
        kind = "proc" if step.slot == st.PROC else os.fsdecode(step.text) if isinstance(step, st.FsOpen) else ""
        reason, hint = why(kind, error)
        return f"{field or 'rootfs'}: {step.name}: {said}: {reason}", hint
    elif error == e.EBUSY:
        hint = "another overlay uses this upper or work: give each container its own"
    return f"{field or 'rootfs'}: {step.name}: {said}", hint

