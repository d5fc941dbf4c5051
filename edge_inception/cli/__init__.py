"""The command line: one file per group of commands.

What enters parses flags, calls one function of a room below, and prints. Command modules import
their libraries inside the commands, so that ``--help`` stays fast.
"""
