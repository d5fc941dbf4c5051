"""Verdicts on engines: accuracy against the baseline, gates, the choice of a precision.

Code belongs here if it compares measured figures with limits; code that times is in ``latency``.
"""
