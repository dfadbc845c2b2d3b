"""Digests of code leave notes out and read `.inl` as C++ now: those of submissions and heads are computed again."""

from django.conf import settings
from django.db import migrations

from benchmarks.patch.trees import BlobStore, Tree, TreeError
from bounty.code_digest import code_digest


def renew_digests(apps, schema_editor):
    """Only of what a copy could be of: not of rejected diffs. A lost tree keeps its digest; nothing can equal it."""
    store = BlobStore(settings.BLOB_ROOT)
    submissions = apps.get_model("bounty", "Submission").objects.exclude(code_digest="").exclude(state="rejected")
    heads = apps.get_model("bounty", "Head").objects.exclude(code_digest="").exclude(tree=None)
    _renew(submissions.select_related("candidate_tree"), "candidate_tree", store)
    _renew(heads.select_related("tree"), "tree", store)


def _renew(rows, tree, store):
    for row in rows.iterator():
        try:
            digest = code_digest(Tree.from_manifest(getattr(row, tree).manifest), store)
        except TreeError:
            continue
        type(row).objects.filter(pk=row.pk).update(code_digest=digest)


class Migration(migrations.Migration):
    dependencies = [("bounty", "0028_royalties")]

    operations = [migrations.RunPython(renew_digests, migrations.RunPython.noop)]
