"""Exporters killed at any moment of a publishing, while a server's poller loads what appears.

No version that has its saved_model.pb is ever loaded wrong or in part; the next exporter goes on
with a higher number; no number is given twice; what is left behind can be removed. The moments
come from a seeded generator, the same for each kind of step; PAI_PROOF_COUNT says how many.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

import moto_server
import oss_server as oss_double
import pytest
from exporter_process import Exporter, Steps, environment_of
from poller import Poller, Store, entries, open_store, pointed_at, store_of
from support import wait_until

KINDS = ("local", "s3", "oss")
KILLS = -(-int(os.environ.get("PAI_PROOF_COUNT", "6")) // len(KINDS))
# Two for a kill, and some for victims that were quicker.
SERIALS = 3 * KILLS + 8
_MANIFEST = "assets.extra/pai_manifest.json"
# What comes behind the steps of a publishing, and how long it is, in steps.
PRUNING = "pruning"
_MEANS = {PRUNING: 20}


@dataclass
class Place:
    """A place under test: how a user names it, how the poller's store opens it, and its notes.

    `marker` is what comes before names of the place in the notes.
    """

    location: str
    options: Mapping[str, str]
    notes: Path
    marker: str
    given: dict[str, bytes] = field(default_factory=dict)

    @cached_property
    def store(self) -> Store:
        return open_store(self.options)

    def check_reservations(self) -> int:
        """Check that no number was given twice; return the highest that was given."""
        store = self.store
        for name in store.names():
            if re.fullmatch(r"\.versions/\d+", name):
                assert self.given.setdefault(name, store.read(name)) == store.read(name)
        assert self.given.keys() <= store.names()
        return max(int(name.partition("/")[2]) for name in self.given)


@dataclass
class Servers:
    """Servers of these tests alone: their notes tell how far an exporter is."""

    s3: moto_server.S3Server
    oss: oss_double.OSSServer
    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        return {**environment_of(self.s3, self.oss), "TMPDIR": str(self.folder)}

    def place(self, kind: str, folder: Path) -> Place:
        if kind == "local":
            notes, local = folder / "calls", folder / "models"
            notes.touch()
            local.mkdir()
            return Place(str(local), store_of(kind, None, str(local)), notes, f"{local}/")
        server = self.s3 if kind == "s3" else self.oss
        at = f"{server.make_bucket('killed')}/models/"
        notes = self.folder / f"{kind}-requests"
        return Place(f"{kind}://{at}", store_of(kind, server, at), notes, f"/{at}")


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    folder = tmp_path_factory.mktemp("servers")
    with (
        moto_server.s3_server(folder / "s3-requests") as s3,
        oss_double.oss_server(folder / "oss-requests") as oss,
    ):
        yield Servers(s3, oss, folder)


@pytest.fixture(scope="module")
def poller(servers: Servers) -> Iterator[Poller]:
    with closing(Poller(servers.environment)) as made:
        yield made


@pytest.fixture(scope="module")
def models(poller: Poller, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model for each serial number that is used."""
    folder = tmp_path_factory.mktemp("models")
    poller.make(folder, range(SERIALS), assets=6)
    return folder


@pytest.mark.slow
@pytest.mark.proof_exports
@pytest.mark.parametrize("kind", KINDS)
def test_killed_at_any_moment(
    kind: str,
    servers: Servers,
    poller: Poller,
    models: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    place = servers.place(kind, tmp_path)
    fell: Counter[str] = Counter()
    with (
        closing(Exporter(servers.environment)) as heir,
        closing(Steps(place.notes, place.marker)) as steps,
        poller.watching(place.location, place.options, tmp_path / "found") as found,
    ):
        victims = Victims(place, models, steps, servers.environment, random.Random(kind))
        published = {victims.measure(0): 0}
        wait_until(partial(found.has, *published), 60)
        serials = iter(range(1, SERIALS))
        while (kills := sum(fell.values())) < KILLS:
            phase = victims.kill(next(serials))
            if not phase:
                continue  # it was quicker
            fell[phase] += 1
            highest = place.check_reservations()
            check_pointer(place.store)
            if kills % 3 == 0:
                heir.collect(place.location, 1)
                check_pointer(place.store)
            serial = next(serials)
            version = heir.publish(place.location, models / str(serial), serial)
            assert version > highest
            published[version] = serial
            check_pointer(place.store, version)
            wait_until(partial(found.has, version), 60)
        there = entries(place.store.names())
    with capsys.disabled():
        told = ", ".join(f"{phase} {fell[phase]}" for phase in PHASES if fell[phase])
        print(f"\n{kind}, killed in: {told}; loaded {len(found.serials)}, gone {len(found.gone)}")
    assert found.errors == {}
    assert there <= found.serials.keys()
    assert found.serials.items() >= published.items()
    # Each export became one version at most.
    assert len(set(found.serials.values())) == len(found.serials)
    with closing(Exporter(servers.environment)) as exporter:
        exporter.collect(place.location, 1, grace=0)
    check_clean(place)


@pytest.mark.slow
def test_the_poller_tells_what_is_wrong(poller: Poller, models: Path, tmp_path: Path) -> None:
    """Were it blind, the others would prove nothing."""
    place = tmp_path / "models"
    for version in ("1", "2", "3"):
        shutil.copytree(models / "0", place / version)
    (place / "1" / "variables" / "variables.data-00000-of-00001").unlink()
    asset = "assets/vocabulary-1.txt"
    shutil.copyfile(models / "1" / asset, place / "2" / asset)
    options = store_of("local", None, str(place))
    with poller.watching(str(place), options, tmp_path / "found") as found:
        pass
    assert found.errors.keys() == {1, 2, 3}
    assert "variables.data" in found.errors[1]
    assert "parts of several models" in found.errors[2]
    assert "pai_manifest.json" in found.errors[3]
    assert (found.serials, found.gone) == ({}, set())


class Victims:
    """Exporters that are killed. `measure` comes first: it learns the steps of a publishing."""

    def __init__(
        self,
        place: Place,
        models: Path,
        steps: Steps,
        environment: Mapping[str, str],
        chance: random.Random,
    ) -> None:
        self._place = place
        self._models = models
        self._steps = steps
        self._environment = environment
        self._chance = chance
        self._indexes: dict[str, list[int]] = {}
        self._last = 0
        self._mean = 0.0

    def measure(self, serial: int) -> int:
        """Publish undisturbed, and return the version."""
        with closing(Exporter(self._environment)) as exporter:
            self._steps.forget()
            self._order(exporter, serial)
            wait_until(self._steps.read, 60, 0.001)
            begun = time.monotonic()
            version = int(exporter.answer()["version"])
            kinds = self._steps.read()
            self._mean = (time.monotonic() - begun) / len(kinds)
        self._last = len(kinds) - 1
        for index, kind in enumerate(kinds):
            self._indexes.setdefault(kind, []).append(index)
        return version

    def kill(self, serial: int) -> str:
        """Publish and kill the exporter meanwhile; return in which phase, or "" if it was over.

        Each kind of step is as likely as the others, however many steps of it there are, and so
        is the pruning after them; the kill comes at a random time after the step.
        """
        kind = self._chance.choice([*sorted(self._indexes), PRUNING])
        index = self._chance.choice(self._indexes.get(kind, [self._last]))
        before = self._place.store.names()
        with closing(Exporter(self._environment)) as exporter:
            self._steps.forget()
            self._order(exporter, serial, **({"keep": 2} if kind == PRUNING else {}))
            wait_until(lambda: len(self._steps.read()) > index or exporter.has_answered, 60, 0.0005)
            with suppress(subprocess.TimeoutExpired):
                exporter.process.wait(self._chance.uniform(0, _MEANS.get(kind, 1) * self._mean))
            has_ended = exporter.has_answered
        return "" if has_ended else self._phase(before, serial)

    def _order(self, exporter: Exporter, serial: int, **how: int) -> None:
        exporter.order(
            publish=str(self._models / str(serial)),
            at=self._place.location,
            serial=serial,
            notes=str(self._place.notes),
            **how,
        )

    def _phase(self, before: set[str], serial: int) -> str:
        """Return how far a killed exporter came, by what it has left."""
        model = self._models / str(serial)
        files = {str(path.relative_to(model)) for path in model.rglob("*") if path.is_file()}
        store = self._place.store
        new = store.names() - before
        staged = {name for name in new if name.startswith(".staging-")}
        mine = {name.partition("/")[2] for name in new if name[0].isdigit()}
        if "saved_model.pb" in mine:
            if len(staged) == len(files):
                return "saved_model.pb"
            if staged:
                return "clearing"
            number = next(name for name in new if name[0].isdigit()).partition("/")[0]
            return PRUNING if pointed_at(store) == int(number) else "pointer"
        if mine:
            return "manifest" if _MANIFEST in mine else "copies"
        if any(name.startswith(".versions/") for name in new):
            return "reservation"
        if len(staged) >= len(files):
            return "verification"
        return "staging" if staged else "beginning"


# The phases of an export into a bucket, in order; a local one has no copies and no clearing.
PHASES = (
    "beginning",
    "staging",
    "verification",
    "reservation",
    "copies",
    "manifest",
    "saved_model.pb",
    "clearing",
    "pointer",
    PRUNING,
)


def check_pointer(store: Store, version: int | None = None) -> None:
    """Check that `latest.json` names a version that is there, and which."""
    pointed = pointed_at(store)
    assert pointed in entries(store.names())
    assert version in (None, pointed)


def check_clean(place: Place) -> None:
    """Check that there is nothing but whole versions, the numbers that were given, the pointer."""
    store = place.store
    check_pointer(store)
    place.check_reservations()
    names = store.names()
    wanted = {name for name in names if re.fullmatch(r"latest\.json|\.(latest|versions)/\d+", name)}
    for number in entries(names):
        manifest = json.loads(store.read(f"{number}/{_MANIFEST}"))
        wanted |= {f"{number}/{file['path']}" for file in manifest["files"]}
        wanted.add(f"{number}/{_MANIFEST}")
    assert names == wanted
    if place.options["kind"] == "local":
        assert set(os.listdir(place.location)) == {name.partition("/")[0] for name in names}
