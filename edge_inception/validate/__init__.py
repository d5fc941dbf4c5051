"""Judging engines: accuracy against the baseline, gates, the choice of a precision.

What enters compares measured figures with limits. Timing itself belongs to ``latency``.
"""
