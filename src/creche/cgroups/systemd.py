"""A transient scope with Delegate=yes, asked of systemd over D-Bus."""

from __future__ import annotations

import os
from collections.abc import Mapping

from ..errors import CgroupError


def absent(environ: Mapping[str, str]) -> str | None:
    """Why systemd cannot be asked, or None."""
    if not os.path.isdir("/run/systemd/system"):
        return "systemd does not run here"
    return None


async def enter_scope(environ: Mapping[str, str]) -> None:
    """Move this process into a scope of its own. Raises CgroupError."""
    raise CgroupError("systemd cannot be asked for a scope yet", hint="add Delegate=yes to the unit")
