"""What scripts/bench/storage.py measures: works, who does them, and the goals.

A case is one piece of work and its contenders, ours first; rows say what is read off it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from storage_data import BEFORE, BEHIND, RECORD

MIB = 1 << 20
BUCKET = "bench"
# Replaced by a number that no measurement had before.
FRESH = "FRESH"
# The file of a checkpoint that holds the values.
_DATA = "ck-1.data-00000-of-00001"

Result = Mapping[str, Any]
Values = Mapping[str, float]


@dataclass(frozen=True)
class Contender:
    """Who does the work `work` of `storage_work` or `storage_peers`, with what of its `Task`.

    `uploads` is the key of what it leaves in the bucket. One that is slow has its own number of
    rounds.
    """

    name: str
    work: str
    task: Mapping[str, Any]
    environment: Mapping[str, str] = field(default_factory=dict)
    uploads: str = ""
    rounds: int | None = None


@dataclass(frozen=True)
class Goal:
    """`judge` returns the figure that is compared, and whether the goal is met."""

    text: str
    judge: Callable[[Values], tuple[float, bool]]


@dataclass(frozen=True)
class Row:
    """What is read off a case: `best` of the rounds.

    `of` names the contenders that are compared, by what they are called here; empty: all.
    """

    work: str
    unit: str
    value: Callable[[Result], float]
    best: Callable[[Sequence[float]], float] = max
    goals: tuple[Goal, ...] = ()
    of: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """`digest` is that of the right result, where it is known beforehand."""

    name: str
    contenders: tuple[Contender, ...]
    rows: tuple[Row, ...]
    digest: str | None = None


@dataclass(frozen=True)
class Setting:
    """Where cases run: one protocol at one pace of the server, and what was prepared.

    `prepared` is a local folder with what the bucket holds below `data/`, `scratch` one for what
    is written, and `digest` that of the checkpoint's variable. Sizes are in bytes.
    """

    protocol: str
    pace: str
    options: Mapping[str, str]
    ports: tuple[int, int]
    prepared: str
    scratch: str
    digest: str
    bytes: int
    record_bytes: int
    files: int
    few_files: int

    def remote(self, key: str) -> dict[str, Any]:
        """Return what a task says of an object of the bucket."""
        return {"path": f"{self.protocol}://{BUCKET}/{key}", "options": dict(self.options)}

    def local(self, name: str) -> dict[str, Any]:
        """Return what a task says of a prepared local file."""
        return {"path": f"{self.prepared}/{name}"}


# ====== Goals ======


def at_least(factor: float, peer: str) -> Goal:
    """Ours is at least `factor` times a peer's."""

    def judge(values: Values) -> tuple[float, bool]:
        ratio = values["ours"] / values[peer]
        return ratio, ratio >= factor

    return Goal(f"at least {factor} of {peer}", judge)


def at_least_fastest(factor: float, peers: Sequence[str]) -> Goal:
    """Ours is at least `factor` times that of the best of several peers."""

    def judge(values: Values) -> tuple[float, bool]:
        ratio = values["ours"] / max(values[peer] for peer in peers)
        return ratio, ratio >= factor

    return Goal(f"at least {factor} of {' and '.join(peers)}", judge)


def at_most_times(factor: float, peer: str) -> Goal:
    """Ours is at most `factor` times a peer's."""

    def judge(values: Values) -> tuple[float, bool]:
        ratio = values["ours"] / values[peer]
        return ratio, ratio <= factor

    return Goal(f"at most {factor} of {peer}", judge)


def at_most_above(limit: float, peer: str) -> Goal:
    """Ours is at most `limit` more than a peer's."""

    def judge(values: Values) -> tuple[float, bool]:
        more = values["ours"] - values[peer]
        return more, more <= limit

    return Goal(f"at most {limit:g} above {peer}", judge)


def at_most(limit: float) -> Goal:
    """Ours is at most `limit`."""
    return Goal(f"at most {limit:g}", lambda values: (values["ours"], values["ours"] <= limit))


def _same(*names: str) -> dict[str, str]:
    return {name: name for name in names}


# ====== Values ======


def mib_per_second(result: Result) -> float:
    return float(result["bytes"] / MIB / result["seconds"])


def _writing_mib_per_second(result: Result) -> float:
    return float(result["bytes"] / MIB / result["writing_seconds"])


def _seconds(result: Result) -> float:
    return float(result["seconds"])


def _peak_mib(result: Result) -> float:
    return float(result["peak_mib"])


def _memory(work: str) -> Row:
    return Row(
        f"memory of {work}",
        "MiB",
        _peak_mib,
        max,
        (at_most_above(700, "local"),),
        _same("ours", "local"),
    )


# ====== Cases ======


def tfrecord(at: Setting) -> Case:
    size = {"bytes": at.record_bytes}
    ours = [
        Contender("ours", "tfrecord", {**at.remote("data/records"), **size}),
        Contender("local", "tfrecord", {**at.local("records"), **size}),
    ]
    goals: tuple[Goal, ...] = ()
    # The fast server is no network: a peer there does nothing but copy.
    if at.pace == "latency" and at.protocol == "s3":
        goals = (at_least(0.6, "awscrt"), at_least(6, "s3fs read-ahead"))
    elif at.pace == "latency":
        goals = (at_least(0.6, "oss2"),)
    row = Row("TFRecordDataset, default buffer", "MiB/s", mib_per_second, max, goals)
    peers = _downloads(at, "data/records", at.record_bytes)
    if at.protocol == "s3":
        peers.append(Contender("s3fs read-ahead", "s3fs_read", at.remote("data/records"), rounds=1))
    return Case("tfrecord", (*ours, *peers), (row, _memory("TFRecordDataset")))


def restore(at: Setting) -> Case:
    prefix, size = "checkpoint/ck-1", {"bytes": at.bytes}
    ours = (
        Contender("ours", "restore", {**at.remote(f"data/{prefix}"), **size}),
        Contender("local", "restore", {**at.local(prefix), **size}),
    )
    peers = _downloads(at, f"data/checkpoint/{_DATA}", at.bytes)
    goal = at_least(0.8, "awscrt" if at.protocol == "s3" else "oss2")
    row = Row("restore of one variable", "MiB/s", mib_per_second, max, (goal,))
    return Case("restore", (*ours, *peers), (row, _memory("restore")), at.digest)


def _downloads(at: Setting, key: str, size: int) -> list[Contender]:
    file = {"folder": f"{at.scratch}/{FRESH}"}
    if at.protocol == "oss":
        return [Contender("oss2", "oss2_get", {**at.remote(key), **file})]
    return [
        Contender("awscrt", "awscrt_get", {**at.remote(key), "bytes": size}),
        Contender("boto3", "boto3_get", {**at.remote(key), **file}),
    ]


def save(at: Setting) -> Case:
    size, folder = {"bytes": at.bytes}, f"out/{FRESH}"
    ours, key = {**at.remote(folder), **size}, f"{folder}/{_DATA}"
    background = {"PAI_ASYNC_CHECKPOINT": "1"}
    peers = _uploads(at)
    contenders = (
        Contender("ours", "save", ours, uploads=key),
        Contender("ours, background", "save", ours, background, key),
        Contender("local", "save", {"path": f"{at.scratch}/{FRESH}", **size}),
        *peers,
    )
    speed = Row(
        "Checkpoint.save of one variable",
        "MiB/s",
        mib_per_second,
        max,
        (at_least(0.7, peers[0].name),),
        _same("ours", "local", *(peer.name for peer in peers)),
    )
    stall = Row(
        "Checkpoint.save, until the training goes on",
        "s",
        _seconds,
        min,
        (at_most_times(1.3, "local"),),
        {"ours": "ours, background", "local": "local"},
    )
    return Case("save", contenders, (speed, stall, _memory("Checkpoint.save")))


def _uploads(at: Setting) -> list[Contender]:
    """Return who uploads the same bytes; the first is the one to be compared with."""
    works = {"oss2": "oss2_put"}
    if at.protocol == "s3":
        works = {"awscrt": "awscrt_put_file"}
        works |= {"awscrt from memory": "awscrt_put_memory", "s3fs": "s3fs_put"}
    key = f"out/{FRESH}/object"
    task = {**at.remote(key), "folder": f"{at.prepared}/checkpoint/{_DATA}"}
    return [Contender(name, work, task, uploads=key) for name, work in works.items()]


def stage(at: Setting) -> Case:
    size = {"bytes": at.files * (BEFORE + RECORD + BEHIND), "folder": f"{at.scratch}/{FRESH}"}
    peers = {"s3fs": "s3fs_get_many", "boto3": "boto3_get_many", "awscrt": "awscrt_get_many"}
    if at.protocol == "oss":
        peers = {"oss2": "oss2_get_many"}
    contenders = [
        Contender(name, work, {**at.remote("data/files/"), **size})
        for name, work in {"ours": "stage", **peers}.items()
    ]
    goal = at_least_fastest(0.8, [name for name in peers if name != "awscrt"])

    def files_per_second(result: Result) -> float:
        return float(result["files"] / result["seconds"])

    row = Row(f"{at.files} files of 100 kB staged in", "files/s", files_per_second, max, (goal,))
    return Case("stage", tuple(contenders), (row,))


def pipeline(at: Setting) -> Case:
    """The same files in tf.data. In turn, each waits for the one before: fewer of them do."""
    kinds = (
        ("record_files", 0, "TFRecordDataset of {} files"),
        ("record_files", 16, "TFRecordDataset of {} files, 16 parallel reads"),
        ("whole_files", 0, "map(read_file) of {} files"),
        ("whole_files", -1, "map(read_file) of {} files, AUTOTUNE"),
    )
    contenders, rows = [], []
    for work, threads, text in kinds:
        count = at.files if threads else at.few_files
        task = {"files": count, "threads": threads}
        names = {"ours": f"ours, {text}", "local": f"local, {text}"}
        contenders.append(Contender(names["ours"], work, {**at.remote("data/files"), **task}))
        contenders.append(Contender(names["local"], work, {**at.local("files"), **task}))

        def files_per_second(result: Result, count: int = count) -> float:
            return float(count / result["seconds"])

        rows.append(Row(text.format(count), "files/s", files_per_second, of=names))
    return Case("pipeline", tuple(contenders), tuple(rows))


def records(at: Setting) -> Case:
    size = {"bytes": at.bytes // 4}
    key = f"out/{FRESH}/records"
    contenders = (
        Contender("ours", "records", {**at.remote(key), **size}, uploads=key),
        Contender("local", "records", {"path": f"{at.scratch}/{FRESH}", **size}),
    )
    goals = (at_least(0.6, "local"),)
    rows = (
        Row("1 kB records written", "MiB/s", _writing_mib_per_second, max, goals),
        # A local disk has nothing to wait for at the close: it is only reported.
        Row("1 kB records written, close included", "MiB/s", mib_per_second, max, ()),
    )
    return Case("records", contenders, rows)


def requests(at: Setting) -> Case:
    folder = {**at.remote("requests"), "ports": at.ports}
    limits = {
        "first Saver.save": None,
        "Saver.save": 4,
        "first CheckpointManager.save": None,
        "CheckpointManager.save": 4,
        "tf.saved_model.save": 16,
        "tf.saved_model.load": 20,
    }

    def row(name: str, limit: int | None) -> Row:
        contender = "loading" if name.endswith("load") else "saving"
        goals = () if limit is None else (at_most(limit),)
        return Row(
            f"requests of {name}",
            "requests",
            lambda result: float(result["requests"][name]),
            max,
            goals,
            {"ours": contender},
        )

    contenders = (
        Contender("saving", "saving_requests", folder, rounds=1),
        Contender("loading", "loading_requests", folder, rounds=1),
    )
    return Case("requests", contenders, tuple(row(*item) for item in limits.items()))


CASES: dict[str, Callable[[Setting], Case]] = {
    "tfrecord": tfrecord,
    "restore": restore,
    "save": save,
    "stage": stage,
    "pipeline": pipeline,
    "records": records,
    "requests": requests,
}
