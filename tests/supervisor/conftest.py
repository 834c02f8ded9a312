"""Fixtures of several files."""

from __future__ import annotations

import sys

if sys.platform != "win32":
    from .controlling import shared as shared
