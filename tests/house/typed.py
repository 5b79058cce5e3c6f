"""A user's program with types, for mypy's strict mode to read (pyproject.toml): what the public API promises there. Nobody runs it."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import attrs

from creche import (
    Bind,
    ChildSpec,
    Container,
    CrecheError,
    Directory,
    Exit,
    ExitError,
    File,
    FileError,
    IdMap,
    JobQueue,
    Limits,
    Namespaces,
    Pool,
    PythonWarm,
    Reason,
    Result,
    Security,
    SpawnError,
    Spec,
    SpecError,
    Supervisor,
    Tmpfs,
    run,
)

SPEC = Spec(
    ["make", b"-j2", Path("all")], env={"A": "b"}, cwd=Path("/src"), user="nobody", groups=[1, "audio"], namespaces=Namespaces(network=False, pid="/proc/1/ns/pid"),
    uid_map=[IdMap(0, 1000, 1)], rootfs=Directory("/srv", readonly=True), mounts=[Bind("/a", "/b", readonly=True), Tmpfs("/t", size="1M"), File("/f", b"")],
    limits=Limits(memory="1G", cpus=0.5, io={"/": {"rbps": "10M"}}), security=Security(capabilities=["CAP_CHOWN"], seccomp=None),
    rlimits={"nofile": (1, 2), "core": "unlimited"}, tty=(24, 80), stdin=subprocess.DEVNULL, stderr="stdout", pass_fds=[3],
)  # fmt: skip


async def once() -> tuple[int | None, Reason, float, bytes]:
    try:
        result: Result = await run(SPEC, limits=Limits(pids=32), input=b"", timeout=5, max_output=None, on_overflow="discard", check=True)
    except SpawnError as error:
        raise SystemExit(f"{error.field} {error.step} {error.errno} {error.hint}") from error
    except (ExitError, SpecError, FileError, CrecheError) as error:
        raise SystemExit(str(error)) from error
    return result.exit.code, result.exit.reason, result.exit.usage.user, result.check().stdout


async def inside() -> Exit:
    async with Container(attrs.evolve(SPEC, hostname="box")) as box:
        if box.stdout is not None and box.stdin is not None:
            lines: AsyncIterator[bytes] = box.stdout.lines()
            texts: AsyncIterator[str] = box.stdout.lines(encoding="utf-8")
            print(b"".join([line async for line in lines]), "".join([text async for text in texts]))
            await box.stdin.send(await box.stdout.receive())
        await box.put("/x", Path("/y"), mode=0o600)
        data: bytes = await box.get("/x", max_bytes=10)
        left: list[str] = await box.get("/x", to="/y")
        async with box.open(["cat"], env={}) as process:
            status: int = await process.wait()
        async for event in box.events():
            print(event, data, left, status, process.exit)
        return await box


async def many() -> None:
    async with Pool(Spec(), size=2, warm=PythonWarm(imports=["json"])) as pool, pool.acquire() as box:
        print(await box.run(["true"]), await pool.call("json:dumps", 1, timeout=2), pool.statistics().ready)
    async with Supervisor([ChildSpec("web", SPEC, count=2)], strategy="rest_for_one") as sup, JobQueue(workers=2) as queue:
        await sup.wait_ready()
        job = await queue.submit(SPEC, priority=1)
        print(await job.result(), [done.outcome async for done in queue.results()], sup.children)
