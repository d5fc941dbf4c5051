"""Measuring time: engines run in fresh worker processes, and their calls become records.

What enters times, samples or stores measurements. Verdicts on accuracy belong to ``validate``.
"""
