"""Files of the kernel that a container does not see, or may not write to, unless its Spec says otherwise."""

from __future__ import annotations

__all__ = ["MASKED", "READONLY"]

#: Kernel-wide files that tell of the host: what runc, crun and Podman mask, and what today's kernels have beside it. And one of process
#: 1's: the init is in its supervisor's session, whose share of the processors is set there (sched(7)) by whoever is root in the container.
MASKED = (
    "/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/sched_debug",
    "/proc/scsi", "/proc/timer_list", "/proc/timer_stats", "/proc/kpagecount", "/proc/kpageflags", "/proc/kpagecgroup",
    "/proc/kallsyms", "/proc/kmsg", "/proc/modules", "/proc/iomem", "/proc/ioports", "/proc/slabinfo", "/proc/vmallocinfo",
    "/proc/pagetypeinfo", "/proc/allocinfo", "/proc/driver", "/sys/firmware", "/sys/devices/virtual/powercap", "/sys/kernel/debug",
    "/sys/kernel/tracing", "/sys/kernel/security", "/sys/fs/bpf", "/proc/1/autogroup",
)  # fmt: skip
#: What a uid of 0 could write without any capability: sysctls compare ids (proc_sys_permission in the kernel).
#: Only what a kernel has costs a mount; the debugging ones (dynamic_debug, profile, lock_stat) are 0644 and ask for no capability.
READONLY = ("/proc/bus", "/proc/cpu", "/proc/dynamic_debug", "/proc/fs", "/proc/ide", "/proc/irq", "/proc/lock_stat", "/proc/profile", "/proc/sys", "/proc/sysrq-trigger")
