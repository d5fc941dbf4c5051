"""Upper bounds for the speed of a graph on a target, computed from tables and not measured.

A module here combines ``graph`` and ``hardware``. This is a room of its own, since no graph on disk
depends on the tables of hardware.
"""
