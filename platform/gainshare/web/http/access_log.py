"""Keeps what GitHub answers out of the web server's log of requests: the query of the callback has a code."""

import logging

CALLBACK = "/github/callback/"
SERVER_LOG = "uvicorn.access"


class NoCallbackQuery(logging.Filter):
    """Drops the query of the callback's address from uvicorn's arguments: client, method, path with query, and so on."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):
            record.args = tuple(_without_query(argument) for argument in record.args)
        return True


def _without_query(argument: object) -> object:
    is_callback = isinstance(argument, str) and argument.startswith(f"{CALLBACK}?")
    return CALLBACK if is_callback else argument


def protect_server_log() -> None:
    """Put the filter on uvicorn's log, which is set up before the site is loaded."""
    logger = logging.getLogger(SERVER_LOG)
    if not any(isinstance(known, NoCallbackQuery) for known in logger.filters):
        logger.addFilter(NoCallbackQuery())
