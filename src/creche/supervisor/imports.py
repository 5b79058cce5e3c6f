"""Procfiles and supervisord.conf as project files: what they say, in creche's words, and what could not be taken over."""

from __future__ import annotations

import configparser
import json
import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path

from creche.errors import SpecError

_SIZE = re.compile(r"([0-9]+)([KMG]B|)", re.IGNORECASE)
_UNITS = {"": 1, "KB": 2**10, "MB": 2**20, "GB": 2**30}
_PROCESS = re.compile(r"([A-Za-z0-9_-]+):\s*(\S.*)")


def from_procfile(text: str, folder: Path) -> str:
    """A project with a worker for each line; its commands are shell lines, and see `folder` and the host's network."""
    parts: list[str] = [
        "# Made from a Procfile: each line is run by a shell in the folder of the project.",
        "",
    ]
    port = 5000
    releases = any(line.startswith("release:") for line in text.splitlines())
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        found = _PROCESS.fullmatch(line.strip())
        if found is None:
            raise SpecError(f"Procfile:{number}", line.strip(), "give NAME: COMMAND lines")
        name, command = _name(found[1]), found[2]
        parts += [f"[workers.{name}]", f"command = {_toml(['sh', '-c', command])}"]
        if name == "release":  # Heroku's word for what is done once, before the others start
            parts += ["depends_on = []", 'restart = "transient"', "readiness = { completed = true }"]
            parts += ["start_timeout = 3600.0"]
        else:
            parts.append('depends_on = ["release"]' if releases else "depends_on = []")
        if (folder / ".env").exists():
            parts.append('env_file = ".env"')
        parts += ["", *_spec(name, folder, {"PORT": str(port)}), ""]
        port += 100
    if port == 5000:
        raise SpecError("Procfile", "no processes", "give NAME: COMMAND lines")
    return "\n".join(parts)


def from_supervisord(text: str, folder: Path) -> str:
    """A project with a worker for each ``[program:…]``, in the order of their priorities.

    What has no counterpart stays as a comment beside the worker, so that nothing is lost in silence.
    """
    config = configparser.RawConfigParser(inline_comment_prefixes=(";",), strict=False)
    try:
        config.read_string(text)
    except configparser.Error as error:
        raise SpecError("supervisord.conf", str(error).splitlines()[0], "give a supervisord.conf") from None
    programs = [section for section in config.sections() if section.startswith("program:")]
    if not programs:
        raise SpecError("supervisord.conf", "no programs", "give [program:NAME] sections")
    parts = ["# Made from a supervisord.conf.", ""]
    for section in sorted(programs, key=lambda section: config.getint(section, "priority", fallback=999)):
        parts += [*_program(section.partition(":")[2], dict(config[section]), folder), ""]
    for section in config.sections():
        if section not in programs:
            parts.append(f"# not taken over: [{section}]")
    return "\n".join(parts) + "\n"


def _program(name: str, given: Mapping[str, str], folder: Path) -> Iterator[str]:
    left = dict(given)
    left.pop("priority", None)
    if "command" not in left:
        raise SpecError(f"program:{name}", dict(given), "give a command")
    for key in ("command", "environment", "directory", "stdout_logfile"):
        if "%(" in left.get(key, ""):
            yield f"# {key} has %(…)s in it, which creche does not expand: write it out"
    name = _name(name)
    yield f"[workers.{name}]"
    yield f"command = {_toml(shlex.split(left.pop('command').replace('%%', '%')))}"
    yield "depends_on = []"
    restart = left.pop("autorestart", "unexpected").lower()
    kinds = {"true": "permanent", "false": "temporary", "unexpected": "transient"}
    yield f"restart = {_toml(kinds.get(restart, 'transient'))}"
    if (codes := left.pop("exitcodes", "0")) != "0":
        yield f"success = [{', '.join(code.strip() for code in codes.split(','))}]"
    if (number := left.pop("numprocs", "1")) != "1" or left.get("autostart", "true").lower() == "false":
        count = 0 if left.pop("autostart", "true").lower() == "false" else int(number)
        yield f"count = {count}" + ("" if count else f"  # autostart=false: creche scale {name}={number}")
    left.pop("autostart", None)
    yield f"readiness = {{ delay = {float(left.pop('startsecs', '1'))} }}"
    yield f"shutdown = {float(left.pop('stopwaitsecs', '10'))}"
    signal = left.pop("stopsignal", "TERM").upper()
    yield f"stop_signal = {_toml(signal if signal.startswith('SIG') else f'SIG{signal}')}"
    log = left.get("stdout_logfile", "AUTO")
    if log.startswith("/"):
        output = [f"file = {_toml(left.pop('stdout_logfile'))}"]
        size = _SIZE.fullmatch(left.get("stdout_logfile_maxbytes", ""))
        if size is not None and int(size[1]):
            del left["stdout_logfile_maxbytes"]
            output.append(f"max_bytes = {int(size[1]) * _UNITS[size[2].upper()]}")
        if left.get("stdout_logfile_backups", "").isdigit():
            output.append(f"backups = {int(left.pop('stdout_logfile_backups'))}")
        yield f"output = {{ {', '.join(output)} }}"
    place = Path(left.pop("directory", str(folder)))
    environment = _environment(left.pop("environment", "").replace("%%", "%"))
    more = {}
    if "user" in left:
        more["user"] = _toml(left.pop("user"))
    if "umask" in left:
        more["umask"] = str(int(left.pop("umask"), 8))
    for key, value in left.items():
        yield f"# not taken over: {key} = {_toml(value)}"
    yield ""
    yield from _spec(name, place, environment, more)


def _spec(
    name: str, folder: Path, environment: Mapping[str, str], more: Mapping[str, str] | None = None
) -> Iterator[str]:
    place = _toml(str(folder))
    yield f"[workers.{name}.spec]"
    yield f"cwd = {place}"
    yield f'mounts = [{{ type = "bind", source = {place}, target = {place} }}]'
    yield "namespaces = { network = false }  # the host's network, as before; leave it out for none"
    for key, value in (more or {}).items():
        yield f"{key} = {value}"
    if environment:
        # With an environment of its own, a worker has only what it says.
        values = {"PATH": "/usr/local/bin:/usr/bin:/bin", **environment}
        yield f"env = {{ {', '.join(f'{_toml(key)} = {_toml(value)}' for key, value in values.items())} }}"


def _environment(text: str) -> dict[str, str]:
    """``KEY="value",OTHER=value`` of supervisord."""
    found: dict[str, str] = {}
    lexer = shlex.shlex(text, posix=True)
    lexer.whitespace += ","
    lexer.whitespace_split = True
    for word in lexer:
        key, equals, value = word.partition("=")
        if not equals:
            raise SpecError("environment", text, 'give KEY="value" pairs with commas between')
        found[key] = value
    return found


def _name(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]", "-", name).lstrip("-_") or "worker"


def _toml(value: str | list[str]) -> str:
    """As TOML: JSON's strings and lists of them are TOML's too, but for DEL, which has to be escaped."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
