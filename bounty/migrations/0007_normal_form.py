"""Digests of code are of its normal form now: those of earlier submissions are computed again."""

from django.conf import settings
from django.db import migrations

from benchmarks.patch.trees import BlobStore, Tree, TreeError
from bounty.code_digest import code_digest


def renew_digests(apps, schema_editor):
    """Only of what a copy could be of: not of rejected diffs. A lost tree keeps its digest; nothing can equal it."""
    store = BlobStore(settings.BLOB_ROOT)
    submissions = apps.get_model("bounty", "Submission").objects.exclude(code_digest="").exclude(state="rejected")
    for submission in submissions.select_related("candidate_tree").iterator():
        try:
            digest = code_digest(Tree.from_manifest(submission.candidate_tree.manifest), store)
        except TreeError:
            continue
        type(submission).objects.filter(pk=submission.pk).update(code_digest=digest)


class Migration(migrations.Migration):
    dependencies = [("bounty", "0006_device_waits")]

    operations = [migrations.RunPython(renew_digests, migrations.RunPython.noop)]
