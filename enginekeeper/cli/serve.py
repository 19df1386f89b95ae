"""`serve`: the service that agents speak to."""

from __future__ import annotations

import click

from enginekeeper.cli._errors import ExitCode


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=8470, show_default=True)
@click.option(
    "--period", type=click.IntRange(1, 3600), default=60, show_default=True,
    help="Seconds between the heartbeats of an agent.",
)  # fmt: skip
def serve(host: str, port: int, period: int) -> int:
    """Take what agents say of their nodes, and tell them what should run there.

    Speaks HTTP: put a proxy with TLS in front before it listens on anything but this host. A second
    service on a catalogue does not start. A node that reports another driver is held against it at
    once, as by `wave react`, and the whole fleet at the start and every ten minutes. SIGTERM ends
    it when all that was heard is written. What is refused is said on stderr, one line each.
    """
    import gc
    import logging

    from enginekeeper.fleet.ingest import Ingest
    from enginekeeper.orchestration.bench import open_bench
    from enginekeeper.orchestration.desired import DesiredStates
    from enginekeeper.web.agents import Agents
    from enginekeeper.web.app import create_app
    from enginekeeper.web.reacting import DriverWatch
    from enginekeeper.web.serving import serve as run

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    bench = open_bench()
    ingest = Ingest(bench.registry.catalogue)
    desired, watch = DesiredStates(lambda: bench.registry), DriverWatch(lambda: bench.registry)
    with ingest.catalogue.alone("serve"):
        ingest.load()
        gc.freeze()  # what is known of nodes stays: to look through it at each sweep stops all
        run(create_app(Agents(ingest, desired, period, watch)), host, port)
    return ExitCode.OK
