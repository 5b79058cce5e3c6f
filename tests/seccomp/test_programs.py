"""Ordinary programs do not notice the default filter: each does its characteristic work under it."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
from seccomp import child

from creche.plan.seccomp import Filter, compile_filter
from needs import needs

pytestmark = [needs("x86_64"), pytest.mark.slow]

PYTHON = """
import asyncio, multiprocessing, os, socket, subprocess, tempfile, threading
from concurrent.futures import ProcessPoolExecutor
async def main():
    server = await asyncio.start_server(lambda r, w: (w.write(b"hi"), w.close()), "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    said = await reader.read()
    writer.close(); server.close()
    process = await asyncio.create_subprocess_exec("echo", "child", stdout=subprocess.PIPE)
    return said, (await process.communicate())[0]
assert asyncio.run(main()) == (b"hi", b"child\\n")
with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork")) as pool:
    assert list(pool.map(abs, [-1, -2])) == [1, 2]
with tempfile.TemporaryDirectory() as folder:
    os.mkfifo(folder + "/f"); os.symlink("f", folder + "/l"); os.sendfile
    fd = os.memfd_create("m"); os.write(fd, b"x"); os.posix_fadvise(fd, 0, 0, 1)
    os.close(fd)
socket.getaddrinfo("localhost", 80)
[socket.if_nameindex(), os.sched_getaffinity(0), os.getrandom(4), os.pidfd_open(os.getpid())]
threads = [threading.Thread(target=os.urandom, args=(8,)) for _ in range(8)]
[thread.start() for thread in threads]; [thread.join() for thread in threads]
print("fine")
"""

NODE = """
const { execFileSync } = require("child_process"); const fs = require("fs"); const net = require("net");
const { Worker } = require("worker_threads");
const server = net.createServer(s => s.end("hi")).listen(0, "127.0.0.1", () => {
  net.connect(server.address().port, "127.0.0.1").on("data", d => {
    server.close();
    new Worker("require('worker_threads').parentPort.postMessage(6 * 7)", { eval: true }).on("message", n =>
      console.log(String(d), n, execFileSync("echo", ["child"]).toString().trim(), fs.readdirSync("/").length > 3));
  });
});
"""

C = r"""
#include <pthread.h>
#include <spawn.h>
#include <stdio.h>
#include <sys/wait.h>
static void *work(void *given) { return given; }
int main(void)
{
	pthread_t thread;
	pid_t pid;
	char *argv[] = {"true", NULL}, *none[] = {NULL};
	if (pthread_create(&thread, NULL, work, NULL) || pthread_join(thread, NULL))
		return 1;
	if (posix_spawnp(&pid, "true", NULL, NULL, argv, none) || waitpid(pid, NULL, 0) != pid)
		return 2;
	puts("fine");
	return 0;
}
"""

JAVA = """
import java.util.stream.*;
public class Fine {
    public static void main(String[] args) throws Exception {
        int sum = IntStream.range(0, 1000).parallel().sum();
        Process p = new ProcessBuilder("echo", "child").start();
        System.out.println(sum + " " + new String(p.getInputStream().readAllBytes()).trim());
    }
}
"""


def made(profile: str = "default") -> Filter:
    found = compile_filter(profile, arch="x86_64", kernel=(6, 1))
    assert found is not None
    return found


def run(argv: list[str], folder: Path | None = None, profile: str = "default") -> str:
    done = child.command(made(profile), argv, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return str(done.stdout)


def has(program: str) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"no {program} here")


def test_python() -> None:
    """Loops, threads, processes, pools, pipes and sockets."""
    assert run([sys.executable, "-I", "-c", PYTHON]) == "fine\n"


def test_a_shell() -> None:
    """Pipes, substitutions, background jobs, traps and here-documents."""
    script = "trap 'echo bye' EXIT; sleep 0 & wait; cat <<< $(seq 3 | sort -r | head -1); ulimit -n >/dev/null; umask 022; kill -0 $$"
    assert run(["bash", "-c", script]) == "3\nbye\n"


@needs("busybox")
def test_busybox(tmp_path: Path) -> None:
    """A static program with the other C library's habits."""
    script = "mkdir d; echo x > d/f; tar c d | tar t; ls -l d | wc -l; find d -type f | xargs cat"
    assert run(["busybox", "sh", "-c", script], tmp_path) == "d/\nd/f\n2\nx\n"


@needs("cc")
def test_a_compiler(tmp_path: Path) -> None:
    """It compiles and links, and what it made starts threads and processes (clone3 answers ENOSYS, clone does it)."""
    (tmp_path / "fine.c").write_text(C)
    run(["cc", "-pthread", "-o", "fine", "fine.c"], tmp_path)
    assert run(["./fine"], tmp_path) == "fine\n"


@needs("cc")
def test_a_leak_checker_that_traces(tmp_path: Path) -> None:
    """LeakSanitizer stops its own process with ptrace: why that call is allowed."""
    (tmp_path / "leak.c").write_text(
        "#include <stdlib.h>\nint main(void) { return malloc(7) == malloc(8); }\n"
    )
    run(["cc", "-fsanitize=address", "-o", "leak", "leak.c"], tmp_path)
    done = child.command(made(), [str(tmp_path / "leak")])
    assert "detected memory leaks" in done.stderr


def test_git(tmp_path: Path) -> None:
    """A repository with a commit, packed and cloned."""
    has("git")
    script = """
        export GIT_CONFIG_GLOBAL=/dev/null HOME=$PWD
        git init -q a && cd a && echo x > f && git add f
        git -c user.name=n -c user.email=e commit -q -m one && git gc -q && cd .. && git clone -q a b && git -C b log --format=%s
    """
    assert run(["bash", "-ec", script], tmp_path) == "one\n"


def test_node() -> None:
    """Sockets, workers and children."""
    has("node")
    assert run(["node", "-e", NODE]) == "hi 42 child true\n"


def test_java(tmp_path: Path) -> None:
    """A virtual machine with its threads, and a child."""
    has("java")
    (tmp_path / "Fine.java").write_text(JAVA)
    assert run(["java", "-Xmx128m", "Fine.java"], tmp_path) == "499500 child\n"


@needs("strace")
def test_a_tracer() -> None:
    """strace follows its own child."""
    done = child.command(made(), ["strace", "-f", "-e", "trace=execve", "true"])
    assert done.returncode == 0 and 'execve("' in done.stderr


COUNTS = """
public class Counts {
    public static void main(String[] args) {
        System.out.println(java.util.stream.IntStream.range(0, 1000).parallel().sum());
    }
}
"""

LOOP = """
import asyncio, hashlib, tempfile
with tempfile.TemporaryFile() as file:
    file.write(b"x")
print(asyncio.run(asyncio.to_thread(lambda: hashlib.sha256(b"x").hexdigest()[:4])))
"""

WORKER = """
const { Worker } = require("worker_threads");
new Worker("require('worker_threads').parentPort.postMessage(6 * 7)", { eval: true }).on("message", n => console.log(n));
"""


def test_computing_under_the_strict_filter(tmp_path: Path) -> None:
    """Interpreters start, run threads and use files; a shell without commands works."""
    assert run([sys.executable, "-I", "-c", LOOP], tmp_path, "strict") == "2d71\n"
    assert run(["bash", "-c", "echo 7 > n; read n < n; echo $((6 * n))"], tmp_path, "strict") == "42\n"


def test_node_under_the_strict_filter() -> None:
    """With a worker, which is a thread."""
    has("node")
    assert run(["node", "-e", WORKER], None, "strict") == "42\n"


def test_java_under_the_strict_filter(tmp_path: Path) -> None:
    """With its threads; the pair of sockets that it makes first is why pairs are allowed."""
    has("java")
    (tmp_path / "Counts.java").write_text(COUNTS)
    assert run(["java", "-Xmx128m", "Counts.java"], tmp_path, "strict") == "499500\n"
