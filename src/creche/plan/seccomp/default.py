"""The default profile: what ordinary programs need, and nothing that reaches past the container.

Every call that the tables know stands here once: allowed, opened by a capability, looked at, or refused for a reason.
It is comparable with the default profiles of Docker and Podman for a container without capabilities; where it is
narrower, the reason is beside the call. docs/seccomp.md is the long version.
"""

from __future__ import annotations

import errno
from functools import lru_cache

from .rules import ALLOW, EPERM, NOSYS, Compare, Op, Policy, Rule, refuse

__all__ = [
    "ALLOWED", "DANGEROUS_IOCTLS", "LEASES", "LOADING_IOCTLS", "NAMESPACES", "OPENED_BY", "PARENT", "REFUSED", "TYPE", "compare", "default_policy", "leaseless",
]  # fmt: skip

ALLOWED = """
accept accept4 access adjtimex alarm arch_prctl bind brk cachestat capget capset chdir chmod chown clock_adjtime
clock_getres clock_gettime clock_nanosleep close close_range connect copy_file_range creat dup dup2 dup3
epoll_create epoll_create1 epoll_ctl epoll_pwait epoll_pwait2 epoll_wait eventfd eventfd2 execve execveat exit
exit_group faccessat faccessat2 fadvise64 fallocate fchdir fchmod fchmodat fchmodat2 fchown fchownat
fdatasync fgetxattr file_getattr file_setattr flistxattr flock fork fremovexattr fsetxattr fstat fstatfs fsync
ftruncate futex futex_requeue futex_wait futex_waitv futex_wake futimesat get_robust_list get_thread_area getcpu
getcwd getdents getdents64 getegid geteuid getgid getgroups getitimer getpeername getpgid getpgrp getpid getppid
getpriority getrandom getresgid getresuid getrlimit getrusage getsid getsockname getsockopt gettid gettimeofday
getuid getxattr getxattrat inotify_add_watch inotify_init inotify_init1 inotify_rm_watch io_cancel io_destroy
io_getevents io_pgetevents io_setup io_submit ioprio_get ioprio_set kill landlock_add_rule
landlock_create_ruleset landlock_restrict_self lchown lgetxattr link linkat listen listmount listxattr
listxattrat llistxattr lremovexattr lseek lsetxattr lstat madvise map_shadow_stack membarrier memfd_create
memfd_secret mincore mkdir mkdirat mknod mknodat mlock mlock2 mlockall mmap mprotect mq_getsetattr mq_notify
mq_open mq_timedreceive mq_timedsend mq_unlink mremap mseal msgctl msgget msgrcv msgsnd msync munlock munlockall
munmap nanosleep newfstatat open openat openat2 pause pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc
pkey_free pkey_mprotect poll ppoll prctl pread64 preadv preadv2 prlimit64 process_mrelease pselect6 ptrace
pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv recvfrom recvmmsg recvmsg remap_file_pages
removexattr removexattrat rename renameat renameat2 restart_syscall rmdir rseq rt_sigaction rt_sigpending
rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_tgsigqueueinfo
sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr sched_getparam sched_getscheduler
sched_rr_get_interval sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield seccomp
select semctl semget semop semtimedop sendfile sendmmsg sendmsg sendto set_robust_list set_thread_area
set_tid_address setfsgid setfsuid setgid setgroups setitimer setpgid setpriority setregid setresgid setresuid
setreuid setrlimit setsid setsockopt setuid setxattr setxattrat shmat shmctl shmdt shmget shutdown sigaltstack
signalfd signalfd4 splice stat statfs statmount statx symlink symlinkat sync sync_file_range syncfs sysinfo tee
tgkill time timer_create timer_delete timer_getoverrun timer_gettime timer_settime timerfd_create
timerfd_gettime timerfd_settime times tkill truncate umask uname unlink unlinkat uprobe uretprobe utime
utimensat utimes vfork vmsplice wait4 waitid write writev
"""

OPENED_BY = {
    "CAP_SYS_ADMIN": """
        bpf clone clone3 fanotify_init fanotify_mark fsconfig fsmount fsopen fspick lookup_dcookie lsm_get_self_attr
        lsm_list_modules lsm_set_self_attr mount mount_setattr move_mount open_tree open_tree_attr perf_event_open
        pivot_root quotactl quotactl_fd setdomainname sethostname setns syslog umount2 unshare
    """,
    "CAP_BPF": "bpf",
    "CAP_DAC_READ_SEARCH": "name_to_handle_at open_by_handle_at",
    "CAP_PERFMON": "perf_event_open",
    "CAP_SYS_BOOT": "reboot",
    "CAP_SYS_CHROOT": "chroot",
    "CAP_SYS_MODULE": "delete_module finit_module init_module",
    "CAP_SYS_NICE": "get_mempolicy mbind set_mempolicy set_mempolicy_home_node",
    "CAP_SYS_PACCT": "acct",
    "CAP_SYS_PTRACE": "kcmp pidfd_getfd process_madvise process_vm_readv process_vm_writev",
    "CAP_SYS_RAWIO": "ioperm iopl",
    "CAP_SYS_TIME": "clock_settime settimeofday",
    "CAP_SYS_TTY_CONFIG": "vhangup",
    "CAP_SYSLOG": "syslog",
}

LOOKED_AT = "clone fcntl ioctl personality socket socketpair unshare"

# Refused whatever the capabilities: by the reason why.
REFUSED = {
    "keyrings belong to the user, and no namespace hides the supervisor's keys": "add_key keyctl request_key",
    "its work is done past the filter, by the kernel's own threads": "io_uring_enter io_uring_register io_uring_setup",
    "it stops the kernel in the middle of a copy, a help for exploits": "userfaultfd",
    "the machine's, not the container's": "kexec_file_load kexec_load swapoff swapon",
    "it moves other processes' memory, or asks where it lies": "migrate_pages move_pages",
    "segments for 16-bit programs, a door to many faults of the kernel": "modify_ldt",
    "the kernel has had nothing behind it for years": """
        _sysctl afs_syscall create_module epoll_ctl_old epoll_wait_old get_kernel_syms getpmsg nfsservctl putpmsg
        query_module security sysfs tuxcall uselib ustat vserver
    """,
}

# CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET. NEWTIME (0x80) lies in the signal's byte of clone
# and means a namespace to unshare (and to clone3) alone.
NAMESPACES = 0x7E020000
NEWTIME = 0x80
# CLONE_PARENT: a child of its own parent's. Where no init of ours lies between, that is the supervisor, who would never bury it.
PARENT = 0x8000

# TIOCSTI types into the terminal of whoever started us, TIOCLINUX pastes into it (CVE-2017-5226), TIOCSETD loads a
# line discipline, USERFAULTFD_IOC_NEW is userfaultfd by another door.
DANGEROUS_IOCTLS = {"TIOCSTI": 0x5412, "TIOCLINUX": 0x541C, "TIOCSETD": 0x5423, "USERFAULTFD_IOC_NEW": 0xAA00}

# What asks for a bridge or a VLAN has its module loaded, whoever asks: SIOCGIFBR, SIOCSIFBR, SIOCBRADDBR, SIOCBRDELBR, SIOCGIFVLAN,
# SIOCSIFVLAN (the kernel's net/socket.c).
LOADING_IOCTLS = (0x8940, 0x8941, 0x89A0, 0x89A1, 0x8982, 0x8983)

# A lease lets everybody wait who opens the file, for 45 s and again: the host too, where a file of its own is in sight, and other
# containers. A file's owner may take one, also of what is read-only to him (fcntl(2)).
LEASES = {"F_SETLEASE": 1024, "F_SETDELEG": 1040}

# PER_LINUX, PER_LINUX32 and UNAME26 with either; 0xffffffff asks. Not READ_IMPLIES_EXEC, not ADDR_NO_RANDOMIZE.
PERSONALITIES = (0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)

SOCK_STREAM, SOCK_DGRAM, SOCK_RAW = 1, 2, 3
TYPE = 0xF  # of a socket's type, beside which it bears flags: socket(2)
AF_UNIX, AF_INET, AF_INET6, AF_NETLINK, AF_PACKET = 1, 2, 10, 16, 17
# "Whatever fits the type", ICMP, TCP, UDP, ICMPv6 and MPTCP; not SCTP, DCCP, L2TP and the like, each a module that a
# guest could have loaded.
PROTOCOLS = (0, 1, 6, 17, 58, 262)
NETLINK_ROUTE, NETLINK_AUDIT = 0, 9
NO_FAMILY, NO_PROTOCOL, NO_TYPE = refuse(errno.EAFNOSUPPORT), refuse(errno.EPROTONOSUPPORT), refuse(errno.ESOCKTNOSUPPORT)


def compare(index: int, op: Op, value: int, mask: int = 0xFFFFFFFF) -> Compare:
    """A comparison of the lower half of an argument."""
    return Compare(index, op, value, mask)


def _none_of(index: int, values: tuple[int, ...]) -> tuple[Compare, ...]:
    return tuple(compare(index, Op.NE, value) for value in values)


def _sockets(capabilities: frozenset[str]) -> tuple[Rule, ...]:
    """Families and protocols; the answers are those of a kernel that was built without the others."""
    raw, admin = "CAP_NET_RAW" in capabilities, "CAP_NET_ADMIN" in capabilities
    families = (AF_UNIX, AF_INET, AF_INET6, AF_NETLINK, *((AF_PACKET,) if raw else ()))
    rules = [
        Rule(("socket",), ALLOW),
        Rule(("socket",), NO_FAMILY, _none_of(0, families)),
        Rule(("socketpair",), ALLOW),
        Rule(("socketpair",), NO_FAMILY, _none_of(0, (AF_UNIX,))),
    ]
    if not raw:
        rules += [
            Rule(("socket",), NO_PROTOCOL, (compare(0, Op.EQ, family), *_none_of(2, PROTOCOLS)))
            for family in (AF_INET, AF_INET6)
        ]
        # By protocol 0 a type chooses its own: SOCK_SEQPACKET is SCTP, and SOCK_DCCP loaded its module.
        types = tuple(compare(1, Op.NE, kind, TYPE) for kind in (SOCK_STREAM, SOCK_DGRAM, SOCK_RAW))
        rules += [Rule(("socket",), NO_TYPE, (compare(0, Op.EQ, family), *types)) for family in (AF_INET, AF_INET6)]
    if not admin:
        audit = {"CAP_AUDIT_CONTROL", "CAP_AUDIT_READ", "CAP_AUDIT_WRITE"} & capabilities
        protocols = (NETLINK_ROUTE, NETLINK_AUDIT) if audit else (NETLINK_ROUTE,)
        rules.append(Rule(("socket",), NO_PROTOCOL, (compare(0, Op.EQ, AF_NETLINK), *_none_of(2, protocols))))
    return tuple(rules)


def _processes(capabilities: frozenset[str]) -> tuple[Rule, ...]:
    """No new namespaces without CAP_SYS_ADMIN: in a user namespace of its own a guest would hold all capabilities."""
    if "CAP_SYS_ADMIN" in capabilities:
        return ()
    return (
        Rule(("clone",), ALLOW, (compare(0, Op.EQ, 0, NAMESPACES | PARENT),)),
        Rule(("unshare",), ALLOW, (compare(0, Op.EQ, 0, NAMESPACES | NEWTIME),)),
        # Its flags lie in memory, where a filter can't look; on ENOSYS the C libraries turn to clone.
        Rule(("clone3",), NOSYS),
    )


def leaseless(capabilities: frozenset[str]) -> tuple[Rule, ...]:
    """fcntl without leases, but with CAP_LEASE."""
    return (
        Rule(("fcntl",), ALLOW),
        *(Rule(("fcntl",), EPERM, (compare(1, Op.EQ, code),)) for code in LEASES.values() if "CAP_LEASE" not in capabilities),
    )


@lru_cache(maxsize=64)
def default_policy(capabilities: frozenset[str] = frozenset()) -> Policy:
    """The default profile of a container with these capabilities, such as ``CAP_SYS_ADMIN``."""
    opened = " ".join(names for capability, names in OPENED_BY.items() if capability in capabilities)
    return Policy(
        (
            Rule(tuple(f"{ALLOWED} {opened}".split()), ALLOW),
            Rule(("ioctl",), ALLOW),
            *(Rule(("ioctl",), EPERM, (compare(1, Op.EQ, code),)) for code in DANGEROUS_IOCTLS.values()),
            *(Rule(("ioctl",), refuse(errno.ENOPKG), (compare(1, Op.EQ, code),)) for code in LOADING_IOCTLS if "CAP_NET_ADMIN" not in capabilities),
            *(Rule(("personality",), ALLOW, (compare(0, Op.EQ, value),)) for value in PERSONALITIES),
            *_sockets(capabilities),
            *_processes(capabilities),
            *leaseless(capabilities),
        )
    )
