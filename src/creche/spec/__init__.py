"""What you want, as pure data: frozen classes that refuse nonsense when they are built."""

from .filesystem import (
    Bind,
    DevPts,
    Directory,
    File,
    HostView,
    Mount,
    Mqueue,
    Overlay,
    Proc,
    Rootfs,
    Symlink,
    Sysfs,
    Tmpfs,
)
from .identity import IdMap, UserRef
from .limits import Limits
from .namespaces import Namespaces
from .security import Landlock, SeccompRules, Security
from .spec import Spec
from .strength import Strength

__all__ = [
    "Bind",
    "DevPts",
    "Directory",
    "File",
    "HostView",
    "IdMap",
    "Landlock",
    "Limits",
    "Mount",
    "Mqueue",
    "Namespaces",
    "Overlay",
    "Proc",
    "Rootfs",
    "SeccompRules",
    "Security",
    "Spec",
    "Strength",
    "Symlink",
    "Sysfs",
    "Tmpfs",
    "UserRef",
]
