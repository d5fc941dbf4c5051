"""The command line: one file per group of commands.

Code belongs here if it parses flags, calls a function of another package, or prints. Commands
import libraries in their bodies, so that ``--help`` stays fast.
"""
