"""Deployment of a bundle to devices over ssh: copy it, verify it there, then switch to it at once.

``run`` is the entry point. Only ``login`` and ``remote`` use paramiko; ``agent`` is the program
that ``remote`` runs on the device. Code that talks to a device belongs here, code that decides what
a bundle contains belongs in ``bundle``.
"""
