"""The index of a TensorFlow checkpoint: its tensors, and how much of which file they need.

The format is a sorted table of protocol buffers (tensor_bundle.proto; TensorFlow's
lib/io/format.cc says how tables lie in a file). It is read here and not by TensorFlow's own
reader, because that one passes over a block whose checksum is wrong: tensors are then missing as
if they had never been saved.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tensorflow.core.protobuf import tensor_bundle_pb2

# The string tensor in which tf.train.Checkpoint keeps how its objects hang together.
OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"

_MAGIC = bytes.fromhex("57fb808b247547db")
_FOOTER = 48
_TRAILER = 5  # after a block: how it is compressed, and a checksum
_MASK = 0xA282EAD8


class DamageError(Exception):
    """A checkpoint that is not whole. Its text names the file and says what is wrong with it."""


@dataclass(frozen=True)
class Tensor:
    """What the index says of a tensor: TensorFlow's number for its dtype, and its shape."""

    dtype: int
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Index:
    """The tensors by name, and for each data file the bytes that they need of it."""

    tensors: Mapping[str, Tensor]
    sizes: tuple[int, ...]


def parse_index(data: bytes) -> Index:
    """Return what the bytes of an index file say. Raises ValueError if they are not whole."""
    try:
        items = dict(_items(data))
        header = tensor_bundle_pb2.BundleHeaderProto.FromString(items.pop(b""))
        entries = {
            key: tensor_bundle_pb2.BundleEntryProto.FromString(value)
            for key, value in items.items()
        }
    except KeyError:
        raise ValueError("it has no header") from None
    except (IndexError, struct.error) as error:
        raise ValueError("it is not a table of TensorFlow's") from error
    except Exception as error:  # protobuf's error is of another class in each of its versions
        raise ValueError(str(error)) from error
    sizes = [0] * header.num_shards
    for entry in entries.values():
        sizes[entry.shard_id] = max(sizes[entry.shard_id], entry.offset + entry.size)
    return Index(
        # A key that begins with a zero is a slice of a partitioned variable, which has an entry.
        {key.decode(): _tensor(one) for key, one in entries.items() if not key.startswith(b"\0")},
        tuple(sizes),
    )


def _tensor(entry: Any) -> Tensor:
    return Tensor(int(entry.dtype), tuple(int(dim.size) for dim in entry.shape.dim))


def _items(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the keys and values of a table, in order."""
    footer = data[-_FOOTER:]
    if len(footer) < _FOOTER or not footer.endswith(_MAGIC):
        raise ValueError("it does not end as an index does")
    _, _, position = _handle(footer, 0)  # of blocks that TensorFlow does not use
    start, size, _ = _handle(footer, position)
    for _, handle in _entries(_block(data, start, size)):
        start, size, _ = _handle(handle, 0)
        yield from _entries(_block(data, start, size))


def _block(data: bytes, start: int, size: int) -> bytes:
    end = start + size
    trailer = data[end : end + _TRAILER]
    if len(trailer) < _TRAILER:
        raise ValueError("a part of it is missing")
    (stored,) = struct.unpack("<I", trailer[1:])
    checksum = crc32c(data[start : end + 1])
    if stored != ((checksum >> 15 | checksum << 17) + _MASK) & 0xFFFFFFFF:
        raise ValueError("its checksum is wrong")
    if trailer[0]:
        raise ValueError("it is compressed, as no TensorFlow since 1.2 does it")
    return data[start:end]


def _entries(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the entries of a block. A key begins as the one before it did."""
    (restarts,) = struct.unpack("<I", block[-4:])
    end = len(block) - 4 * (restarts + 1)
    position, key = 0, b""
    while position < end:
        shared, position = _varint(block, position)
        added, position = _varint(block, position)
        length, position = _varint(block, position)
        key = key[:shared] + block[position : position + added]
        position += added
        yield key, block[position : position + length]
        position += length


def _handle(data: bytes, position: int) -> tuple[int, int, int]:
    """Return a block's offset and size, and where the handle ends."""
    start, position = _varint(data, position)
    size, position = _varint(data, position)
    return start, size, position


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7


def _crc_of_byte(value: int) -> int:
    for _ in range(8):
        value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    return value


_CRC = [_crc_of_byte(value) for value in range(256)]


def crc32c(data: bytes) -> int:
    """Return the CRC-32C (Castagnoli) of `data`: an index is small enough for plain Python."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _CRC[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF
