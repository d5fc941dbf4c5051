"""What a target could reach at best, from its tables and a graph's sizes: a bound, no measurement.

What enters combines ``graph`` and ``hardware``. It is a room of its own, since no graph on disk
depends on the tables of hardware.
"""
