"""The one exception for mistakes a user can mend."""


class UserError(Exception):
    """A mistake in the input: one clear line that says what is wrong, where, and what to do.

    `main.py` prints it without a traceback and exits with code 1.
    """
