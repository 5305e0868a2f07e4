"""Packets: a large value in pieces, so that no process has a second copy while it is sent.

The driver sends packets (`shipping`), and a worker puts them together (`remote.hold`). The contents
of arrays are copied from the value into packets, and from packets into the new value: never all of
them into one message. A worker also answers other messages between two packets.

    incoming = None
    for packet in packets(value):
        incoming = incoming or Incoming(packet)
        incoming.add(packet)
    value = incoming.value()
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pickle import PickleBuffer
from typing import Any

import numpy as np

PACKET_BYTES = 2**22


@dataclass(frozen=True, slots=True, eq=False)
class Packet:
    """A part of a value.

    Attributes:
        outline: The pickled value without the contents of its arrays.
        sizes: Size of the contents of each array in bytes.
        pieces: Parts of these contents: number of the array, place of the first byte, bytes.
    """

    outline: bytes
    sizes: tuple[int, ...]
    pieces: tuple[tuple[int, int, bytes], ...]


def packets(value: Any) -> Iterator[Packet]:
    """Yield the packets of a value, at least one, with up to `PACKET_BYTES` of contents each."""
    from distributed.protocol.pickle import dumps  # noqa: PLC0415 there is a client

    buffers: list[PickleBuffer] = []
    outline = dumps(value, buffer_callback=buffers.append)
    contents = [buffer.raw() for buffer in buffers]
    sizes = tuple(each.nbytes for each in contents)
    pieces: list[tuple[int, int, bytes]] = []
    room = PACKET_BYTES
    for number, content in enumerate(contents):
        place = 0
        while place < content.nbytes:
            piece = bytes(content[place : place + room])
            pieces.append((number, place, piece))
            place, room = place + len(piece), room - len(piece)
            if not room:
                yield Packet(outline, sizes, tuple(pieces))
                pieces, room = [], PACKET_BYTES
    if pieces or not sum(sizes):
        yield Packet(outline, sizes, tuple(pieces))


class Incoming:
    """A value whose packets arrive.

    Args:
        packet: Any of the packets.
    """

    def __init__(self, packet: Packet) -> None:
        self._outline = packet.outline
        self._contents = [np.empty(size, np.uint8) for size in packet.sizes]
        self._arrived: dict[tuple[int, int], int] = {}

    def add(self, packet: Packet) -> None:
        """Add the contents that a packet has brought."""
        for number, place, piece in packet.pieces:
            content = np.frombuffer(piece, np.uint8)
            self._contents[number][place : place + len(piece)] = content
            self._arrived[number, place] = len(piece)

    @property
    def is_whole(self) -> bool:
        """True if all packets have been added."""
        return sum(self._arrived.values()) == sum(map(len, self._contents))

    def value(self) -> Any:
        """Return the value, which must be whole."""
        from distributed.protocol.pickle import loads  # noqa: PLC0415 a worker has imported it

        return loads(self._outline, buffers=self._contents)
