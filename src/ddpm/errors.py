"""One error type for everything a user can mend.

The command line prints its one line and leaves with status 2, without a stack trace; in Python it is an
ordinary exception. The message names the file or value, the rule it breaks, and what to do about it.
"""


class UserError(Exception):
    """A mistake the user can mend; `str(error)` is the whole message."""
