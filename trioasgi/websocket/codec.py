"""`FrameCodec`: reads the peer's frames. Bytes go in, frames come out.

There are two, in `wsproto_codec` and `websockets_codec`. A codec checks the grammar of one frame (RFC 6455,
5.2 and 5.5): reserved bits, opcodes, masking, lengths. `reassembly` makes messages of the frames of either,
so both codecs follow the same rules.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trioasgi.websocket.frames import Frame


class FrameCodec:
    """Reads the frames of one connection's client.

    `room` is how many bytes the payload of the next data frame may have. It is checked as soon as the frame's
    header has come. Whoever takes the frames must keep it up to date.
    """

    # No __slots__: mypy would ask for slots for the declared attributes, which the subclasses have.

    name: str
    """What `--websocket` calls it."""

    room: int

    def read_message(self, data: bytes) -> str | bytes | None:  # noqa: ARG002 - for codecs that can
        """The message in `data`, if `data` is one frame that is a whole message, and not compressed. In this
        case, which is the usual one, it costs less. None in all others: then `feed` must take `data`. To be
        called only while `is_empty`, and not within a fragmented message.

        Raises FrameError.
        """
        return None

    @property
    def is_empty(self) -> bool:
        """Has `next_frame` read all bytes, and do they end with a frame? Always False if the codec cannot
        tell.
        """
        return False

    @abstractmethod
    def feed(self, data: bytes) -> None:
        """Take received bytes. `next_frame` reads them."""

    @abstractmethod
    def next_frame(self) -> Frame | None:
        """The next frame, or the next piece of one; None if more bytes are needed.

        Raises FrameError, after which nothing more can be read.
        """
