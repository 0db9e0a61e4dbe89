"""The end of a process that leaves files open."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from fault_server import fault_server
from file_systems import UNREACHABLE
from moto_server import S3Server
from support import ROOT, wait_until

pytestmark = pytest.mark.slow

PROGRAM = Path(__file__).with_name("leave_open.py")
BUCKET = "exits"


@pytest.fixture(scope="module")
def bucket(s3_server: S3Server) -> str:
    return s3_server.make_bucket(BUCKET)


@pytest.fixture(scope="module")
def options(s3_server: S3Server) -> dict[str, str]:
    """Options that reach the server by a name: looking one up takes a thread of Python's."""
    return {**s3_server.options, "endpoint_url": f"http://localhost:{s3_server.port}"}


def start(
    program: Path, folder: str, options: Mapping[str, str], **settings: str
) -> subprocess.Popen[str]:
    paths = [ROOT, ROOT / "tests", ROOT / "tests" / "servers"]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, paths)),
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "CUDA_VISIBLE_DEVICES": "",
        **settings,
    }
    return subprocess.Popen(
        [sys.executable, str(program), folder, json.dumps(options)],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(
    program: Path, folder: str, options: Mapping[str, str], **settings: str
) -> subprocess.CompletedProcess[str]:
    return finished(start(program, folder, options, **settings))


def finished(process: subprocess.Popen[str]) -> subprocess.CompletedProcess[str]:
    """Return how a process ended; one that does not is killed, and fails the test."""
    try:
        output, errors = process.communicate(timeout=120)
    finally:
        process.kill()
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


def start_text(
    tmp_path: Path, text: str, folder: str, options: Mapping[str, str], **settings: str
) -> subprocess.Popen[str]:
    """Start a program that finds `tf`, `folder` and the registered file system."""
    head = """
        import json, sys, threading
        import tensorflow as tf
        from file_systems import Place
        from pai_runner.script.filesystem import register
        folder = sys.argv[1]
        register([Place(folder, folder.partition("://")[0], json.loads(sys.argv[2]))])
    """
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent(head) + textwrap.dedent(text), encoding="utf-8")
    return start(program, folder, options, **settings)


def run_text(
    tmp_path: Path, text: str, folder: str, options: Mapping[str, str], **settings: str
) -> subprocess.CompletedProcess[str]:
    return finished(start_text(tmp_path, text, folder, options, **settings))


def summed_up(names: list[str], read: Callable[[str], bytes]) -> dict[str, bytes | int]:
    """Return each file's content; of event files and random input only the size.

    Event files hold times, and the time and the host in their names.
    """
    found: dict[str, bytes | int] = {}
    for name in sorted(names):
        content = read(name)
        short = name.split("/events.out")[0]
        found[short] = content if short == name and name != "input" else len(content)
    return found


@pytest.fixture(scope="module")
def left_locally(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes | int]:
    folder = tmp_path_factory.mktemp("local")
    assert run(PROGRAM, str(folder), {}).returncode == 0
    names = [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]
    return summed_up(names, lambda name: (folder / name).read_bytes())


@pytest.mark.tensorflow
@pytest.mark.proof_exits
@pytest.mark.parametrize("turn", range(int(os.environ.get("PAI_PROOF_COUNT", "2"))))
def test_what_is_left_open_is_left_as_on_a_local_disk(
    turn: int,
    left_locally: dict[str, bytes | int],
    s3_server: S3Server,
    bucket: str,
    options: dict[str, str],
    tmp_path: Path,
) -> None:
    assert len(left_locally) == 8
    result = run(PROGRAM, f"s3://{bucket}/{turn}/", options, TMPDIR=str(tmp_path))
    assert result.returncode == 0, result.stderr
    assert result.stdout == "read 10000\n"
    assert "pai:" not in result.stderr
    keys = s3_server.keys(bucket, f"{turn}/")
    names = [key.removeprefix(f"{turn}/") for key in keys]
    left = summed_up(names, lambda name: s3_server.read(bucket, f"{turn}/{name}"))
    assert left == left_locally
    assert not list(tmp_path.glob("pai-*")), "a staged file is left behind"


def test_a_script_that_fails_keeps_its_code_and_its_files(
    s3_server: S3Server, bucket: str, options: dict[str, str], tmp_path: Path
) -> None:
    program = """
        log = tf.io.gfile.GFile(folder + "log", "w")
        log.write("so far")
        raise SystemExit(7)
    """
    result = run_text(tmp_path, program, f"s3://{bucket}/fails/", options)
    assert result.returncode == 7, result.stderr
    assert s3_server.read(bucket, "fails/log") == b"so far"


@pytest.mark.tensorflow
def test_threads_that_outlive_the_script(
    s3_server: S3Server, bucket: str, options: dict[str, str], tmp_path: Path
) -> None:
    program = """
        import atexit
        def late():
            threading.main_thread().join()
            with tf.io.gfile.GFile(folder + "late", "w") as stream:
                stream.write("late")
        def for_ever():
            while True:
                list(tf.data.TFRecordDataset(folder + "records"))
                tf.io.gfile.exists(folder + "late")
        with tf.io.TFRecordWriter(folder + "records") as writer:
            writer.write(b"1")
        atexit.register(lambda: tf.io.write_file(folder + "handler", "at exit"))
        threading.Thread(target=late).start()
        for _ in range(3):
            threading.Thread(target=for_ever, daemon=True).start()
        print("end")
    """
    result = run_text(tmp_path, program, f"s3://{bucket}/threads/", options)
    assert result.returncode == 0, result.stderr
    assert result.stdout == "end\n"
    assert s3_server.read(bucket, "threads/late") == b"late"
    assert s3_server.read(bucket, "threads/handler") == b"at exit"


@pytest.mark.tensorflow
@pytest.mark.proof_exits
def test_threads_that_never_come_back_to_a_bucket(tmp_path: Path) -> None:
    """Python before 3.14 ends a thread that comes back to it late in the middle of TensorFlow."""
    records = str(tmp_path / "records")
    program = f"""
        def read():
            while True:
                list(tf.data.TFRecordDataset({records!r}))
                has_read.release()
        with tf.io.TFRecordWriter({records!r}) as writer:
            writer.write(b"1")
        has_read = threading.Semaphore(0)
        for _ in range(4):
            threading.Thread(target=read, daemon=True).start()
        for _ in range(40):
            has_read.acquire()
    """
    for _ in range(int(os.environ.get("PAI_PROOF_COUNT", "2"))):
        result = run_text(tmp_path, program, "memory://ends/", {})
        assert result.returncode == 0, result.stderr


@pytest.mark.tensorflow
@pytest.mark.proof_exits
def test_threads_that_read_and_save_while_it_ends(tmp_path: Path) -> None:
    program = """
        def read():
            while True:
                with tf.io.gfile.GFile(folder + "input", "rb") as stream:
                    while stream.read(5000):
                        pass
        def save(number):
            saved = tf.train.Checkpoint(one=tf.Variable(tf.zeros([50_000])))
            manager = tf.train.CheckpointManager(saved, f"{folder}{number}", max_to_keep=2)
            while True:
                manager.save()
                has_saved.release()
        tf.io.write_file(folder + "input", "x" * 1_000_000)
        has_saved = threading.Semaphore(0)
        for number in range(3):
            threading.Thread(target=save, args=(number,), daemon=True).start()
            threading.Thread(target=read, daemon=True).start()
        for _ in range(20):
            has_saved.acquire()
    """
    turns = int(os.environ.get("PAI_PROOF_COUNT", "2"))
    for _ in range((turns + 1) // 2):
        # Two at once: each has less of the processors than it wants.
        pair = [start_text(tmp_path, program, "memory://ends/", {}) for _ in range(2)]
        for result in [finished(process) for process in pair]:
            assert result.returncode == 0, result.stderr


def test_a_server_that_is_gone_at_the_end_does_not_hold_it_up(tmp_path: Path) -> None:
    program = """
        files = [tf.io.gfile.GFile(f"{folder}{number}", "w") for number in range(5)]
        for file in files:
            file.write("content")
    """
    began = time.monotonic()
    result = run_text(tmp_path, program, "s3://unreachable/", UNREACHABLE, TMPDIR=str(tmp_path))
    assert time.monotonic() - began < 60
    assert result.returncode == 1, result.stderr
    lines = [line for line in result.stderr.splitlines() if line.startswith("pai: ")]
    assert len(lines) == 5
    assert all(f"s3://unreachable/{n}: not uploaded" in line for n, line in enumerate(lines))
    assert not any(secret in result.stderr for secret in (UNREACHABLE["key"], "no-secret"))
    assert not list(tmp_path.glob("pai-*"))


def test_reads_under_way_from_a_server_that_hangs_do_not_hold_it_up(tmp_path: Path) -> None:
    program = """
        names = tf.data.Dataset.from_tensor_slices([folder + "data"] * 8)
        iterator = iter(names.map(tf.io.read_file, num_parallel_calls=4).prefetch(4))
        threading.Thread(target=lambda: next(iterator), daemon=True).start()
        sys.stdin.readline()
    """
    with fault_server() as faults:
        faults.objects["/hangs/data"] = b"x" * 1000
        faults.answering.clear()
        process = start_text(tmp_path, program, "s3://hangs/", faults.options)
        try:
            wait_until(lambda: "GET /hangs/data" in faults.requests, 60)
            began = time.monotonic()
            process.communicate("\n", timeout=60)
            assert time.monotonic() - began < 30
            assert process.returncode == 0
        finally:
            process.kill()
            process.wait()


def test_draining_tells_what_is_lost(tmp_path: Path) -> None:
    program = """
        from pai_runner.errors import SetupError
        from pai_runner.script.filesystem import drain
        file = tf.io.gfile.GFile(folder + "file", "w")
        file.write("content")
        try:
            drain()
        except SetupError as error:
            print(error)
    """
    result = run_text(tmp_path, program, "s3://unreachable/", UNREACHABLE)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("s3://unreachable/file: not uploaded: ")
    assert "pai:" not in result.stderr, "it is told once"


def test_events_are_uploaded_while_they_are_written(
    s3_server: S3Server, bucket: str, options: dict[str, str], tmp_path: Path
) -> None:
    program = """
        import os, signal
        writer = tf.summary.create_file_writer(folder)
        with writer.as_default():
            tf.summary.write("x", 1.0, step=0)
            writer.flush()
        found = tf.io.gfile.glob(folder + "events*")
        print(tf.io.gfile.stat(found[0]).length, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    result = run_text(
        tmp_path, program, f"s3://{bucket}/events/", options, PAI_EVENT_UPLOAD_SECONDS="0"
    )
    assert result.returncode == -9, result.stderr
    (size,) = s3_server.keys(bucket, "events/").values()
    assert 0 < size <= int(result.stdout)


@pytest.mark.tensorflow
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_processes_of_multiprocessing(
    method: str, s3_server: S3Server, bucket: str, options: dict[str, str], tmp_path: Path
) -> None:
    program = """
        import multiprocessing
        def work(number):
            with tf.io.gfile.GFile(f"{folder}part-{number}", "w") as stream:
                stream.write(tf.io.gfile.GFile(folder + "input").read() + str(number))
            return tf.io.gfile.exists(f"{folder}part-{number}")
        if __name__ == "__main__":
            with tf.io.gfile.GFile(folder + "input", "w") as stream:
                stream.write("input ")
            with multiprocessing.get_context(METHOD).Pool(3) as pool:
                print(pool.map(work, range(6)) == [True] * 6)
    """.replace("METHOD", repr(method))
    result = run_text(tmp_path, program, f"s3://{bucket}/{method}/", options)
    assert result.returncode == 0, result.stderr
    assert result.stdout == "True\n"
    for number in range(6):
        content: Any = s3_server.read(bucket, f"{method}/part-{number}")
        assert content == f"input {number}".encode()


@pytest.mark.tensorflow
def test_a_forked_process_of_multiprocessing_that_imports_tensorflow_itself(
    s3_server: S3Server, bucket: str, options: dict[str, str], tmp_path: Path
) -> None:
    """It ends without Python's exit handlers."""
    program = tmp_path / "program.py"
    text = """
        import json, multiprocessing, sys
        def work():
            import tensorflow as tf
            from file_systems import Place
            from pai_runner.script.filesystem import register
            global left_open
            folder = sys.argv[1]
            register([Place(folder, "s3", json.loads(sys.argv[2]))])
            left_open = tf.io.gfile.GFile(folder + "left-open", "w")
            left_open.write("all of it")
            tf.io.write_file(folder + "saved.index", "behind")
        process = multiprocessing.get_context("fork").Process(target=work)
        process.start()
        process.join()
        sys.exit(process.exitcode)
    """
    program.write_text(textwrap.dedent(text), encoding="utf-8")
    folder = f"s3://{bucket}/forked/"
    result = run(program, folder, options, PAI_ASYNC_CHECKPOINT="1", PAI_PENDING_DIR=str(tmp_path))
    assert result.returncode == 0, result.stderr
    assert s3_server.read(bucket, "forked/left-open") == b"all of it"
    assert s3_server.read(bucket, "forked/saved.index") == b"behind"
    assert os.listdir(tmp_path) == ["program.py"], "nothing waits"
