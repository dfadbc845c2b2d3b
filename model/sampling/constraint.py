"""Interface of a constraint that rules tokens out, such as a JSON schema."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class ConstraintError(RuntimeError):
    """A constraint that cannot continue: its text is too complex for its parser, or it was given a ruled-out token."""


class Constraint(Protocol):
    """Interface of one answer's constraint. A method may raise ConstraintError; the answer cannot continue then."""

    @property
    def is_finished(self) -> bool:
        """Whether a token that ends the answer was accepted: no token may follow."""

    def allows(self, token: int) -> bool:
        """Whether this token may come next: its entry of `mask`, for less work."""

    def mask(self) -> NDArray[np.bool_]:
        """Mask of the tokens that may come next, bool [V]. Tokens that end the answer are allowed once the text is complete."""

    def accept(self, token: int) -> None:
        """Advance by a token."""

    def allowed_prefix(self, tokens: Sequence[int]) -> int:
        """Number of these tokens that could come next, one after the other; changes nothing."""

    def forced_tokens(self) -> list[int]:
        """Tokens that must come next; often none."""

    def fork(self) -> Constraint:
        """An independent copy of the state."""
