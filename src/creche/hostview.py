"""What of this host a HostView shows: its programs, libraries and a list of /etc, read once and kept fresh."""

from __future__ import annotations

import os
import stat
import time

from attrs import frozen

__all__ = ["HostListing", "listing"]

#: What programs need of /etc and nobody minds showing: no shadow, no keys, no machine-id, nothing of a person's.
ETC = (
    "alternatives", "bash.bashrc", "ca-certificates", "default/locale", "fonts", "gai.conf", "group", "host.conf", "ImageMagick-6",
    "java-11-openjdk", "java-17-openjdk", "java-21-openjdk", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "locale.alias", "localtime",
    "magic", "mime.types", "nsswitch.conf", "os-release", "passwd", "pki/tls/certs", "pki/ca-trust", "profile", "profile.d",
    "protocols", "python3", "python3.11", "python3.12", "python3.13", "R", "rpc", "services", "ssl/certs", "ssl/openssl.cnf",
    "terminfo", "timezone", "xattr.conf",
)  # fmt: skip
#: At the top of the root: links into /usr where the host is merged, directories of their own where it is not.
TOP = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
FRESH = 1.0  # seconds
SMALL = 4096  # bytes of a file that is cheaper to copy than to bind


@frozen
class HostListing:
    """One reading: `trees` are bound, `links` made, `files` written (path, bytes, mode)."""

    trees: tuple[str, ...]
    links: tuple[tuple[str, str], ...]
    files: tuple[tuple[str, bytes, int], ...]
    proc: frozenset[str] = frozenset()  #: names in /proc that masks may be laid over


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
    trees = [path for path in ("/usr", "/opt") if os.path.isdir(path)]
    links: list[tuple[str, str]] = []
    files: list[tuple[str, bytes, int]] = []
    for name in TOP:
        path = f"/{name}"
        if os.path.islink(path):
            links.append((path, os.readlink(path)))
        elif os.path.isdir(path):
            trees.append(path)
    for name in ETC:
        path = f"/etc/{name}"
        try:
            found = os.lstat(path)
        except OSError:
            continue
        if stat.S_ISLNK(found.st_mode):
            links.append((path, os.readlink(path)))
        elif stat.S_ISDIR(found.st_mode):
            trees.append(path)
        elif found.st_size <= SMALL:
            try:
                with open(path, "rb") as file:
                    files.append((path, file.read(SMALL), 0o644))
            except OSError:
                continue  # not ours to read, so not the container's either
        else:
            trees.append(path)
    try:
        proc = frozenset(os.listdir("/proc"))
    except OSError:
        proc = frozenset()
    return HostListing(tuple(trees), tuple(links), tuple(files), proc)
