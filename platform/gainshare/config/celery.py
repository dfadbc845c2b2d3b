"""Celery app of the control plane: queue `control`, and the beat schedule that repairs state from the database.

Tasks take ids and are idempotent. They may be lost with the broker at any time, because beat repeats them
from PostgreSQL.
"""

import os

from celery import Celery
from django.conf import settings

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "gainshare.config.settings")

CALIBRATION_LOOK_S = 60  # how often beat checks whether an A/A run, or a check of a merged tree, is due
FORGET_ATTEMPTS_S = 600
SWEEP_BLOBS_S = 3600
CHECK_GITHUB_APP_S = 600
SETTLE_ENGINES_S = 5
SETTLE_ROYALTIES_S = 600  # how often royalties are settled; each day is paid once
FORGET_DECISIONS_S = 3600

app = Celery("gainshare")
app.conf.update(
    broker_url=settings.BROKER_URL,
    broker_connection_retry_on_startup=True,
    broker_transport_options={
        "visibility_timeout": 3600,
        "unacked_restore_interval": 2,
        "unacked_restore_throttle": 1,
    },
    task_default_queue="control",
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_ignore_result=True,
    worker_prefetch_multiplier=1,
    worker_enable_remote_control=False,
    worker_send_task_events=False,
    timezone="UTC",
    beat_schedule={
        "reconcile-runs": {
            "task": "bounty.tasks.reconcile_runs",
            "schedule": settings.CELERY_BEAT_INTERVAL_S,
        },
        "calibrate-runners": {
            "task": "bounty.tasks.calibrate_runners",
            "schedule": CALIBRATION_LOOK_S,
        },
        "deploy-tips": {
            "task": "bounty.tasks.deploy_tips",
            "schedule": settings.CELERY_BEAT_INTERVAL_S,
        },
        "check-tips": {
            "task": "bounty.tasks.check_tips",
            "schedule": CALIBRATION_LOOK_S,
        },
        "expire-holds": {
            "task": "gainshare.ledger.tasks.expire_holds",
            "schedule": settings.CELERY_BEAT_INTERVAL_S,
        },
        "tend-hosts": {
            "task": "gainshare.capacity.tasks.tend_hosts",
            "schedule": settings.CELERY_BEAT_INTERVAL_S,
        },
        "free-seats": {
            "task": "gainshare.capacity.tasks.free_seats",
            "schedule": settings.CELERY_BEAT_INTERVAL_S,
        },
        "settle-outstanding": {
            "task": "gainshare.gateway.tasks.settle_outstanding",
            "schedule": settings.CELERY_BEAT_INTERVAL_S,
        },
        "forget-attempts": {
            "task": "gainshare.accounts.tasks.forget_attempts",
            "schedule": FORGET_ATTEMPTS_S,
        },
        "sweep-blobs": {
            "task": "bounty.tasks.sweep_blobs",
            "schedule": SWEEP_BLOBS_S,
        },
        "poll-repositories": {
            "task": "bounty.tasks.poll_repositories",
            "schedule": settings.REPOSITORY_POLL_S,
        },
        "check-github-app": {
            "task": "bounty.tasks.check_github_app",
            "schedule": CHECK_GITHUB_APP_S,
        },
        "reconcile-pull-requests": {
            "task": "bounty.tasks.reconcile_pull_requests",
            "schedule": settings.REPOSITORY_POLL_S,
        },
        "publish-reports": {
            "task": "bounty.tasks.publish_reports",
            "schedule": settings.CELERY_BEAT_INTERVAL_S,
        },
        "settle-royalties": {
            "task": "bounty.tasks.settle_royalties",
            "schedule": SETTLE_ROYALTIES_S,
        },
        # A pass that waited behind others is of no use: the next one sees more.
        "scale": {
            "task": "gainshare.capacity.tasks.scale",
            "schedule": settings.SCALE_INTERVAL_S,
            "options": {"expires": 10},
        },
        "settle-engines": {
            "task": "gainshare.capacity.tasks.settle_engines",
            "schedule": SETTLE_ENGINES_S,
            "options": {"expires": 30},
        },
        "forget-decisions": {
            "task": "gainshare.capacity.tasks.forget_decisions",
            "schedule": FORGET_DECISIONS_S,
        },
        "advance-deployments": {
            "task": "gainshare.capacity.tasks.advance_deployments",
            "schedule": settings.DEPLOY_INTERVAL_S,
            "options": {"expires": 10},
        },
        "keep-loans": {
            "task": "gainshare.capacity.tasks.keep_loans",
            "schedule": settings.CELERY_BEAT_INTERVAL_S,
        },
        "seal-entries": {
            "task": "gainshare.ledger.tasks.seal_entries",
            "schedule": settings.CELERY_BEAT_INTERVAL_S,
        },
    },
)
app.autodiscover_tasks(
    ["bounty", "gainshare.accounts", "gainshare.ledger", "gainshare.capacity", "gainshare.gateway"]
)
