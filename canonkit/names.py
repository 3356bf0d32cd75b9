"""What to say to a name that nothing has."""

from collections.abc import Iterable
from difflib import get_close_matches


def choose(name: str, known: Iterable[str]) -> str:
    """The end of an error message: the known name that is most like `name`, if one is, and all of them."""
    known = list(known)
    if not known:
        return "there are none yet"
    lower = {k.lower(): k for k in known}
    close = get_close_matches(name.lower(), lower, 1)
    listed = f"choose from {', '.join(known)}"
    return f"did you mean {lower[close[0]]!r}? ({listed})" if close else listed
