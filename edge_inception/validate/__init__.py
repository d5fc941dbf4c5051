"""Accuracy and latency of engines against the baseline."""
