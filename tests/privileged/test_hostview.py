"""The default view: the host's programs and libraries, read-only, and nothing personal."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from privileged.look import ROOT, python, run, sh

from creche import Bind, File, HostView, Namespaces, Tmpfs
from creche.hostview import ETC, TOP
from needs import needs

pytestmark = needs("userns", "native")


def test_the_top_holds_programs_and_nothing_personal() -> None:
    names = set(sh("ls -a /").split()) - {".", ".."}
    programs = {"usr", "opt", *(name for name in TOP if os.path.lexists(f"/{name}"))}
    assert names == {*(name for name in programs if os.path.lexists(f"/{name}")), "etc", "dev", "proc", "tmp"}


@pytest.mark.parametrize(
    "path",
    ["/home", "/root", "/run", "/var", "/boot", "/srv", "/mnt", "/media", "/sys", "/lost+found", "/tmp/.X11-unix",
     "/etc/shadow", "/etc/gshadow", "/etc/sudoers", "/etc/ssh", "/etc/machine-id", "/etc/ssl/private", "/etc/fstab",
     "/etc/subuid", "/etc/hostname", "/etc/crontab", "/etc/environment"],
)  # fmt: skip
def test_is_not_there(path: str) -> None:
    assert run(["test", "-e", path]).exit.code == 1


def test_etc_has_what_the_list_says_and_hosts() -> None:
    allowed = {name.split("/")[0] for name in ETC} | {"hosts", "resolv.conf"}
    assert set(sh("ls -A /etc").split()) <= allowed
    assert sh("cat /etc/hosts") == "127.0.0.1 localhost\n::1 localhost"


def test_what_is_in_etc_is_what_the_host_has() -> None:
    for name in ("passwd", "group", "nsswitch.conf", "services", "ld.so.cache"):
        path = Path("/etc", name)
        if path.exists():
            assert python("import sys; sys.stdout.write(str(hash(open(sys.argv[1], 'rb').read()) and len(open(sys.argv[1], 'rb').read())))", str(path)) == str(path.stat().st_size)


def test_no_file_in_etc_is_one_that_the_host_hides() -> None:
    """A mode of the host's that keeps others out keeps the container out: what is copied was for everybody."""
    listed = sh("find /etc -xdev -type f").split("\n")
    copies = [path for path in listed if os.path.exists(path) and path != "/etc/hosts"]
    assert copies
    assert [path for path in copies if not os.stat(path).st_mode & 0o004] == []


@pytest.mark.parametrize("path", ["/", "/usr", "/usr/bin", "/etc", "/etc/passwd", "/opt", "/dev", "/bin", "/usr/lib"])
def test_is_read_only(path: str) -> None:
    if not os.path.exists(path):
        path = "/usr"
    code = """
        import errno, os, sys
        path = sys.argv[1]
        def refused(call):
            try: call()
            except OSError as error: return errno.errorcode[error.errno]
            return "done"
        target = path if os.path.isfile(path) else path + "/creche-was-here"
        print(refused(lambda: os.open(target, os.O_WRONLY | os.O_CREAT)), refused(lambda: os.chmod(path, 0o777)))
    """
    assert python(code, path) == "EROFS EROFS"


def test_programs_of_the_host_run() -> None:
    assert sh([sys.executable if sys.executable.startswith("/usr") else "python3", "-c", "print(6*7)"]) == "42"


def test_tmp_is_private_writable_and_empty() -> None:
    name = f"creche-test-{os.getpid()}"
    assert sh(f"ls -A /tmp; echo x > /tmp/{name}; cat /tmp/{name}") == "x"
    assert not Path("/tmp", name).exists()
    assert sh("stat -c %a /tmp; cd /tmp && cp /bin/true t && ./t && echo ran") == "1777\nran"


def test_a_home_may_be_mounted_and_is_then_the_only_thing_of_it(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("mine")
    (tmp_path / "f").chmod(0o644)
    tmp_path.chmod(0o755)
    got = sh("ls -A /home /home/me; cat /home/me/f", mounts=[Bind(tmp_path, "/home/me", readonly=True)])
    assert got == "/home:\nme\n\n/home/me:\nf\nmine"


def test_mounts_find_their_places_made() -> None:
    assert sh("ls -d /a/b/c; cat /x/y/z", mounts=[Tmpfs("/a/b/c"), File("/x/y/z", b"deep")]) == "/a/b/c\ndeep"


def test_the_resolver_is_there_with_the_callers_network_alone() -> None:
    assert run(["test", "-e", "/etc/resolv.conf"]).exit.code == 1
    if os.path.exists("/etc/resolv.conf"):
        fields = {"namespaces": Namespaces(network=False)}
        assert sh("cat /etc/resolv.conf", **fields) == Path("/etc/resolv.conf").read_text().removesuffix("\n")


def test_nothing_of_the_view_belongs_to_the_container_where_it_is_not_the_callers() -> None:
    """Root's container in its private range can't chmod what is bound, were it writable."""
    owner = sh("stat -c %U /usr")
    assert owner == "nobody"  # an ordinary user's /usr is root's, and root's container's root is not root
    assert ROOT or os.stat("/usr").st_uid != os.geteuid()


def test_it_is_the_default() -> None:
    assert sh("ls /", rootfs=HostView()) == sh("ls /")
