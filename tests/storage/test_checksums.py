"""CRC-32C, CRC-64 and MD5, by both ways of the compiled part, against others that have them."""

from __future__ import annotations

import ctypes
import mmap
import platform
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import oss2
import pytest
from crcmod.predefined import mkPredefinedCrcFun
from hypothesis import given, settings
from hypothesis import strategies as st
from oss_store import crc64 as crc64_of_crcmod

from pai_runner.errors import SetupError
from pai_runner.storage import checksums
from pai_runner.storage.checksums import (
    crc32c,
    crc32c_combined,
    crc64,
    crc64_combined,
    crc64_of_parts,
    has_crc32c,
    md5_base64,
)

Crc = Callable[..., int]

crc32c_of_crcmod = mkPredefinedCrcFun("crc-32c")
KB = 1024
RANDOM = random.Random(5).randbytes(256 * KB)


def portable(name: str) -> Crc:
    """Return what calculates a checksum without the processor's own multiplication."""

    def calculated(data: bytes, crc: int = 0) -> int:
        library = checksums._compiled()
        value: int = getattr(library, f"pai_{name}_portable")(crc, data, len(data))
        return value

    return calculated


WAYS_32 = [pytest.param(crc32c, id="best"), pytest.param(portable("crc32c"), id="portable")]
WAYS_64 = [pytest.param(crc64, id="best"), pytest.param(portable("crc64"), id="portable")]
WAYS = [
    pytest.param(*way.values, peer, id=f"{name}-{way.id}")
    for name, peer, ways in (
        ("crc32c", crc32c_of_crcmod, WAYS_32),
        ("crc64", crc64_of_crcmod, WAYS_64),
    )
    for way in ways
]


# ====== Values ======


@pytest.mark.parametrize("crc", WAYS_32)
@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", 0),
        (b"123456789", 0xE3069283),
        # RFC 3720, appendix B.4.
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(reversed(range(32))), 0x113FDB5C),
    ],
)
def test_published_values_of_crc32c(crc: Crc, data: bytes, expected: int) -> None:
    assert crc(data) == expected


@pytest.mark.parametrize("crc", WAYS_64)
@pytest.mark.parametrize(("data", "expected"), [(b"", 0), (b"123456789", 0x995DC9BBDF1939FA)])
def test_published_values_of_crc64(crc: Crc, data: bytes, expected: int) -> None:
    assert crc(data) == expected


@pytest.mark.parametrize(
    ("data", "expected"),
    [(b"", "1B2M2Y8AsgTpgAmY7PhCfg=="), (b"abc", "kAFQmDzST7DWlj99KOF/cg==")],  # RFC 1321
)
def test_published_values_of_md5(data: bytes, expected: str) -> None:
    assert md5_base64(data) == md5_base64(memoryview(data)) == expected


# ====== Against other implementations ======


@pytest.mark.parametrize(("crc", "peer"), WAYS)
def test_all_short_lengths(crc: Crc, peer: Crc) -> None:
    for size in range(300):
        assert crc(RANDOM[:size]) == peer(RANDOM[:size]), size


@pytest.mark.parametrize(("crc", "peer"), WAYS)
@settings(deadline=None)
@given(st.integers(0, 70), st.lists(st.integers(0, 20 * KB), min_size=1, max_size=4))
def test_pieces_one_after_another(crc: Crc, peer: Crc, start: int, sizes: list[int]) -> None:
    value, end = 0, start
    for size in sizes:
        value = crc(RANDOM[end : end + size], value)
        end += size
    assert value == peer(RANDOM[start:end])


@pytest.mark.parametrize(("crc", "peer"), [(crc32c, crc32c_of_crcmod), (crc64, crc64_of_crcmod)])
@settings(deadline=None)
@given(st.integers(0, 70), st.integers(0, 20 * KB))
def test_bytes_at_any_address(crc: Crc, peer: Crc, start: int, size: int) -> None:
    """Slices of a memoryview are not copied to where bytes begin."""
    assert crc(memoryview(RANDOM)[start : start + size]) == peer(RANDOM[start : start + size])


def test_oss2_agrees() -> None:
    peer = oss2.utils.Crc64()
    peer.update(RANDOM)
    assert crc64(RANDOM) == peer.crc


@pytest.mark.skipif(
    (platform.system(), platform.machine()) != ("Linux", "x86_64"),
    reason="data are folded on x86-64 only, and Linux tells of the processor",
)
def test_the_processor_multiplies_where_it_can() -> None:
    flags = Path("/proc/cpuinfo").read_text().split()
    assert checksums._compiled().pai_checksums_fold() == int("pclmulqdq" in flags)


def test_threads_do_not_disturb_each_other() -> None:
    pieces = [RANDOM[start:] for start in range(64)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(crc64, pieces)) == [crc64_of_crcmod(piece) for piece in pieces]


# ====== Parts ======


@pytest.mark.parametrize(("crc", "combined"), [(crc32c, crc32c_combined), (crc64, crc64_combined)])
@given(st.binary(max_size=200), st.binary(max_size=200))
def test_two_parts_combined(crc: Crc, combined: Crc, first: bytes, second: bytes) -> None:
    assert combined(crc(first), crc(second), len(second)) == crc(first + second)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1), st.integers(1, 2**46))
def test_parts_as_long_as_objects_can_be(first: int, second: int, size: int) -> None:
    expected = oss2.utils.Crc64().combine(first, second, size)
    assert crc64_combined(first, second, size) == expected


@given(st.lists(st.binary(max_size=50), max_size=5))
def test_many_parts_combined(parts: list[bytes]) -> None:
    assert crc64_of_parts((crc64(part), len(part)) for part in parts) == crc64(b"".join(parts))


# ====== Buffers ======


def mapped(data: bytes, folder: Path) -> mmap.mmap:
    file = folder / "mapped"
    file.write_bytes(data)
    with file.open("rb") as stream:
        return mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)


def test_all_kinds_of_buffers(tmp_path: Path) -> None:
    data = RANDOM[: 4 * KB]
    numbers = np.frombuffer(data, "<u4").reshape(2, -1)
    buffers = [
        bytearray(data),
        memoryview(data),
        memoryview(data).cast("I"),
        mapped(data, tmp_path),
        (ctypes.c_char * len(data)).from_buffer_copy(data),
        numbers,
        memoryview(numbers),
    ]
    for buffer in buffers:
        assert crc32c(buffer) == crc32c_of_crcmod(data), buffer
        assert crc64(buffer) == crc64_of_crcmod(data), buffer


def test_a_buffer_is_free_again() -> None:
    data = bytearray(RANDOM)
    crc64(data)
    crc32c(data)
    data.clear()  # a BufferError while anything holds it


@pytest.mark.parametrize("function", [crc32c, crc64, md5_base64])
def test_what_has_gaps_or_is_no_buffer(function: Callable[..., object]) -> None:
    with pytest.raises(BufferError, match="contiguous"):
        function(memoryview(RANDOM)[::2])
    for value in ("text", None, 5):
        with pytest.raises(TypeError):
            function(value)


# ====== Without the compiled part ======


@pytest.fixture(params=["missing", "not a library"])
def not_compiled(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    library = tmp_path / "_checksums.so"
    if request.param != "missing":
        library.write_bytes(b"made for another machine")
    monkeypatch.setattr(checksums, "_LIBRARY", library)
    checksums._compiled.cache_clear()
    yield
    checksums._compiled.cache_clear()


@pytest.mark.usefixtures("not_compiled")
def test_without_the_compiled_part() -> None:
    assert not has_crc32c()
    with pytest.raises(SetupError, match=r"CRC-32C.*_checksums\.so") as caught:
        crc32c(b"data")
    assert "gcc" in str(caught.value.hint)
    for piece in (RANDOM, bytearray(RANDOM), memoryview(RANDOM)[3:]):
        assert crc64(piece[5:], crc64(piece[:5])) == crc64_of_crcmod(piece)
    with pytest.raises(BufferError, match="contiguous"):
        crc64(memoryview(RANDOM)[::2])


def test_with_the_compiled_part() -> None:
    assert has_crc32c()
