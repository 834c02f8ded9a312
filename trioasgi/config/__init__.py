"""The options: declared once, read from every source, checked."""

from .config import Config
from .declaration import DEVELOPMENT, LISTENING_WAYS, NAMES, OPTIONS

__all__ = ["DEVELOPMENT", "LISTENING_WAYS", "NAMES", "OPTIONS", "Config"]
