"""The bounty app's pages: bounties, submissions, lineages. Plugs its entry into the shell's navigation."""

from django.urls import path

from bounty.pages import actions, bounties, lineages, submissions
from gainshare.web import navigation
from gainshare.web.navigation import NavEntry

navigation.register(NavEntry("Bounties", "bounties", 10))
navigation.register(NavEntry("Lineages", "lineages", 20))

urlpatterns = [
    path("bounties/", bounties.bounty_list, name="bounties"),
    path("bounties/new/", bounties.new_bounty, name="bounty-new"),
    path("bounties/<uuid:bounty_id>/", bounties.bounty_detail, name="bounty"),
    path("bounties/<uuid:bounty_id>/close/", bounties.close, name="bounty-close"),
    path("bounties/<uuid:bounty_id>/submit/", submissions.new_submission, name="submission-new"),
    path("submissions/", submissions.own_submissions, name="submissions"),
    path("submissions/<uuid:submission_id>/", submissions.submission_detail, name="submission"),
    path("submissions/<uuid:submission_id>/live/", submissions.live, name="submission-live"),
    path("submissions/<uuid:submission_id>/<slug:action>/", actions.act, name="submission-act"),
    path("lineages/", lineages.lineage_list, name="lineages"),
    path("lineages/<slug:name>/", lineages.lineage_detail, name="lineage"),
]
