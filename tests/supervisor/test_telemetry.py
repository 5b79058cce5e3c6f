"""OpenTelemetry's figures and spans, as its own in-memory exporters saw them."""

from __future__ import annotations

import anyio
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode
from supervisor.fakes import World, settle

from creche.supervisor import Supervisor
from creche.supervisor.telemetry import Telemetry


def figures(reader):
    """{(metric, child, state or reason): value}"""
    data = reader.get_metrics_data()
    return {
        (metric.name, point.attributes.get("creche.child"), point.attributes.get("creche.state") or point.attributes.get("creche.reason")): point.value
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        for point in metric.data.data_points
    }  # fmt: skip


async def test_counts_states_and_lives_are_told():
    world, reader, spans = World(), InMemoryMetricReader(), InMemorySpanExporter()
    meters, tracers = (
        MeterProvider(metric_readers=[reader], shutdown_on_exit=False),
        TracerProvider(shutdown_on_exit=False),
    )
    tracers.add_span_processor(SimpleSpanProcessor(spans))
    async with Supervisor(
        [world.child("web", count=2), world.child("db")], intensity=None, name="shop"
    ) as sup:
        async with anyio.create_task_group() as tasks:
            telemetry = Telemetry(sup, meter_provider=meters, tracer_provider=tracers, every=0.001)
            tasks.start_soon(telemetry.run)
            await sup.wait_ready()
            world.boxes["db"].end(3)
            await settle()
            await sup.wait_ready()
            await sup.stop("web.2")
            with anyio.fail_after(5):
                while figures(reader).get(("creche.children", "web", "down")) != 1:
                    await anyio.sleep(0.002)
            seen = figures(reader)
            assert seen["creche.child.ready", "db", None] == 2
            assert seen["creche.child.ended", "db", "exited"] == 1
            assert seen["creche.child.ended", "web", "signaled"] == 1
            ended = {span.attributes["creche.copy"]: span for span in spans.get_finished_spans()}
            assert set(ended) == {"db", "web.2"}
            assert (
                ended["db"].status.status_code is StatusCode.ERROR
                and "status 3" in ended["db"].status.description
            )
            assert ended["web.2"].status.status_code is StatusCode.UNSET
            assert [event.name for event in ended["db"].events][:1] == ["ChildReady"]
            assert ended["db"].end_time >= ended["db"].start_time > 1e18  # nanoseconds since 1970
            tasks.cancel_scope.cancel()
    assert len(spans.get_finished_spans()) == 4, "what still lived ends its span"
    meters.shutdown()
    tracers.shutdown()
