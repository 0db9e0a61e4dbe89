"""Reading ahead, straight into memory, of one file. What the file holds is kept in this process."""

from __future__ import annotations

import ctypes
import os
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import fork, wait_until

from pai_runner.errors import SetupError
from pai_runner.script.blocks import Budget, read_ahead_bytes
from pai_runner.script.readers import LocalReader, RemoteReader
from pai_runner.script.siblings import Siblings
from pai_runner.storage.objects import PART

MIB = 1024 * 1024
CONTENT = random.Random(5).randbytes(40 * MIB)


class File:
    """A file whose reads are noted: `fetched` are their ranges.

    A read takes `seconds`, and waits for `answering`.
    """

    def __init__(self, size: int, head: int = 0, budget: int = 512 * MIB, stream: bool = True):
        self.fetched: list[tuple[int, int]] = []
        self.offers: list[tuple[int, int, int]] = []
        self.answering = threading.Event()
        self.answering.set()
        self.failing = False
        self.seconds = 0.0
        self.budget = Budget(budget)
        self.size = size
        self.reader = RemoteReader(
            size, CONTENT[:head], self._fetch, self.budget,
            lambda *offer: self.offers.append(offer), stream,
        )  # fmt: skip

    def _fetch(self, start: int, into: memoryview) -> None:
        self.fetched.append((start, len(into)))
        self.answering.wait()
        time.sleep(self.seconds)
        if self.failing:
            raise OSError(5, "it broke")
        into[:] = CONTENT[start : start + len(into)]

    def read(self, offset: int, count: int) -> bytes:
        memory = ctypes.create_string_buffer(count)
        got = self.reader.read_into(ctypes.addressof(memory), offset, count)
        return memory.raw[:got]

    def check(self, offset: int, count: int) -> None:
        assert self.read(offset, count) == CONTENT[: self.size][offset : offset + count]

    @property
    def total(self) -> int:
        """How many bytes were fetched."""
        return sum(count for _, count in self.fetched)

    def held(self) -> int:
        return self.budget._used


# ====== What is read ======


@settings(max_examples=60, deadline=None)
@given(
    size=st.integers(0, 12 * MIB),
    head=st.integers(0, 300_000),
    stream=st.booleans(),
    budget=st.sampled_from([0, MIB, 512 * MIB]),
    seed=st.integers(0, 2**32),
)
def test_every_read_is_right(size: int, head: int, stream: bool, budget: int, seed: int) -> None:
    file = File(size, min(head, size), budget, stream)
    chance = random.Random(seed)
    offset = 0
    for _ in range(12):
        kind = chance.random()
        if kind > 0.6:
            offset = chance.randrange(size + 1)
        count = chance.choice([1, 48, 4096, 256 * 1024, 1_000_000, 5_000_000])
        file.check(offset, count)
        offset += count
    file.reader.close()
    wait_until(lambda: file.held() == 0)


def test_many_threads_read_one_file() -> None:
    file = File(40 * MIB, 256 * 1024, 20 * MIB)

    def read(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(25):
            file.check(chance.randrange(file.size), chance.choice([100, 70_000, 3_000_000]))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(read, range(8)))
    file.reader.close()
    wait_until(lambda: file.held() == 0)


def test_nothing_is_read_behind_the_end() -> None:
    file = File(1000, 1000)
    assert file.read(900, 200) == CONTENT[900:1000]
    assert file.read(1000, 10) == b""
    assert file.read(5000, 10) == b""
    assert file.fetched == []


def test_a_failed_read_is_an_error_and_the_next_one_may_succeed() -> None:
    for count in (1000, 20 * MIB):
        file = File(40 * MIB)
        file.failing = True
        with pytest.raises(OSError, match="it broke"):
            file.read(5 * MIB, count)
        file.failing = False
        file.check(5 * MIB, count)


# ====== How much is fetched ======


def test_who_waits_for_what_he_reads_is_given_more_and_more_ahead() -> None:
    file = File(40 * MIB, 256 * 1024)
    file.seconds = 0.02
    for offset in range(0, 40 * MIB, 256 * 1024):
        file.check(offset, 256 * 1024)
    assert file.total == 40 * MIB - 256 * 1024, "every byte once"
    lengths = [count for _, count in file.fetched]
    assert lengths[0] == MIB
    assert max(lengths) >= 4 * MIB


def test_who_does_not_wait_is_not_given_more() -> None:
    file = File(40 * MIB, 256 * 1024)
    for offset in range(0, 20 * MIB, 256 * 1024):
        wait_until(lambda: all(block.coming.done() for block in file.reader._blocks))
        file.check(offset, 256 * 1024)
    assert file.total <= 20 * MIB + 4 * MIB


def test_blocks_are_offered_to_the_compiled_part() -> None:
    file = File(4 * MIB, 256 * 1024)
    for offset in range(0, 3 * MIB, 64 * 1024):
        file.check(offset, 64 * 1024)
    address, start, size = file.offers[-1]
    assert start <= 3 * MIB <= start + size
    assert ctypes.string_at(address, size) == CONTENT[start : start + size]
    file.reader.close()
    assert file.offers[-1] == (0, 0, 0), "and taken back"


def test_who_reads_here_and_there_gets_little_more_than_he_asks_for() -> None:
    file = File(40 * MIB, 256 * 1024, stream=False)
    asked = 0
    for offset in (30 * MIB, 3 * MIB, 22 * MIB, 11 * MIB):
        file.check(offset, 2 * MIB)
        asked += 2 * MIB
    assert file.total == asked
    file.check(37 * MIB, 10)
    assert file.total == asked + 256 * 1024


def test_a_first_tensor_of_a_checkpoint_fetches_itself_alone() -> None:
    file = File(40 * MIB, 256 * 1024, stream=False)
    file.check(0, 16 * MIB)
    assert file.total == 16 * MIB - 256 * 1024


def test_a_long_read_is_cut_into_ranges_that_are_fetched_at_once() -> None:
    file = File(40 * MIB, stream=False)
    file.answering.clear()
    reading = threading.Thread(target=file.check, args=(0, 32 * MIB))
    reading.start()
    wait_until(lambda: len(file.fetched) == 16)
    file.answering.set()
    reading.join()
    assert {count for _, count in file.fetched} == {2 * MIB}


def test_the_budget_holds_for_all_files() -> None:
    budget = 4 * MIB
    files = [File(40 * MIB, budget=budget) for _ in range(3)]
    for file in files:
        file.budget = files[0].budget
        file.reader._budget = files[0].budget
    most = 0
    for offset in range(0, 20 * MIB, 256 * 1024):
        for file in files:
            file.check(offset, 256 * 1024)
            most = max(most, files[0].held())
    # Each file has besides the block that is read, and the one before it, which is on offer.
    assert most <= budget + 3 * 2 * MIB


def test_the_budget_is_set_in_megabytes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_ahead_bytes() == 512 * MIB
    monkeypatch.setenv("PAI_READ_AHEAD_MB", "64")
    assert read_ahead_bytes() == 64 * MIB
    monkeypatch.setenv("PAI_READ_AHEAD_MB", "much")
    with pytest.raises(SetupError, match="PAI_READ_AHEAD_MB=much is not a number"):
        read_ahead_bytes()


# ====== Processes ======


def test_a_forked_child_reads_what_the_parent_was_waiting_for() -> None:
    file = File(40 * MIB, 256 * 1024)
    file.answering.clear()
    waiting = threading.Thread(target=file.check, args=(0, 2 * MIB))
    waiting.start()
    wait_until(lambda: file.fetched)
    child = fork()
    if child == 0:
        file.answering = threading.Event()
        file.answering.set()
        file.budget.after_fork()
        file.reader.after_fork()
        file.check(0, 2 * MIB)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    file.answering.set()
    waiting.join()


def test_memory_of_a_forked_child_is_its_own() -> None:
    budget = Budget(64 * MIB)
    memory = budget.take(PART)
    unused = budget.take(PART)
    assert memory is not None
    assert unused is not None
    memory[:6] = b"parent"
    budget.give_back(unused)  # kept, for whoever takes so much next
    child = fork()
    if child == 0:
        budget.after_fork()
        used_again = budget.take(PART)
        assert used_again is unused
        memory[:5] = used_again[:5] = b"child"
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert memory[:6] == b"parent"
    assert unused[:5] == bytes(5)


def test_a_local_file_is_read_where_it_is(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(CONTENT[:100])
    reader = LocalReader(os.open(tmp_path / "file", os.O_RDONLY))
    memory = ctypes.create_string_buffer(50)
    assert reader.read_into(ctypes.addressof(memory), 80, 50) == 20
    assert memory.raw[:20] == CONTENT[80:100]
    reader.close()


# ====== Which file comes next ======


def opened(siblings: Siblings, *names: str, late: bool = True) -> list[list[str]]:
    return [siblings.opened(f"s3://b/d/{name}", late) for name in names]


@pytest.fixture
def siblings() -> Siblings:
    found = Siblings()
    found.listed("s3://b/d", [f"f{number:03}" for number in range(100)])
    return found


def names(*numbers: int) -> list[str]:
    return [f"s3://b/d/f{number:03}" for number in numbers]


def test_files_opened_in_order_are_foretold(siblings: Siblings) -> None:
    first, second, third, fourth = opened(siblings, "f000", "f001", "f002", "f003")
    assert first == []
    assert second == names(2, 3)
    assert third == names(4, 5, 6)
    assert fourth == names(*range(7, 12))


def test_each_file_is_foretold_once_and_no_more_than_there_are(siblings: Siblings) -> None:
    told = [path for number in range(100) for path in siblings.opened(names(number)[0], True)]
    assert told == names(*range(2, 100))


def test_who_need_not_wait_is_told_no_more_than_before(siblings: Siblings) -> None:
    opened(siblings, "f000", "f001")
    assert opened(siblings, "f002", "f003", late=False) == [names(4), names(5)]


@pytest.mark.parametrize("order", [["f005", "f003", "f009"], ["f007", "f007"], ["x", "y"]], ids=str)
def test_any_other_order_foretells_nothing(siblings: Siblings, order: list[str]) -> None:
    assert opened(siblings, *order) == [[] for _ in order]
