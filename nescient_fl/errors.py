"""The one exception that a command turns into a single line for its user."""


class UserError(Exception):
    """Something the user can mend: a wrong path, option, file or setting.

    The message is one line that says what is wrong and what to do about it. Commands print it after
    ``error:`` and exit with status 2; they never show a traceback for it.
    """
