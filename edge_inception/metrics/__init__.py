"""Figures of merit and their confidence intervals, from plain arrays and counts.

What enters is a closed formula with its source, in numpy only: training, validation and latency
share it.
"""
