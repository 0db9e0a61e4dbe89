"""A server's poller: it loads each version of a place the moment that its saved_model.pb appears.

As a program it takes orders from its standard input, in lines of JSON, and says when each is done:

    {"make": FOLDER, "serials": …, "assets": 10}  makes FOLDER/1, FOLDER/2, …, models
    {"watch": LOCATION, "store": …, "to": FILE}   begins to poll
    {"end": true}                                 polls once more, and ends that

TensorFlow is loaded once. Each model has a serial number, which every part of it tells: the
graph, each variable, each asset. What the poller finds goes to FILE, a line of JSON a version:

    {"version": 3, "serial": 7}     whole and right, by a plain copy and by `fetch_version`
    {"version": 4, "gone": true}    it was removed while it was being read
    {"version": 5, "error": "…"}    it has its saved_model.pb, and is not whole, or not right
"""

from __future__ import annotations

import hashlib
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from moto_server import CREDENTIALS, REGION
from oss_server import OTHER_KEY_ID, OTHER_SECRET
from support import ROOT

_VARIABLES = 24
_ASSET_BYTES = 40_000
_WEIGHTS = 250_000
_TEMPLATE = 10_000_000
_ENTRY = "saved_model.pb"
_POLL_SECONDS = 0.02


class Poller:
    """A running poller."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        paths = (ROOT, Path(__file__).parents[1], Path(__file__).parents[1] / "servers")
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(map(str, paths)),
                "CUDA_VISIBLE_DEVICES": "-1",
                "TF_CPP_MIN_LOG_LEVEL": "2",
                **environment,
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def order(self, **order: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()

    def answered(self) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "done\n", "the poller ended"

    def make(self, folder: Path, serials: range, assets: int) -> None:
        """Make a model for each serial number, with so many assets, at `folder`/SERIAL."""
        self.order(make=str(folder), serials=list(serials), assets=assets)
        self.answered()

    @contextmanager
    def watching(self, location: str, store: Mapping[str, str], reports: Path) -> Iterator[Found]:
        """Poll a place all the while, and once more at the end of the block."""
        reports.touch()
        self.order(watch=location, store=dict(store), to=str(reports))
        self.answered()
        found = Found(reports)
        try:
            yield found
        finally:
            self.order(end=True)
            self.answered()
        found.update()

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


@dataclass
class Found:
    """What a poller found: the serial of each version that it loaded, and what was not so."""

    reports: Path
    serials: dict[int, int] = field(default_factory=dict)
    gone: set[int] = field(default_factory=set)
    errors: dict[int, str] = field(default_factory=dict)

    def update(self) -> None:
        """Read the reports that there are."""
        lines = self.reports.read_text(encoding="utf-8").split("\n")
        for line in lines[:-1]:
            report = json.loads(line)
            version = report["version"]
            if "serial" in report:
                self.serials[version] = report["serial"]
            elif "gone" in report:
                self.gone.add(version)
            else:
                self.errors[version] = report["error"]

    def has(self, version: int) -> bool:
        """Tell whether the poller is done with a version."""
        self.update()
        assert self.errors == {}
        return version in self.serials.keys() | self.gone


# ====== Stores, by ways that share nothing with the package ======


class Store(Protocol):
    """The files below a place."""

    def names(self) -> set[str]: ...
    def read(self, name: str) -> bytes: ...


@dataclass(frozen=True)
class LocalStore:
    folder: str

    def names(self) -> set[str]:
        found = set()
        for parent, _, names in os.walk(self.folder):
            found |= {os.path.relpath(os.path.join(parent, name), self.folder) for name in names}
        return found

    def read(self, name: str) -> bytes:
        return Path(self.folder, name).read_bytes()


class S3Store:
    def __init__(self, url: str, region: str, key: str, secret: str, at: str) -> None:
        import boto3

        self._bucket, _, self._prefix = at.partition("/")
        self._client = boto3.client(
            "s3",
            endpoint_url=url,
            region_name=region,
            aws_access_key_id=key,
            aws_secret_access_key=secret,
        )

    def names(self) -> set[str]:
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self._bucket, Prefix=self._prefix
        )
        keys = [one["Key"] for page in pages for one in page.get("Contents", ())]
        return {key.removeprefix(self._prefix) for key in keys}

    def read(self, name: str) -> bytes:
        answer = self._client.get_object(Bucket=self._bucket, Key=self._prefix + name)
        data: bytes = answer["Body"].read()
        return data


class OSSStore:
    def __init__(self, url: str, key: str, secret: str, at: str) -> None:
        import oss2

        bucket, _, self._prefix = at.partition("/")
        self._bucket = oss2.Bucket(oss2.Auth(key, secret), url, bucket)

    def names(self) -> set[str]:
        import oss2

        found = oss2.ObjectIteratorV2(self._bucket, prefix=self._prefix, max_keys=1000)
        return {one.key.removeprefix(self._prefix) for one in found}

    def read(self, name: str) -> bytes:
        data: bytes = self._bucket.get_object(self._prefix + name).read()
        return data


def open_store(store: Mapping[str, str]) -> Store:
    kinds = {"local": LocalStore, "s3": S3Store, "oss": OSSStore}
    options = {name: value for name, value in store.items() if name != "kind"}
    opened: Store = kinds[store["kind"]](**options)
    return opened


def store_of(kind: str, server: Any, at: str) -> dict[str, str]:
    """Return what opens the store of `kind` at `BUCKET/DIRECTORY/`, or at a local folder."""
    if kind == "local":
        return {"kind": kind, "folder": at}
    if kind == "s3":
        return {"kind": kind, "url": server.url, "at": at, "region": REGION, **CREDENTIALS}
    # A user who reads, and is not the one who publishes.
    keys = {"key": OTHER_KEY_ID, "secret": OTHER_SECRET}
    return {"kind": kind, "url": server.url, "at": at, **keys}


def pointed_at(store: Store) -> int:
    """Return the version that `latest.json` names."""
    return int(json.loads(store.read("latest.json"))["version"])


def entries(names: set[str]) -> set[int]:
    """Return the numbers whose saved_model.pb is among the names."""
    split = (name.partition("/") for name in names)
    return {int(number) for number, _, file in split if file == _ENTRY and number.isdigit()}


# ====== The program ======


class Wrong(Exception):
    """What was loaded is not what any exporter published."""


def _serve() -> None:
    import tensorflow.compat.v2 as tf

    # The cores are for the exporters.
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    for line in sys.stdin:
        order = json.loads(line)
        if "make" in order:
            _make(Path(order["make"]), order["serials"], order["assets"])
        else:
            print("done", flush=True)
            with open(order["to"], "w", encoding="utf-8") as reports:
                _watch(order["watch"], open_store(order["store"]), reports)
        print("done", flush=True)


def _watch(location: str, store: Store, reports: Any) -> None:
    done: set[int] = set()
    is_ending = False
    while True:
        for number in sorted(entries(store.names()) - done):
            done.add(number)
            report = {"version": number, **_report(location, store, number)}
            reports.write(json.dumps(report) + "\n")
            reports.flush()
        if is_ending:
            return
        is_ending = bool(select.select([sys.stdin], [], [], _POLL_SECONDS)[0])
        if is_ending:
            assert json.loads(sys.stdin.readline()) == {"end": True}


def _report(location: str, store: Store, number: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as above:
        try:
            return {"serial": _load(location, store, number, above)}
        except Exception as error:
            # A version that goes may fail to be read; it may never be read as another one.
            if not isinstance(error, Wrong) and number not in entries(store.names()):
                return {"gone": True}
            return {"error": traceback.format_exc()}


def _load(location: str, store: Store, number: int, above: str) -> int:
    """Load a version as a server does that knows nothing of manifests, and as we do."""
    from pai_runner.models.fetching import fetch_version
    from pai_runner.models.place import open_place
    from pai_runner.models.versions import read_version

    copied, fetched = Path(above, "copied"), Path(above, "fetched")
    for name in store.names():
        if name.startswith(f"{number}/"):
            path = copied / name.partition("/")[2]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(store.read(name))
    serial = _serial_of(copied)
    place = open_place(location)
    version = read_version(place, number)
    if not version.is_complete:
        raise OSError(f"version {number} is not complete: {version.problem}")
    fetch_version(place, version, str(fetched))
    files = _contents(copied)
    manifest = json.loads(files.pop("assets.extra/pai_manifest.json"))
    published = {file["path"]: file["sha256"] for file in manifest["files"]}
    told = (manifest["version"], manifest["step"], manifest["job_id"])
    if told != (number, serial, f"job-{serial}"):
        raise Wrong(f"the model tells {serial}, its manifest {manifest}")
    if _contents(fetched) != files or published != {
        name: hashlib.sha256(data).hexdigest() for name, data in files.items()
    }:
        raise Wrong(f"the two copies or the manifest disagree: {sorted(files)}")
    return serial


def _contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def _serial_of(folder: Path) -> int:
    """Return the serial of which all parts of a model tell. Raises Wrong when they differ."""
    import tensorflow.compat.v2 as tf

    told = tf.saved_model.load(str(folder)).signatures["serving_default"]()
    graph = int(told["graph"].numpy())
    variables = {int(serial) for serial in told["variables"].numpy()}
    assets = {int(data.split(b" ", 1)[0]) for data in told["assets"].numpy()}
    sizes = {len(data) for data in told["assets"].numpy()}
    weights = {int(one) for one in (told["weights"].numpy().min(), told["weights"].numpy().max())}
    if not {graph} == variables == assets == weights or sizes != {_ASSET_BYTES}:
        raise Wrong(f"parts of several models: {graph}, {variables}, {assets}, {weights}, {sizes}")
    return graph - _TEMPLATE


# ====== Models ======


def _make(folder: Path, serials: list[int], assets: int) -> None:
    """Make models that differ in their serial alone: TensorFlow saves one, the others are forged.

    Saving takes a second, forging some milliseconds.
    """
    import tensorflow.compat.v2 as tf

    template = folder / "template"
    _save(template, assets)
    variables = str(template / "variables" / "variables")
    reader = tf.train.load_checkpoint(variables)
    names = sorted(reader.get_variable_to_shape_map())
    values = {name: reader.get_tensor(name) for name in names}
    for serial in serials:
        made = folder / str(serial)
        shutil.copytree(template, made)
        entry = (made / _ENTRY).read_bytes()
        assert str(_TEMPLATE).encode() in entry
        forged = entry.replace(str(_TEMPLATE).encode(), str(_TEMPLATE + serial).encode())
        (made / _ENTRY).write_bytes(forged)
        for path in (made / "assets").iterdir():
            path.write_bytes(_asset(_TEMPLATE + serial))
        tensors = [
            value if isinstance(value, bytes) else value + value.dtype.type(serial)
            for value in values.values()
        ]
        tf.raw_ops.SaveV2(
            prefix=str(made / "variables" / "variables"),
            tensor_names=names,
            shape_and_slices=[""] * len(names),
            tensors=tensors,
        )


def _asset(serial: int) -> bytes:
    return f"{serial} ".encode().ljust(_ASSET_BYTES, b".")


def _save(folder: Path, count: int) -> None:
    import tensorflow.compat.v2 as tf

    class Model(tf.Module):
        def __init__(self, assets: Path) -> None:
            self.serials = [tf.Variable(_TEMPLATE, dtype=tf.int64) for _ in range(_VARIABLES)]
            self.weights = tf.Variable(tf.fill([_WEIGHTS], tf.cast(_TEMPLATE, tf.float64)))
            self.assets = []
            for number in range(count):
                path = assets / f"vocabulary-{number}.txt"
                path.write_bytes(_asset(_TEMPLATE))
                self.assets.append(tf.saved_model.Asset(str(path)))

        @tf.function(input_signature=[])
        def tell(self) -> dict[str, Any]:
            # As a text it is in the file of the graph for all to see, and to forge.
            return {
                "graph": tf.strings.to_number(tf.constant(str(_TEMPLATE)), tf.int64),
                "variables": tf.stack([one.read_value() for one in self.serials]),
                "weights": self.weights.read_value(),
                "assets": tf.stack([tf.io.read_file(one.asset_path) for one in self.assets]),
            }

    with tempfile.TemporaryDirectory() as assets:
        model = Model(Path(assets))
        tf.saved_model.save(model, str(folder), signatures={"serving_default": model.tell})


if __name__ == "__main__":
    _serve()
