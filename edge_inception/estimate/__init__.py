"""Upper bounds for the speed of a graph on a target, computed from tables and not measured.

A module here combines ``graph`` and ``hardware``. They are kept apart, since no graph that is
written to disk depends on the tables in ``hardware``.
"""
