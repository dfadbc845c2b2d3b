"""The runner's Celery app: one process per device, which judges whatever the platform has for it.

    celery -A benchmarks.worker worker -Q runner.cpu --concurrency 1 --without-gossip --without-mingle --without-heartbeat

A message is only a wake-up: the run itself, its trees and everything said about it go through the runner API. This
process knows no database and no other queue, and answers no remote control. At start it attacks its own sandbox; if
anything gets through, it does not consume.
"""

from benchmarks import blas as _blas  # noqa: F401, I001 - before numpy is imported

import logging
import os
from functools import cache
from typing import Any

from celery import Celery, signals

from benchmarks.commands import dying_of_signals
from benchmarks.runner.device_lock import device_lock
from benchmarks.runner.device_wait import DeviceWait
from benchmarks.evidence.signing import KeyFileError, load_key
from benchmarks.runner.lease import carry_out
from benchmarks.runner.lost_broker import end_worker_on_lost_ack
from benchmarks.patch.policy import harness_hash
from benchmarks.runner.client import NotLeasable, PlatformError, RunnerClient
from benchmarks.runner.settings import BadRunnerSetting, RunnerSettings, hardware
from benchmarks.sandbox import SandboxError, best_level
from benchmarks.sandbox.accounting.placement import sweep, usable_hierarchies
from benchmarks.sandbox.selftest.run import self_test

logger = logging.getLogger(__name__)

QUEUE = f"runner.{hardware()}"
# A message stays invisible for longer than any job takes. A job lost with its worker comes back from the database.
VISIBILITY_TIMEOUT_S = 3600

end_worker_on_lost_ack()
app = Celery("benchmarks", fixups=[])  # not Django's, whatever the environment says
app.conf.update(
    broker_url=os.environ.get("GAINSHARE_RUNNER_BROKER_URL", ""),
    broker_connection_retry_on_startup=True,
    broker_transport_options={
        "visibility_timeout": VISIBILITY_TIMEOUT_S,
        "unacked_restore_interval": 2,
        "unacked_restore_throttle": 1,
        # The broker lets this user touch keys of its queue only.
        "unacked_key": f"{QUEUE}.unacked",
        "unacked_index_key": f"{QUEUE}.unacked_index",
        "unacked_mutex_key": f"{QUEUE}.unacked_mutex",
    },
    task_default_queue=QUEUE,
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_ignore_result=True,
    worker_prefetch_multiplier=1,
    worker_concurrency=1,
    worker_enable_remote_control=False,
    worker_send_task_events=False,
    timezone="UTC",
)


@cache
def _client() -> RunnerClient:
    settings = RunnerSettings.from_env()
    return RunnerClient(settings.platform_url, settings.token)


@app.task(name="benchmarks.worker.run_job", ignore_result=True)
def run_job(run_id: str) -> None:
    """Take the run that is next for this runner and judge it. Nothing to do is no error.

    A signal ends the run at once, without a trace on this machine: the platform starts it over.
    """
    settings = RunnerSettings.from_env()
    with dying_of_signals(), device_lock(settings.hardware, waiting=lambda: DeviceWait(_client())):
        try:
            run = _client().lease(run_id)
        except NotLeasable as nothing:
            logger.info("wake-up for run %s: %s", run_id, nothing)
            return
        logger.info("leased run %s (%s, attempt %d)", run.run_id, run.kind, run.attempt)
        try:
            carry_out(run, _client(), home=settings.home, key=load_key(settings.key_file))
        finally:
            if run.is_lent:
                give_back(_client())


def give_back(client: RunnerClient) -> None:
    """Give the device back. A loan that the platform does not get back ends by itself: it only costs time."""
    try:
        client.give_back()
    except PlatformError as error:
        logger.warning("the device could not be given back: %s", error)


def check_machine() -> None:
    """Raises SystemExit, having logged why, unless this process is set up well and its sandbox holds."""
    try:
        settings = RunnerSettings.from_env()
        load_key(settings.key_file)
        settings.home.mkdir(parents=True, exist_ok=True, mode=0o711)
        level = best_level()
        attacks = self_test(level)
    except (BadRunnerSetting, KeyFileError, SandboxError, OSError) as error:
        logger.critical("this runner cannot work: %s", error)
        raise SystemExit(2) from None
    broken = [attack for attack in attacks if not attack.contained]
    for attack in broken:
        logger.critical("the sandbox does not hold: %s: %s", attack.name, attack.detail)
    if broken:
        logger.critical("no job is taken on this machine; `gainshare sandbox-test` repeats these attacks")
        raise SystemExit(3)
    logger.info("sandbox %s: %d of %d attacks contained", level, len(attacks), len(attacks))
    harness_hash()  # of the code that is loaded now, whatever is installed later


@signals.celeryd_after_setup.connect
def _before_consuming(**_: Any) -> None:
    """Logging is set up, the pool and the consumer are not: SystemExit ends the worker here."""
    with dying_of_signals():
        check_machine()


@signals.worker_process_init.connect
def _on_process_init(**_: Any) -> None:
    """A pool process that was killed may have left frozen samples behind, which only end when they are thawed."""
    hierarchies = usable_hierarchies()
    parents = {*hierarchies.v1.values(), *([hierarchies.v2] if hierarchies.v2 else [])}
    if removed := sweep(parents):
        logger.warning("cleared away %d groups of killed samples", removed)
