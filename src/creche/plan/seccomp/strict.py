"""The strict profile: a program that computes, reads its input and writes its output, and can do nothing else.

No sockets but a pair joined to itself, no new processes (threads are fine), no other user ids, no shared memory of
System V, no tracing, no devices' own commands. Files may be used as the mounts allow. execve stays, since the command
itself begins with it; without new processes a second one only replaces the first. Capabilities open nothing here.
"""

from __future__ import annotations

import errno
from functools import cache

from .default import AF_UNIX, ALLOWED, DANGEROUS_IOCTLS, NAMESPACES, compare, leaseless
from .rules import ALLOW, EPERM, NOSYS, Compare, Op, Policy, Rule, refuse

__all__ = ["CLOSED", "strict_policy"]

# Of what the default profile allows, the calls that a computation has no need of.
CLOSED = """
accept accept4 adjtimex bind capset clock_adjtime connect fork getpeername getsockname getsockopt
inotify_add_watch inotify_init inotify_init1 inotify_rm_watch io_cancel io_destroy io_getevents
io_pgetevents io_setup io_submit ioprio_set listen listmount memfd_secret mknod mknodat mlock mlock2
mlockall mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedsend mq_unlink msgctl msgget msgrcv msgsnd
pidfd_open pidfd_send_signal process_mrelease ptrace recvmmsg recvmsg rt_sigqueueinfo rt_tgsigqueueinfo
sched_setattr sched_setparam sched_setscheduler semctl semget semop semtimedop sendmmsg sendmsg setfsgid
setfsuid setgid setgroups setpgid setpriority setregid setresgid setresuid setreuid setsid setsockopt setuid
shmat shmctl shmdt shmget statmount sync syncfs uprobe uretprobe vfork vmsplice
"""

CLONE_THREAD = 0x10000

# TCGETS and TCGETS2 (isatty), TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX.
HARMLESS_IOCTLS = (0x5401, 0x802C542A, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)
PER_LINUX, ASK = 0, 0xFFFFFFFF


@cache
def strict_policy() -> Policy:
    """The strict profile, the same for every container."""
    closed = set(CLOSED.split())
    return Policy(
        (
            Rule(tuple(name for name in ALLOWED.split() if name not in closed), ALLOW),
            Rule(("clone",), ALLOW, (compare(0, Op.EQ, CLONE_THREAD, CLONE_THREAD | NAMESPACES),)),
            Rule(("clone3",), NOSYS),
            # A pair reaches nobody, and without one no Java virtual machine and no loop of asyncio begins. What it
            # carries has no address and, as sendmsg is closed, no descriptors.
            Rule(("socketpair",), ALLOW, (compare(0, Op.EQ, AF_UNIX),)),
            Rule(("sendto",), EPERM, (Compare(4, Op.NE, 0),)),
            *(Rule(("ioctl",), EPERM, (compare(1, Op.EQ, code),)) for code in DANGEROUS_IOCTLS.values()),
            *(Rule(("ioctl",), ALLOW, (compare(1, Op.EQ, code),)) for code in HARMLESS_IOCTLS),
            # What is no terminal says ENOTTY to its commands, and that every program expects.
            Rule(
                ("ioctl",),
                refuse(errno.ENOTTY),
                tuple(compare(1, Op.NE, code) for code in (*HARMLESS_IOCTLS, *DANGEROUS_IOCTLS.values())),
            ),
            *leaseless(frozenset()),
            *(Rule(("personality",), ALLOW, (compare(0, Op.EQ, value),)) for value in (PER_LINUX, ASK)),
        )
    )
