"""Propose draft tokens by prompt lookup: what followed the same tokens earlier in prompt or answer.

Saxena 2023, github.com/apoorvumang/prompt-lookup-decoding. The index is that of LZ77 compressors, a chain of places per
n-gram: it grows by one entry per token, and a lookup visits a bounded number of places, so both cost the same in long
answers.
"""

from __future__ import annotations

from collections.abc import Sequence


class LookupProposer:
    """Proposer of one answer by prompt lookup: the tokens after the earlier place with the longest match.

    Matches are of `least_match` to `most_match` tokens. Among the latest `most_places` with the last `least_match`
    tokens the longest match wins, of equal ones the latest.
    """

    def __init__(self, least_match: int = 2, most_match: int = 16, most_places: int = 8) -> None:
        if not 1 <= least_match <= most_match or most_places < 1:
            raise ValueError(
                "prompt lookup needs 1 <= least_match <= most_match and most_places of at least 1"
            )
        self._least, self._most, self._most_places = least_match, most_match, most_places
        self._latest: dict[tuple[int, ...], int] = {}  # n-gram -> the latest index after it
        self._earlier: list[int] = []  # at an index: the previous index after the same n-gram; -1: none

    def propose(self, tokens: Sequence[int], n: int) -> list[int]:
        """Propose at most `n` draft tokens. Raises ValueError where the tokens are fewer than before."""
        self._index(tokens)
        place = self._best_place(tokens) if n > 0 else None
        if place is None:
            return []
        drafts: list[int] = []
        for i in range(
            place, place + n
        ):  # after the end the draft tokens themselves are read: a loop repeats
            drafts.append(tokens[i] if i < len(tokens) else drafts[i - len(tokens)])
        return drafts

    def _index(self, tokens: Sequence[int]) -> None:
        """Index all places but the end, which no token follows yet."""
        if len(tokens) < len(self._earlier):
            raise ValueError(
                "a proposer is for one answer, whose tokens only grow: make another one for another answer"
            )
        for place in range(len(self._earlier), len(tokens)):
            run = tuple(tokens[max(0, place - self._least) : place])
            self._earlier.append(self._latest.get(run, -1))
            self._latest[run] = place

    def _best_place(self, tokens: Sequence[int]) -> int | None:
        if len(tokens) < self._least:
            return None
        place = self._latest.get(tuple(tokens[len(tokens) - self._least :]), -1)
        best, best_length = None, 0
        for _ in range(self._most_places):
            if place < 0:
                break
            length = self._matching_past(tokens, place)
            if length > best_length:
                best, best_length = place, length
            place = self._earlier[place]
        return best

    def _matching_past(self, tokens: Sequence[int], place: int) -> int:
        """Number of tokens before `place` that equal those at the end, at most `most_match`."""
        end = len(tokens)
        length = self._least
        most = min(self._most, place)
        while length < most and tokens[place - length - 1] == tokens[end - length - 1]:
            length += 1
        return length
