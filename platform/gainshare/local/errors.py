"""Errors of local mode, with messages that say what to do."""


class LocalModeError(RuntimeError):
    """The local stack cannot be started, found or stopped. `code` is for programs, the message for people."""

    def __init__(self, message: str, *, code: str = "local_mode") -> None:
        super().__init__(message)
        self.code = code
