"""A device that is a folder of this machine, behind a real sshd on loopback."""

from __future__ import annotations

from loopback import bundle, deploy, proxy, sshd

__all__ = ["bundle", "deploy", "proxy", "sshd"]  # fixtures
