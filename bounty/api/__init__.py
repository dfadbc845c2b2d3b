"""The bounty app's REST API under /api/v1/. Views parse, call one service, render."""

from django.urls import path

from bounty.api.awards import AwardList
from bounty.api.bounties import BountyClose, BountyDetail, BountyFund, BountyLeaderboard, BountyList
from bounty.api.deployments import LineageAutomaticDeploy, LineageDeploy
from bounty.api.disputes import DisputeAnswer, DisputeDetail, DisputeList, SubmissionDispute
from bounty.api.github import GitHubCheck, GitHubManifest, GitHubStatus
from bounty.api.repositories import LineageRepository, LineageRepositoryConnect, LineageRepositoryFetch
from bounty.api.reproductions import (
    ReproductionDecline,
    ReproductionDetail,
    ReproductionList,
    ReproductionText,
)
from bounty.api.reversals import ReversalAnswer, ReversalList
from bounty.api.runner_actions import (
    RunnerCalibrate,
    RunnerDevice,
    RunnerDrain,
    RunnerQuarantine,
    RunnerRelease,
    RunnerResume,
    RunnerStateView,
)
from bounty.api.runners import RunnerDetail, RunnerDoubts, RunnerFalseAwards, RunnerList, RunnerNoise
from bounty.api.runs import RunCancel, RunDetail, RunEvidence, RunList, RunLog, RunRerun
from bounty.api.sharing import LineageLaw, RoyaltyList
from bounty.api.slow_bases import SlowBaseAnswer, SlowBaseList
from bounty.api.submission_actions import (
    SubmissionMerge,
    SubmissionRejudge,
    SubmissionRemeasure,
    SubmissionReverse,
    SubmissionReview,
    SubmissionWithdraw,
)
from bounty.api.submissions import (
    SubmissionDetail,
    SubmissionDiff,
    SubmissionEvidence,
    SubmissionList,
    SubmissionLog,
)
from bounty.api.switches import SwitchLift, SwitchList, SwitchStop
from bounty.api.trees import (
    LineageDetail,
    LineageList,
    LineageRelease,
    LineageRenew,
    LineageStop,
    TreeArchive,
    TreeDetail,
    TreeList,
)
from bounty.github.events.door import Webhook

urlpatterns = [
    path("trees/", TreeList.as_view()),
    path("trees/<str:hash>/", TreeDetail.as_view()),
    path("trees/<str:hash>/archive/", TreeArchive.as_view()),
    path("royalties/", RoyaltyList.as_view()),
    path("lineages/", LineageList.as_view()),
    path("lineages/renew/", LineageRenew.as_view()),
    path("lineages/<slug:name>/", LineageDetail.as_view()),
    path("lineages/<slug:name>/deploy/", LineageDeploy.as_view()),
    path("lineages/<slug:name>/automatic-deploy/", LineageAutomaticDeploy.as_view()),
    path("lineages/<slug:name>/law/", LineageLaw.as_view()),
    path("lineages/<slug:name>/release/", LineageRelease.as_view()),
    path("lineages/<slug:name>/repository/", LineageRepository.as_view()),
    path("lineages/<slug:name>/repository/connect/", LineageRepositoryConnect.as_view()),
    path("lineages/<slug:name>/repository/fetch/", LineageRepositoryFetch.as_view()),
    path("lineages/<slug:name>/stop/", LineageStop.as_view()),
    path("github/", GitHubStatus.as_view()),
    path("github/check/", GitHubCheck.as_view()),
    path("github/manifest/", GitHubManifest.as_view()),
    path("bounties/", BountyList.as_view()),
    path("bounties/<str:pk>/", BountyDetail.as_view()),
    path("bounties/<str:pk>/close/", BountyClose.as_view()),
    path("bounties/<str:pk>/fund/", BountyFund.as_view()),
    path("bounties/<str:pk>/leaderboard/", BountyLeaderboard.as_view()),
    path("reproductions/", ReproductionList.as_view()),
    path("reproductions/<uuid:pk>/", ReproductionDetail.as_view()),
    path("reproductions/<uuid:pk>/text/", ReproductionText.as_view()),
    path("reproductions/<uuid:pk>/decline/", ReproductionDecline.as_view()),
    path("submissions/", SubmissionList.as_view()),
    path("submissions/<uuid:pk>/", SubmissionDetail.as_view()),
    path("submissions/<uuid:pk>/diff/", SubmissionDiff.as_view()),
    path("submissions/<uuid:pk>/log/", SubmissionLog.as_view()),
    path("submissions/<uuid:pk>/evidence/", SubmissionEvidence.as_view()),
    path("submissions/<uuid:pk>/withdraw/", SubmissionWithdraw.as_view()),
    path("submissions/<uuid:pk>/review/", SubmissionReview.as_view()),
    path("submissions/<uuid:pk>/merge/", SubmissionMerge.as_view()),
    path("submissions/<uuid:pk>/remeasure/", SubmissionRemeasure.as_view()),
    path("submissions/<uuid:pk>/rejudge/", SubmissionRejudge.as_view()),
    path("submissions/<uuid:pk>/reverse/", SubmissionReverse.as_view()),
    path("submissions/<uuid:pk>/dispute/", SubmissionDispute.as_view()),
    path("disputes/", DisputeList.as_view()),
    path("disputes/<uuid:pk>/", DisputeDetail.as_view()),
    path("disputes/<uuid:pk>/answer/", DisputeAnswer.as_view()),
    path("runs/", RunList.as_view()),
    path("runs/<uuid:pk>/", RunDetail.as_view()),
    path("runs/<uuid:pk>/log/", RunLog.as_view()),
    path("runs/<uuid:pk>/evidence/", RunEvidence.as_view()),
    path("runs/<uuid:pk>/cancel/", RunCancel.as_view()),
    path("runs/<uuid:pk>/rerun/", RunRerun.as_view()),
    path("awards/", AwardList.as_view()),
    path("github/webhook/", Webhook.as_view()),
    path("reversals/", ReversalList.as_view()),
    path("reversals/<uuid:pk>/answer/", ReversalAnswer.as_view()),
    path("slow-bases/", SlowBaseList.as_view()),
    path("slow-bases/<uuid:pk>/answer/", SlowBaseAnswer.as_view()),
    path("runners/", RunnerList.as_view()),
    path("false-awards/", RunnerFalseAwards.as_view()),
    path("runners/<slug:name>/", RunnerDetail.as_view()),
    path("runners/<slug:name>/noise/", RunnerNoise.as_view()),
    path("runners/<slug:name>/doubts/", RunnerDoubts.as_view()),
    path("runners/<slug:name>/state/", RunnerStateView.as_view()),
    path("runners/<slug:name>/drain/", RunnerDrain.as_view()),
    path("runners/<slug:name>/resume/", RunnerResume.as_view()),
    path("runners/<slug:name>/quarantine/", RunnerQuarantine.as_view()),
    path("runners/<slug:name>/release/", RunnerRelease.as_view()),
    path("runners/<slug:name>/calibrate/", RunnerCalibrate.as_view()),
    path("runners/<slug:name>/device/", RunnerDevice.as_view()),
    path("switches/", SwitchList.as_view()),
    path("switches/<slug:name>/stop/", SwitchStop.as_view()),
    path("switches/<slug:name>/lift/", SwitchLift.as_view()),
]
