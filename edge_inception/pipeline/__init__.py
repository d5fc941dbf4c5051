"""The stages of a recipe in order, from checkpoint to report and bundle.

Code belongs here if it decides which stage runs on which inputs, or reports progress; the packages
that it calls do the work.
"""
