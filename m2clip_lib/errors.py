"""The exception for errors that the user can correct; the command line prints it as a single line."""


class UserError(Exception):
    """Bad input. The message says what is wrong, where, and what to do, in one line."""
