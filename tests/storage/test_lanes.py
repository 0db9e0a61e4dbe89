"""How many requests are made at once."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest
from support import fork, wait_until

from pai_runner.storage.lanes import Lanes, lanes


class Work:
    """Work that waits until it may end, and counts how many do it at once."""

    def __init__(self) -> None:
        self.may_end = threading.Event()
        self.now = 0
        self.most = 0
        self._lock = threading.Lock()

    def __call__(self) -> None:
        with self._lock:
            self.now += 1
            self.most = max(self.most, self.now)
        self.may_end.wait()
        with self._lock:
            self.now -= 1


def test_results_and_errors_arrive() -> None:
    made = Lanes()
    assert [one.result() for one in [made.submit(abs, -n) for n in range(100)]] == list(range(100))
    with pytest.raises(ZeroDivisionError):
        made.submit(divmod, 1, 0).result()


def test_many_at_once_and_more_when_work_waits() -> None:
    made, work = Lanes(), Work()
    before = made.limit
    waiting = [made.submit(work) for _ in range(300)]
    wait_until(lambda: work.now == before)
    work.may_end.set()
    for one in waiting:
        one.result()
    assert before < made.limit <= 64
    assert work.most <= 64


def test_a_server_that_is_asked_too_much_gets_fewer_requests() -> None:
    made, work = Lanes(), Work()
    before = made.limit
    made.slow_down()
    made.slow_down()
    assert made.limit == before // 2, "one overload counts once"
    waiting = [made.submit(work) for _ in range(10)]
    wait_until(lambda: work.now == before // 2)
    assert not any(one.done() for one in waiting)
    work.may_end.set()
    for one in waiting:
        one.result()
    assert work.most <= before // 2 + 2


def test_work_that_is_cancelled_is_not_done() -> None:
    made, work = Lanes(), Work()
    for _ in range(made.limit):
        made.submit(work)
    wait_until(lambda: work.now == made.limit)
    done: list[int] = []
    late = made.submit(done.append, 1)
    assert late.cancel()
    work.may_end.set()
    made.submit(abs, 1).result()
    assert done == []


def test_a_forked_child_has_its_own() -> None:
    assert lanes().submit(abs, -1).result() == 1
    child = fork()
    if child == 0:
        os._exit(lanes().submit(abs, -7).result(5))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_work_is_done_while_the_process_ends() -> None:
    code = """
import atexit
from pai_runner.storage.lanes import Lanes
used, unused = Lanes(), Lanes()
used.submit(abs, 1).result()
def end():
    print([used.submit(pow, n, 2).result() for n in range(40)] == [n * n for n in range(40)])
    print(unused.submit(abs, -5).result())
atexit.register(end)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.split() == ["True", "5"], done.stderr
