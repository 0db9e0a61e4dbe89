"""Credentials that end are replaced in time, once, and also when the server refuses them."""

from __future__ import annotations

import multiprocessing
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from credential_doubles import (
    ROLE,
    SHOWN_ROLE,
    STS,
    TOKEN,
    cli_file,
    error_of,
    profiles,
    values,
)
from support import wait_until

from pai_runner.errors import SetupError
from pai_runner.storage.credentials import RefreshedSource, credential_source


class Clock:
    """A time that tests set."""

    def __init__(self) -> None:
        self.now = time.time()
        self.reads = 0

    def __call__(self) -> float:
        self.reads += 1
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def source(sts: STS, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> RefreshedSource:
    """A role's source that lives by `clock`."""
    made = sts.source()
    assert isinstance(made, RefreshedSource)
    monkeypatch.setattr(made, "_clock", clock)
    return made


@pytest.mark.parametrize(("lifetime", "margin"), [(3600, 300), (900, 90), (60, 6)])
def test_a_token_is_replaced_shortly_before_it_ends(
    sts: STS, source: RefreshedSource, clock: Clock, lifetime: int, margin: int
) -> None:
    sts.tokens.lifetime = lifetime
    first = source.get()
    clock.now += lifetime - margin - 3
    assert source.get() is first
    clock.now += 6
    assert source.get() is not first
    assert len(sts.tokens.calls) == 2


def test_eight_threads_ask_once(sts: STS, source: RefreshedSource) -> None:
    sts.gate.clear()
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(source.get) for _ in range(8)]
        assert sts.waiting.acquire(timeout=10)
        sts.gate.set()
        assert len({id(one.result()) for one in asked}) == 1
    assert len(sts.tokens.calls) == 1


def test_eight_threads_share_a_failure(sts: STS, source: RefreshedSource, clock: Clock) -> None:
    sts.broken = True
    sts.gate.clear()
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(source.get) for _ in range(8)]
        wait_until(lambda: clock.reads == 8)  # each has begun, and waits
        sts.gate.set()
        for one in asked:
            with pytest.raises(SetupError, match="STS does not answer"):
                one.result()
    assert sts.waiting.acquire(timeout=10)
    assert not sts.waiting.acquire(blocking=False)


def test_others_go_on_with_the_old_token_meanwhile(
    sts: STS, source: RefreshedSource, clock: Clock
) -> None:
    first = source.get()
    assert sts.waiting.acquire(timeout=10)
    clock.now += 3600 - 200
    sts.gate.clear()
    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(source.get)
        assert sts.waiting.acquire(timeout=10)
        assert source.get() is first
        sts.gate.set()
        assert asking.result() is source.get() is not first


def test_a_failure_is_said_once_while_the_old_token_is_good(
    sts: STS, source: RefreshedSource, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    first = source.get()
    sts.broken = True
    for _ in range(3):
        clock.now = (first.expires or 0) - 200
        assert source.get() is first
        assert source.get() is first  # without asking: it was just tried
        clock.now += 40
        assert source.get() is first
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith(f"pai: {SHOWN_ROLE}: STS does not answer")
    assert said.endswith("; the old token is used on\n")
    clock.now = (first.expires or 0) + 1
    assert "STS does not answer" in error_of(source).message
    sts.broken = False
    assert source.get() is not first


def test_a_short_lived_token_is_not_asked_for_at_every_use(
    sts: STS, source: RefreshedSource
) -> None:
    sts.tokens.lifetime = 120
    assert len({id(source.get()) for _ in range(50)}) == 1
    assert len(sts.tokens.calls) == 1


def test_a_token_that_the_server_refuses_is_renewed(sts: STS, source: RefreshedSource) -> None:
    first = source.get()
    sts.tokens.expire_all()
    assert sts.tokens.state(first.access_key_id, first.security_token) == "expired"
    assert source.renew()
    second = source.get()
    assert sts.tokens.state(second.access_key_id, second.security_token) == "valid"
    assert source.renew(first)  # said late, by another thread
    assert source.get() is second
    assert source.renew(second)
    assert source.get() is not second
    assert len(sts.tokens.calls) == 3


def test_a_role_goes_on_with_a_newer_token_of_the_user(
    sts: STS, environment: dict[str, str]
) -> None:
    """The user's own token lies in a file, and has been replaced there since it was read."""

    def log_in() -> str:
        made = sts.tokens.issue(ROLE, "user", None, 3600)
        keys = {"access_key_id": made["AccessKeyId"], "access_key_secret": made["AccessKeySecret"]}
        cli_file(
            environment,
            profiles({**TOKEN, **keys, "sts_token": made["SecurityToken"]}, current="other"),
        )
        return made["AccessKeyId"]

    first_user = log_in()
    source = credential_source({"role_arn": ROLE}, {**environment, "PAI_STS_ENDPOINT": sts.url})
    first = source.get()
    sts.tokens.expire_all()
    assert source.renew(first)
    error = error_of(source)
    assert "InvalidSecurityToken.Expired" in error.message
    assert (error.hint or "").startswith("check the access key; ")
    second_user = log_in()
    assert source.get() is not first
    assert [one.caller for one in sts.tokens.calls] == [first_user] * 3 + [first_user, second_user]


def test_a_forked_child_asks_by_itself(sts: STS, source: RefreshedSource, clock: Clock) -> None:
    """A thread of the parent holds the lock at the fork."""
    source.get()
    clock.now += 4000
    sts.gate.clear()
    while sts.waiting.acquire(blocking=False):
        pass
    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(source.get)
        assert sts.waiting.acquire(timeout=10)
        child = multiprocessing.get_context("fork").Process(target=lambda: values(source.get()))
        child.start()
        assert sts.waiting.acquire(timeout=10)  # the child asks, too
        sts.gate.set()
        child.join(20)
        assert child.exitcode == 0
        asking.result()
