"""The runner's side of the platform's runner API: lease, blobs, heartbeat, commitment, log, evidence, failure.

Every call may be repeated without harm, so whatever looks like a platform that is away for a moment (no connection, no
answer in time, a 5xx) is tried again with growing pauses until the call's patience ends.
"""

import time
from dataclasses import dataclass
from typing import Any

import httpx

from benchmarks.patch.trees import Tree, TreeError, sha256_hex
from benchmarks.runner.fingerprint import fingerprint

FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 10.0


class PlatformError(RuntimeError):
    """The platform refused a call, or stayed away. `code` is the API's own, or `unreachable`."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


class NotLeasable(PlatformError):
    """The platform has no work for this runner now."""


class LeaseLost(PlatformError):
    """The run belongs to another runner by now: stop at once."""


@dataclass(frozen=True)
class LeasedRun:
    """One run that this runner holds, and the trees it is about."""

    run_id: str
    kind: str
    suite: str
    preset: str
    base_tree: str
    candidate_tree: str
    nonce: str
    attempt: int
    lease: str
    lease_s: float
    trees: dict[str, Tree]
    is_lent: bool = False  # the device is on loan: the platform may recall it, and gets it back after the run
    continues: tuple[dict[str, Any], ...] = ()  # signed records of earlier pairs of this candidate
    reproduction: str = (
        ""  # SHA-256 of a bug's reproduction, a blob like those of trees; empty for other kinds
    )
    old_tree: str = (
        ""  # in a confirmation: the tree that base's own award was priced against; empty where there is none
    )
    old_paid_log_ppm: int = 0
    earlier_confirmations: dict[str, Any] | None = None  # in a confirmation: of the person, against this base

    @classmethod
    def from_answer(cls, answer: dict[str, Any]) -> "LeasedRun":
        """Raises PlatformError when the trees are not what their hashes say."""
        run = answer["run"]
        old_tree = str(run.get("old_tree") or "")
        try:
            trees = {name: Tree.from_manifest(manifest) for name, manifest in answer["trees"].items()}
        except TreeError as error:
            raise PlatformError("bad_tree", error.message) from None
        for name in (run["base_tree"], run["candidate_tree"], *([old_tree] if old_tree else [])):
            if name not in trees or trees[name].hash != name:
                raise PlatformError("bad_tree", f"the manifest of tree {name} does not have that hash")
        return cls(
            run_id=str(run["id"]),
            kind=run["kind"],
            suite=run["suite"],
            preset=run["preset"],
            base_tree=run["base_tree"],
            candidate_tree=run["candidate_tree"],
            nonce=run["nonce"],
            attempt=int(run["attempt"]),
            lease=str(answer["lease"]),
            lease_s=float(answer["lease_s"]),
            trees=trees,
            is_lent=bool(answer.get("is_lent")),
            reproduction=str(run.get("reproduction") or ""),
            continues=tuple(answer.get("continues") or ()),
            old_tree=old_tree,
            old_paid_log_ppm=int(run.get("old_paid_log_ppm") or 0),
            earlier_confirmations=run.get("earlier_confirmations"),
        )


@dataclass(frozen=True)
class BeatAnswer:
    """What the platform answers to a heartbeat: stop at once, or give the device back within so many seconds."""

    cancel: bool
    give_back_s: float | None = None


class RunnerClient:
    """One connection pool with the runner's token. Safe to use from several threads."""

    def __init__(
        self, url: str, token: str, *, timeout_s: float = 10.0, transport: httpx.BaseTransport | None = None
    ) -> None:
        self._http = httpx.Client(
            base_url=f"{url}/api/v1/runner/",
            headers={"Authorization": f"Bearer {token}"},
            timeout=timeout_s,
            transport=transport,
            trust_env=False,  # the platform is named explicitly; no proxy gets the token
        )

    def close(self) -> None:
        self._http.close()

    def me(self) -> dict[str, Any]:
        return self._json("GET", "me/", patience_s=30)

    def lease(self, run_id: str) -> LeasedRun:
        """Take the run that is next for this runner; `run_id` names the wake-up. Raises NotLeasable."""
        body = {"run_id": run_id, "fingerprint": fingerprint()}
        return LeasedRun.from_answer(self._json("POST", "lease/", body, patience_s=60))

    def waiting(self) -> None:
        """Say that other work holds the device. One try: it is said again while that is so."""
        self._request("POST", "waiting/", {}, patience_s=0)

    def blob(self, sha256: str) -> bytes:
        """The bytes of that hash, verified."""
        data = self._request("GET", f"blobs/{sha256}/", None, patience_s=60).content
        if sha256_hex(data) != sha256:
            raise PlatformError("damaged_blob", f"blob {sha256} arrived with other content")
        return data

    def heartbeat(self, run: LeasedRun, *, stage: str, pairs_done: int, pairs_max: int) -> BeatAnswer:
        """Renew the lease; whether to stop. One try: the next beat is the repetition."""
        body = {"lease": run.lease, "stage": stage, "pairs_done": pairs_done, "pairs_max": pairs_max}
        answer = self._json("POST", f"runs/{run.run_id}/heartbeat/", body, patience_s=0)
        give_back_s = answer.get("give_back_s")
        return BeatAnswer(bool(answer["cancel"]), None if give_back_s is None else float(give_back_s))

    def give_back(self) -> None:
        """Say that this runner has stopped and does not need its device: the loan ends."""
        self._request("POST", "give-back/", {}, patience_s=20)

    def commitment(self, run: LeasedRun, commitment: str) -> None:
        body = {"lease": run.lease, "commitment": commitment}
        self._request("POST", f"runs/{run.run_id}/commitment/", body, patience_s=60)

    def pair(self, run: LeasedRun, sealed: dict[str, Any]) -> None:
        """Post the signed record of a complete pair."""
        self._request(
            "POST", f"runs/{run.run_id}/pairs/", {"lease": run.lease, "pair": sealed}, patience_s=60
        )

    def log(self, run: LeasedRun, offset: int, text: str, *, patience_s: float = 0) -> None:
        body = {"lease": run.lease, "offset": offset, "text": text}
        self._request("POST", f"runs/{run.run_id}/log/", body, patience_s=patience_s)

    def evidence(self, run: LeasedRun, evidence: dict[str, Any]) -> None:
        body = {"lease": run.lease, "evidence": evidence}
        self._request("POST", f"runs/{run.run_id}/evidence/", body, patience_s=300)

    def failed(self, run: LeasedRun, code: str, detail: str) -> None:
        body = {"lease": run.lease, "code": code, "detail": detail[:2000]}
        self._request("POST", f"runs/{run.run_id}/failed/", body, patience_s=60)

    def _json(
        self, method: str, path: str, body: dict[str, Any] | None = None, *, patience_s: float
    ) -> dict[str, Any]:
        answer = self._request(method, path, body, patience_s=patience_s)
        try:
            value = answer.json()
        except ValueError:
            raise PlatformError("bad_answer", f"{path} did not answer with JSON") from None
        if not isinstance(value, dict):
            raise PlatformError("bad_answer", f"{path} did not answer with an object")
        return value

    def _request(
        self, method: str, path: str, body: dict[str, Any] | None, *, patience_s: float
    ) -> httpx.Response:
        deadline = time.monotonic() + patience_s
        pause = FIRST_PAUSE_S
        while True:
            try:
                response = self._http.request(method, path, json=body)
                if response.status_code < 500 and response.status_code != 429:
                    break
                problem = f"{path} answered {response.status_code}"
            except httpx.TransportError as error:
                problem = f"{path}: {type(error).__name__}"
            if time.monotonic() + pause > deadline:
                raise PlatformError("unreachable", problem)
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_S)
        if response.is_success:
            return response
        raise _refusal(response, path)


def _refusal(response: httpx.Response, path: str) -> PlatformError:
    try:
        error = response.json()["error"]
        code, message = str(error["code"]), str(error["message"])
    except (ValueError, KeyError, TypeError):
        code, message = f"http_{response.status_code}", f"{path} answered {response.status_code}"
    kind = {"not_leasable": NotLeasable, "lease_lost": LeaseLost}.get(code, PlatformError)
    return kind(code, message)
