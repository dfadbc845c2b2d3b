"""What can go wrong between Hugging Face's format and ours. Imports nothing."""


class UnsupportedModel(Exception):
    """A model that the other side cannot represent; the message names the field and says what to do."""
