"""The recipe run in order, checkpoint to report and bundle.

What enters decides which stage runs on what, or tells the listener; the rooms below do the work.
"""
