"""The search for groups of layers that stay float so that an int8 graph meets its budget.

A module here scores int8 graphs by executing them, so this package may use ``engines``.
"""
