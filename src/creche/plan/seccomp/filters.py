"""What a Spec says about its filter, and the Filter that the kernel is given."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from functools import lru_cache

from attrs import field, frozen

from ...errors import SpecError
from ...spec.checks import nearest
from ...spec.security import SeccompRules
from ...values import Value
from .compiler import clauses, compile_policy
from .default import TYPE, compare, default_policy
from .numbers import ARCHES, audit_arch, elsewhere, name_of, numbers
from .rules import ALLOW, EPERM, NOSYS, Action, Kind, Op, Policy, Rule, refuse
from .simulate import run

__all__ = ["Filter", "compile_filter", "explain", "summary", "verdict"]

FIELD = "security.seccomp"
SOCK_STREAM, SOCK_SEQPACKET = 1, 5

# SECCOMP_FILTER_FLAG_NEW_LISTENER, and _WAIT_KILLABLE_RECV: a reported call is not begun anew by every signal (5.19).
NEW_LISTENER, WAIT_KILLABLE = 1 << 3, 1 << 5
WAIT_KILLABLE_SINCE = (5, 19)

# Answers by which a kernel says that it has no such thing. Programs ask for what may be missing all the time
# (clone3 before every thread): that is no violation.
EXPECTED = (NOSYS, refuse(errno.ENOTTY))


@frozen(eq=False, repr=False)
class Filter(Value):
    """A program for seccomp(2), ready to be installed; where somebody listens, two of them.

    The message by which a newborn command hands its listener over is sent under the filter that the listener belongs
    to, so that one has to let it pass whatever the policy says. It answers nothing but what goes to the listener, and
    `program`, installed right after it, all the rest. Of two filters the kernel takes the more severe answer
    (seccomp(2)): together they say what the policy says.

    Attributes:
        program: an array of struct sock_filter, at most 4096.
        flags: SECCOMP_FILTER_FLAG_* to install it with.
        arch: the processor it is for.
        listener: the program to be installed before it, with NEW_LISTENER; empty where nobody has to listen.
        listener_flags: its flags.
        answers: where violations are reported, the program that says what they are answered with; else None.
        policy: what it was made from.
    """

    program: bytes
    flags: int
    arch: str
    listener: bytes = field(repr=False, default=b"")
    listener_flags: int = 0
    answers: bytes | None = field(repr=False, default=None)
    policy: Policy = field(repr=False, eq=False, default=Policy(()))

    def __len__(self) -> int:
        """Its length in instructions."""
        return (len(self.program) + len(self.listener)) // 8

    @property
    def needs_listener(self) -> bool:
        """Whether installing it gives a descriptor, on which somebody has to answer."""
        return bool(self.listener)

    def __call__(self, number: int, args: tuple[int, ...] = (), arch: int | None = None) -> Action:
        """What the kernel answers to a call: of both programs the more severe."""
        arch = audit_arch(self.arch) if arch is None else arch
        said = (Action.of(run(program, number, arch, args)) for program in (self.listener, self.program) if program)
        return min(said, key=lambda action: action.kind)

    def answer(self, number: int, args: tuple[int, ...] = (), arch: int | None = None) -> Action:
        """What a call that reached the listener is to be answered with: the same as without reports.

        A listener that gets an errno here sends it, and never SECCOMP_USER_NOTIF_FLAG_CONTINUE: what the arguments
        point to may change after the look (seccomp_unotify(2)). NOTIFY means that the profile itself asked for the
        call to be handed over.
        """
        arch = audit_arch(self.arch) if arch is None else arch
        return Action.of(run(self.answers, number, arch, args)) if self.answers else self(number, args, arch)


def compile_filter(
    seccomp: object,
    *,
    arch: str,
    capabilities: frozenset[str] = frozenset(),
    kernel: tuple[int, int] = (5, 14),
    report: bool = False,
) -> Filter | None:
    """The filter that a Spec's ``security.seccomp`` asks for.

    Args:
        seccomp: ``"default"``, ``"strict"``, None for no filter, a profile in the JSON form of Docker and the OCI (a
            mapping), or a SeccompRules (`allow`, `deny`, `notify`, `base`).
        arch: ``x86_64`` or ``aarch64``.
        capabilities: those that the container will have, such as ``CAP_NET_ADMIN``.
        kernel: its release, for rules that begin with one.
        report: give violations to a listener, which sees them as they happen and answers them. A violation is a
            call that would have got an errno other than ENOSYS or ENOTTY, or for which its process would have been
            killed; each waits for the listener.

    Raises:
        SpecError: a profile that makes no sense, naming the place in it.
        UnsupportedError: a processor without a table.
    """
    if seccomp is None:
        return None
    if isinstance(seccomp, str):
        return _built_in(seccomp, (), (), (), arch, capabilities, kernel, report)
    if isinstance(seccomp, Mapping):
        return _from_json(_text(seccomp), arch, capabilities, kernel, report)
    if isinstance(seccomp, SeccompRules):
        rules = seccomp
        return _built_in(rules.base, rules.allow, rules.deny, rules.notify, arch, capabilities, kernel, report)
    raise SpecError(FIELD, seccomp, 'give "default", "strict", None, a profile as a dict, or SeccompRules')


def _text(profile: Mapping[object, object]) -> str:
    """What a cache can look up. Keys are not sorted, as the order of rules says something and that of keys is cheap."""
    import json  # for those who bring a profile

    try:
        return json.dumps(profile)
    except (TypeError, ValueError, RecursionError) as error:
        raise SpecError(FIELD, profile, f"a profile holds what JSON can hold ({error})") from None


@lru_cache(maxsize=32)
def _from_json(
    text: str, arch: str, capabilities: frozenset[str], kernel: tuple[int, int], report: bool
) -> Filter:
    import json

    from .oci import read_profile  # imported by those who have such a profile

    policy = read_profile(json.loads(text), arch=arch, capabilities=capabilities, kernel=kernel)
    return _filter(policy, arch, kernel, report)


@lru_cache(maxsize=128)
def _built_in(
    name: str,
    allow: tuple[str, ...],
    deny: tuple[str, ...],
    notify: tuple[str, ...],
    arch: str,
    capabilities: frozenset[str],
    kernel: tuple[int, int],
    report: bool,
) -> Filter:
    if name not in ("default", "strict"):
        raise SpecError(FIELD, name, 'the profiles are "default" and "strict"; None is no filter')
    policy = default_policy(capabilities) if name == "default" else _strict()
    return _filter(_adjusted(policy, allow, deny, notify), arch, kernel, report)


def _strict() -> Policy:
    from .strict import strict_policy  # few ask for it

    return strict_policy()


def _adjusted(
    policy: Policy, allow: tuple[str, ...], deny: tuple[str, ...], notify: tuple[str, ...]
) -> Policy:
    """A policy with some calls opened, shut or handed over, by name: what it said about their arguments is gone."""
    for part, names in (("allow", allow), ("deny", deny), ("notify", notify)):
        for at, name in enumerate(names):
            if name not in elsewhere() and not any(name in numbers(arch) for arch in ARCHES):
                wish = f"no processor has a call of this name{nearest(name, numbers(ARCHES[0]))}"
                raise SpecError(f"{FIELD}.{part}[{at}]", name, wish)
    spoken = {*allow, *deny, *notify}
    if not spoken:
        return policy
    kept = (
        rule._replace(names=tuple(name for name in rule.names if name not in spoken)) for rule in policy.rules
    )
    # On any other errno than ENOSYS for clone3 the C libraries give up instead of turning to clone.
    shut: tuple[Rule, ...] = (
        Rule(tuple(name for name in deny if name != "clone3"), EPERM),
        Rule(tuple(name for name in deny if name == "clone3"), NOSYS),
    )
    if "socket" in deny and "socketpair" not in spoken:
        # One of a pair of datagrams can be sent to any address, which no socket of a pair that is a stream can (unix(7)).
        shut += (Rule(("socketpair",), EPERM, tuple(compare(1, Op.NE, kind, TYPE) for kind in (SOCK_STREAM, SOCK_SEQPACKET))),)
    return policy._replace(rules=(*kept, Rule(allow, ALLOW), Rule(notify, Action(Kind.NOTIFY)), *shut))


def _reported(call: str | None, action: Action) -> bool:
    """Whether it is a violation that a listener can answer: by its errno, or by killing the process.

    Not so an execve: a newborn command makes its own under the filter, and must not go on where it was refused.
    """
    return call != "execve" and (
        action.kind in (Kind.KILL_PROCESS, Kind.KILL_THREAD) or (action.kind is Kind.ERRNO and action not in EXPECTED)
    )


def _filter(policy: Policy, arch: str, kernel: tuple[int, int], report: bool) -> Filter:
    def listened(call: str | None, action: Action) -> bool:
        return action.kind is Kind.NOTIFY or (report and _reported(call, action))

    whole = compile_policy(policy, arch)
    said = (policy.otherwise, policy.newer, policy.foreign, *(rule.action for rule in policy.rules))
    if not report and all(action.kind is not Kind.NOTIFY for action in said):
        return Filter(whole, policy.flags, arch, policy=policy)  # what follows costs as much as a filter
    stated = [(name_of(number, arch), action) for number, row in clauses(policy, arch).items() for _, action in row]
    if not any(listened(*item) for item in [*stated, (None, policy.newer), (None, policy.foreign)]):
        return Filter(whole, policy.flags, arch, policy=policy)
    first = compile_policy(
        policy, arch, lambda call, action: Action(Kind.NOTIFY) if listened(call, action) else ALLOW, handover=ALLOW
    )
    rest = compile_policy(
        policy, arch, lambda call, action: ALLOW if listened(call, action) else action, handover=EPERM
    )
    flags = policy.flags | NEW_LISTENER | (WAIT_KILLABLE if kernel >= WAIT_KILLABLE_SINCE else 0)
    return Filter(rest, policy.flags, arch, first, flags, whole if report else None, policy)


def verdict(
    filter: Filter, number: int | str, args: tuple[int, ...] = (), *, arch: str | int | None = None
) -> Action:
    """What the kernel would answer to a call, by name or number; ``str()`` of it is for people.

    `arch` is the processor that the call is made as, if not the filter's own: a name (``i386``) or an AUDIT_ARCH.
    """
    if isinstance(number, str):
        if number not in numbers(filter.arch):
            raise SpecError("call", number, f"{filter.arch} has no call of this name")
        number = numbers(filter.arch)[number]
    return filter(number, args, None if arch is None else audit_arch(arch))


def explain(filter: Filter) -> dict[str, str]:
    """What the filter says about each call, as a sentence: ``{"socket": "EAFNOSUPPORT where …; else allow", …}``."""
    said = {}
    for number, stated in clauses(filter.policy, filter.arch).items():
        parts: list[str] = []
        for when, action in stated:
            conditions = " and ".join(map(str, when))
            parts.append(
                f"{action} where {conditions}" if conditions else f"else {action}" if parts else f"{action}"
            )
        name = name_of(number, filter.arch)
        assert name is not None  # clauses() speaks of the table's numbers alone
        said[name] = "; ".join(parts)
    return dict(sorted(said.items()))


def summary(filter: Filter) -> str:
    """The filter in one line, for the rendering of a Plan."""
    said = explain(filter).values()
    allowed = sum(text == str(ALLOW) for text in said)
    looked_at = sum(" where " in text for text in said)
    refused = len(said) - allowed - looked_at
    return (
        f"{filter.arch}: {allowed} calls allowed, {looked_at} by their arguments, {refused} refused, newer ones "
        f"{filter.policy.newer}; {len(filter)} instructions"
    )
