"""Orders as JSON: what people do at GitHub, for somebody who runs the stand-in by hand or from another process."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from bounty.github.standin.control.standin import StandIn
from bounty.github.standin.git import GitError
from bounty.github.standin.merging import Conflict
from bounty.github.standin.records import Account, PullRequest, Repository

Order = dict[str, Any]


class BadOrder(ValueError):
    """An order that cannot be obeyed. The message says why."""


class Orders:
    """Obeys orders on the stand-in's repositories; the first one if none is named."""

    def __init__(self, standin: StandIn) -> None:
        self._standin = standin
        self._known: dict[str, Callable[[Order], dict[str, Any]]] = {
            "open": self._open,
            "push": self._push,
            "comment": self._comment,
            "review": self._review,
            "merge": self._merge,
            "close": self._close,
            "revert": self._revert,
            "role": self._role,
            "sign_in": self._sign_in,
            "show": self._show,
        }

    def answer(self, line: str) -> dict[str, Any]:
        """Obey one order; what came of it, or an error."""
        try:
            order = json.loads(line)
            if not isinstance(order, dict) or order.get("do") not in self._known:
                raise BadOrder(f"do one of: {', '.join(self._known)}")
            return self._known[order["do"]](order)
        except KeyError as error:
            return {"error": f"the order lacks {error}"}
        except (ValueError, GitError, Conflict) as error:
            return {"error": str(error)}

    def _open(self, order: Order) -> dict[str, Any]:
        pull = self._standin.open_pull_request(
            self._repository(order), self._account(order["by"]), order["files"], title=order.get("title", "Change"),
            body=order.get("body", ""), message=order.get("message", "Change"), is_draft=bool(order.get("draft")),
        )  # fmt: skip
        return {"pull": pull.number, "head": pull.head_sha}

    def _push(self, order: Order) -> dict[str, Any]:
        message = order.get("message", "Change")
        if "pull" not in order:
            return {"head": self._standin.push(self._repository(order), order["files"], message=message)}
        return {"head": self._standin.push_to(self._pull(order), order["files"], message=message)}

    def _comment(self, order: Order) -> dict[str, Any]:
        made = self._standin.comment(self._pull(order), self._account(order["by"]), order["body"])
        return {"comment": made.github_id}

    def _review(self, order: Order) -> dict[str, Any]:
        made = self._standin.review(
            self._pull(order),
            self._account(order["by"]),
            order.get("verdict", "approve"),
            body=order.get("body", ""),
        )
        return {"review": made.github_id}

    def _merge(self, order: Order) -> dict[str, Any]:
        return {
            "tip": self._standin.merge(
                self._pull(order), self._account(order["by"]), order.get("method", "merge")
            )
        }

    def _close(self, order: Order) -> dict[str, Any]:
        self._standin.close_pull_request(self._pull(order), by=self._account(order["by"]))
        return {}

    def _revert(self, order: Order) -> dict[str, Any]:
        repository = self._repository(order)
        return {"tip": self._standin.revert(repository, order["commit"], self._account(order["by"]))}

    def _role(self, order: Order) -> dict[str, Any]:
        self._standin.set_role(self._repository(order), order["who"], order["role"])
        return {}

    def _sign_in(self, order: Order) -> dict[str, Any]:
        self._standin.sign_in(self._account(order["who"]) if order.get("who") else None)
        return {}

    def _show(self, order: Order) -> dict[str, Any]:
        pull = self._pull(order)
        return {
            "state": pull.state,
            "merged": pull.is_merged,
            "head": pull.head_sha,
            "comments": [{"by": row.author.login, "body": row.body} for row in pull.comments],
            "checks": [
                {
                    "name": run.name,
                    "status": run.status,
                    "conclusion": run.conclusion,
                    "title": run.output.get("title"),
                }
                for run in self._standin.checks_of(pull)
            ],
        }

    def _repository(self, order: Order) -> Repository:
        state = self._standin.hub.state
        with state.lock:
            named = order.get("repository")
            found = state.repository(named) if named else next(iter(state.repositories.values()), None)
        if found is None:
            raise BadOrder("there is no such repository")
        return found

    def _pull(self, order: Order) -> PullRequest:
        found = self._repository(order).pulls.get(order["pull"])
        if found is None:
            raise BadOrder("there is no such pull request")
        return found

    def _account(self, login: str) -> Account:
        with self._standin.hub.state.lock:
            return self._standin.hub.state.account(login) or self._standin.add_user(login)
