"""Messages that wake workers, sent when the transaction commits. All state is in the database.

If the broker is down, nothing fails here: beat finds the same work in the database and sends again.
"""

import logging
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import transaction

from gainshare.config.celery import app

logger = logging.getLogger(__name__)

RUN_JOB = "benchmarks.worker.run_job"
ADVANCE = "bounty.tasks.advance_submission"
FETCH = "bounty.tasks.follow_repository"
DELIVERY = "bounty.tasks.process_delivery"
PULL_REQUEST = "bounty.tasks.advance_pull_request"
REPORT = "bounty.tasks.report_pull_request"
CHECK_APP = "bounty.tasks.check_github_app"
SETTLE = "bounty.tasks.settle_reproduction"
RESENT_EXPIRES_S = 60


def _send(name: str, args: list[str], **options: Any) -> None:
    try:
        app.send_task(name, args=args, retry=False, ignore_result=True, **options)
    except (
        Exception
    ):  # the broker's client may raise anything; the request must not fail, and beat repeats the message
        logger.warning("the broker did not take %s%s; beat will send it again", name, tuple(args))


def wake_runner(*, run_id: UUID, hardware: str, resent_at: datetime | None = None) -> None:
    """Wake the runners of ``hardware``. A resent message expires, so that messages cannot accumulate."""
    options: dict[str, Any] = {"queue": f"runner.{hardware}"}
    if resent_at is not None:
        options["expires"] = RESENT_EXPIRES_S
    transaction.on_commit(lambda: _send(RUN_JOB, [str(run_id)], **options))


def wake_control(*, submission_id: UUID) -> None:
    """Wake a control worker to do the submission's next step."""
    transaction.on_commit(lambda: _send(ADVANCE, [str(submission_id)], queue="control"))


def wake_reproduction(*, reproduction_id: UUID) -> None:
    """Wake a control worker to process the verdict of the reproduction's run."""
    transaction.on_commit(lambda: _send(SETTLE, [str(reproduction_id)], queue="control"))


def wake_fetch(*, lineage: str) -> None:
    """Wake a control worker to fetch the lineage's repository. A message that is not read soon expires: beat polls."""
    transaction.on_commit(lambda: _send(FETCH, [lineage], queue="control", expires=RESENT_EXPIRES_S))


def wake_delivery(*, delivery_id: UUID) -> None:
    """Wake a control worker to work off a webhook delivery."""
    transaction.on_commit(lambda: _send(DELIVERY, [str(delivery_id)], queue="control"))


def wake_pull_request(*, pull_request_id: UUID) -> None:
    """Wake a control worker to do what can be done now for a pull request: seal, submit, answer its commands, merge."""
    transaction.on_commit(lambda: _send(PULL_REQUEST, [str(pull_request_id)], queue="control"))


def wake_report(*, pull_request_id: UUID) -> None:
    """Wake a control worker to tell a pull request what has changed: its comment and its check runs."""
    transaction.on_commit(lambda: _send(REPORT, [str(pull_request_id)], queue="control"))


def wake_app_check() -> None:
    """Wake a control worker to ask GitHub about the App, its installations and their repositories. Beat does it as well."""
    transaction.on_commit(lambda: _send(CHECK_APP, [], queue="control", expires=RESENT_EXPIRES_S))
