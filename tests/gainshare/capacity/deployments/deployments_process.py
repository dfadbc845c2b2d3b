"""One step of a deployment in a process of its own, to be killed in the middle."""

import json
import os
import sys
from pathlib import Path
from uuid import UUID

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "gainshare.config.settings")
django.setup()

from django.conf import settings  # noqa: E402 - Django is set up first

from gainshare.capacity.deployments.evidence import take_document  # noqa: E402
from gainshare.capacity.deployments.handover import advance  # noqa: E402
from gainshare.capacity.deployments.heard import heard  # noqa: E402
from gainshare.capacity.deployments.keys import register_key  # noqa: E402
from gainshare.capacity.deployments.rollback import roll_back  # noqa: E402
from gainshare.capacity.models import Host  # noqa: E402
from gainshare.capacity.tasks import advance_deployments  # noqa: E402
from tests.gainshare.capacity.deployments.deployments_world import MODEL, ask  # noqa: E402

if __name__ == "__main__":
    what, argument = sys.argv[1], json.loads(sys.argv[2])
    settings.BLOB_ROOT = Path(os.environ["TEST_BLOBS"])
    settings.RECENT_LENGTHS = "tests.gainshare.capacity.deployments.deployments_world.recent_lengths"
    if what == "ask":
        ask(argument)
    elif what == "advance":
        advance(MODEL)
    elif what == "pass":
        advance_deployments()
    elif what == "heartbeat":
        heard(UUID(argument), None)
    elif what == "key":
        register_key(host=Host.objects.get(pk=argument["host"]), public_key=argument["key"])
    elif what == "document":
        take_document(
            host=Host.objects.get(pk=argument["host"]),
            deployment_id=UUID(argument["id"]),
            sealed=argument["sealed"],
        )
    elif what == "rollback":
        roll_back(model=MODEL, actor=None, reason="a test")
