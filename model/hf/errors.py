"""Errors of conversion between Hugging Face's format and ours. Imports nothing."""


class UnsupportedModel(Exception):
    """A model that the other side cannot represent; the message names the field and says what to do."""


class NoPlace(UnsupportedModel):
    """A family has no place for a model of ours, for `n_reasons` reasons.

    Where `is_complete` is false there may be more of them: what could not be written could not be compared.
    """

    def __init__(self, message: str, n_reasons: int, *, is_complete: bool) -> None:
        super().__init__(message)
        self.n_reasons = n_reasons
        self.is_complete = is_complete
