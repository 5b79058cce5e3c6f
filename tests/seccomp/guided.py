"""Profiles as libFuzzer makes them, guided by what of their reader they reach; a program of its own, for test_oci.

    guided.py [--planted] [LIBFUZZER-OPTION …] [FOLDER]
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parent.parent))
with atheris.instrument_imports(include=["creche"]):
    from seccomp.test_oci import made, opens_only_what_it_names

    from creche import Security, SpecError

PLANTED = "--planted" in sys.argv


def one(data: bytes) -> None:
    try:
        profile = json.loads(data)
    except (ValueError, RecursionError):
        return
    if not isinstance(profile, dict):
        return
    try:
        security = Security(seccomp=profile)
        if isinstance(security.seccomp, dict):
            filter = made(security.seccomp)
            assert not (PLANTED and profile.get("defaultErrnoRet", 1) != 1)
            opens_only_what_it_names(filter, security.seccomp)
    except SpecError as error:
        assert error.field.startswith("security.seccomp"), data


atheris.Setup([word for word in sys.argv if word != "--planted"], one)
atheris.Fuzz()
