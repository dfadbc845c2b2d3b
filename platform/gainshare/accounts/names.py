"""Rules for user names: allowed characters, and names that look alike. Pure functions.

New names are ASCII, so that letters of other scripts cannot imitate them. ASCII itself has look-alikes
(Unicode Technical Standard 39): 0 and O, 1 and l and I, rn and m, vv and w. Names from before this rule stay.
"""

import re
import unicodedata

from django.core.exceptions import ValidationError

MAX_NAME_CHARS = 150
MAX_KEY_CHARS = 450
USABLE = re.compile(r"[A-Za-z0-9@.+_-]+")
DORMANT_PREFIX = "github-"  # of users that are made for accounts of GitHub; see `github_accounts`
LOOKS_LIKE = str.maketrans({"0": "o", "1": "l", "i": "l"})


def refuse_new_name(name: str) -> None:
    """Raises ValidationError for a name that a new user may not have."""
    if not USABLE.fullmatch(name):
        raise ValidationError(
            {
                "username": "Enter a valid username: only the letters a to z and A to Z, digits, and @ . + - _ can be "
                "used, so that no name looks like another one."
            }
        )
    if look_alike_key(name).startswith(look_alike_key(DORMANT_PREFIX)):
        raise ValidationError(
            {
                "username": f"Names that begin with {DORMANT_PREFIX} are kept for people who have not signed in yet. "
                "Choose another one."
            }
        )
    if len(name) > MAX_NAME_CHARS:
        raise ValidationError(
            {"username": f"The name is too long: a user name may have at most {MAX_NAME_CHARS} characters."}
        )


def look_alike_key(name: str) -> str:
    """Key that is equal for names that look alike: `Admin`, `admin`, `adm1n`."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    return folded.translate(LOOKS_LIKE).replace("rn", "m").replace("vv", "w")[:MAX_KEY_CHARS]
