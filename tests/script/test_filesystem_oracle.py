"""Random sequences of gfile's calls: a bucket answers as the local disk does, errors included.

TensorFlow's own file system on a local folder is the oracle. The names are few, so that they
collide and nest. PAI_PROOF_COUNT says how many sequences for each kind of bucket; without it they
are always the same.
"""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import Any

import pytest
from file_systems import FileSystems
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st
from oracle_calls import Call, Content, Pick, Player, is_comparable, resolved

pytestmark = [pytest.mark.tensorflow, pytest.mark.slow, pytest.mark.proof_buckets]

COUNT = os.environ.get("PAI_PROOF_COUNT")
FEW = {"memory": 25, "s3": 12, "oss": 12}

NAMES = ("a", "a.b", "b c", "模 型", "what?", "h#sh", "100%41", "quote'\"", "[x]", "star*")
KB = 1024

# ====== Calls ======

_contents = st.builds(
    Content,
    st.sampled_from((0, 1, 10, 3000)) | st.sampled_from((5 * KB, 300 * KB, 2500 * KB)),
    st.integers(0, 9),
)
_modes = st.sampled_from(("wb", "ab"))
_numbers = st.integers(0, 2)
_sizes = st.sampled_from((0, 1, 10, 4000, 256 * KB, 2000 * KB))
_reads = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(("read", "readline", "tell", "size"))),
        st.tuples(st.just("read"), _sizes),
        st.tuples(st.just("seek"), st.sampled_from((0, 1, 2999, 300 * KB, 3000 * KB))),
        st.tuples(st.just("seek"), st.sampled_from((-10, 0, 10)), st.sampled_from((1, 2))),
    ),
    max_size=6,
)


_names = st.sampled_from(NAMES[:3]) | st.sampled_from(NAMES)
_picks = st.integers(0, 5)
_new = st.builds(Pick, st.just("directories"), _picks, _names)
_file = st.builds(Pick, st.just("files"), _picks)
_directory = st.builds(Pick, st.just("directories"), _picks)
_any = st.one_of(_file, _directory, _new, st.builds(Pick, st.just("files"), _picks, _names))
_target = st.one_of(_new, _new, _any)
# A pattern is a path of which some names are wild.
_patterns = st.lists(
    st.sampled_from(("*", "a*", "?", "[ab]*", "*c", "*.b", "模*", "what\\?", "\\[x]", "a", "b c")),
    min_size=1,
    max_size=3,
).map("/".join)
_flag = st.booleans()


def calls(name: str, *arguments: st.SearchStrategy[Any]) -> st.SearchStrategy[Call]:
    return st.tuples(st.just(name), *arguments)


CALLS: st.SearchStrategy[Call] = st.one_of(
    calls("exists", _any),
    calls("isdir", _any),
    calls("listdir", _any),
    calls("stat", _any),
    calls("glob", _patterns),
    calls("walk", _directory, _flag),
    calls("read", _file | _any, _reads),
    calls("read_op", _any),
    calls("write_op", _target, _contents),
    calls("write", _new, _modes, _contents),
    calls("write", _file | _any, _modes, _contents),
    calls("open", _numbers, _file | _new, _modes),
    calls("append", _numbers, _contents, _flag),
    calls("append", _numbers, _contents, st.just(True)),
    calls("close", _numbers),
    calls("remove", _file | _any),
    calls("rename", _file, _target, _flag),
    calls("rename", _any, _target, _flag),
    calls("copy", _file, _target, _flag),
    calls("copy", _any, _target, _flag),
    calls("mkdir", _target),
    calls("makedirs", _target),
    calls("rmtree", _any),
)

# ====== The comparison ======

_folders = itertools.count(1)


@pytest.mark.parametrize("protocol", ["memory", "s3", "oss"])
def test_a_bucket_answers_as_a_local_folder(
    protocol: str, tf: Any, file_systems: FileSystems, tmp_path: Path
) -> None:
    @settings(
        max_examples=int(COUNT) if COUNT else FEW[protocol],
        derandomize=COUNT is None,
        database=None,
        deadline=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(CALLS, min_size=10, max_size=30))
    def agrees(sequence: list[Call]) -> None:
        compare(sequence, protocol, tf, file_systems, tmp_path)

    agrees()


def compare(
    sequence: list[Call], protocol: str, tf: Any, file_systems: FileSystems, tmp_path: Path
) -> None:
    local = tmp_path / str(next(_folders))
    local.mkdir()
    oracle = Player(tf, str(local))
    tested = Player(tf, file_systems.new_folder(protocol, tmp_path))
    tf.io.gfile.makedirs(tested.root)
    for call in (resolved(one, local) for one in sequence):
        if is_comparable(call, local, oracle.writers):
            expected = oracle.play(call)
            note(f"{call} -> {expected}")
            assert tested.play(call) == expected, call
    assert list(tested.writers) == list(oracle.writers)
    for number in list(oracle.writers):
        assert tested.play(("close", number)) == oracle.play(("close", number))
    assert tested.play(("walk", "", True)) == oracle.play(("walk", "", True))
    files = [path for path in local.rglob("*") if path.is_file()]
    for path in files:
        call = ("read_op", str(path.relative_to(local)))
        assert tested.play(call) == oracle.play(call)
    if protocol != "memory":
        there = file_systems.keys(tested.root)
        assert there == {
            f"{tested.root.rpartition('/')[2]}/{path.relative_to(local)}": path.stat().st_size
            for path in files
        }
    tf.io.gfile.rmtree(tested.root)
    assert not tf.io.gfile.exists(tested.root)
