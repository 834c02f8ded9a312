"""What a codec is: the reader of a peer's frames, bytes in, frames out.

Two classes implement it, `wsproto_codec` and `websockets_codec`. A codec keeps to the grammar of one frame
(RFC 6455, 5.2 and 5.5): reserved bits, opcodes, masking, lengths. What frames amount to, messages and closes,
is found by `reassembly` above both, so the two cannot disagree about that.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trioasgi.websocket.frames import Frame


class FrameCodec(ABC):
    """Reads the frames of one connection's client.

    `room` is how many bytes the payload of the next data frame may have, which is looked at as soon as its
    header has come; whoever takes the frames keeps it up to date.
    """

    # No __slots__ here: a class with attributes declared but no slots for them is not something mypy
    # understands.

    name: str
    """What `--websocket` calls it."""

    room: int

    @abstractmethod
    def feed(self, data: bytes) -> None:
        """Take bytes off the wire; they are looked at in `next_frame`."""

    @abstractmethod
    def next_frame(self) -> Frame | None:
        """The next frame, or the next piece of one; None if more bytes are needed.

        Raises FrameError, after which nothing more can be read.
        """
