"""Deployment of a bundle to devices over ssh: copy it, verify it there, then switch to it at once.

``run`` is the entry point. ``agent`` is the program that deploy runs on the device; ``connection``
exchanges requests and answers with it over the system's ``ssh``, whose command line and errors are
in ``ssh``. Code that talks to a device belongs here, code that decides what a bundle contains
belongs in ``bundle``.
"""
