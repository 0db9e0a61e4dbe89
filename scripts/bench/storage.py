"""Measures reading and writing of buckets by TensorFlow against other clients, in one run.

    python scripts/bench/storage.py [--size-mb 1024] [--files 10000] [--rounds 3]
        [--protocol s3|oss|both] [--server latency|fast|both] [--only CASE...] [--json FILE]

It starts an object server of its own (object_server.py), a process on loopback, with two ports:
on one each request waits 20 ms and each connection has 80 MB/s, the other is as fast as it can.
Each measurement is a process of its own; the contenders of a case take turns, so that a machine
that slows down slows all of them; the best of the rounds counts, of memory the worst. What ours
reads is checked, and what any of them stages or writes. Exit code 1 means that a result was wrong,
not that a goal was missed.

Needs the extra `bench`: pip install -e '.[bench]'.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from object_server import ObjectServer, object_server
from storage_cases import BUCKET, CASES, FRESH, MIB, Case, Contender, Row, Setting
from storage_data import RECORD, write_files, write_records

ROOT = Path(__file__).resolve().parents[2]
_WORK = Path(__file__).with_name("storage_work.py")
# How many of the small files are read in turn.
_FEW = 20
# How long one measurement may take, in seconds.
_LIMIT = 1200


class Wrong(Exception):
    """A measurement failed, or what it read or wrote is not what it should be."""


@dataclass(frozen=True)
class Found:
    """One row of the table. `goals` are the text, the figure and whether it is met."""

    case: str
    protocol: str
    server: str
    work: str
    unit: str
    values: Mapping[str, float]
    goals: Sequence[tuple[str, float, bool]]

    def as_json(self) -> dict[str, Any]:
        goals = [
            {"goal": text, "figure": round(figure, 3), "met": is_met}
            for text, figure, is_met in self.goals
        ]
        values = {name: round(value, 3) for name, value in self.values.items()}
        return {**vars(self), "values": values, "goals": goals}


# ====== Measuring ======


class Bench:
    """Runs cases. `scratch` is a local folder for what is written."""

    def __init__(self, server: ObjectServer, scratch: str, rounds: int) -> None:
        self._server = server
        self._scratch = scratch
        self._rounds = rounds
        self._numbers = itertools.count(1)

    def run(self, case: Case, setting: Setting) -> Iterator[Found]:
        """Measure a case and yield its rows. Raises Wrong."""
        results: dict[str, list[dict[str, Any]]] = {one.name: [] for one in case.contenders}
        digests = {case.digest} - {None}
        for number in range(self._rounds):
            for contender in case.contenders:
                if number < (contender.rounds or self._rounds):
                    result = self._measure(contender)
                    results[contender.name].append(result)
                    # What only downloads to a file or to memory has none.
                    digests |= {result.get("digest")} - {None}
                    if len(digests) > 1 or not result.get("right", True):
                        raise Wrong(f"{case.name}, {contender.name}: another content")
        for row in case.rows:
            yield _found(case, row, setting, results)

    def _measure(self, contender: Contender) -> dict[str, Any]:
        fresh = f"{next(self._numbers):06d}"
        task = {
            name: value.replace(FRESH, fresh) if isinstance(value, str) else value
            for name, value in contender.task.items()
        }
        result = self.work(contender.work, task, contender.environment)
        if contender.uploads:
            key = contender.uploads.replace(FRESH, fresh)
            result["digest"] = self._server.digests(BUCKET, key).get(key, "nothing")
        for name in os.listdir(self._scratch):
            _remove(os.path.join(self._scratch, name))
        self._server.delete(BUCKET, f"out/{fresh}")
        return result

    def work(
        self, name: str, task: Mapping[str, Any], environment: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """Run one work in a process of its own, and return its result. Raises Wrong."""
        try:
            ended = subprocess.run(
                [sys.executable, str(_WORK), name],
                input=json.dumps(task),
                env={**self._environment(), **(environment or {})},
                capture_output=True,
                text=True,
                timeout=_LIMIT,
            )
        except subprocess.TimeoutExpired:
            raise Wrong(f"{name} {task['path']}: not done after {_LIMIT} s") from None
        if ended.returncode != 0:
            raise Wrong(f"{name} {task['path']}:\n{ended.stdout}{ended.stderr}")
        result: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
        return result

    def _environment(self) -> dict[str, str]:
        foreign = ("ALIBABA_CLOUD_", "AWS_", "OSS_", "PAI_")
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(foreign)}
        return {
            **inherited,
            "PYTHONPATH": str(ROOT),
            "CUDA_VISIBLE_DEVICES": "",
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "TMPDIR": self._scratch,
            "PAI_ALLOWED_HOSTS": "http://127.0.0.1",
        }


def _found(
    case: Case, row: Row, setting: Setting, results: Mapping[str, Sequence[dict[str, Any]]]
) -> Found:
    values = {
        name: row.best([row.value(result) for result in results[contender]])
        for name, contender in (row.of or {name: name for name in results}).items()
    }
    goals = [(goal.text, *goal.judge(values)) for goal in row.goals]
    return Found(case.name, setting.protocol, setting.pace, row.work, row.unit, values, goals)


def _remove(path: str) -> None:
    if os.path.isdir(path):
        shutil.rmtree(path)
    else:
        os.unlink(path)


# ====== Preparing ======


@contextmanager
def _bench(options: argparse.Namespace) -> Iterator[tuple[Bench, list[Setting]]]:
    """Yield a bench over a new server, and the settings, with all that is read in place."""
    with (
        tempfile.TemporaryDirectory(prefix="bench-", dir=options.folder) as folder,
        object_server(options.latency_ms, options.connection_mb) as server,
    ):
        prepared, scratch = os.path.join(folder, "data"), os.path.join(folder, "scratch")
        os.makedirs(f"{prepared}/checkpoint")
        os.mkdir(scratch)
        bench = Bench(server, scratch, options.rounds)
        digest = _prepare(bench, prepared, options)
        server.make_bucket(BUCKET)
        for top, _, names in os.walk(prepared):
            for name in sorted(names):
                path = os.path.join(top, name)
                server.put(BUCKET, f"data/{os.path.relpath(path, prepared)}", path)
        settings = [
            Setting(
                protocol=protocol,
                pace=pace,
                options=server.options(protocol, pace),
                ports=(server.ports["fast"], server.ports["latency"]),
                prepared=prepared,
                scratch=scratch,
                digest=digest,
                bytes=options.size_mb * MIB,
                record_bytes=_records(options) * RECORD,
                files=options.files,
                few_files=max(options.files // _FEW, 1),
            )
            for protocol in _both(options.protocol, "s3", "oss")
            for pace in _both(options.server, "latency", "fast")
        ]
        yield bench, settings


def _prepare(bench: Bench, folder: str, options: argparse.Namespace) -> str:
    """Write what the cases read; return the digest of the checkpoint's variable, if it is read."""
    cases = set(options.only)
    if "tfrecord" in cases:
        write_records(f"{folder}/records", _records(options))
    if cases & {"stage", "pipeline"}:
        write_files(f"{folder}/files", options.files)
    if not cases & {"restore", "save"}:
        return ""
    task = {"path": f"{folder}/checkpoint/ck", "bytes": options.size_mb * MIB}
    digest: str = bench.work("checkpoint", task)["digest"]
    return digest


def _records(options: argparse.Namespace) -> int:
    return max(options.size_mb * MIB // RECORD, 1)


def _both(chosen: str, *names: str) -> tuple[str, ...]:
    return names if chosen == "both" else (chosen,)


# ====== Telling ======


def _print_row(found: Found) -> None:
    values = "  ".join(f"{name} {value:,.4g}" for name, value in found.values.items())
    where = f"{found.protocol} {found.server}"
    print(f"{where:13}{found.work:58}{found.unit:9}{values}", flush=True)
    for text, figure, is_met in found.goals:
        verdict = "met" if is_met else "MISSED"
        print(f"{'':13}{'':58}{'goal':9}{text}: {figure:.3g}  {verdict}", flush=True)


def _report(options: argparse.Namespace, rows: Sequence[Found], seconds: float) -> dict[str, Any]:
    judged = [is_met for row in rows for _, _, is_met in row.goals]
    return {
        "size_mb": options.size_mb,
        "files": options.files,
        "rounds": options.rounds,
        "latency_ms": options.latency_ms,
        "connection_mb": options.connection_mb,
        "machine": {
            "processors": os.cpu_count(),
            "kind": platform.machine(),
            "system": platform.platform(),
            "python": platform.python_version(),
            "load": [round(load, 2) for load in os.getloadavg()],
        },
        "seconds": round(seconds, 1),
        "rows": [row.as_json() for row in rows],
        "goals": {"met": sum(judged), "missed": len(judged) - sum(judged)},
    }


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size-mb", type=int, default=1024, help="MiB of the large objects")
    parser.add_argument("--files", type=int, default=10_000, help="how many files of 100 kB")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--protocol", choices=["s3", "oss", "both"], default="both")
    parser.add_argument("--server", choices=["latency", "fast", "both"], default="both")
    parser.add_argument("--latency-ms", type=float, default=20)
    parser.add_argument("--connection-mb", type=float, default=80, help="MB/s of one connection")
    parser.add_argument("--json", help="write the results to this file as well")
    parser.add_argument("--folder", help="where local files are written (default: TMPDIR)")
    options = parser.parse_args(arguments)
    with_peers = {"tfrecord", "restore", "save", "stage"} & set(options.only)
    if with_peers and options.protocol != "oss" and importlib.util.find_spec("awscrt") is None:
        parser.error("awscrt is missing: pip install -e '.[bench]'")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    start = time.monotonic()
    rows: list[Found] = []
    try:
        with _bench(options) as (bench, settings):
            for setting in settings:
                for name in options.only:
                    for found in bench.run(CASES[name](setting), setting):
                        rows.append(found)
                        _print_row(found)
    except Wrong as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    report = _report(options, rows, time.monotonic() - start)
    print("goals: {met} met, {missed} missed".format(**report["goals"]))
    if options.json:
        Path(options.json).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    # Whoever is told to go removes its files first: they are large.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    sys.exit(main())
