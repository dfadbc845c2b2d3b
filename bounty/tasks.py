"""Tasks of the control worker: thin, idempotent, with ids as arguments. All state is in the database."""

from contextlib import suppress
from uuid import UUID

from celery import shared_task

from benchmarks.runner.lost_broker import end_worker_on_lost_ack
from bounty.errors import NotFound
from bounty.github.app.installations import check_app
from bounty.github.events import deliveries, reconciler
from bounty.github.pulls.advance import advance_pull_request as advance_pull
from bounty.github.reports.publishing import publish, publish_due
from bounty.github.repositories.following import due_lineages, follow
from bounty.services.awards.advance import advance_submission as advance
from bounty.services.blob_sweep import sweep_blobs as sweep
from bounty.services.deployments.tips import deploy_due
from bounty.services.reconcile import reconcile_runs as reconcile
from bounty.services.reproductions import settle
from bounty.services.royalties.schedule import settle_royalties as settle_due_royalties
from bounty.services.runners.calibration_schedule import schedule_calibrations
from bounty.services.series.tip_checks import schedule_tip_checks
from bounty.services.wakeups import wake_fetch

end_worker_on_lost_ack()  # this module is loaded by every control worker


@shared_task(name="bounty.tasks.advance_submission")
def advance_submission(submission_id: str) -> None:
    """Do every step that can be done now for one submission."""
    advance(submission_id=UUID(submission_id))


@shared_task(name="bounty.tasks.settle_reproduction")
def settle_reproduction(reproduction_id: str) -> None:
    """Process a reproduction whose run has its verdict."""
    settle(reproduction_id=UUID(reproduction_id))


@shared_task(name="bounty.tasks.reconcile_runs")
def reconcile_runs() -> None:
    """Repair what a lost process or message left unfinished."""
    reconcile()


@shared_task(name="bounty.tasks.calibrate_runners")
def calibrate_runners() -> None:
    """Order the A/A runs that are due."""
    schedule_calibrations()


@shared_task(name="bounty.tasks.check_tips")
def check_tips() -> None:
    """Order the checks of merged trees that are due."""
    schedule_tip_checks()


@shared_task(name="bounty.tasks.deploy_tips")
def deploy_tips() -> int:
    """Ask for the tips that lineages' settings deploy."""
    return deploy_due()


@shared_task(name="bounty.tasks.sweep_blobs")
def sweep_blobs() -> None:
    """Remove old blobs that nothing names."""
    sweep()


@shared_task(name="bounty.tasks.poll_repositories")
def poll_repositories() -> None:
    """Have every bound repository fetched, each by a task of its own."""
    for lineage in due_lineages():
        wake_fetch(lineage=lineage)


@shared_task(name="bounty.tasks.follow_repository")
def follow_repository(lineage: str) -> None:
    """Fetch a lineage's repository and follow its branch; nothing if it is no longer bound."""
    with suppress(NotFound):
        follow(lineage=lineage)


@shared_task(name="bounty.tasks.check_github_app")
def check_github_app() -> None:
    """Ask GitHub about the App, its installations and their repositories; nothing without an App."""
    check_app()


@shared_task(name="bounty.tasks.process_delivery")
def process_delivery(delivery_id: str) -> None:
    """Work off one delivery of GitHub's webhooks."""
    deliveries.process_delivery(delivery_id=UUID(delivery_id))


@shared_task(name="bounty.tasks.advance_pull_request")
def advance_pull_request(pull_request_id: str) -> None:
    """Do what can be done now for one pull request."""
    advance_pull(pull_request_id=UUID(pull_request_id))


@shared_task(name="bounty.tasks.reconcile_pull_requests")
def reconcile_pull_requests() -> None:
    """Find what GitHub's events did not tell, and continue what was left unfinished."""
    reconciler.reconcile()


@shared_task(name="bounty.tasks.report_pull_request")
def report_pull_request(pull_request_id: str) -> None:
    """Tell a pull request what has changed, and whatever else waits in the queue of its installation."""
    publish(UUID(pull_request_id))


@shared_task(name="bounty.tasks.publish_reports")
def publish_reports() -> None:
    """Tell pull requests what a lost message or a killed worker left untold, and how far their heads are."""
    publish_due()


@shared_task(name="bounty.tasks.settle_royalties")
def settle_royalties() -> None:
    """Begin and end terms of royalties, pay the days that are over, vest what has waited."""
    settle_due_royalties()
