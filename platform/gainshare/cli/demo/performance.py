"""Runs the demo: starts a fresh stack, plays the scenario, stops the stack, writes `demo.json`."""

import os
from collections.abc import Mapping

import httpx
import openai
from rich.console import Console

from gainshare.cli.client import Site
from gainshare.cli.demo.record import Record
from gainshare.cli.demo.scenario import play
from gainshare.cli.demo.stage import Stage
from gainshare.cli.demo.watching import Progress
from gainshare.cli.output import CliError
from gainshare.local.errors import LocalModeError
from gainshare.local.model_cache import ensure_model
from gainshare.local.paths import ROOT, Home, home_from_environment
from gainshare.local.secrets import Secrets, read_secret
from gainshare.local.stack import delete_data, start_background, stop
from gainshare.local.state import NotRunning

MODEL = "smollm2-moe-small"  # while a tree is deployed four nodes hold it in memory, each in fp32
FAILURES = (CliError, LocalModeError, httpx.HTTPError, openai.OpenAIError, KeyError, OSError)
"""Errors that end a demo early. Any other error is a defect of the demo and shown as a traceback."""


def run_demo(*, port: int, keep: bool, console: Console) -> Record:
    """Run the demo in `GAINSHARE_HOME/demo`, a separate home that starts empty each time.

    `keep` leaves the stack running. The record is always written to `GAINSHARE_HOME/demo.json`.
    """
    parent = home_from_environment()
    home = Home(parent.root / "demo")
    record, progress = Record(console), Progress(console)
    try:
        start_afresh(home, parent, record, progress, port, devices=1)
        _play(home, parent, record, progress)
    except FAILURES as error:
        console.print(f"[red]the demo ended early:[/] {error}", highlight=False)
    finally:
        progress.stop()
        if not keep:
            end(home, record)
        record.save(parent.root / "demo.json")
    return record


def start_afresh(
    home: Home,
    parent: Home,
    record: Record,
    progress: Progress,
    port: int,
    more: Mapping[str, str] | None = None,
    devices: int = 0,
) -> None:
    """Start a stack without any data in ``home``, with ``more`` variables. Raises LocalModeError.

    With ``devices`` it is elastic, and begins without a model node.
    """
    with record.step("model", f"{MODEL} is in the local store, checksum verified") as step:
        ensure_model(MODEL, parent.root)
        step.ok, step.actual = True, f"{MODEL} ready"
    serving = "node agent" if devices else "model node"
    with record.step("start", f"PostgreSQL, broker, workers, web and {serving} are ready") as step:
        _stop_leftover(home)
        delete_data(home)
        home.root.mkdir(parents=True, mode=0o711 if os.geteuid() == 0 else 0o700)
        (home.root / "models").symlink_to(parent.root / "models", target_is_directory=True)
        shared = {"GAINSHARE_KERNELS": str(parent.kernels), "GAINSHARE_SCHEMAS": str(parent.schemas)}
        # Where trees are deployed two engines are compared, whose answers are equal in fp32 only.
        fp32 = {"GAINSHARE_MODEL_FP32": "1"} if devices else {}
        env = {**shared, **fp32, **os.environ, **(more or {})}
        state = start_background(
            home,
            port=port,
            model=MODEL,
            env=env,
            on_progress=progress.show,
            devices=devices,
            has_first_node=not devices,
        )
        progress.stop()
        record.url = state.url
        stopped = [name for name, service in state.services.items() if service.state != "ready"]
        step.ok = not stopped and not state.warning
        step.actual = state.warning or f"{len(state.services)} services at {state.url}"
        if not step.ok:
            raise LocalModeError(f"not every service is ready: {', '.join(stopped) or state.warning}")


def _play(home: Home, parent: Home, record: Record, progress: Progress) -> None:
    admin = Site(record.url, read_secret(Secrets(home.secrets).admin_key))
    stage = Stage(
        url=record.url,
        admin=admin,
        examples=ROOT / "examples",
        evidence_dir=parent.root / "demo-evidence",
        model=MODEL,
        record=record,
        progress=progress,
    )
    play(stage)


def end(home: Home, record: Record) -> None:
    """Stop the stack, as a step of the record."""
    try:
        with record.step("stop", "every process has ended") as step:
            state = stop(home)
            alive = [name for name, row in state.services.items() if row.process and row.process.is_alive()]
            step.ok, step.actual = not alive, f"still running: {', '.join(alive) or 'none'}"
    except LocalModeError as error:
        record.console.print(f"[red]could not stop the stack:[/] {error}", highlight=False)


def _stop_leftover(home: Home) -> None:
    """Stop a demo that still runs in this home: it was kept, or its terminal was closed."""
    try:
        stop(home)
    except NotRunning:
        return
