"""Files that another client replaces while they are read: never a mix of both."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from buckets_scripts import put
from file_systems import FileSystems

pytestmark = pytest.mark.tensorflow

MEGABYTE = 1 << 20
OLD_SIZE = 24 * MEGABYTE


@pytest.mark.parametrize(
    ("size", "piece"),
    [(OLD_SIZE, 100_000), (OLD_SIZE // 2, 10 * MEGABYTE), (OLD_SIZE * 3 // 2, 100_000)],
)
@pytest.mark.parametrize("kind", ["s3", "oss"])
def test_a_file_that_is_replaced_is_never_a_mix(
    tf: Any, file_systems: FileSystems, kind: str, size: int, piece: int, tmp_path: Path
) -> None:
    folder = file_systems.new_folder(kind, tmp_path)
    replace = replacer(file_systems, folder)
    replace(b"o" * OLD_SIZE)
    reader = tf.io.gfile.GFile(f"{folder}/file", "rb")
    pieces = [reader.read(100_000)]
    replace(b"n" * size)
    error = until_the_end(tf, lambda: reader.read(piece), pieces)
    read = b"".join(pieces)
    assert read.count(b"n") == 0
    assert f"{folder}/file".partition("://")[2] in error or (not error and len(read) == OLD_SIZE)
    with tf.io.gfile.GFile(f"{folder}/file", "rb") as again:
        read = again.read()
    assert (len(read), read.count(b"n")) == (size, size)


@pytest.mark.parametrize("kind", ["s3", "oss"])
def test_records_of_a_file_that_is_replaced(
    tf: Any, file_systems: FileSystems, kind: str, tmp_path: Path
) -> None:
    """Records of the same lengths fit together: only the store can tell that they do not."""
    folder = file_systems.new_folder(kind, tmp_path)
    replace = replacer(file_systems, folder)
    contents = {}
    for letter in (b"o", b"n"):
        local = str(tmp_path / letter.decode())
        with tf.io.TFRecordWriter(local) as writer:
            for _ in range(240):
                writer.write(letter * 100_000)
        contents[letter] = Path(local).read_bytes()
    replace(contents[b"o"])
    # Without read-ahead of tf.data's own, so that much is still to be read.
    records = iter(tf.data.TFRecordDataset(f"{folder}/file", buffer_size=1000))
    seen = [next(records).numpy()[:1]]
    replace(contents[b"n"])
    error = until_the_end(tf, lambda: next(records, tf.constant(b"")).numpy()[:1], seen)
    assert set(seen) == {b"o"}
    assert f"{folder}/file".partition("://")[2] in error or (not error and len(seen) == 240)


def until_the_end(tf: Any, read: Callable[[], bytes], pieces: list[bytes]) -> str:
    """Add to `pieces` what `read` gives until that is nothing; return the text of an error."""
    try:
        while piece := read():
            pieces.append(piece)
    except tf.errors.OpError as error:
        return str(error)
    return ""


def replacer(file_systems: FileSystems, folder: str) -> Callable[[bytes], None]:
    """Return what replaces `folder`/file as another client does."""
    protocol, _, bucket, name = folder.split("/")
    server = {"s3:": file_systems.server, "oss:": file_systems.oss_server}[protocol]
    return lambda data: put(server, bucket, f"{name}/file", data)
