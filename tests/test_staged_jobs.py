"""Staged jobs from the command: copied in before, copied back during and after the script."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import textwrap
from pathlib import Path
from typing import Any

import pytest
from support import ROLE, Pai, Places, wait_until

pytestmark = pytest.mark.slow


def script(folder: Path, text: str) -> Path:
    path = folder / "script.py"
    path.write_text(textwrap.dedent(text), encoding="utf-8")
    return path


def words(path: Path, location: str, *more: str) -> list[str]:
    return ["-name", "tensorflow", f"-Dscript={path}", f"-DcheckpointDir={location}", *more]


def upload(places: Places, name: str, content: bytes) -> None:
    bucket, _, prefix = places.s3.removeprefix("s3://").partition("/")
    places.server.client().put_object(Bucket=bucket, Key=f"{prefix}{name}", Body=content)


def content(places: Places, name: str) -> bytes:
    bucket, _, prefix = places.s3.removeprefix("s3://").partition("/")
    return places.server.read(bucket, f"{prefix}{name}")


def record(pai: Pai) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(pai("jobs", "--json").stdout)[0]
    return found


def stage_folders(pai: Pai) -> list[Path]:
    return list((pai.home / "stage").glob("*"))


COPIES = """
    import os
    folder = os.environ["PAI_CHECKPOINT_DIR"]
    print(sorted(os.listdir(folder)))
    print(open(os.path.join(folder, "in.txt")).read())
    with open(os.path.join(folder, "out", "made 1#?.txt"), "w") as stream:
        stream.write("made")
    os.unlink(os.path.join(folder, "old.txt"))
"""


@pytest.mark.parametrize("where", ["s3", "oss"])
def test_files_come_and_go(where: str, pai: Pai, places: Places, tmp_path: Path) -> None:
    seed = """
        import os
        folder = os.environ["PAI_CHECKPOINT_DIR"]
        os.mkdir(os.path.join(folder, "out"))
        for name in ("in.txt", "old.txt", "out/x.txt"):
            with open(os.path.join(folder, name), "w") as stream:
                stream.write("text of " + name)
    """
    location = f"{places.folder(where)}{'&' if where == 'oss' else '?'}mount=stage"
    seeded = pai(*words(script(tmp_path, seed), location))
    assert seeded.returncode == 0, seeded.stderr
    ran = pai(*words(script(tmp_path, COPIES), location))
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == "['in.txt', 'old.txt', 'out']\ntext of in.txt\n"
    assert places.names(where) == {"in.txt", "out/x.txt", "out/made 1#?.txt"}
    assert not stage_folders(pai)
    assert "staged" in ran.stderr


def test_the_mode_of_the_command_is_for_locations_that_name_none(
    pai: Pai, places: Places, tmp_path: Path
) -> None:
    (tmp_path / "local").mkdir()
    text = "import os; print(os.environ['PAI_BUCKETS'], os.environ['PAI_CHECKPOINT_DIR'])"
    path = script(tmp_path, text)
    more = [f"-Dbuckets={places.s3},{tmp_path}/local", "-Dmount=stage"]
    ran = pai(*words(path, f"{places.s3}inner/", *more))
    assert ran.returncode == 0, ran.stderr
    bucket, inner = ran.stdout.split()
    staged, local = bucket.split(",")
    assert local == f"{tmp_path}/local/"
    assert staged.startswith(f"{pai.home}/stage/")
    # What is written into the one is found in the other, as in the bucket.
    assert inner == f"{staged}inner/"
    streamed = pai(*words(path, f"{places.s3}inner/?mount=stream", *more))
    assert streamed.stdout.split()[1] == f"{places.s3}inner/"


@pytest.mark.parametrize(
    ("ending", "code"), [("raise SystemExit(3)", 3), ("os.kill(os.getpid(), 9)", 137)]
)
def test_what_a_failed_script_made_is_copied_back(
    ending: str, code: int, pai: Pai, places: Places, tmp_path: Path
) -> None:
    text = f"""
        import os, time
        folder = os.environ["PAI_CHECKPOINT_DIR"]
        with open(folder + "model.ckpt-1.data-00000-of-00001", "w") as stream:
            stream.write("made")
        {ending}
    """
    ran = pai(*words(script(tmp_path, text), places.s3, "-Dmount=stage"))
    assert ran.returncode == code, ran.stderr
    assert places.names("s3") == {"model.ckpt-1.data-00000-of-00001"}


WAITS = """
    import os, signal, sys, time
    folder = os.environ["PAI_CHECKPOINT_DIR"]
    if len(sys.argv) > 1:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with open(folder + "made.txt", "w") as stream:
        stream.write("made")
    print("ready", flush=True)
    time.sleep(600)
"""


def started(pai: Pai, *arguments: str) -> subprocess.Popen[str]:
    running = pai.start(*arguments)
    assert running.stdout is not None
    assert running.stdout.readline() == "ready\n", running.communicate()[1]
    return running


def test_an_interrupted_script_is_copied_back(pai: Pai, places: Places, tmp_path: Path) -> None:
    flag = "-DuserDefinedParameters=handle"
    running = started(pai, *words(script(tmp_path, WAITS), places.s3, "-Dmount=stage", flag))
    running.send_signal(signal.SIGTERM)
    running.communicate(timeout=60)
    assert running.returncode == 143
    assert record(pai)["state"] == "CANCELLED"
    assert places.names("s3") == {"made.txt"}
    assert not stage_folders(pai)


def test_a_script_that_passes_its_time_is_copied_back(
    pai: Pai, places: Places, tmp_path: Path
) -> None:
    flag = "-DuserDefinedParameters=handle"
    path = script(tmp_path, WAITS)
    ran = pai("--timeout", "4s", *words(path, places.s3, "-Dmount=stage", flag))
    assert ran.returncode == 124, ran.stderr
    assert places.names("s3") == {"made.txt"}


def test_new_files_are_in_the_bucket_while_the_script_runs(
    pai: Pai, places: Places, tmp_path: Path
) -> None:
    quick = pai.with_settings(PAI_STAGE_SECONDS="0.2")
    running = started(quick, *words(script(tmp_path, WAITS), places.s3, "-Dmount=stage"))
    wait_until(lambda: places.names("s3") == {"made.txt"}, 20)
    assert running.poll() is None
    running.send_signal(signal.SIGINT)
    running.communicate(timeout=60)


def test_a_mover_that_is_killed_is_started_again(pai: Pai, places: Places, tmp_path: Path) -> None:
    quick = pai.with_settings(PAI_STAGE_SECONDS="0.2")
    upload(places, "in.txt", b"text")
    running = started(quick, *words(script(tmp_path, WAITS), places.s3, "-Dmount=stage"))
    (mover,) = movers(pai)
    os.kill(mover, signal.SIGKILL)
    wait_until(lambda: movers(pai) not in ([], [mover]), 20)
    wait_until(lambda: "made.txt" in places.names("s3"), 20)
    running.send_signal(signal.SIGINT)
    running.communicate(timeout=60)
    assert places.names("s3") == {"in.txt", "made.txt"}
    assert not movers(pai)


def test_a_mover_that_dies_again_and_again_copies_back_at_the_end(
    pai: Pai, places: Places, tmp_path: Path
) -> None:
    text = WAITS.replace("time.sleep(600)", "sys.stdin = open(sys.argv[1]); sys.stdin.read()")
    go = tmp_path / "go"
    os.mkfifo(go)
    flag = f"-DuserDefinedParameters={go}"
    running = started(pai, *words(script(tmp_path, text), places.s3, "-Dmount=stage", flag))
    dead: list[int] = []
    for _ in range(3):
        wait_until(lambda before=dead[-1:]: movers(pai) not in ([], before), 20)
        dead += movers(pai)
        os.kill(dead[-1], signal.SIGKILL)
    wait_until(lambda: not movers(pai), 20)
    go.write_text("go")
    _, errors = running.communicate(timeout=60)
    assert running.returncode == 0, errors
    assert places.names("s3") == {"made.txt"}


def test_one_interruption_does_not_end_the_copy_back(
    pai: Pai, places: Places, tmp_path: Path
) -> None:
    text = """
        import os
        folder = os.environ["PAI_CHECKPOINT_DIR"]
        for name in range(100):
            open(f"{folder}{name}.txt", "w").write("made")
        print("ready", flush=True)
        raise SystemExit(3)
    """
    where = f"{places.folder('oss')}&mount=stage"
    for signals, copied in ((1, 100), (2, 0)):
        running = pai.start(*words(script(tmp_path, text), where))
        assert running.stdout is not None
        assert running.stdout.readline() == "ready\n"
        places.oss_server.set(slow=0.3)
        wait_until(lambda: record(pai)["state"] == "PUBLISHING", 20)
        running.send_signal(signal.SIGINT)
        if signals == 2:
            with pytest.raises(subprocess.TimeoutExpired):
                running.wait(0.5)
            running.send_signal(signal.SIGINT)
        _, errors = running.communicate(timeout=60)
        places.oss_server.set(slow=0)
        assert running.returncode == 3, errors
        found = record(pai)
        assert ("copied back" in found["message"]) == (signals == 2)
        if signals == 1:
            assert len(places.names("oss")) == copied
            text = text.replace('"made"', '"again"')


def movers(pai: Pai) -> list[int]:
    """Return the movers of jobs of these records."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (folder / "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue  # it has ended
        if "storage/mover.py" in arguments and str(pai.home) in arguments:
            found.append(int(folder.name))
    return found


def test_a_missing_bucket_ends_the_job_before_the_script(pai: Pai, tmp_path: Path) -> None:
    ran = pai(*words(script(tmp_path, WAITS), "s3://no-such-bucket/d/", "-Dmount=stage"))
    assert ran.returncode == 125
    assert ran.stdout == ""
    assert "no-such-bucket" in ran.stderr
    assert record(pai)["reason"] == "setup failed"


def test_what_another_changed_meanwhile_is_reported_and_kept(
    pai: Pai, places: Places, tmp_path: Path
) -> None:
    upload(places, "made.txt", b"before")
    running = started(pai, *words(script(tmp_path, WAITS), places.s3, "-Dmount=stage"))
    upload(places, "made.txt", b"someone else's")
    running.send_signal(signal.SIGINT)
    _, errors = running.communicate(timeout=60)
    assert running.returncode == 130
    assert content(places, "made.txt") == b"someone else's"
    assert "changed in the bucket meanwhile: " in record(pai)["message"], errors
    (folder,) = stage_folders(pai)
    assert (folder / "files" / "made.txt").read_text() == "made"


def test_a_success_whose_files_cannot_be_copied_back_is_none(
    pai: Pai, places: Places, tmp_path: Path
) -> None:
    upload(places, "made.txt", b"before")
    text = """
        import os, sys, time
        folder = os.environ["PAI_CHECKPOINT_DIR"]
        print("ready", flush=True)
        while not os.path.exists(sys.argv[1]):
            time.sleep(0.05)
        with open(folder + "made.txt", "w") as stream:
            stream.write("made")
    """
    go = tmp_path / "go"
    flag = f"-DuserDefinedParameters={go}"
    running = started(pai, *words(script(tmp_path, text), places.s3, "-Dmount=stage", flag))
    upload(places, "made.txt", b"someone else's")
    go.touch()
    _, errors = running.communicate(timeout=60)
    assert running.returncode == 1
    assert "the script succeeded, but changed in the bucket meanwhile" in errors
    assert record(pai)["reason"] == "not copied back"


def test_a_detached_job_is_staged(pai: Pai, places: Places, tmp_path: Path) -> None:
    text = "import os; open(os.environ['PAI_CHECKPOINT_DIR'] + 'made.txt', 'w').write('made')"
    ran = pai("--detach", *words(script(tmp_path, text), places.s3, "-Dmount=stage"))
    assert ran.returncode == 0, ran.stderr
    wait_until(lambda: record(pai)["state"] not in ("PENDING", "STARTING", "RUNNING"), 60)
    wait_until(lambda: record(pai)["state"] == "SUCCEEDED", 60)
    assert places.names("s3") == {"made.txt"}


def test_a_role_that_is_refused_ends_a_staged_job(pai: Pai, places: Places, tmp_path: Path) -> None:
    role = ROLE.replace("odps", "refused")
    where = f"{places.oss}?host={places.oss_server.url}&role_arn={role}"
    ran = pai(*words(script(tmp_path, WAITS), where, "-Dmount=stage"))
    assert ran.returncode == 125
    assert "--role ignore" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_a_terminal_gets_a_progress_bar(pai: Pai, places: Places, tmp_path: Path) -> None:
    upload(places, "in.bin", bytes(3_000_000))
    path = script(tmp_path, "print('done')")
    shell, terminal = pty.openpty()
    with subprocess.Popen(
        pai.command(*words(path, places.s3, "-Dmount=stage")),
        cwd=pai.folder,
        env={**pai.environment, "TERM": "xterm"},
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
    ) as running:
        os.close(terminal)
        shown = b""
        while True:
            try:
                shown += os.read(shell, 65536)
            except OSError:  # its other end is closed
                break
        assert running.wait() == 0
    os.close(shell)
    assert b"\x1b[?25l" in shown, "nothing was drawn"
    assert b"3.0/3.0 MB" in shown
    assert b"staged" in shown
