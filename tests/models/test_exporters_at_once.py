"""Exporters that publish at one place at once, while a server's poller loads what appears.

All versions are different and none is lost, and the pointer ends on the highest. PAI_PROOF_COUNT
says how many rounds of two.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest
from exporter_process import Exporter, environment_of
from moto_server import S3Server
from oss_server import OSSServer
from poller import Poller, Store, entries, open_store, pointed_at, store_of
from support import Places

KINDS = ("local", "s3", "oss")
MOST = 12
ROUNDS = int(os.environ.get("PAI_PROOF_COUNT", "3"))
# Where twelve are at once: in buckets it takes the time that a proof has.
CROWDED = KINDS if "PAI_PROOF_COUNT" in os.environ else ("local",)

pytestmark = [pytest.mark.slow, pytest.mark.proof_exporters]


@dataclass
class Crowd:
    """Exporters that wait for each other at one barrier, each with a model of its own."""

    exporters: Sequence[Exporter]
    barrier: int
    models: Path

    def publish(self, location: str, count: int, **how: int) -> dict[int, int]:
        """Let `count` of them publish at once; return the serial of each version."""
        chosen = self.exporters[:count]
        for serial, exporter in enumerate(chosen):
            model = str(self.models / str(serial))
            exporter.order(publish=model, at=location, serial=serial, **how)
        for exporter in chosen:
            assert exporter.answer() == {"ready": True}
        os.write(self.barrier, b"." * count)
        versions = [int(exporter.answer()["version"]) for exporter in chosen]
        assert len(set(versions)) == count
        return dict(zip(versions, range(count), strict=True))


@pytest.fixture(scope="module")
def environment(s3_server: S3Server, oss_server: OSSServer) -> dict[str, str]:
    return environment_of(s3_server, oss_server)


@pytest.fixture(scope="module")
def poller(environment: dict[str, str]) -> Iterator[Poller]:
    with closing(Poller(environment)) as made:
        yield made


@pytest.fixture(scope="module")
def crowd(
    environment: dict[str, str], poller: Poller, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Crowd]:
    waiting, barrier = os.pipe()
    with ExitStack() as stack:
        stack.callback(os.close, barrier)
        exporters = [Exporter(environment, waiting) for _ in range(MOST)]
        for exporter in exporters:
            stack.enter_context(closing(exporter))
        os.close(waiting)
        models = tmp_path_factory.mktemp("models")
        poller.make(models, range(MOST), assets=2)
        yield Crowd(exporters, barrier, models)


@dataclass(frozen=True)
class Target:
    """A place to publish at; `options` open its store."""

    location: str
    options: dict[str, str]

    @cached_property
    def store(self) -> Store:
        return open_store(self.options)


@pytest.fixture
def target(request: pytest.FixtureRequest, places: Places) -> Target:
    if request.param == "local":
        return Target(places.local, store_of("local", None, places.local))
    is_s3 = request.param == "s3"
    location, server = (places.s3, places.server) if is_s3 else (places.oss, places.oss_server)
    return Target(location, store_of(request.param, server, location.partition("://")[2]))


@pytest.mark.parametrize(
    ("target", "count", "rounds"),
    [(kind, 2, ROUNDS) for kind in KINDS] + [(kind, MOST, 1) for kind in CROWDED],
    indirect=["target"],
)
def test_all_versions_are_different_and_none_is_lost(
    target: Target, count: int, rounds: int, crowd: Crowd, poller: Poller, tmp_path: Path
) -> None:
    published: dict[int, int] = {}
    with poller.watching(target.location, target.options, tmp_path / "found") as found:
        for number in range(1, rounds + 1):
            versions = crowd.publish(target.location, count)
            assert not versions.keys() & published.keys()
            published |= versions
            assert pointed_at(target.store) == max(versions) == number * count
    assert (found.errors, found.gone) == ({}, set())
    assert found.serials == published
    names = target.store.names()
    assert entries(names) == published.keys()
    assert {f".versions/{number}" for number in published} <= names
    assert not any(name.startswith(".staging-") for name in names)


@pytest.mark.parametrize("target", KINDS, indirect=True)
def test_versions_go_while_others_come(
    target: Target, crowd: Crowd, poller: Poller, tmp_path: Path
) -> None:
    """Each exporter removes all but two versions when it has published."""
    rounds = max(1, ROUNDS // 2)
    published: dict[int, int] = {}
    with poller.watching(target.location, target.options, tmp_path / "found") as found:
        for _ in range(rounds):
            published |= crowd.publish(target.location, 4, keep=2)
            newest = max(published)
            assert pointed_at(target.store) == newest
            assert {newest, newest - 1} <= entries(target.store.names())
    assert found.errors == {}
    assert len(published) == 4 * rounds
    assert found.serials.items() <= published.items()
    there = entries(target.store.names())
    assert {newest, newest - 1} <= there <= found.serials.keys()
    leftovers = {int(name.partition("/")[0]) for name in target.store.names() if name[0].isdigit()}
    assert leftovers == there
