"""Which user names can be given, and when two of them look alike. Pure: knows no database.

New names are ASCII, so that no letter of another script can pass for one of them. What is left are the pairs that
ASCII itself has (Unicode Technical Standard 39 lists them): 0 and O, 1 and l and I, rn and m, vv and w. Names from before
this rule stay as they are.
"""

import re
import unicodedata

from django.core.exceptions import ValidationError

MAX_NAME_CHARS = 150
MAX_KEY_CHARS = 450
USABLE = re.compile(r"[A-Za-z0-9@.+_-]+")
LOOKS_LIKE = str.maketrans({"0": "o", "1": "l", "i": "l"})


def refuse_new_name(name: str) -> None:
    """Raises ValidationError where no one new may be called this."""
    if not USABLE.fullmatch(name):
        raise ValidationError(
            {
                "username": "Enter a valid username: only the letters a to z and A to Z, digits, and @ . + - _ can be "
                "used, so that no name looks like another one."
            }
        )
    if len(name) > MAX_NAME_CHARS:
        raise ValidationError({"username": f"A user name has at most {MAX_NAME_CHARS} characters."})


def look_alike_key(name: str) -> str:
    """The same text for names that people would take for each other: `Admin`, `admin`, `adm1n`."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    return folded.translate(LOOKS_LIKE).replace("rn", "m").replace("vv", "w")[:MAX_KEY_CHARS]
