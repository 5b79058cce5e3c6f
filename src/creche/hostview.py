"""What of this host a HostView shows: its programs, libraries and a list of /etc, read once and kept fresh."""

from __future__ import annotations

import os
import stat
import time

from attrs import frozen

from .values import Value

__all__ = ["HostListing", "listing"]

#: What programs need of /etc and nobody minds showing: no shadow, no keys, no machine-id, nothing of a person's.
ETC = (
    "alternatives", "fonts", "gai.conf", "group", "host.conf", "ImageMagick-6", "java-11-openjdk", "java-17-openjdk",
    "java-21-openjdk", "ld.so.cache", "ld.so.conf", "locale.alias", "localtime", "magic", "mime.types", "nsswitch.conf",
    "os-release", "passwd", "pki/tls/certs", "pki/ca-trust", "profile", "protocols", "R", "rpc", "services", "ssl/certs",
    "ssl/openssl.cnf", "timezone",
)  # fmt: skip
#: At the top of the root: links into /usr where the host is merged, directories of their own where it is not.
TOP = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
FRESH = 1.0  # seconds
SMALL = 16_384  # bytes of a file that is cheaper to copy than to bind


@frozen(eq=False, repr=False)
class HostListing(Value):
    """One reading: `trees` are bound (path, whether it is a directory), `links` made, `files` written (path, bytes)."""

    trees: tuple[tuple[str, bool], ...] = ()
    links: tuple[tuple[str, str], ...] = ()
    files: tuple[tuple[str, bytes], ...] = ()
    resolver: bytes | None = None  #: /etc/resolv.conf, for containers in the caller's network
    proc: frozenset[str] = frozenset()  #: what in /proc anybody may read
    closed: frozenset[str] = frozenset()  #: names in /proc that are for the host's root alone

    def shows(self, name: str, *, to_root: bool) -> bool:
        """Whether /proc/`name` would show something to a guest; `to_root`: whose root may be the host's."""
        return name in self.proc or (to_root and name in self.closed)


_looked = 0.0
_last: tuple[tuple[object, ...], HostListing] | None = None


def _stamp() -> tuple[object, ...]:
    """What changes when anything in the list does: of each path its inode, size and time."""
    stamps: list[object] = []
    for name in ETC:
        try:
            found = os.lstat(f"/etc/{name}")
            stamps.append((found.st_ino, found.st_size, found.st_mtime_ns))
        except OSError:
            stamps.append(None)
    return tuple(stamps)


def listing() -> HostListing:
    """The host as it was within the last second: looked at again after that, and read where a file has changed."""
    global _last, _looked
    now = time.monotonic()
    if _last is None or now - _looked > FRESH:
        stamp = _stamp()
        _looked = now
        if _last is None or _last[0] != stamp:
            _last = stamp, _read()
    return _last[1]


def _read() -> HostListing:
    trees = [(path, True) for path in ("/usr", "/opt") if os.path.isdir(path)]
    links: list[tuple[str, str]] = []
    files: list[tuple[str, bytes]] = []
    for name in TOP:
        path = f"/{name}"
        if os.path.islink(path):
            links.append((path, os.readlink(path)))
        elif os.path.isdir(path):
            trees.append((path, True))
    for name in ETC:
        path = f"/etc/{name}"
        try:
            found = os.lstat(path)
            if stat.S_ISLNK(found.st_mode):
                links.append((path, os.readlink(path)))
            elif stat.S_ISREG(found.st_mode) and found.st_size <= SMALL:
                with open(path, "rb") as file:
                    files.append((path, file.read(SMALL)))
            else:
                trees.append((path, stat.S_ISDIR(found.st_mode)))
        except OSError:
            continue  # not there, or not ours to read, so not the container's either
    try:
        with open("/etc/resolv.conf", "rb") as file:
            resolver = file.read(SMALL)
    except OSError:
        resolver = None
    readable, closed = _kernel_files()
    return HostListing(tuple(trees), tuple(links), tuple(files), resolver, readable, closed)


def _kernel_files() -> tuple[frozenset[str], frozenset[str]]:
    """What is in /proc beside processes, by whether others than its owner, the host's root, may read or enter it."""
    readable: set[str] = set()
    closed: set[str] = set()
    try:
        with os.scandir("/proc") as entries:
            for entry in entries:
                if not entry.name[0].isdigit():
                    (readable if entry.stat(follow_symlinks=False).st_mode & 0o005 else closed).add(entry.name)
        if os.path.exists("/proc/self/autogroup"):  # of its own kind among processes' files: see plan/covered.py
            readable.add("1/autogroup")
    except OSError:
        pass  # no /proc here: then nothing of it is mounted inside
    return frozenset(readable), frozenset(closed)
