"""Latency of engines in fresh worker processes, and the records of ``bench`` and ``compare``.

Code belongs here if it times engines, or stores and compares their times. Verdicts on accuracy
belong to ``validate``.
"""
