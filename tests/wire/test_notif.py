"""The records of seccomp_unotify(2): as long as the kernel says, found again as they were put, and numbered by its macros."""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from creche.wire import notif
from needs import needs

U64 = st.integers(0, 2**64 - 1)
U32 = st.integers(0, 2**32 - 1)


@given(U64, U32, U32, U32, U64, st.lists(U64, min_size=6, max_size=6))
def test_a_call_is_read_as_it_was_written(ident: int, pid: int, number: int, arch: int, address: int, args: list[int]) -> None:
    """Whatever a guest puts into its registers."""
    data = struct.pack("=QIIIIQ6Q", ident, pid, 0, number, arch, address, *args)
    assert notif.decode(data) == notif.Notification(ident, pid, number, arch, address, tuple(args))


def test_answers() -> None:
    assert notif.answer(7, value=42) == struct.pack("=QqiI", 7, 42, 0, 0)
    assert notif.answer(7, errno=13) == struct.pack("=QqiI", 7, 0, -13, 0)
    assert notif.answer(7, flags=notif.CONTINUE) == struct.pack("=QqiI", 7, 0, 0, 1)
    assert notif.addfd(7, 5, 0o2000000) == struct.pack("=QIIII", 7, 2, 5, 0, 0o2000000)
    assert notif.ident(1 << 63) == struct.pack("=Q", 1 << 63)
    with pytest.raises(struct.error):
        notif.decode(b"short")


@needs("cc")
def test_the_numbers_are_the_kernels(tmp_path: Path) -> None:
    compiler = shutil.which("cc")
    assert compiler
    source = tmp_path / "numbers.c"
    source.write_text("""
#include <linux/seccomp.h>
#include <stdio.h>
#include <sys/ioctl.h>
int main(void)
{
	printf("%zu %lu %lu %lu %lu %lu %lu", sizeof(struct seccomp_notif), (unsigned long)SECCOMP_IOCTL_NOTIF_RECV,
	       (unsigned long)SECCOMP_IOCTL_NOTIF_SEND, (unsigned long)SECCOMP_IOCTL_NOTIF_ID_VALID, (unsigned long)SECCOMP_IOCTL_NOTIF_ADDFD,
	       (unsigned long)SECCOMP_USER_NOTIF_FLAG_CONTINUE, (unsigned long)SECCOMP_ADDFD_FLAG_SEND);
}
""")
    subprocess.run([compiler, "-o", tmp_path / "numbers", source], check=True)
    said = subprocess.run([tmp_path / "numbers"], check=True, capture_output=True, text=True).stdout
    ours = notif.CALL_SIZE, notif.RECV, notif.SEND, notif.ID_VALID, notif.ADDFD, notif.CONTINUE, notif.ADDFD_SEND
    assert tuple(map(int, said.split())) == ours
