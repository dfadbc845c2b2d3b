"""Fairness among tenants: the one that was served the fewest tokens is next, as in a virtual token counter.

Sheng et al. 2024, "Fairness in Serving Large Language Models" (arXiv:2401.00588). An owner that returns after a
pause has no saved credit: its count is raised to that of the least served active owner. Tokens of
prompts and answers count alike, those from the prefix cache and those computed again after a preemption not at all.
"""

from __future__ import annotations


class VirtualTokenCounter:
    """Counts the tokens served per owner, as long as they matter."""

    def __init__(self) -> None:
        self._served: dict[str, int] = {}
        self._active: dict[str, int] = {}  # owner -> its sequences in the scheduler

    def served(self, owner: str) -> int:
        return self._served.get(owner, 0)

    def entered(self, owner: str) -> None:
        """Count one more of this owner's sequences, waiting or running."""
        if owner not in self._active:
            least = min((self._served[other] for other in self._active), default=0)
            self._served[owner] = max(self.served(owner), least)
            self._active[owner] = 0
        self._active[owner] += 1

    def left(self, owner: str) -> None:
        self._active[owner] -= 1
        if self._active[owner] == 0:
            del self._active[owner]
            self._forget_settled()

    def charge(self, owner: str, n_tokens: int) -> None:
        self._served[owner] += n_tokens

    def _forget_settled(self) -> None:
        """Drop owners whose count would be raised anyway; without active owners, all of them."""
        if not self._active:
            self._served.clear()
            return
        least = min(self._served[owner] for owner in self._active)
        settled = [
            owner for owner, served in self._served.items() if served <= least and owner not in self._active
        ]
        for owner in settled:
            del self._served[owner]
