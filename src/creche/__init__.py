"""creche: containers your event loop can await. The public names, and nothing else."""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

if not sys.platform.startswith("linux"):
    raise ImportError("creche needs Linux: it is made of namespaces, cgroups and pidfds, which other systems lack")

if TYPE_CHECKING:
    from .calls.syscalls import Syscall as Syscall
    from .calls.violations import Violation as Violation
    from .container import Container as Container
    from .errors import CallError as CallError
    from .errors import CgroupError as CgroupError
    from .errors import CrecheError as CrecheError
    from .errors import ExitError as ExitError
    from .errors import FileError as FileError
    from .errors import SpawnError as SpawnError
    from .errors import SpecError as SpecError
    from .errors import SyscallError as SyscallError
    from .errors import UnsupportedError as UnsupportedError
    from .errors import WarmError as WarmError
    from .jobs.queue import JobQueue as JobQueue
    from .pool import Pool as Pool
    from .process import Process as Process
    from .results import Exit as Exit
    from .results import Reason as Reason
    from .results import Result as Result
    from .results import Usage as Usage
    from .running import run as run
    from .spec.filesystem import Bind as Bind
    from .spec.filesystem import DevPts as DevPts
    from .spec.filesystem import Directory as Directory
    from .spec.filesystem import File as File
    from .spec.filesystem import HostView as HostView
    from .spec.filesystem import Mqueue as Mqueue
    from .spec.filesystem import Overlay as Overlay
    from .spec.filesystem import Proc as Proc
    from .spec.filesystem import Symlink as Symlink
    from .spec.filesystem import Sysfs as Sysfs
    from .spec.filesystem import Tmpfs as Tmpfs
    from .spec.identity import IdMap as IdMap
    from .spec.limits import Limits as Limits
    from .spec.namespaces import Namespaces as Namespaces
    from .spec.security import Landlock as Landlock
    from .spec.security import SeccompRules as SeccompRules
    from .spec.security import Security as Security
    from .spec.spec import Spec as Spec
    from .supervisor.childspec import ChildSpec as ChildSpec
    from .supervisor.supervisor import Supervisor as Supervisor
    from .warm.warm import ForkServer as ForkServer
    from .warm.warm import PythonWarm as PythonWarm

# Where each name lives: read when it is first used, so that `import creche` stays cheap.
_HOMES = {
    "Bind": "spec.filesystem", "CallError": "errors", "CgroupError": "errors", "ChildSpec": "supervisor.childspec", "Container": "container", "CrecheError": "errors", "DevPts": "spec.filesystem",
    "Directory": "spec.filesystem", "Exit": "results", "ExitError": "errors", "File": "spec.filesystem", "FileError": "errors", "ForkServer": "warm.warm",
    "HostView": "spec.filesystem", "IdMap": "spec.identity", "JobQueue": "jobs.queue", "Landlock": "spec.security", "Limits": "spec.limits", "Mqueue": "spec.filesystem",
    "Namespaces": "spec.namespaces", "Overlay": "spec.filesystem", "Pool": "pool", "Proc": "spec.filesystem", "Process": "process", "PythonWarm": "warm.warm", "Reason": "results",
    "Result": "results", "SeccompRules": "spec.security", "Security": "spec.security", "SpawnError": "errors", "Spec": "spec.spec",
    "SpecError": "errors", "Supervisor": "supervisor.supervisor", "Symlink": "spec.filesystem", "Syscall": "calls.syscalls", "SyscallError": "errors", "Sysfs": "spec.filesystem", "Tmpfs": "spec.filesystem",
    "UnsupportedError": "errors", "Usage": "results", "Violation": "calls.violations", "WarmError": "errors", "run": "running",
}  # fmt: skip

__all__ = sorted(_HOMES)
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'creche' has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
