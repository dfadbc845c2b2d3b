"""Addresses of this site's pages, as Markdown links."""

from django.conf import settings
from django.urls import reverse

from bounty.github.reports.escaping import line
from bounty.models import Bounty, Submission


def site(path: str = "/") -> str:
    """The whole address of a path of this site."""
    return f"{settings.PUBLIC_URL.rstrip('/')}{path}"


def submission_url(submission: Submission) -> str:
    return site(reverse("submission", kwargs={"submission_id": submission.pk}))


def bounty_url(bounty: Bounty) -> str:
    return site(reverse("bounty", kwargs={"bounty_id": bounty.pk}))


def how_url() -> str:
    """Page that says how a patch is judged."""
    return site(reverse("how"))


def bounty_link(bounty: Bounty) -> str:
    """`[B12](...): its title`."""
    return f"[{bounty.short_name}]({bounty_url(bounty)}): {line(bounty.title)}"
