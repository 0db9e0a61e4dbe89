"""The file layer does what TensorFlow's local file system does.

Each contract is a function that works in a folder and returns what it saw. It runs in a local
folder, which is the oracle, and in a bucket: what was seen, errors included, must agree.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from file_systems import FileSystems

pytestmark = pytest.mark.tensorflow

Contract = Callable[[Any, str], object]
CONTRACTS: list[Contract] = []

NAMES = [
    "plain.txt",
    "with blank",
    "quote'\"s",
    "what?",
    "a#b",
    "100%25",
    "模型 第一.ckpt",
    "we[i]rd",
    "star*",
    "back\\slash",
    "a+b&c=d",
    "~cached",
    "{brace}",
    ".hidden",
    "semi;colon",
]


def contract(function: Contract) -> Contract:
    CONTRACTS.append(function)
    return function


@pytest.mark.parametrize("protocol", ["memory", "s3", "oss"])
@pytest.mark.parametrize("run", CONTRACTS, ids=lambda run: run.__name__)
def test_agrees_with_local_files(
    run: Contract, protocol: str, tf: Any, file_systems: FileSystems, tmp_path: Path
) -> None:
    expected = run(tf, file_systems.new_folder("file", tmp_path))
    assert expected, "the contract saw nothing"
    assert run(tf, file_systems.new_folder(protocol, tmp_path)) == expected


def outcome(function: Callable[..., Any], *arguments: Any, **options: Any) -> object:
    """Return what a call gives, or the class of its error."""
    try:
        return function(*arguments, **options)
    except Exception as error:
        return type(error).__name__


def write(tf: Any, path: str, text: str = "text", mode: str = "w") -> str:
    with tf.io.gfile.GFile(path, mode) as stream:
        stream.write(text)
    return path


def read(tf: Any, path: str) -> str:
    with tf.io.gfile.GFile(path) as stream:
        return str(stream.read())


def tree(tf: Any, folder: str) -> list[tuple[str, list[str], list[str]]]:
    """Return what gfile.walk gives, relative to `folder` and sorted."""
    return sorted(
        (top[len(folder) :], sorted(name.rstrip("/") for name in folders), sorted(files))
        for top, folders, files in tf.io.gfile.walk(folder)
    )


# ====== Looking ======


@contract
def missing_paths(tf: Any, folder: str) -> object:
    gfile = tf.io.gfile
    path = f"{folder}/none"
    return [
        outcome(gfile.exists, path),
        outcome(gfile.isdir, path),
        outcome(gfile.listdir, path),
        outcome(gfile.stat, path),
        outcome(gfile.glob, path),
        outcome(gfile.glob, f"{path}/*"),
        outcome(gfile.remove, path),
        outcome(gfile.rmtree, path),
        outcome(gfile.rename, path, f"{folder}/other"),
        outcome(gfile.copy, path, f"{folder}/other"),
        outcome(gfile.GFile(path).read),
        outcome(gfile.GFile(path).readline),
        outcome(gfile.GFile(path).size),
        outcome(lambda: tf.io.read_file(path).numpy()),
        list(gfile.walk(path)),
        gfile.exists(f"{folder}/other"),
    ]


@contract
def files_and_folders(tf: Any, folder: str) -> object:
    gfile = tf.io.gfile
    gfile.makedirs(f"{folder}/a/b")
    write(tf, f"{folder}/a/b/file", "four")
    return [
        [gfile.exists(folder + tail) for tail in ("", "/", "/a", "/a/", "/a/b/file", "/a/b/fil")],
        [gfile.isdir(folder + tail) for tail in ("", "/", "/a", "/a/b/", "/a/b/file")],
        gfile.listdir(folder),
        gfile.listdir(f"{folder}/"),
        gfile.listdir(f"{folder}/a/b"),
        outcome(gfile.listdir, f"{folder}/a/b/file"),
        gfile.stat(f"{folder}/a/b/file").length,
        [gfile.stat(folder + tail).is_directory for tail in ("", "/a", "/a/b/file")],
        gfile.stat(f"{folder}/a/b/file").mtime_nsec > 1_600_000_000 * 10**9,
        tree(tf, folder),
        [top[len(folder) :] for top, _, _ in gfile.walk(folder, topdown=False)],
    ]


@contract
def paths_are_cleaned(tf: Any, folder: str) -> object:
    gfile = tf.io.gfile
    gfile.makedirs(f"{folder}/a//b/")
    write(tf, f"{folder}//a/./b/../b//file")
    return [
        gfile.exists(f"{folder}/a/b/file"),
        gfile.exists(f"{folder}/a/b/file/"),
        gfile.isdir(f"{folder}/a//"),
        read(tf, f"{folder}///a/b/./file"),
        tree(tf, folder),
    ]


@contract
def names_that_begin_alike(tf: Any, folder: str) -> object:
    gfile = tf.io.gfile
    for path in ("x/part/1", "x/part2/2", "x/part.txt"):
        gfile.makedirs(f"{folder}/{path}".rpartition("/")[0])
        write(tf, f"{folder}/{path}", path)
    seen = [gfile.isdir(f"{folder}/x/par"), gfile.exists(f"{folder}/x/par")]
    gfile.rename(f"{folder}/x/part", f"{folder}/x/moved")
    seen += [tree(tf, folder), read(tf, f"{folder}/x/moved/1")]
    gfile.rmtree(f"{folder}/x/moved")
    return [*seen, tree(tf, folder)]


@contract
def ugly_names(tf: Any, folder: str) -> object:
    gfile = tf.io.gfile
    seen: list[object] = []
    for name in NAMES:
        gfile.makedirs(f"{folder}/in {name}")
        path = write(tf, f"{folder}/in {name}/{name}", name)
        seen += [read(tf, path), gfile.exists(path), gfile.stat(path).length]
        seen += [gfile.listdir(f"{folder}/in {name}")]
        gfile.copy(path, f"{path} copy")
        gfile.rename(f"{path} copy", f"{path} moved")
        seen += [read(tf, f"{path} moved"), sorted(gfile.listdir(f"{folder}/in {name}"))]
    seen += [tree(tf, folder)]
    for name in NAMES[::2]:
        gfile.rmtree(f"{folder}/in {name}")
    for name in NAMES[1::2]:
        gfile.rename(f"{folder}/in {name}", f"{folder}/out {name}")
        gfile.remove(f"{folder}/out {name}/{name}")
    return [*seen, tree(tf, folder)]


# ====== Patterns ======


@contract
def patterns(tf: Any, folder: str) -> object:
    gfile = tf.io.gfile
    names = ["a1", "a2", "b1", "ab", ".a", "a[1]", "a*", "a\\b", "模1", "a-00000-of-00001"]
    for directory in ("d1", "d2", "d2/e1", "e"):
        gfile.makedirs(f"{folder}/{directory}")
        for name in names:
            write(tf, f"{folder}/{directory}/{name}")
    wanted = [
        "*", "d*", "d1/*", "d1/a?", "d?/a1", "*/*", "*/*/*", "d1/[ab]1", "d1/[!a]1", "d1/[a-b]?",
        "d1/a\\*", "d1/a\\[1\\]", "d1/a[[]1]", "d1/?[1]", "d1/*b", "d1/.*", "d1/模?", "d1/??",
        "d1/a1", "d1/a[1]", "d1", "d1/", "d*/", "d1/a1/*", "none/*", "d[12]/e1/a1", "d1/**", "**",
        "d1/a-?????-of-?????", "*1/a1", "d1/[", "d1/\\a1", "d1/a1/", "d?/", "d1//a?", "{d1,d2}/a1",
    ]  # fmt: skip
    seen = []
    for pattern in wanted:
        found = outcome(gfile.glob, f"{folder}/{pattern}")
        if isinstance(found, list):
            found = sorted(path[len(folder) :] for path in found)
        seen.append((pattern, found))
    several = gfile.glob([f"{folder}/d1/a1", f"{folder}/d2/*1"])
    listed = tf.data.Dataset.list_files(f"{folder}/d1/a?", shuffle=False)
    return [
        *seen,
        sorted(path[len(folder) :] for path in several),
        [path.numpy().decode()[len(folder) :] for path in listed],
        [path.decode()[len(folder) :] for path in tf.io.matching_files(f"{folder}/e/b*").numpy()],
    ]


# ====== Writing and reading ======


@contract
def writing_step_by_step(tf: Any, folder: str) -> object:
    gfile = tf.io.gfile
    path = f"{folder}/file"
    stream = gfile.GFile(path, "w")
    seen = [gfile.exists(path), stream.tell()]
    seen += [gfile.exists(path), gfile.listdir(folder), gfile.stat(path).length]
    stream.write("12345")
    seen += [stream.tell(), stream.size(), gfile.stat(path).length]
    stream.flush()
    seen += [stream.size(), gfile.stat(path).length, read(tf, path)]
    stream.write("678")
    seen += [stream.tell(), read(tf, path)]
    stream.close()
    seen += [gfile.stat(path).length, read(tf, path)]
    stream.close()
    stream.flush()
    return seen


@contract
def reopening_truncates(tf: Any, folder: str) -> object:
    gfile = tf.io.gfile
    path = write(tf, f"{folder}/file", "a long text")
    stream = gfile.GFile(path, "w")
    seen = [read(tf, path)]
    stream.write("new")
    seen += [read(tf, path)]
    stream.flush()
    seen += [read(tf, path), gfile.stat(path).length]
    stream.close()
    return [*seen, read(tf, path), gfile.stat(path).length]


@contract
def an_empty_file(tf: Any, folder: str) -> object:
    gfile = tf.io.gfile
    path = write(tf, f"{folder}/empty", "")
    return [
        gfile.exists(path),
        gfile.stat(path).length,
        read(tf, path),
        gfile.GFile(path).readline(),
        tf.io.read_file(path).numpy(),
        gfile.listdir(folder),
        gfile.isdir(path),
    ]


@contract
def appending(tf: Any, folder: str) -> object:
    gfile = tf.io.gfile
    path = f"{folder}/log"
    write(tf, path, "one ", "a")
    seen = [read(tf, path)]
    stream = gfile.GFile(path, "a")
    seen += [stream.tell()]
    stream.write("two ")
    seen += [stream.tell(), read(tf, path)]
    stream.flush()
    seen += [read(tf, path)]
    stream.close()
    write(tf, path, "", "a")
    write(tf, path, "three", "a")
    return [*seen, read(tf, path), gfile.stat(path).length]


@contract
def two_writers_of_a_file(tf: Any, folder: str) -> object:
    gfile = tf.io.gfile
    path = f"{folder}/log"
    first, second = gfile.GFile(path, "a"), gfile.GFile(path, "a")
    first.write("1")
    first.flush()
    second.write("2")
    second.flush()
    seen = [read(tf, path)]
    first.write("3")
    first.close()
    seen += [read(tf, path)]
    second.write("4")
    second.close()
    return [*seen, read(tf, path)]


@contract
def reading_in_pieces(tf: Any, folder: str) -> object:
    gfile = tf.io.gfile
    path = write(tf, f"{folder}/lines", "one\ntwo\r\n\nfour 四\nno end")
    stream = gfile.GFile(path)
    seen: list[object] = [stream.read(2), stream.tell(), stream.readline(), stream.tell()]
    stream.seek(0)
    seen += [stream.readlines(), stream.read(), stream.read(5), stream.readline(), stream.tell()]
    stream.seek(-3, 2)
    seen += [stream.read(), stream.tell()]
    stream.seek(4)
    stream.seek(2, 1)
    seen += [stream.read(3), outcome(stream.seek, 1000), outcome(stream.read, 5)]
    seen += [outcome(stream.seek, -1), list(gfile.GFile(path)), stream.size()]
    binary = gfile.GFile(path, "rb")
    seen += [binary.read(), binary.read(), binary.seekable()]
    seen += [outcome(gfile.GFile(path).write, "x"), outcome(gfile.GFile(path, "w").read)]
    return seen


@contract
def reading_a_folder(tf: Any, folder: str) -> object:
    gfile = tf.io.gfile
    gfile.makedirs(f"{folder}/d")
    return [
        outcome(gfile.GFile(f"{folder}/d").read),
        outcome(gfile.GFile(f"{folder}/d").read, 3),
        outcome(lambda: tf.io.read_file(f"{folder}/d").numpy()),
        outcome(lambda: list(tf.data.TFRecordDataset(f"{folder}/d"))),
    ]


@contract
def writing_a_folder(tf: Any, folder: str) -> object:
    tf.io.gfile.makedirs(f"{folder}/d")
    return [
        outcome(write, tf, f"{folder}/d"),
        outcome(write, tf, f"{folder}/d", mode="a"),
        outcome(tf.io.write_file, f"{folder}/d", "x"),
        tf.io.gfile.isdir(f"{folder}/d"),
    ]


@contract
def binary_content(tf: Any, folder: str) -> object:
    path = f"{folder}/bytes"
    content = bytes(range(256)) * 5000  # more than one append buffer
    with tf.io.gfile.GFile(path, "wb") as stream:
        for start in range(0, len(content), 9973):
            stream.write(content[start : start + 9973])
    with tf.io.gfile.GFile(path, "rb") as stream:
        whole = stream.read()
        stream.seek(256 * 4000 + 7)
        piece = stream.read(300)
    return [whole == content, piece == content[7:263] + content[7:51], len(whole)]


@contract
def a_writer_that_python_lets_go_of(tf: Any, folder: str) -> object:
    tf.io.gfile.GFile(f"{folder}/file", "w").write("never closed")
    return [read(tf, f"{folder}/file"), tf.io.gfile.listdir(folder)]


@contract
def operations_in_graphs(tf: Any, folder: str) -> object:
    tf.io.write_file(f"{folder}/made/below/file", "text")
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        session.run(tf.io.write_file(f"{folder}/other", "graph"))
        content = session.run(tf.io.read_file(f"{folder}/other"))
        missing = outcome(session.run, tf.io.read_file(f"{folder}/none"))
    made = tf.io.read_file(f"{folder}/made/below/file").numpy()
    return [made, content, missing, tree(tf, folder)]


# ====== Folders ======


@contract
def making_folders(tf: Any, folder: str) -> object:
    gfile = tf.io.gfile
    gfile.mkdir(f"{folder}/a")
    seen = [gfile.isdir(f"{folder}/a"), gfile.exists(f"{folder}/a"), gfile.listdir(folder)]
    seen += [gfile.listdir(f"{folder}/a"), outcome(gfile.mkdir, f"{folder}/a")]
    seen += [outcome(gfile.makedirs, f"{folder}/a"), outcome(gfile.makedirs, f"{folder}/a/b/c/")]
    seen += [tree(tf, folder), gfile.stat(f"{folder}/a/b").is_directory]
    write(tf, f"{folder}/file")
    seen += [outcome(gfile.mkdir, f"{folder}/file"), outcome(gfile.makedirs, f"{folder}/file")]
    seen += [gfile.isdir(f"{folder}/file"), gfile.isdir(folder)]
    return seen


@contract
def an_emptied_folder_stays(tf: Any, folder: str) -> object:
    gfile = tf.io.gfile
    gfile.makedirs(f"{folder}/a/b")
    write(tf, f"{folder}/a/b/1")
    write(tf, f"{folder}/a/b/2")
    gfile.remove(f"{folder}/a/b/1")
    gfile.rename(f"{folder}/a/b/2", f"{folder}/2")
    seen = [gfile.isdir(f"{folder}/a/b"), gfile.listdir(f"{folder}/a/b"), tree(tf, folder)]
    gfile.rmtree(f"{folder}/a/b")
    return [*seen, tree(tf, folder)]


@contract
def removing(tf: Any, folder: str) -> object:
    gfile = tf.io.gfile
    gfile.makedirs(f"{folder}/a/b")
    for path in ("a/1", "a/b/2", "ab"):
        write(tf, f"{folder}/{path}")
    seen = [outcome(gfile.remove, f"{folder}/a"), outcome(gfile.remove, f"{folder}/a/1")]
    seen += [tree(tf, folder), outcome(gfile.remove, f"{folder}/a/1")]
    seen += [outcome(gfile.rmtree, f"{folder}/a"), tree(tf, folder), gfile.exists(f"{folder}/a")]
    seen += [outcome(gfile.rmtree, f"{folder}/a"), outcome(gfile.rmtree, f"{folder}/ab")]
    return [*seen, tree(tf, folder)]


@contract
def removing_what_is_being_written(tf: Any, folder: str) -> object:
    gfile = tf.io.gfile
    path = write(tf, f"{folder}/file", "old")
    stream = gfile.GFile(path, "w")
    stream.write("new")
    stream.flush()
    gfile.remove(path)
    seen = [gfile.exists(path), gfile.listdir(folder)]
    stream.write("more")
    stream.close()
    return [*seen, gfile.exists(path), gfile.listdir(folder)]


# ====== Renaming and copying ======


@contract
def renaming_files(tf: Any, folder: str) -> object:
    gfile = tf.io.gfile
    one, two = write(tf, f"{folder}/1", "one"), write(tf, f"{folder}/2", "two")
    seen = [outcome(gfile.rename, one, two), read(tf, two)]
    seen += [outcome(gfile.rename, one, two, overwrite=True), read(tf, two), tree(tf, folder)]
    seen += [outcome(gfile.rename, two, two, overwrite=True), read(tf, two)]
    gfile.makedirs(f"{folder}/d")
    seen += [outcome(gfile.rename, two, f"{folder}/d", overwrite=True)]
    seen += [outcome(gfile.rename, two, f"{folder}/d/2"), tree(tf, folder)]
    seen += [outcome(gfile.rename, f"{folder}/none", f"{folder}/x")]
    return [*seen, outcome(gfile.rename, one, one)]


@contract
def renaming_folders(tf: Any, folder: str) -> object:
    gfile = tf.io.gfile
    gfile.makedirs(f"{folder}/a/b/empty")
    for path in ("a/1", "a/b/2"):
        write(tf, f"{folder}/{path}", path)
    seen = [outcome(gfile.rename, f"{folder}/a", f"{folder}/c"), tree(tf, folder)]
    gfile.makedirs(f"{folder}/full")
    write(tf, f"{folder}/full/file")
    write(tf, f"{folder}/file")
    seen += [outcome(gfile.rename, f"{folder}/c", f"{folder}/full", overwrite=True)]
    seen += [outcome(gfile.rename, f"{folder}/c", f"{folder}/file", overwrite=True)]
    seen += [outcome(gfile.rename, f"{folder}/c", f"{folder}/c/inside")]
    seen += [outcome(gfile.rename, f"{folder}/c", f"{folder}/c", overwrite=True)]
    gfile.makedirs(f"{folder}/empty")
    seen += [outcome(gfile.rename, f"{folder}/c", f"{folder}/empty", overwrite=True)]
    return [*seen, tree(tf, folder), read(tf, f"{folder}/empty/b/2")]


@contract
def renaming_what_is_being_written(tf: Any, folder: str) -> object:
    gfile = tf.io.gfile
    path = write(tf, f"{folder}/file", "old")
    stream = gfile.GFile(path, "w")
    stream.write("new")
    stream.flush()
    gfile.rename(path, f"{folder}/moved")
    seen = [tree(tf, folder), read(tf, f"{folder}/moved")]
    stream.write(" and more")
    stream.close()
    return [*seen, tree(tf, folder), read(tf, f"{folder}/moved")]


@contract
def copying(tf: Any, folder: str) -> object:
    gfile = tf.io.gfile
    one, two = write(tf, f"{folder}/1", "one"), write(tf, f"{folder}/2", "two")
    seen = [outcome(gfile.copy, one, two), read(tf, two)]
    seen += [outcome(gfile.copy, one, two, overwrite=True), read(tf, two), read(tf, one)]
    seen += [outcome(gfile.copy, one, f"{folder}/3"), tree(tf, folder)]
    gfile.makedirs(f"{folder}/d")
    seen += [outcome(gfile.copy, one, f"{folder}/d", overwrite=True), tree(tf, folder)]
    stream = gfile.GFile(f"{folder}/open", "w")
    stream.write("flushed")
    stream.flush()
    stream.write(" not")
    gfile.copy(f"{folder}/open", f"{folder}/copied")
    stream.close()
    return [*seen, read(tf, f"{folder}/copied"), read(tf, f"{folder}/open")]


@contract
def temporary_names(tf: Any, folder: str) -> object:
    gfile = tf.io.gfile
    temporary = f"{folder}/checkpoint.tmp{'0' * 32}"
    write(tf, temporary, "first")
    seen = [gfile.exists(temporary), read(tf, temporary), gfile.listdir(folder)]
    gfile.rename(temporary, f"{folder}/checkpoint")
    write(tf, temporary, "second")
    seen += [outcome(gfile.rename, temporary, f"{folder}/checkpoint"), tree(tf, folder)]
    gfile.rename(temporary, f"{folder}/checkpoint", overwrite=True)
    write(tf, temporary, "third")
    gfile.remove(temporary)
    return [*seen, tree(tf, folder), read(tf, f"{folder}/checkpoint")]
