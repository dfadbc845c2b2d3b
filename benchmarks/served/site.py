"""What the measurement asks of a site: trees, lineages, deployments. Raises MeasuringFailed for every refusal."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import httpx

from benchmarks.report import MeasuringFailed, say

LOOK_S = 0.5
TIMEOUT_S = 60.0
LIMIT_S = 1800.0
UNDER_WAY = ("requested", "canary", "starting")


@dataclass(frozen=True)
class Deployed:
    """One deployment that has ended: seconds from the request until it served, and of its canary alone."""

    state: str
    why: str
    served_s: float | None
    canary_s: float | None
    result: Mapping[str, Any]


class MeasuredSite:
    """The REST API of a site, as its administrator."""

    def __init__(self, url: str, key: str) -> None:
        self.url, self.key = url, key
        auth = {"Authorization": f"Bearer {key}"}
        self._http = httpx.Client(base_url=f"{url}/api/v1/", headers=auth, timeout=TIMEOUT_S)

    def __enter__(self) -> MeasuredSite:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def lineage(self, name: str, diff: str) -> str:
        """Start a lineage at the shipped tree with `diff` applied; the tree's hash."""
        made = self._asked("POST", "trees/", {"base": "shipped", "diff": diff})
        self._asked("POST", "lineages/", {"name": name, "base_tree": made["hash"], "is_demo": True})
        return str(made["hash"])

    def want(self, model: str, nodes: int) -> None:
        """Have this number of nodes of the model."""
        self._asked("PATCH", f"capacity/models/{model}/", {"fixed_nodes": nodes})

    def deploy(self, lineage: str, model: str) -> Deployed:
        """Deploy a lineage's tip, and wait until it serves or has ended."""
        made = self._asked("POST", f"lineages/{lineage}/deploy/", {"model": model})
        deadline = time.monotonic() + LIMIT_S
        said = ""
        while time.monotonic() < deadline:
            seen = self._asked("GET", f"capacity/deployments/{made['id']}/")
            if (line := f"{lineage}: {seen['state']} {seen['progress']}".strip()) != said:
                say(line)
                said = line
            if seen["state"] not in UNDER_WAY:
                return _deployed(seen)
            time.sleep(LOOK_S)
        raise MeasuringFailed(f"the deployment of {lineage} has not ended after {LIMIT_S:.0f} s: {said}")

    def is_answering(self, model: str) -> bool:
        """Whether a node of the model is ready."""
        classes = self._asked("GET", "capacity/pool/")["classes"]
        nodes = (node for row in classes for node in row["nodes"])
        return any(node["model"] == model and node["state"] == "ready" for node in nodes)

    def wait_for_node(self, model: str) -> None:
        """Return once a node of the model is ready."""
        deadline = time.monotonic() + LIMIT_S
        while not self.is_answering(model):
            if time.monotonic() > deadline:
                raise MeasuringFailed(f"no node of {model} was ready after {LIMIT_S:.0f} s")
            time.sleep(LOOK_S)

    def _asked(self, method: str, path: str, body: Any = None) -> Any:
        try:
            answer = self._http.request(method, path, json=body)
            answer.raise_for_status()
        except httpx.HTTPStatusError as error:
            raise MeasuringFailed(
                f"{method} {path} was refused: {error.response.status_code} {error.response.text[:300]}"
            ) from None
        except httpx.HTTPError as error:
            raise MeasuringFailed(f"{method} {path} failed: {error}") from None
        return answer.json()


def _deployed(seen: Mapping[str, Any]) -> Deployed:
    asked, canary, judged, serving = (
        None if seen[name] is None else datetime.fromisoformat(seen[name])
        for name in ("created_at", "canary_at", "judged_at", "serving_at")
    )
    return Deployed(
        state=seen["state"],
        why=seen["why"],
        served_s=None if serving is None or asked is None else (serving - asked).total_seconds(),
        canary_s=None if canary is None or judged is None else (judged - canary).total_seconds(),
        result=seen["result"],
    )
