"""Presets are Securities, each as weak as its name says and no weaker."""

from __future__ import annotations

import pytest
from privileged.look import run

from creche import Security, SpecError
from creche.spec.presets import PRESETS, preset
from needs import needs


def test_the_names_and_what_differs() -> None:
    assert preset("default") == Security()
    assert {name for name, security in PRESETS.items() if security.privileged} == {"privileged"}
    assert all(security.no_new_privs and security.seccomp for name, security in PRESETS.items() if name != "privileged")
    assert {name for name, security in PRESETS.items() if security.capabilities} == {"build"}
    with pytest.raises(SpecError, match="strict"):
        preset("strickt")


@needs("userns", "native")
@pytest.mark.parametrize(
    ("name", "program", "ok"),
    [
        ("default", "import os; os.waitpid(os.fork(), 0) if os.fork() else os._exit(0)", True),
        ("strict", "print(sum(range(1000)))", True),
        ("strict", "import os; os.fork() or os._exit(0)", False),
        ("strict", "import socket; socket.socket()", False),
        ("build", "import os; os.mkdir('/tmp/d', 0); os.rmdir('/tmp/d'); open('/tmp/f', 'w').close(); os.chmod('/tmp/f', 0); open('/tmp/f')", True),
        ("default", "import os; open('/tmp/f', 'w').close(); os.chmod('/tmp/f', 0); open('/tmp/f')", False),
        ("build", "import os; os.chroot('/tmp')", False),
        ("build", "import ctypes; assert not ctypes.CDLL(None).unshare(0x10000000)", False),
    ],
)
def test_a_preset_lets_do_what_it_promises(name: str, program: str, ok: bool) -> None:
    assert run(["python3", "-I", "-S", "-c", program], security=preset(name)).exit.ok is ok
