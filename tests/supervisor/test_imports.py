"""Procfiles and supervisord.conf: what comes out is a project, means the same, and says what it left out."""

from __future__ import annotations

import signal
import tomllib

import pytest

from creche.errors import SpecError
from creche.supervisor import Completed, Delay, Restart, Supervisor
from creche.supervisor.imports import from_procfile, from_supervisord
from creche.supervisor.project import project

PROCFILE = """\
# the shop
web: bundle exec rails server -p $PORT
worker:  ./work --queue "a b"

"""

CONF = """\
[supervisord]
nodaemon=true

[program:web]
command=/usr/bin/web --name "a b" ; the site
directory=/srv
numprocs=3
autorestart=true
environment=A="1,2",B=two
stopsignal=INT
stopwaitsecs=30
startsecs=5
user=www
umask=022
stdout_logfile=/var/log/web.log
redirect_stderr=true
priority=20

[program:db]
command=/usr/bin/db
exitcodes=0,2
priority=10

[program:later]
command=/usr/bin/later
autostart=false
autorestart=false
"""


def read(text, tmp_path):
    return project(tomllib.loads(text), tmp_path / "creche.toml").children


def test_a_procfile(tmp_path):
    (tmp_path / ".env").write_text("SECRET=1\n")
    web, worker = read(from_procfile(PROCFILE, tmp_path), tmp_path)
    assert web.spec.command == ("sh", "-c", "bundle exec rails server -p $PORT")
    assert (web.spec.env["PORT"], worker.spec.env["PORT"], web.spec.env["SECRET"]) == ("5000", "5100", "1")
    assert web.spec.cwd == str(tmp_path) and worker.depends_on == ()


def test_a_supervisord_conf(tmp_path):
    text = from_supervisord(CONF, tmp_path)
    db, web, later = read(text, tmp_path)
    assert (db.name, db.restart, db.success) == ("db", Restart.TRANSIENT, {0, 2})
    assert web.spec.command == ("/usr/bin/web", "--name", "a b") and web.count == 3
    assert web.restart is Restart.PERMANENT and web.stop_signal is signal.SIGINT and web.shutdown == 30.0
    assert web.readiness == Delay(5.0) and web.spec.user == "www" and web.spec.umask == 0o022
    assert (web.spec.env["A"], web.spec.env["B"], web.spec.cwd) == ("1,2", "two", "/srv")
    assert web.output.file == "/var/log/web.log"
    assert (later.count, later.restart) == (0, Restart.TEMPORARY)
    assert '# not taken over: redirect_stderr = "true"' in text and "# not taken over: [supervisord]" in text


@pytest.mark.parametrize(
    ("convert", "text"),
    [
        (from_procfile, "no colon here"),
        (from_procfile, ""),
        (from_supervisord, "[supervisord]\n"),
        (from_supervisord, "nonsense"),
        (from_supervisord, "[program:x]\n"),
        (from_supervisord, "[program:x]\ncommand=a\nenvironment=A"),
    ],
)
def test_nonsense_is_refused(convert, text, tmp_path):
    with pytest.raises(SpecError):
        convert(text, tmp_path)


def test_what_a_release_does_is_done_once_and_before_the_others(tmp_path):
    children = read(from_procfile("web: serve\nrelease: migrate\n", tmp_path), tmp_path)
    Supervisor(children)  # which looks at who depends on whom
    told = {child.name: child for child in children}
    assert (told["release"].restart, told["release"].readiness) == (Restart.TRANSIENT, Completed())
    assert (told["release"].depends_on, told["web"].depends_on) == ((), ("release",))


REAL = """
[program:django]
command=/srv/venv/bin/gunicorn proj.wsgi -b unix:/run/g.sock --name a%%b
stdout_logfile=/var/log/django.log ; beside the others
stdout_logfile_maxbytes=50MB
stdout_logfile_backups=4
environment=SECRET="a,b;c%%d",HOME="%(here)s"
stopasgroup=true

[eventlistener:memmon]
command=memmon -a 200MB
"""


def test_sizes_percent_signs_and_what_is_not_expanded(tmp_path):
    text = from_supervisord(REAL, tmp_path)
    (django,) = read(text, tmp_path)
    assert django.spec.command[-1] == "a%b" and django.spec.env["SECRET"] == "a,b;c%d"
    assert (django.output.max_bytes, django.output.backups) == (50 * 2**20, 4)
    assert "# environment has %(…)s in it" in text and "# not taken over: stopasgroup" in text
    assert "# not taken over: [eventlistener:memmon]" in text

