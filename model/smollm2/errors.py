"""Errors of the download and conversion of SmolLM2. Imports nothing heavy."""


class DownloadError(Exception):
    """A failed download; the message says why and what to do."""


class ConversionError(Exception):
    """A file that is not the expected model; the message says what to do."""
