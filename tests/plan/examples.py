"""Specs, machines and hosts whose Plans are written down, word by word."""

from __future__ import annotations

import attrs

from creche.hostview import HostListing
from creche.machine import Machine
from creche.plan.compile import Context, Plan, compile, needs_scratch
from creche.plan.ids import wants_range
from creche.spec import (
    Bind,
    Directory,
    File,
    IdMap,
    Limits,
    Namespaces,
    Overlay,
    Security,
    Spec,
    Symlink,
    Sysfs,
    Tmpfs,
)

HOST = HostListing(
    trees=(("/usr", True), ("/etc/alternatives", True), ("/etc/ld.so.cache", False)),
    links=(("/bin", "usr/bin"), ("/lib64", "usr/lib64")),
    files=(("/etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n"), ("/etc/ssl/openssl.cnf", b"[default]\n")),
    resolver=b"nameserver 192.0.2.1\n",
    proc=frozenset({"bus", "fs", "irq", "sys", "kallsyms", "keys", "interrupts"}),
    closed=frozenset({"kcore", "sysrq-trigger"}),
)
OLD = attrs.evolve(Machine.example(), kernel=(5, 14, 0), release="5.14.0", landlock_abi=1)


def plan(spec: Spec, machine: Machine, host: HostListing = HOST) -> Plan:
    """The Plan as a start would compile it."""
    ranged = wants_range(spec, machine)
    context = Context(
        view=host, base=0x7000_0000 if ranged else None, scratch="/var/tmp/creche-upper-x" if needs_scratch(spec, machine) else None,
        caller={"TOKEN": "s3cret"}, held=ranged, shared=True,
    )  # fmt: skip
    return compile(spec, machine, context)


USER, ROOT = Machine.example(), Machine.example_root()
EXAMPLES: dict[str, tuple[Spec, Machine]] = {
    "true-user": (Spec(["true"]), USER),
    "true-root": (Spec(["true"]), ROOT),
    "true-root-shared": (Spec(["true"]), attrs.evolve(ROOT, kernel=(6, 15, 0), release="6.15.0")),
    "place-without-command": (Spec(), USER),
    "directory-and-mounts": (
        Spec(
            ["/bin/serve", "--port", "80"], env={"TOKEN": "s3cret", "A": "b"}, cwd="/app", user=1000, rlimits={"nofile": (64, 128)},
            rootfs=Directory("/srv/image"), hostname="web", umask=0o077, nice=5, oom_score_adj=500, devices=["/dev/kvm"],
            mounts=[Bind("/srv/app", "/app", readonly=True), Bind("/srv/data", "/data"), Tmpfs("/cache", size="8M", copy_up=True),
                    File("/etc/key", b"s3cret"), Symlink("/app", "/link"), Sysfs()],
        ),
        ROOT,
    ),
    "overlay-old-kernel": (Spec(["true"], rootfs=Overlay(["/a", "/b"])), OLD),
    "overlay-root-private": (Spec(["true"], rootfs=Overlay(["/a", "/b"], "/layers/upper", "/layers/work")), ROOT),
    "maps-by-newuidmap": (
        Spec(["id"], uid_map=[IdMap(0, 1000, 1), IdMap(1, 100_000, 99)], gid_map=[IdMap(0, 1000, 1), IdMap(1, 100_000, 99)], user="7:8", groups=[9]),
        USER,
    ),
    "joined-without-init": (
        Spec(["true"], init=False, namespaces=Namespaces(user="/proc/7/ns/user", network="/proc/7/ns/net", uts="/proc/7/ns/uts", time=True), time_offsets={"boottime": -0.5}),
        USER,
    ),
    "strict-with-capability": (Spec(["true"], security=Security(seccomp="strict", capabilities=["CAP_CHOWN"]), limits=Limits(memory="64M"), tty=True), USER),
    "no-rootfs": (Spec(["true"], rootfs=None, mounts=[File("/etc/motd", b"hi")], namespaces=Namespaces(network=False)), USER),
}  # fmt: skip
