"""Exercises that say whether an answer is right.

A cell asks for an answer, `answer = ...`; the next one calls `check`, whose verdict shows as right, not yet or open.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from canonkit.tables import element

COLOURS = {"right": "#1b7f3b", "not yet": "#c0392b", "open": "#666666"}
OPEN = "write your answer above (instead of ...), then run this cell again"


@dataclass(frozen=True, repr=False)
class Verdict:
    """What `check` says: `state` is "right", "not yet" or "open" (no answer so far), `text` says why."""

    state: str
    text: str

    def __repr__(self) -> str:
        return self.text if self.state == "open" else f"{self.state}: {self.text}"

    def _repr_html_(self) -> str:
        colour = COLOURS[self.state]
        return element("div", repr(self), f"border-left:4px solid {colour};padding:0.2em 0.7em")


def check(answer: object, right: Callable[[object], bool | str], because: str, hint: str) -> Verdict:
    """Judges an answer.

    Args:
        answer: `...`, or a tuple or list that still holds one, counts as none.
        right: gets the answer and returns True, False, or a text that says what is wrong. An exception means "not yet".
        because: why the right answer is right; shown after it was given.
        hint: a hint for the next try.
    """
    if any(part is ... for part in (answer if isinstance(answer, tuple | list) else (answer,))):
        return Verdict("open", OPEN)
    try:
        found = right(answer)
        if not isinstance(found, str) and bool(found):
            return Verdict("right", because)
        wrong = found if isinstance(found, str) else ""
    except Exception as error:  # whatever an answer does, the exercise goes on
        wrong = f"{type(error).__name__}: {error}"
    return Verdict("not yet", f"{hint} ({wrong})" if wrong else hint)
