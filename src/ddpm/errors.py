"""One error type for everything a user can mend.

The command line prints its one line and leaves with status 2, without a stack trace; in Python it is an
ordinary exception. The message names the file or value, the rule it breaks, and what to do about it.
"""

from __future__ import annotations

import reprlib
from typing import Any

_LONGEST, _END = 2000, 500  # characters of a message, and of those its last, where the mend stands


class UserError(Exception):
    """A mistake the user can mend; `str(error)` is the whole message: one line that any terminal can show.

    Names in it come from files, which may be anybody's: see `printable`. What is too long is cut in its middle.
    """

    def __init__(self, message: str):
        text = printable(message)
        if len(text) > _LONGEST:
            text = f"{text[: _LONGEST - _END]} … {text[-_END:]}"
        super().__init__(text)


def printable(text: str) -> str:
    """The text with its line breaks, control characters and lone surrogates written as escapes, as \\n."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)


_REPR = reprlib.Repr()
_REPR.maxlevel = 2
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = 60


def short(value: Any) -> str:
    """A value as a message shows it, whatever its size and depth."""
    try:
        return _REPR.repr(value)
    except ValueError:  # a number of thousands of digits
        return f"a {type(value).__name__}"
