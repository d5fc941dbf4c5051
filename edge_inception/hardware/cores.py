"""How many cores this process may use.

This very file travels to devices: Python 3.6 syntax, standard library.
"""

import os


def usable_threads() -> int:
    """Cores that this process may use: what a number of threads of 0 stands for."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
