"""Deployment of a bundle to devices over ssh: copy it, verify it there, then switch to it at once.

``run`` is the entry point. ``login`` and ``remote`` alone use paramiko; ``agent`` is the program
that they run on the device. Code that talks to a device belongs here, the content of a bundle to
``bundle``.
"""
