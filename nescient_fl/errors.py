"""The exceptions that a command turns into a line, or lines, for its user."""

from collections.abc import Sequence


class UserError(Exception):
    """Something the user can mend: a wrong path, option, file or setting.

    The message is one line that says what is wrong and what to do about it. Commands print it after
    ``error:`` and exit with status 2; they never show a traceback for it.
    """


class UserErrors(UserError):
    """Several things at once, found together so that they can be mended together; each is told in a line of its own."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = tuple(problems)
