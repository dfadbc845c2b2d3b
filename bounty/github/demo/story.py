"""The story of a pull request, in order: connect, open, judge, accept, merge, vest, sign in, spend.

Grace has never opened the site. She opens a pull request on GitHub that names a bounty, and finds her credits when she
signs in with GitHub for the first time.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from benchmarks.patch.blobs import BlobStore
from benchmarks.patch.trees import Tree, shipped_tree
from bounty.github.demo.trees import changes, files_of, patched
from bounty.github.demo.visitors import Visitor
from bounty.github.standin.actions.merges import signature
from bounty.github.standin.control.standin import StandIn
from bounty.github.standin.records import Account, CheckRun, PullRequest, Repository
from gainshare.cli.client import Site
from gainshare.cli.demo.bounties import ESCROW_MICROCREDITS, EXPERTS, TREASURY_MICROCREDITS
from gainshare.cli.demo.people import MAINTAINER_SCOPES, Person, log_in, register
from gainshare.cli.demo.record import Record
from gainshare.cli.demo.spending import spend_on_chat
from gainshare.cli.demo.watching import Progress
from gainshare.cli.output import CliError, credits_text

T = TypeVar("T")
REPOSITORY = "octo-lab/stack"
LINEAGE = "pull-requests"
TITLE = "Compute only what the router chose"
HONEST = "patches/honest_speedup.diff"
POLL_S = 0.5
ANSWER_S = 120.0  # for an answer to an event
VERDICT_S = 3000.0  # a gain with its guard rails, on a slow machine


@dataclass
class Story:
    """Context of the story: the site, the stand-in, and the record."""

    url: str
    admin: Site
    standin: StandIn
    examples: Path
    model: str
    store: BlobStore
    record: Record
    progress: Progress
    preset: str = "tour"
    people: dict[str, Person] = field(default_factory=dict)
    accounts: dict[str, Account] = field(default_factory=dict)
    bounty: str = ""  # its number, such as B1
    repository: Repository = field(init=False)
    base: Tree = field(init=False)

    def play(self) -> None:
        """All of it, from nothing to the spent credit. Raises CliError where a later step needs what failed."""
        self.invite()
        self.connect()
        self.open_bounty()
        pull = self.open_pull_request("grace", HONEST)
        self.ask_to_judge(pull)
        self.judged(pull, conclusion="success")
        self.accept_and_merge(pull)
        self.claim_and_spend()
        self.audit()

    # -- what maintainers do ------------------------------------------------------------------------

    def invite(self) -> None:
        """Two maintainers sign up and link their GitHub accounts, each in a browser of their own."""
        with self.record.step("people", "two maintainers sign up, and link GitHub through GitHub") as step:
            for name in ("mira", "ruth"):
                password = register(self.url, name)
                self.admin.post(f"users/{name}/role/", {"role": "maintainer"})
                self.people[name] = log_in(self.url, name, password, MAINTAINER_SCOPES)
                self.accounts[name] = self.standin.add_user(f"{name}-at-github")
                with Visitor(self.url, self.standin) as visitor:
                    visitor.log_in(name, password)
                    visitor.link_github(self.accounts[name])
            step.ok, step.actual = True, f"{len(self.people)} linked"

    def connect(self) -> None:
        """A repository that has the base tree is opened to the App, and a lineage is bound to it."""
        mira = self.people["mira"]
        with self.record.step(
            "repository", "a lineage is bound to a repository that the App may read"
        ) as step:
            text = (self.examples / EXPERTS.base).read_text()
            self.base = patched(shipped_tree(self.store), text, self.store)
            roles = {self.accounts["mira"].login: "admin", self.accounts["ruth"].login: "write"}
            self.repository = self.standin.add_repository(
                REPOSITORY, files_of(self.base, self.store), roles=roles
            )
            self.standin.install([self.repository])
            tree = mira.post("trees/", {"base": "shipped", "diff": text})["hash"]
            mira.post("lineages/", {"name": LINEAGE, "is_demo": True, "base_tree": tree})
            mira.post("github/check/")
            self._wait("the App's view of the repository", lambda: self._seen_by_app() or None)
            terms = {"github_id": self.repository.github_id, "branch": "main", "folder": "model"}
            mira.post(f"lineages/{LINEAGE}/repository/connect/", terms)
            self._wait(
                "the branch is followed",
                lambda: mira.get(f"lineages/{LINEAGE}/repository/")["tree"] == tree or None,
            )
            step.ok, step.actual = True, f"{REPOSITORY}, branch main, tree {tree[:12]}"

    def open_bounty(self) -> None:
        """The treasury is funded and a bounty opened."""
        mira = self.people["mira"]
        with self.record.step("bounty", "a maintainer opens a bounty with escrow") as step:
            amount = {
                "transfer_id": str(uuid.uuid4()),
                "amount_microcredits": TREASURY_MICROCREDITS,
                "memo": "demo",
            }
            mira.post("treasury/fund/", amount)
            made = mira.post("bounties/", {**EXPERTS.terms(), "preset": self.preset, "lineage": LINEAGE})
            self.bounty = str(made["number"])
            step.ok = True
            step.actual = f"{self.bounty}, {credits_text(ESCROW_MICROCREDITS)} credits in escrow"

    def ask_to_judge(self, pull: PullRequest) -> None:
        """Grace is new here, so somebody with write permission has her pull request judged."""
        with self.record.step(
            "judge", "a newcomer's pull request is judged after a maintainer's /judge"
        ) as step:
            self.said(pull, "/judge")
            asked = self.standin.comment(pull, self.accounts["mira"], f"/judge {self.bounty}")
            self._wait("a reaction", lambda: self._reaction(pull, asked.github_id))
            step.ok, step.actual = True, "/judge is acknowledged"

    def accept_and_merge(self, pull: PullRequest) -> None:
        """The author cannot accept; another maintainer does, and the merge on GitHub is the merge here."""
        with self.record.step("no self-review", "the author's own /accept is refused") as step:
            asked = self.standin.comment(pull, self.accounts["grace"], "/accept")
            reaction = self._wait("a reaction", lambda: self._reaction(pull, asked.github_id))
            step.ok, step.actual = reaction != "+1", f"answered with {reaction}"
        with self.record.step("accept", "another maintainer's /accept is taken") as step:
            asked = self.standin.comment(pull, self.accounts["ruth"], "/accept")
            reaction = self._wait("a reaction", lambda: self._reaction(pull, asked.github_id))
            step.ok, step.actual = reaction == "+1", f"answered with {reaction}"
        with self.record.step(
            "merge", "a squash on GitHub vests the award, because its tree is the measured one"
        ) as step:
            before = self._tip()
            commit = self.standin.merge(pull, self.accounts["mira"], "squash")
            self.said(pull, "vested", within_s=VERDICT_S)
            tip = self._tip()
            checks, comments = self.standin.checks_of(pull), self.standin.app_comments(pull)
            step.ok = tip != before and len(comments) == 1 and checks[0].conclusion == "success"
            step.actual = f"{commit[:12]} on main, lineage tip {tip[:12]}; {len(comments)} comment, {len(checks)} check run(s)"

    # -- what grace does ----------------------------------------------------------------------------

    def open_pull_request(self, name: str, diff: str) -> PullRequest:
        """Somebody whom the site has never seen opens a pull request from a fork."""
        with self.record.step(f"{name}'s pull request", "the platform answers in one comment") as step:
            self.accounts[name] = self.standin.add_user(f"{name}-at-github")
            after = patched(self.base, (self.examples / diff).read_text(), self.store)
            pull = self.standin.open_pull_request(
                self.repository,
                self.accounts[name],
                changes(files_of(self.base, self.store), files_of(after, self.store)),
                title=TITLE,
                body=f"Every expert ran on every token.\n\nGainshare-Bounty: {self.bounty}\n",
                message=f"{TITLE}\n\nSigned-off-by: {signature(self.accounts[name])}\n",
            )
            self._wait("a comment", lambda: self.standin.app_comments(pull) or None)
            step.ok, step.actual = True, f"#{pull.number} from a fork is answered"
        return pull

    def claim_and_spend(self) -> None:
        """Grace signs in with GitHub once, finds the credits, and spends some."""
        with self.record.step("sign in", "grace signs in with GitHub once and finds the award") as step:
            with Visitor(self.url, self.standin) as visitor:
                visitor.sign_in_with_github(self.accounts["grace"], as_name="grace")
                grace = Person(self.url, visitor.make_key("demo"), "grace")
            available = grace.get("credits/")["balance"]["available"]
            step.ok, step.actual = available > 0, f"{credits_text(available)} credits available"
        with self.record.step("chat", "a streamed answer is paid from them") as step:
            chat = spend_on_chat(self.url, grace, self.model, self.record.console)
            self.record.chat = chat
            spent = available - grace.get("credits/")["balance"]["available"]
            step.ok = spent == chat["bill"]["charged_microcredits"] > 0
            step.actual = f"{chat['answer']!r} for {credits_text(spent)} credits"

    # -- what is looked at --------------------------------------------------------------------------

    def judged(self, pull: PullRequest, *, conclusion: str) -> CheckRun:
        """The head's check run runs to its end."""
        with self.record.step("check run", f"the check run of the head ends with {conclusion}") as step:
            check = self._wait("a verdict", lambda: self._completed(pull), within_s=VERDICT_S)
            self.progress.stop()
            step.ok = check.conclusion == conclusion
            step.actual = f"{check.conclusion}: {check.output.get('title', '')}"
        return check

    def audit(self) -> None:
        """The ledger holds after all of it."""
        with self.record.step("audit", "every ledger invariant holds") as step:
            self.record.audit = self.people["mira"].get("audit/")["invariants"]
            broken = [row["name"] for row in self.record.audit if not row["holds"]]
            step.ok = bool(self.record.audit) and not broken
            step.actual = f"{len(self.record.audit)} invariants, broken: {', '.join(broken) or 'none'}"

    def _completed(self, pull: PullRequest) -> CheckRun | None:
        for check in self.standin.checks_of(pull):
            self.progress.show(
                f"#{pull.number}: {check.status.replace('_', ' ')}: {check.output.get('title', '')}"
            )
            if check.status == "completed":
                return check
        return None

    def _reaction(self, pull: PullRequest, comment_id: int) -> str | None:
        """The App's reaction to a comment, other than that it has seen it."""
        found = next(row for row in pull.comments if row.github_id == comment_id)
        reactions = [name for (who, name) in found.reactions if who == self.standin.app.bot.github_id]
        return next((name for name in reactions if name != "eyes"), None)

    def said(self, pull: PullRequest, words: str, *, within_s: float = ANSWER_S) -> str:
        """The App's comment, once it has these words."""

        def found() -> str | None:
            texts = [comment.body for comment in self.standin.app_comments(pull)]
            return next((text for text in texts if words in text), None)

        return self._wait(f"{words!r} in the comment", found, within_s=within_s)

    def _tip(self) -> str:
        return str(self.people["mira"].get(f"lineages/{LINEAGE}/")["tip"])

    def _seen_by_app(self) -> bool:
        """Whether the site has read that the App may see the repository: its installation alone is written down earlier."""
        installations = self.people["mira"].get("github/")["installations"]
        return any(
            seen["github_id"] == self.repository.github_id
            for installation in installations
            for seen in installation["repositories"]
        )

    def _wait(self, what: str, look: Callable[[], T | None], *, within_s: float = ANSWER_S) -> T:
        """What `look` finds. Raises CliError if it finds nothing in time."""
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            found = look()
            if found is not None:
                return found
            time.sleep(POLL_S)
        raise CliError(f"{what} did not come within {within_s:.0f} s; see `gainshare status`")
