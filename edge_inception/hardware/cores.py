"""The number of cores that this process may use.

This file is copied to devices: Python 3.6 syntax, standard library.
"""

import os


def usable_threads() -> int:
    """The number of cores that this process may use; options mean it by 0 threads."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
