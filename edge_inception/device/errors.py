"""The exception of the device program: its message, its fix and its exit code.

The codes are those of ``edge_inception.errors``. This file travels to devices: Python 3.6 syntax.
"""

BAD_INPUT = 3
LIBRARY_MISSING = 4
BUILD_FAILED = 5
GATE_FAILED = 6
INCONCLUSIVE = 8


class Refusal(Exception):
    """A reason why a command cannot go on, and what to do about it, each on one line."""

    def __init__(self, message: str, fix: str, code: int = BAD_INPUT) -> None:
        super().__init__(" ".join(message.split()))
        self.fix = " ".join(fix.split())
        self.code = code
