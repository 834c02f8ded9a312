"""The types of options with bounds, and the values that other modules know by name."""

from typing import Annotated

import msgspec

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 8000
DEVELOPMENT = "development"
"""The value of `certfile` for a development certificate, which is made at each start."""

LOOPBACK = ("127.0.0.0/8", "::1")
FORWARDED_HEADERS = (
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-prefix",
    "forwarded",
)
"""The header fields in which proxies describe their clients."""

_YEAR = 365 * 24 * 3600
"""Seconds. The longest time that an option accepts. A clock cannot add infinity to its time."""

NonEmpty = Annotated[str, msgspec.Meta(min_length=1)]
Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]
Count = Annotated[int, msgspec.Meta(ge=0)]
Positive = Annotated[int, msgspec.Meta(ge=1)]
MOST_WORKERS = 1000
Processes = Annotated[int, msgspec.Meta(ge=1, le=MOST_WORKERS)]
"""A mistake in typing must not fill the machine."""
Backlog = Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]
"""As listen(2) takes it."""
Seconds = Annotated[float, msgspec.Meta(ge=0, le=_YEAR)]
WholeSeconds = Annotated[int, msgspec.Meta(ge=0, le=_YEAR)]
SomeSeconds = Annotated[float, msgspec.Meta(gt=0, le=_YEAR)]
