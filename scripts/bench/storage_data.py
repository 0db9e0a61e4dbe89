"""The files of records that scripts/bench/storage.py reads, made without TensorFlow.

A record of a TFRecord file has its length before it (8 bytes and their CRC) and its own CRC behind
it; the CRCs are CRC-32C, masked as tensorflow/core/lib/hash/crc32c.h says.
"""

from __future__ import annotations

import os
import struct

from pai_runner.storage.checksums import crc32c

RECORD = 100_000  # bytes of a record
DIGITS = 12  # of the number with which each record begins
BEFORE, BEHIND = 12, 4  # bytes of the frame


def write_records(path: str, count: int) -> None:
    """Write a file of records 0, 1, 2, …"""
    noise = os.urandom(2 * RECORD)
    with open(path, "wb") as file:
        for number in range(count):
            file.write(_framed(_record(number, noise)))


def write_files(folder: str, count: int) -> None:
    """Write files of one record each, 000000, 000001, …; record n is in file n."""
    noise = os.urandom(2 * RECORD)
    os.makedirs(folder)
    for number in range(count):
        with open(file_name(folder, number), "wb") as file:
            file.write(_framed(_record(number, noise)))


def file_name(folder: str, number: int) -> str:
    return f"{folder}/{number:06d}"


def _record(number: int, noise: bytes) -> bytes:
    start = number * 7919 % RECORD
    head = str(number).zfill(DIGITS).encode()
    return head + noise[start : start + RECORD - len(head)]


def _framed(record: bytes) -> bytes:
    length = struct.pack("<Q", len(record))
    return b"".join((length, _masked_crc(length), record, _masked_crc(record)))


def _masked_crc(data: bytes) -> bytes:
    crc = crc32c(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)
