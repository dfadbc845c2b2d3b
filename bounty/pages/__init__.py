"""The bounty app's pages: bounties, submissions, lineages, runners. Registers its entries in the navigation."""

from django.urls import path, re_path

from bounty.pages import (
    bounties,
    desk,
    home,
    how,
    reproductions,
    royalties,
    runners,
    submissions,
    switches,
)
from bounty.pages.lineages import deployments, laws, overview, repositories, reversals
from gainshare.web import banners, home_parts, navigation
from gainshare.web.navigation import Audience, NavEntry

navigation.register(NavEntry("Bounties", "bounties", 10))
navigation.register(NavEntry("To do", "desk", 5, Audience.MAINTAINERS))
navigation.register(NavEntry("Lineages", "lineages", 20))
navigation.register(NavEntry("Runners", "runners", 25))
navigation.register(NavEntry("Guide", "how", 28))
banners.register("stop", switches.stop_banners)
banners.register("outdated", overview.outdated_banners)
banners.register("base", overview.base_banners)
home_parts.register_part("bounty", home.home_part)
home_parts.register_steps("bounty", home.next_steps, position=10)

urlpatterns = [
    path("bounties/", bounties.bounty_list, name="bounties"),
    path("bounties/new/", bounties.new_bounty, name="bounty-new"),
    path("bounties/new/bug/", bounties.new_bug, name="bug-new"),
    re_path("^bounties/(?P<number>[Bb][0-9]+)/$", bounties.bounty_by_number, name="bounty-by-number"),
    path("bounties/<uuid:bounty_id>/", bounties.bounty_detail, name="bounty"),
    path("bounties/<uuid:bounty_id>/escrow/", bounties.add_escrow, name="bounty-escrow"),
    path("bounties/<uuid:bounty_id>/close/", bounties.close, name="bounty-close"),
    path("bounties/<uuid:bounty_id>/submit/", submissions.new_submission, name="submission-new"),
    path("bounties/<uuid:bounty_id>/reproduce/", reproductions.new_reproduction, name="reproduction-new"),
    path(
        "bounties/<uuid:bounty_id>/reproductions/<uuid:reproduction_id>/decline/",
        reproductions.decline_reproduction,
        name="reproduction-decline",
    ),
    path("how/", how.how, name="how"),
    path("desk/", desk.desk, name="desk"),
    path("submissions/", submissions.own_submissions, name="submissions"),
    path("submissions/<uuid:submission_id>/", submissions.submission_detail, name="submission"),
    path("submissions/<uuid:submission_id>/live/", submissions.live, name="submission-live"),
    path("submissions/<uuid:submission_id>/<slug:action>/", submissions.act, name="submission-act"),
    path("runners/", runners.runner_list, name="runners"),
    path("runners/<slug:name>/", runners.runner_detail, name="runner"),
    path("runners/<slug:name>/<slug:action>/", runners.act, name="runner-act"),
    path("stop/", switches.stop_page, name="stop"),
    path("stop/<slug:name>/", switches.press, name="stop-press"),
    path("lineages/", overview.lineage_list, name="lineages"),
    path("lineages/<slug:name>/", overview.lineage_detail, name="lineage"),
    path("royalties/", royalties.royalties, name="royalties"),
    path("lineages/<slug:name>/law/", laws.change_law, name="lineage-law"),
    path("lineages/<slug:name>/release/", overview.release, name="lineage-release"),
    path("lineages/<slug:name>/deploy/", deployments.deploy, name="lineage-deploy"),
    path("lineages/<slug:name>/repository/", repositories.bind_repository, name="lineage-repository"),
    path("lineages/<slug:name>/repository/connect/", repositories.connect_repository, name="lineage-connect"),
    path("lineages/<slug:name>/repository/<slug:action>/", repositories.act, name="lineage-repository-act"),
    path(
        "lineages/<slug:name>/base/<uuid:slow_base_id>/<slug:answer>/",
        overview.decide_base,
        name="lineage-decide-base",
    ),
    path(
        "lineages/<slug:name>/reversal/<uuid:reversal_id>/<slug:answer>/",
        reversals.decide_reversal,
        name="lineage-decide-reversal",
    ),
]
