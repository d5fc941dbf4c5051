"""Take a trained Inception network and put it, verified, on an edge device."""

from __future__ import annotations

__version__ = "0.1.0"
