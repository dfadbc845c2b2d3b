"""Interface of a constraint that rules tokens out, such as a JSON schema."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class ConstraintError(RuntimeError):
    """A constraint cannot go on: its text has become too complex for its parser, or it was given a ruled-out token."""


class Constraint(Protocol):
    """One answer's state. A step may raise ConstraintError; the answer cannot go on then."""

    @property
    def is_finished(self) -> bool:
        """Whether a token that ends the answer was accepted: no token may follow."""

    def allows(self, token: int) -> bool:
        """Whether this token may come next: what `mask` would say of it, for less work."""

    def mask(self) -> NDArray[np.bool_]:
        """Which tokens may come next, bool [V]. Tokens that end the answer are allowed once the text is complete."""

    def accept(self, token: int) -> None:
        """Goes on behind the token."""

    def allowed_prefix(self, tokens: Sequence[int]) -> int:
        """How many of these tokens could come next, one after the other; changes nothing."""

    def forced_tokens(self) -> list[int]:
        """Tokens that spell what is certain to come next; often none."""

    def fork(self) -> Constraint:
        """An equal state, to go on by itself."""
