"""Errors of the download and conversion of SmolLM2. Imports nothing heavy."""


class DownloadError(Exception):
    """The file could not be had; the message says why and what to do."""


class ConversionError(Exception):
    """The file is not the model that we know how to read; the message says what to do."""
