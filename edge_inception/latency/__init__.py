"""Latency of engines in fresh worker processes, and the records of ``bench`` and ``compare``.

Code belongs here if it times, samples or stores measurements. Verdicts on accuracy belong to
``validate``.
"""
