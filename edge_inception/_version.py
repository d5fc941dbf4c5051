"""The version of this package, a literal: reading metadata would slow every start."""

__version__ = "0.1.0"
