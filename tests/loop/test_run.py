"""run(): one command, one Result."""

from __future__ import annotations

import signal
import socket
from pathlib import Path

import anyio
import pytest
from loop.helpers import shell

import creche
from creche import Container, ExitError, Reason, Spec, SpecError
from needs import needs

pytestmark = needs("native", "userns")


async def test_a_result_has_the_status_and_both_outputs():
    result = await creche.run(shell("echo out; echo err >&2; exit 3"))
    assert (result.stdout, result.stderr) == (b"out\n", b"err\n")
    assert (result.exit.code, result.exit.signal, result.exit.reason) == (3, None, Reason.EXITED)
    assert (result.returncode, result.ok) == (3, False)
    assert (result.stdout_truncated, result.stderr_truncated) == (False, False)


async def test_usage_is_of_this_command():
    result = await creche.run(shell("i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done"))
    usage = result.exit.usage
    assert usage.user > 0 and usage.wall >= usage.user
    assert usage.memory_peak is not None and 100_000 < usage.memory_peak < 100_000_000


async def test_a_signal_is_a_negative_return_code():
    result = await creche.run(shell("kill -USR1 $$"))
    assert (result.returncode, result.exit.code, result.exit.signal) == (-signal.SIGUSR1, None, signal.SIGUSR1)
    assert result.exit.reason is Reason.SIGNALED


async def test_a_programs_own_kill_is_not_ours():
    result = await creche.run(shell("kill -9 $$"))
    assert (result.exit.reason, result.exit.signal) == (Reason.SIGNALED, 9)


async def test_check_raises_what_carries_the_output():
    with pytest.raises(ExitError) as caught:
        await creche.run(shell("echo out; echo err >&2; exit 3"), check=True)
    error = caught.value
    assert (error.returncode, error.stdout, error.stderr) == (3, b"out\n", b"err\n")
    assert error.exit.reason is Reason.EXITED


async def test_a_spec_is_taken_and_changed_by_fields():
    spec = Spec(shell("echo $A"), env={"A": "1", "PATH": "/usr/bin:/bin"})
    assert (await creche.run(spec)).stdout == b"1\n"
    assert (await creche.run(spec, env={"A": "2", "PATH": "/usr/bin:/bin"})).stdout == b"2\n"


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"timeout": -1}, "timeout"),
        ({"timeout": "5"}, "timeout"),
        ({"timeout": float("nan")}, "timeout"),
        ({"timeout": float("inf")}, "timeout"),
        ({"timeout": True}, "timeout"),
        ({"max_output": -1}, "max_output"),
        ({"max_output": 1.5}, "max_output"),
        ({"on_overflow": "explode"}, "on_overflow"),
        ({"input": "text"}, "input"),
        ({"input": b"x", "stdin": "null"}, "input"),
        ({"cwd": 5}, "cwd"),
    ],
)
async def test_nonsense_names_its_field(wrong, field):
    with pytest.raises(SpecError) as caught:
        await creche.run(["true"], **wrong)
    assert caught.value.field == field


async def test_in_a_place_it_does_too():
    async with Container(Spec()) as box:
        for wrong, field in (({"input": b"x", "stdin": "null"}, "input"), ({"input": b"x", "stdin": 0}, "input"), ({"timeout": -1}, "timeout")):
            with pytest.raises(SpecError) as caught:
                await box.run(["true"], **wrong)
            assert caught.value.field == field
        assert (await box.run(["cat"], input=b"x", stdin=-1)).stdout == b"x"  # subprocess.PIPE


class Strange:
    def fileno(self):
        return "3"


def closed():
    pair = socket.socketpair()
    for one in pair:
        one.close()
    return pair[0]


@pytest.mark.parametrize("file", [Strange, closed])
async def test_a_file_without_a_descriptor_is_refused(file):
    with pytest.raises(SpecError, match=r"^stdout: .*it has no descriptor \(its fileno\(\) gives") as caught:
        await creche.run(["true"], stdout=file())
    assert caught.value.field == "stdout"


async def test_a_spec_without_a_command_is_no_run():
    with pytest.raises(SpecError, match="command"):
        await creche.run(Spec())


async def test_input_is_fed_and_ended():
    assert (await creche.run(["cat"], input=b"some\0bytes\xff")).stdout == b"some\0bytes\xff"


async def test_empty_input_is_an_empty_pipe_and_none_is_dev_null():
    empty = await creche.run(["readlink", "/proc/self/fd/0"], input=b"")
    assert empty.stdout.startswith(b"pipe:")
    assert (await creche.run(["readlink", "/proc/self/fd/0"])).stdout == b"/dev/null\n"
    assert (await creche.run(["cat"], input=b"")).stdout == b""
    assert (await creche.run(["cat"])).stdout == b""


async def test_a_command_that_stops_reading_is_no_error():
    result = await creche.run(shell("head -c 5; echo; echo done"), input=bytes(1 << 22))
    assert result.ok and result.stdout.endswith(b"done\n")


async def test_a_command_that_never_reads_is_no_error():
    assert (await creche.run(["true"], input=bytes(1 << 22))).ok


async def test_input_of_other_buffers():
    assert (await creche.run(["cat"], input=bytearray(b"ab"))).stdout == b"ab"
    assert (await creche.run(["wc", "-c"], input=memoryview(bytearray(8)).cast("H"))).stdout.split() == [b"8"]


# ---- time ----


async def test_past_its_time_it_is_killed_and_what_it_wrote_is_kept():
    result = await creche.run(shell("echo before; echo bad >&2; sleep 1000"), timeout=1.5)
    assert (result.exit.reason, result.exit.limit, result.exit.signal) == (Reason.TIMEOUT, "timeout", signal.SIGKILL)
    assert (result.stdout, result.stderr) == (b"before\n", b"bad\n")
    assert "1.5 s" in result.exit.explain()


async def test_a_timeout_with_check_raises_with_the_output():
    with pytest.raises(ExitError) as caught:
        await creche.run(shell("echo before; sleep 1000"), timeout=1.5, check=True)
    assert caught.value.exit.reason is Reason.TIMEOUT
    assert caught.value.stdout == b"before\n"


@pytest.mark.parametrize("timeout", [0, 0.0001, 0.001, 0.003, 0.006, 0.01])
async def test_the_start_counts_too(timeout):
    result = await creche.run(["sleep", "1000"], timeout=timeout)
    assert (result.exit.reason, result.exit.limit) == (Reason.TIMEOUT, "timeout")


async def test_an_end_within_the_time_is_not_touched():
    result = await creche.run(shell("echo x"), timeout=100)
    assert result.ok and result.exit.limit is None


async def test_a_grandchild_in_the_background_dies_with_the_command(tmp_path: Path):
    result = await creche.run(shell("(sleep 1000; echo late) & echo now"), timeout=100)
    assert result.ok and result.stdout == b"now\n"


async def test_cancelling_a_run_kills_it_before_the_cancellation_goes_on():
    with anyio.move_on_after(0.3) as scope:
        await creche.run(["sleep", "1000"])
    assert scope.cancelled_caught  # and the leak fixture finds no child


# ---- size ----


async def test_too_much_output_kills_and_keeps_head_and_tail():
    """G10; the control stands below: without a bound, 20 MiB are kept."""
    result = await creche.run(shell("while :; do echo 0123456789; done"), max_output=1000)
    assert (result.exit.reason, result.exit.limit) == (Reason.OUTPUT_LIMIT, "max_output")
    assert result.stdout_truncated and not result.stderr_truncated
    assert len(result.stdout) == 1000 and result.stdout.startswith(b"0123456789\n")


async def test_too_much_output_may_be_discarded_instead():
    result = await creche.run(shell("seq 100000; echo err >&2"), max_output=100, on_overflow="discard")
    assert result.ok and result.stdout_truncated and not result.stderr_truncated
    assert result.stdout.startswith(b"1\n2\n3\n") and result.stdout.endswith(b"99999\n100000\n")
    assert len(result.stdout) == 100
    assert result.stderr == b"err\n"


async def test_exactly_as_much_as_is_allowed_is_whole():
    result = await creche.run(shell("printf 0123456789"), max_output=10)
    assert result.ok and result.stdout == b"0123456789" and not result.stdout_truncated


async def test_nothing_is_kept_where_nothing_is_allowed():
    result = await creche.run(shell("echo x"), max_output=0, on_overflow="discard")
    assert result.ok and result.stdout == b"" and result.stdout_truncated


async def test_no_bound_on_output():
    result = await creche.run(["head", "-c", str(20 << 20), "/dev/zero"], max_output=None)
    assert result.ok and result.stdout == bytes(20 << 20) and not result.stdout_truncated


async def test_the_default_bound_is_sixteen_mebibytes():
    result = await creche.run(["head", "-c", str((16 << 20) + 1), "/dev/zero"], on_overflow="discard")
    assert result.stdout_truncated and len(result.stdout) == 16 << 20
