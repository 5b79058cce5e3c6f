"""Figures for Prometheus: the format as it is defined, and the counts as they happened."""

from __future__ import annotations

import re

import anyio
from supervisor.fakes import World, settle

from creche.supervisor import Supervisor
from creche.supervisor.metrics import Metrics

LINE = re.compile(r'[a-z_]+\{[a-z_]+="(?:[^"\\\n]|\\[\\"n])*"(?:,[a-z_]+="(?:[^"\\\n]|\\[\\"n])*")*\} [0-9]+')


async def test_states_and_ends_are_counted_in_the_exposition_format():
    world = World()
    children = [world.child("web", count=3), world.child("db")]
    async with (
        Supervisor(children, intensity=None, name='a "name"\n') as sup,
        anyio.create_task_group() as tasks,
    ):
        metrics = Metrics(sup)
        tasks.start_soon(metrics.run)
        await sup.wait_ready()
        world.boxes["db"].end(3)
        await settle()
        await sup.wait_ready()
        await sup.stop("web.2")
        await settle()
        text = metrics.text()
        tasks.cancel_scope.cancel()
    lines = text.splitlines()
    assert all(LINE.fullmatch(line) for line in lines if not line.startswith("# "))
    name = r'supervisor="a \"name\"\n"'
    assert f'creche_children{{{name},child="web",state="ready"}} 2' in lines
    assert f'creche_children{{{name},child="web",state="down"}} 1' in lines
    assert f'creche_child_ready_total{{{name},child="db"}} 2' in lines
    assert f'creche_child_ended_total{{{name},child="db",reason="exited"}} 1' in lines
    assert f'creche_child_ended_total{{{name},child="web",reason="signaled"}} 1' in lines
    assert f"creche_events_lost_total{{{name}}} 0" in lines
    helps = [line.split()[2] for line in lines if line.startswith("# HELP")]
    assert len(helps) == len(set(helps)), "each metric has one head"
