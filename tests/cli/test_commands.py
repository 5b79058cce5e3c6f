"""The help, plan, doctor, schema and rm as programs: what they print, and how they end."""

import json
import os
import subprocess
import sys
from pathlib import Path

import click
import jsonschema
import pytest

from creche.cli.main import cli
from needs import needs

CRECHE = [sys.executable, "-m", "creche.cli"]


def creche(*arguments: str, **more: object) -> "subprocess.CompletedProcess[str]":
    """Run the program."""
    return subprocess.run(
        [*CRECHE, *arguments], capture_output=True, text=True, check=False, timeout=60, **more
    )  # type: ignore[call-overload,no-any-return]


@pytest.mark.slow
def test_help_is_there_for_every_command() -> None:
    """And the list of commands names each of them."""
    top = creche("--help")
    assert top.returncode == 0
    for name in cli.list_commands(click.Context(cli)):
        assert f"  {name} " in top.stdout
        own = creche(name, "--help")
        assert own.returncode == 0
        assert own.stdout.startswith(f"Usage: creche {name}")
        assert max(map(len, own.stdout.splitlines())) <= 100


def test_a_mistyped_command_is_helped() -> None:
    """With the near one, and click's status for wrong usage."""
    run = creche("rnu", "true")
    assert run.returncode == 2
    assert "run" in run.stderr


def test_version() -> None:
    """As the distribution says it."""
    from importlib.metadata import version

    assert creche("--version").stdout == f"creche {version('creche')}\n"


class TestPlan:
    """`creche plan` shows what would be told, and tells nothing."""

    def test_the_lines_name_calls_and_fields(self, tmp_path: Path) -> None:
        """Every option is found again, with the field that it became."""
        run = creche(
            *(
                "plan",
                "-v",
                f"{tmp_path}:/work:ro",
                "-w",
                "/work",
                "--hostname",
                "box",
                "--ulimit",
                "nofile=64",
            ),
            *("make", "all of it"),
        )
        assert run.returncode == 0, run.stderr
        lines = run.stdout.splitlines()
        assert lines[0].startswith("clone3 with new namespaces: user, mount, pid, network")
        for words in (
            f"the host's {tmp_path} at /work    (mounts[0].target)",
            "box    (hostname)",
            "nofile 64    (rlimits.nofile)",
            "/work    (cwd)",
            "make 'all of it', the first of",
        ):
            assert any(words in line for line in lines), words

    def test_json_holds_the_same_steps(self) -> None:
        """One line for one step, and every one has its opcode."""
        text = creche("plan", "-u", "0", "true").stdout
        plan = json.loads(creche("plan", "--json", "-u", "0", "true").stdout)
        steps = [*plan["parent"], *plan["setup"], *plan["command"]]
        assert sum(line[:6].strip().isdecimal() for line in text.splitlines()) == len(steps)
        assert all(step["op"].isupper() for step in steps)
        assert plan["command"][-1]["op"] == "EXEC"
        assert plan["command"][-1]["text"] == ["true"]
        assert plan["namespaces"]["clone3_flags"] & 0x1000_0000

    def test_values_of_variables_are_not_shown(self) -> None:
        """They may be secrets, and plans are pasted into reports."""
        assert "hush" not in creche("plan", "-e", "TOKEN=hush", "true").stdout
        text = creche("plan", "--json", "-e", "TOKEN=hush", "true").stdout
        assert "TOKEN" in text and "hush" not in text

    def test_a_terminal_shows(self) -> None:
        """The options are run's own."""
        assert "a terminal from the container's own devpts" in creche("plan", "-it", "bash").stdout

    def test_a_refusal_is_as_in_a_run(self) -> None:
        """125 and the same sentence."""
        run = creche("plan", "-m", "0", "true")
        assert (run.returncode, "--memory" in run.stderr) == (125, True)

    @needs("native", "userns")
    def test_it_makes_nothing(self, tmp_path: Path) -> None:
        """A plan for a command that would write leaves no trace of it."""
        shared = tmp_path / "shared"
        shared.mkdir(mode=0o777)
        assert creche("plan", "-v", f"{shared}:/s", "touch", "/s/x").returncode == 0
        assert list(shared.iterdir()) == []

    def test_no_line_moves_the_cursor(self) -> None:
        """Control characters of an argument are shown, never sent."""
        assert "\x1b" not in creche("plan", "echo", "\x1b[2J", "-e").stdout


class TestSchema:
    """`creche schema` is a schema, and tells good specs from bad ones."""

    def test_good_and_bad(self) -> None:
        """A few of each; the table of all shapes is among the Spec's own tests."""
        schema = json.loads(creche("schema").stdout)
        checker = jsonschema.Draft202012Validator(schema)
        checker.check_schema(schema)
        good = {
            "command": ["true"],
            "limits": {"memory": "64M"},
            "mounts": [{"type": "tmpfs", "target": "/t"}],
        }
        assert not list(checker.iter_errors(good))
        for bad in ({"comand": ["true"]}, {"command": "true"}, {"mounts": [{"type": "tmpfs"}]}):
            assert list(checker.iter_errors(bad)), bad


class TestDoctor:
    """The report as people and as programs get it."""

    @needs("native", "userns", "limits")
    def test_here_all_is_well(self) -> None:
        """The suite itself needs what the doctor looks for."""
        run = creche("doctor")
        assert run.returncode == 0, run.stdout + run.stderr
        assert "Containers start here" in run.stdout
        assert "starts and ends in" in run.stdout

    def test_json(self) -> None:
        """The same findings, and the status agrees with the word."""
        run = creche("doctor", "--json", "--quick")
        report = json.loads(run.stdout)
        assert run.returncode == (0 if report["healthy"] else 1)
        assert {"topic", "name", "state", "found", "why", "fix", "needed"} == set(report["findings"][0])

    def test_where_something_is_missing_the_status_is_1(self) -> None:
        """In a user namespace of our own in which no other may be made."""
        script = 'echo 0 >/proc/sys/user/max_user_namespaces && exec "$@"'
        run = subprocess.run(
            ["unshare", "-Urm", "sh", "-c", script, "sh", *CRECHE, "doctor"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert run.returncode == 1, run.stderr
        assert "user.max_user_namespaces is 0 here" in run.stdout
        assert "Traceback" not in run.stderr


@needs("native", "userns")
class TestRm:
    """Trees that a container left."""

    def test_what_a_container_left_is_removed(self, tmp_path: Path) -> None:
        """Files of others, directories of mode 000, and a link that is not followed."""
        kept = tmp_path / "kept"
        kept.mkdir()
        (kept / "file").write_text("mine")
        tree = tmp_path / "tree"
        (tree / "locked").mkdir(parents=True)
        (tree / "locked" / "file").write_text("x")
        (tree / "link").symlink_to(kept)
        (tree / "locked").chmod(0)
        if os.geteuid() == 0:
            os.chown(tree / "link", 0x7000_0001, 0x7000_0001, follow_symlinks=False)
        run = creche("rm", str(tree))
        assert run.returncode == 0, run.stderr
        assert not tree.exists()
        assert (kept / "file").read_text() == "mine"

    @needs("user", "subids", "newuidmap")
    def test_what_other_users_of_a_container_left(self, tmp_path: Path) -> None:
        """By a real container with many users. The control is plain rm, which may not even look into it."""
        tmp_path.chmod(0o755)
        shared = tmp_path / "shared"
        shared.mkdir()
        shared.chmod(0o777)
        script = "mkdir -m 700 /s/tree && echo x > /s/tree/file"
        run = creche("run", "-u", "1000", "--group-add", "7", "-v", f"{shared}:/s", "sh", "-c", script)
        assert run.returncode == 0, run.stderr
        tree = shared / "tree"
        assert tree.stat().st_uid != os.geteuid()
        assert subprocess.run(["rm", "-rf", str(tree)], capture_output=True, check=False).returncode != 0
        assert tree.exists()
        run = creche("rm", str(tree))
        assert run.returncode == 0, run.stderr
        assert list(shared.iterdir()) == []

    def test_what_is_not_there(self, tmp_path: Path) -> None:
        """Is an error, but for -f."""
        missing = str(tmp_path / "missing")
        run = creche("rm", missing)
        assert (run.returncode, missing in run.stderr) == (125, True)
        assert creche("rm", "-rf", missing).returncode == 0
