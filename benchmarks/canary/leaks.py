"""Looks for planted words of one account where another could meet them: answers, prints, files, the next process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.canary.answers import Answer
from benchmarks.canary.node import CanaryNode, NodeFailed
from benchmarks.canary.planted import Secret, secret_of
from benchmarks.canary.work import Call
from benchmarks.canary.written import State, TooMuch, scratch_folders, search, states_of
from model.serving.api.tokenizer import Tokenizer

LEAK = "leak"


class Leaks:
    """All words planted so far. What it raises is NodeFailed of kind "leak", or "too_large" for what cannot be searched."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._secrets: dict[str, Secret] = {}
        self._states: dict[str, dict[Path, State]] = {}

    @property
    def planted(self) -> int:
        return len(self._secrets)

    def remember_files(self, node: CanaryNode) -> None:
        """What its files are before words are planted in this process; call it while it is frozen."""
        try:
            self._states[node.side] = states_of(self._folders(node))
        except TooMuch as error:
            raise NodeFailed("too_large", node.side, "files", str(error)) from None

    def plant(self, call: Call) -> None:
        for word in call.secrets:
            self._secrets.setdefault(word, secret_of(word, self._tokenizer))

    def check_answers(self, side: str, call: Call, answers: Sequence[Answer]) -> None:
        """No answer holds a word of another account, and none used another's part of the prefix cache."""
        others = [secret for word, secret in self._secrets.items() if word not in call.secrets]
        for answer in answers:
            if answer.cached_tokens:
                detail = f"it counts {answer.cached_tokens} tokens as cached for an account that had sent nothing before"
                raise NodeFailed(LEAK, side, call.case, detail)
            if any(secret.found_in(answer.text.encode()) for secret in others):
                detail = "an answer holds a word that only another account's prompt had"
                raise NodeFailed(LEAK, side, call.case, detail)

    def check_files(self, node: CanaryNode) -> None:
        """Call it while the node is frozen, with its sandbox alive."""
        secrets = list(self._secrets.values())
        try:
            found = search(self._folders(node), secrets, self._states.get(node.side, {}))
        except TooMuch as error:
            raise NodeFailed("too_large", node.side, "files", str(error)) from None
        if found is not None:
            detail = f"it wrote a word of an account's prompt into a file ({found[:100]})"
            raise NodeFailed(LEAK, node.side, "files", detail)

    def check_log(self, node: CanaryNode) -> None:
        """Call it when the node has ended."""
        node.check_log()
        if any(secret.found_in(bytes(node.printed)) for secret in self._secrets.values()):
            raise NodeFailed(LEAK, node.side, "log", "it printed a word of an account's prompt")

    def _folders(self, node: CanaryNode) -> list[Path]:
        return [node.folders.state, node.folders.run, *scratch_folders(node.pids())]
