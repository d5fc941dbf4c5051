"""Figures of merit and their confidence intervals, from plain arrays and counts.

Code belongs here if it is a formula with its source and needs only numpy. Training, validation and
latency use these formulas.
"""
