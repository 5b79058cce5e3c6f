"""What is made for an idmapped mount's own maps ends with its maker, however that ends."""

from __future__ import annotations

import os
import select
import subprocess
from pathlib import Path

from native.harness import HERE, NATIVE

from needs import needs

pytestmark = needs("userns")


def test_the_namespaces_one_process_dies_with_its_maker(tmp_path: Path) -> None:
    program = tmp_path / "holding"
    subprocess.run(["cc", "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-I", NATIVE, "-o", program, HERE / "holding.c"], check=True)
    with open(tmp_path / "told", "w") as told:  # no pipe: what lives on would hold it open
        done = subprocess.run([program], stdout=told, check=False)
    assert done.returncode == -9, "the control: its maker was killed while it lived"
    try:
        pidfd = os.pidfd_open(int((tmp_path / "told").read_text()))
    except ProcessLookupError:
        return
    try:
        assert select.select([pidfd], [], [], 10)[0]
    finally:
        os.close(pidfd)
