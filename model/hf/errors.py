"""Errors of conversion between Hugging Face's format and ours. Imports nothing."""


class UnsupportedModel(Exception):
    """A model that the other format cannot represent; the message names the field and says what to do."""


class UnsupportedByFamily(UnsupportedModel):
    """A model of ours that a family cannot represent, for `n_reasons` reasons.

    If `is_complete` is false there may be more reasons: fields that could not be written were not compared.
    """

    def __init__(self, message: str, n_reasons: int, *, is_complete: bool) -> None:
        super().__init__(message)
        self.n_reasons = n_reasons
        self.is_complete = is_complete
