"""The exception of the device program, which carries a message, a fix and an exit code.

The exit codes are those of ``edge_inception.errors``.
This file travels to devices: Python 3.6 syntax.
"""

BAD_INPUT = 3
LIBRARY_MISSING = 4
BUILD_FAILED = 5
GATE_FAILED = 6
INCONCLUSIVE = 8


class Refusal(Exception):
    """A command cannot go on; the message is the reason, ``fix`` is what to do, each on a line."""

    def __init__(self, message: str, fix: str, code: int = BAD_INPUT) -> None:
        super().__init__(" ".join(message.split()))
        self.fix = " ".join(fix.split())
        self.code = code
