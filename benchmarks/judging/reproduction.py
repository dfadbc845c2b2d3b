"""The file of a reproduction, before anything tries it. Loads neither numpy nor the sandbox: web processes read it, too.

What a reproduction is and how it is tried is in `benchmarks.judging.bugs`.
"""

MAX_REPRODUCTION_BYTES = 16 * 1024


class NotAReproduction(ValueError):
    """A file that no trial could use; the message says what to do."""


def read_reproduction(data: bytes) -> str:
    """The text of a reproduction's file. Raises NotAReproduction; whether it loads shows in its first trial."""
    if not data.strip():
        raise NotAReproduction(
            "the reproduction is empty: it is a Python file with the functions observe and check"
        )
    if len(data) > MAX_REPRODUCTION_BYTES:
        raise NotAReproduction(
            f"the reproduction has {len(data)} bytes, allowed are {MAX_REPRODUCTION_BYTES}: leave out what the bug "
            "does not need"
        )
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise NotAReproduction("the reproduction is not text in UTF-8") from None
