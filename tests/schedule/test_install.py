"""`pai schedule install`, `ls`, `next` and `rm`: the record, and lines in a crontab."""

from __future__ import annotations

import json
import os
import pwd
import shlex
import signal
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from schedule_world import World, executable
from support import wait_until

from pai_runner.entry import pai_command
from pai_runner.schedule import catalog
from pai_runner.schedule.catalog import History, Result
from pai_runner.schedule.crontab import shifted_cron

NIGHTLY = ("--cron", "0 2 * * *")
THEIRS = b"# mine\nMAILTO=me@example.com\n0 1 * * * echo '\\%' \xff\n"


def test_a_line_is_added_and_taken_away_byte_for_byte(world: World) -> None:
    world.table.write_bytes(THEIRS)
    code, output, errors = world.verb("install", str(world.file), *NIGHTLY, "--yes")
    assert code == 0, errors
    assert "schedule nightly is installed; next: " in output
    lines = world.table.read_bytes().removeprefix(THEIRS).decode().splitlines()
    assert lines[0] == "# pai_runner: nightly"
    assert lines[1].startswith(rf"0 2 * * * PAI_HOME='{world.folder}/the home/100\%?' ")
    assert lines[1].endswith(
        f" {shlex.join(pai_command('schedule', 'run', 'nightly'))} "
        rf">> '{world.folder}/the home/100\%?/schedules/nightly.log' 2>&1"
    )
    assert world.verb("install", str(world.file), *NIGHTLY, "--yes", "--name", "x")[0] == 0
    assert world.verb("rm", "nightly")[:2] == (0, "schedule nightly is removed\n")
    left = world.table.read_bytes()
    assert left.startswith(THEIRS + b"# pai_runner: x\n")
    assert world.verb("rm", "x")[0] == 0
    assert world.table.read_bytes() == THEIRS
    assert os.listdir(catalog.folder()) == [".lock"]


def test_a_crontab_that_was_not_there_is_gone_again(world: World) -> None:
    world.install(*NIGHTLY)
    assert world.table.exists()
    world.verb("rm", "nightly")
    assert not world.table.exists()


def test_a_crontab_that_cannot_be_read_is_left_alone(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.table.write_bytes(THEIRS)
    monkeypatch.setenv("CRONTAB_DENIED", "1")
    code, _, errors = world.verb("install", str(world.file), *NIGHTLY, "--yes")
    assert code == 125
    assert "not allowed to use this program" in errors
    assert world.table.read_bytes() == THEIRS
    assert catalog.names() == []


def test_a_machine_without_cron_is_told_of_others(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(world.folder))
    code, _, errors = world.verb("install", str(world.file), *NIGHTLY, "--yes")
    assert code == 125
    assert "no program `crontab`" in errors
    assert "--systemd or --serve" in errors
    assert catalog.names() == []


def test_the_line_runs_without_an_environment(world: World) -> None:
    world.install(*NIGHTLY, "--", "--retries", "3", age=timedelta(days=2))
    done = world.run_line()
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    (call,) = world.calls()
    tick = call[call.index("--cyctime") + 1]
    assert tick.partition("T")[2] == "02:00+00:00"
    assert " ".join(call) == (
        f"-f {world.file} --cyctime {tick} --timezone Etc/UTC --name nightly "
        "--once-per cyctime --retries 3"
    )
    log = Path(catalog.log_path("nightly")).read_text()
    assert f"pai: nightly: {tick} succeeded" in log


@pytest.mark.parametrize("unescaped", ["%", "%\\"])
def test_backslashes_in_a_path_reach_the_shell(
    world: World, monkeypatch: pytest.MonkeyPatch, unescaped: str
) -> None:
    home = world.folder / "a\\%b\\\\%c\\\\\\d%' %\\"
    monkeypatch.setenv("PAI_HOME", str(home))
    world.install(*NIGHTLY, age=timedelta(days=2))
    done = world.run_line(unescaped)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert len(world.calls()) == 1
    assert "succeeded" in (home / "schedules/nightly.log").read_text()
    assert world.verb("rm", "nightly")[0] == 0
    assert not world.table.exists()


def test_a_folder_whose_name_is_not_utf8_is_named(world: World) -> None:
    folder = os.fsencode(world.folder) + b"/a\xff"
    try:
        os.mkdir(folder)
    except OSError:
        pytest.skip("this file system has no such names")
    os.chdir(folder)
    for way in ("--crontab", "--systemd", "--serve"):
        code, _, errors = world.verb("install", str(world.file), *NIGHTLY, "--yes", way)
        assert code == 2
        assert f"{world.folder}/a\\xff is not UTF-8" in errors
    assert catalog.names() == []
    assert not world.table.exists()


def test_the_log_of_the_line_does_not_grow_for_ever(world: World) -> None:
    world.install(*NIGHTLY, age=timedelta(days=2))
    world.behave("echo out; echo errors >&2")
    log = Path(catalog.log_path("nightly"))
    with log.open("wb") as stream:
        stream.truncate(10 * 1024 * 1024)
    assert world.run_line().returncode == 0
    assert log.read_text().split("\n")[1:3] == ["out", "errors"]
    assert log.with_name("nightly.log.1").stat().st_size == 10 * 1024 * 1024
    assert world.run_line().returncode == 0
    assert log.read_text().endswith("nothing else is due\n"), "a short one is gone on with"


def test_what_it_runs_has_the_folder_and_the_settings_of_its_installation(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OSS_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("OSS_REGION", "r")
    code, _, errors = world.verb(
        "install", str(world.file), *NIGHTLY, "--yes", "--env", "OSS_ENDPOINT"
    )
    assert code == 0
    assert "do not have OSS_REGION, which are set here" in errors
    world.change(python=str(world.program), created="2026-01-01T00:00:00+00:00")
    world.behave('echo "$PWD $OSS_ENDPOINT $HOME $PATH"; exit 0')
    os.chdir("/")
    command = [sys.executable, "-m", "pai_runner", "schedule", "run", "nightly"]
    needed = {"PAI_HOME": str(world.home), "PYTHONPATH": os.environ["PYTHONPATH"]}
    done = subprocess.run(command, env=needed, capture_output=True, text=True, check=True)
    folder, endpoint, home, path = done.stdout.split()
    assert (folder, endpoint) == (str(world.folder), "http://127.0.0.1:1")
    assert home == pwd.getpwuid(os.getuid()).pw_dir
    assert path.split(":")[0] == os.path.dirname(sys.executable)


def test_nothing_is_written_without_an_answer(world: World) -> None:
    code, _, errors = world.verb("install", str(world.file), *NIGHTLY)
    assert code == 2
    assert "add --yes" in errors
    code, output, _ = world.verb("install", str(world.file), *NIGHTLY, "--dry-run")
    assert code == 0
    assert "# your crontab\n# pai_runner: nightly\n0 2 * * * PAI_HOME=" in output
    assert f"pai -f {world.file}\n" in output
    assert not world.table.exists()
    assert catalog.names() == []


@pytest.mark.parametrize(("answer", "code"), [("y\n", 0), ("n\n", 2), ("\n", 2)])
def test_at_a_terminal_it_shows_and_asks(world: World, answer: str, code: int) -> None:
    ours, theirs = os.openpty()
    command = [sys.executable, "-m", "pai_runner", "schedule", "install", str(world.file), *NIGHTLY]
    os.write(ours, answer.encode())
    done = subprocess.run(command, stdin=theirs, capture_output=True, text=True, check=False)
    os.close(ours)
    os.close(theirs)
    assert done.returncode == code
    assert "# your crontab\n# pai_runner: nightly\n" in done.stdout
    assert "pai: Write this? [y/N] " in done.stderr
    assert world.table.exists() == (code == 0)
    assert catalog.names() == ["nightly"][code:]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{file}", "--cron", "0 25 * * *"], "the hour `25` is wrong"),
        (["{file}", "--cron", "0 0 2 * * *"], "has 6 fields"),
        (["{file}", "--cron", "@daily", "--name", "a/b"], "`a/b` cannot be the name"),
        (["{file}", "--cron", "@daily", "--name", "x.state"], "`x.state` cannot be the name"),
        (["{file}", "--cron", "@daily", "--timezone", "Berlin"], "no time zone `Berlin`"),
        (["{file}", "--cron", "@daily", "--system"], "--system is for --systemd"),
        (["{file}", "--cron", "@daily", "--env", "NOT_SET"], "NOT_SET: it is not set here"),
        (["{file}", "--cron", "@daily", "--catch-up", "0"], "`0` is no number of ticks"),
        (["{file}", "--cron", "@daily", "--", "--name", "x"], "--name stands for itself"),
        (["{file}", "--cron", "@daily", "--", "--param", "token=abc123"], "hold a secret"),
        (["{file}", "--cron", "@daily", "--", "--retrys", "3"], "does not take --retrys"),
        (["{file}", "--cron", "@daily", "--", "--retries", "x"], "`x` is not a number"),
        (["{file}", "--cron", "@daily", "--", "--if-running", "wait"], "concern a lock"),
        (["{file}", "--cron", "@daily", "--", "--notify", "http://h/t0ken"], "names a URL"),
        (["{file}", "--cron", "@daily", "--", "--notify=curl http://h/t0ken"], "names a URL"),
        (["{folder}", "--cron", "@daily"], "is not a file that can be read"),
        (["{folder}/none.pai", "--cron", "@daily"], "is not a file that can be read"),
        (["{file}"], "--cron"),
    ],
)
def test_bad_input_leaves_nothing(world: World, arguments: list[str], message: str) -> None:
    words = [one.format(file=world.file, folder=world.folder) for one in arguments]
    if "--" in words:
        words.insert(words.index("--"), "--yes")
    else:
        words.append("--yes")
    code, _, errors = world.verb("install", *words)
    assert code == 2
    assert message in errors
    assert "t0ken" not in errors
    assert not world.table.exists()
    assert catalog.names() == []


def test_whom_to_notify_is_set_where_it_runs(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.install(*NIGHTLY, "--", "--notify", "env:HOOK", "--notify", "mail-us", "--force")
    assert catalog.read("nightly").options[:2] == ("--notify", "env:HOOK")
    monkeypatch.setenv("HOOK", "https://example.com/t0ken")
    code, _, errors = world.verb(
        *("install", str(world.file), *NIGHTLY, "--yes", "--name", "other", "--env", "HOOK"),
        *("--", "--notify", "env:HOOK"),
    )
    assert code == 2
    assert "HOOK holds a URL to notify" in errors
    assert "t0ken" not in errors
    assert catalog.names() == ["nightly"]


def test_a_secret_is_not_kept(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OSS_ACCESS_KEY_SECRET", "abcdefgh")
    code, _, errors = world.verb(
        "install", str(world.file), *NIGHTLY, "--yes", "--env", "OSS_ACCESS_KEY_SECRET"
    )
    assert code == 2
    assert "holds a secret, which is not put on record" in errors
    assert "abcdefgh" not in errors


def test_a_name_is_taken_once(world: World) -> None:
    world.install(*NIGHTLY)
    before = world.table.read_bytes()
    code, _, errors = world.verb("install", str(world.file), *NIGHTLY, "--yes")
    assert code == 2
    assert "there is a schedule nightly already" in errors
    assert world.table.read_bytes() == before


def test_a_marker_of_another_home_is_not_taken_for_ours(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.install(*NIGHTLY)
    before = world.table.read_bytes()
    monkeypatch.setenv("PAI_HOME", str(world.folder / "other"))
    code, _, errors = world.verb("install", str(world.file), *NIGHTLY, "--yes")
    assert code == 2
    assert "has lines of a schedule nightly already" in errors
    assert catalog.names() == []
    assert world.table.read_bytes() == before


def test_lines_of_another_home_stay(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.install(*NIGHTLY)
    before = world.table.read_bytes()
    monkeypatch.setenv("PAI_HOME", str(world.folder / "other"))
    world.install("--cron", "@daily", "--serve")
    world.change(backend="unknown")
    code, _, errors = world.verb("rm", "nightly")
    assert code == 0
    assert "there is no backend `unknown`" in errors
    assert catalog.names() == []
    assert world.table.read_bytes() == before


def test_all_lines_of_this_home_go(world: World) -> None:
    world.install(*NIGHTLY)
    marker, line = world.table.read_bytes().splitlines(keepends=True)
    other = line.replace(b"the home", b"another")
    world.table.write_bytes(marker + THEIRS + line + line + other)
    assert world.verb("rm", "nightly")[0] == 0
    assert world.table.read_bytes() == THEIRS + other


# ====== Zones ======


@pytest.mark.parametrize(
    ("cron", "hours", "expected"),
    [
        ("0 2 * * *", 0, "0 2 * * *"),
        ("0 2 * * *", -8, "0 18 * * *"),
        ("0 2 * * 1", -8, "0 18 * * 0"),
        ("30 20-22 * * 1-5", 8, "30 4,5,6 * * 2,3,4,5,6"),
        ("*/5 * * * *", 8, "*/5 * * * *"),
        ("0 2,20 * * *", -8, "0 12,18 * * *"),
        ("0 2,20 * * 1", -8, None),
        ("0 2 1 * *", -8, None),
        ("0 2 * 3 *", -8, None),
        ("0 2 * * *", 5.5, None),
    ],
)
def test_expressions_by_another_clock(cron: str, hours: float, expected: str | None) -> None:
    assert shifted_cron(cron, timedelta(hours=hours)) == expected


def test_a_zone_that_keeps_its_distance_is_converted(world: World) -> None:
    code, output, _ = world.verb(
        "install", str(world.file), *NIGHTLY, "--timezone", "Asia/Shanghai", "--yes"
    )
    assert code == 0
    assert "T02:00+08:00" in output
    assert "\n0 18 * * * PAI_HOME=" in world.table.read_text()


def test_a_zone_that_does_not_is_for_others(world: World) -> None:
    berlin = ("install", str(world.file), *NIGHTLY, "--timezone", "Europe/Berlin", "--yes")
    code, _, errors = world.verb(*berlin)
    assert code == 2
    assert "no one line there, as their clocks shift against each other" in errors
    assert "--systemd or --serve" in errors
    assert not world.table.exists()
    assert world.verb(*berlin, "--serve")[0] == 0


# ====== ls, next, rm ======


def test_ls_shows_what_comes_and_what_was(world: World) -> None:
    assert world.verb("ls") == (0, "no schedules\n", "")
    assert json.loads(world.verb("ls", "--json")[1]) == []
    world.install(*NIGHTLY)
    catalog.record("nightly", Result("2026-11-20T02:00+00:00", "2026-11-20T02:00:01+00:00"))
    code, output, _ = world.verb("ls")
    header, row = output.splitlines()
    assert code == 0
    assert header.split() == ["name", "cron", "timezone", "file", "backend", "next", "last"]
    assert row.split()[:8] == ["nightly", *["0", "2", "*", "*", "*"], "Etc/UTC", str(world.file)]
    assert "2026-11-20T02:00+00:00 has not ended" in row
    (listed,) = json.loads(world.verb("ls", "--json")[1])
    assert listed["next"].endswith("T02:00+00:00")
    assert (listed["last"]["code"], listed["last_success"]) == (None, None)
    assert (listed["backend"], listed["options"]) == ("crontab", [])


@pytest.mark.parametrize(
    "damage",
    ["[]", '{"schema": 1, "name": "x"}', "\udcff", '{"schema": 2}'],
)
def test_a_damaged_record_is_named_and_others_work(world: World, damage: str) -> None:
    world.install(*NIGHTLY)
    world.install(*NIGHTLY, "--name", "other")
    path = Path(catalog.folder(), "other.json")
    path.write_bytes(damage.encode("utf-8", "surrogateescape"))
    code, output, errors = world.verb("ls")
    assert code == 1
    assert f"{path} is damaged" in errors
    assert "nightly" in output
    assert world.verb("next", "other")[0] == 125
    assert world.verb("rm", "other")[0] == 0
    assert not path.exists()
    assert "# pai_runner: other" not in world.table.read_text()
    assert "# pai_runner: nightly" in world.table.read_text()


@pytest.mark.parametrize(
    "change",
    [
        {"cron": "0 25 * * *"},
        {"timezone": "Nowhere"},
        {"created": "2026-11-20T00:00"},
        {"catch_up": 0},
        {"environment": {"A": 1}},
        {"units": 1},
    ],
)
def test_a_wrong_value_on_record_is_damage(world: World, change: dict[str, object]) -> None:
    world.install("--cron", "0 2 * * *", "--serve")
    world.change(**change)
    for words in (["ls"], ["next", "nightly"], ["run", "nightly"]):
        code, _, errors = world.verb(*words)
        assert code in (1, 125)
        assert "nightly.json is damaged" in errors


def test_a_crontab_with_a_zone_of_its_own_is_left_alone(world: World) -> None:
    world.table.write_bytes(b"CRON_TZ=Asia/Tokyo\n")
    code, _, errors = world.verb("install", str(world.file), *NIGHTLY, "--yes")
    assert code == 2
    assert "sets CRON_TZ" in errors
    assert world.table.read_bytes() == b"CRON_TZ=Asia/Tokyo\n"
    assert catalog.names() == []


@pytest.mark.parametrize("shell", ["/usr/bin/fish", '"/bin/tcsh"', "csh "])
def test_a_crontab_with_another_kind_of_shell_is_left_alone(world: World, shell: str) -> None:
    table = f"SHELL=/bin/bash\nSHELL = {shell}\n"
    world.table.write_text(table)
    code, _, errors = world.verb("install", str(world.file), *NIGHTLY, "--yes")
    assert code == 2
    assert f"sets SHELL to {shell.strip().strip(chr(34))}, which" in errors
    assert world.table.read_text() == table
    assert catalog.names() == []
    world.table.write_text(table + "SHELL='/bin/zsh'\n")
    world.install(*NIGHTLY)


def test_a_crontab_that_may_not_be_executed_is_told(world: World) -> None:
    (world.folder / "bin/crontab").chmod(0o644)
    programs = os.environ["PATH"].split(os.pathsep)
    if any(os.access(os.path.join(one, "crontab"), os.X_OK) for one in programs):
        pytest.skip("this machine has a crontab of its own")
    code, _, errors = world.verb("install", str(world.file), *NIGHTLY, "--yes")
    assert code == 125
    assert "`crontab` cannot be started: Permission denied" in errors
    assert catalog.names() == []


def test_an_interrupted_install_leaves_nothing(world: World) -> None:
    """Ctrl-C while `crontab` works, which has written the lines already."""
    world.table.write_bytes(THEIRS)
    program, at = world.folder / "bin/crontab", world.folder / "at"
    real = program.read_text().removeprefix("#!/bin/sh\nexec ").removesuffix("\n")
    os.mkfifo(at)
    executable(
        program,
        f"#!/bin/sh\n{real} || exit\n[ \"$1\" != - ] || [ -e '{at}.2' ] || "
        f"{{ : >'{at}.2'; trap '' INT; read line <'{at}'; }}\n",
    )
    process = world.start("install", str(world.file), *NIGHTLY, "--yes")
    wait_until(Path(f"{at}.2").exists)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 130
    assert world.table.read_bytes() == THEIRS
    assert catalog.names() == []


def test_a_module_of_the_users_folder_is_not_taken_for_pythons(world: World) -> None:
    for name in ("argparse", "json", "queue", "signal"):  # some are loaded before `pai` begins
        (world.folder / f"{name}.py").write_text("raise SystemExit('not me')\n")
    environment = {**world.environment, "PAI_HOME": str(world.home)}
    for safe in ({}, {"PYTHONSAFEPATH": "1"}):
        done = subprocess.run(
            pai_command("schedule", "ls"),
            cwd=world.folder,
            env={**environment, **safe},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stdout) == (0, "no schedules\n"), done.stderr


def test_next_prints_five(world: World) -> None:
    world.install(*NIGHTLY)
    code, output, _ = world.verb("next", "nightly")
    assert code == 0
    assert [line[-12:] for line in output.splitlines()] == ["T02:00+00:00"] * 5
    assert len(json.loads(world.verb("next", "nightly", "-n", "40", "--json")[1])) == 40
    assert world.verb("next", "nightly", "-n", "0")[0] == 2


@pytest.mark.parametrize("word", ["next", "run", "run-now", "rm"])
def test_a_name_that_is_none_is_named(world: World, word: str) -> None:
    world.install(*NIGHTLY)
    code, _, errors = world.verb(word, "nightli")
    assert code == 2
    assert "there is no schedule `nightli`" in errors
    assert "nightly" in errors
    assert not Path(catalog.folder(), "nightli.lock").exists()


def test_what_someone_changed_in_our_line_goes_all_the_same(world: World) -> None:
    world.install(*NIGHTLY)
    world.table.write_text(world.table.read_text().replace("0 2 * * *", "5 3 * * *"))
    assert world.verb("rm", "nightly")[0] == 0
    assert not world.table.exists()


def test_a_line_that_is_gone_is_told(world: World) -> None:
    world.install(*NIGHTLY)
    world.table.write_bytes(THEIRS)
    code, _, errors = world.verb("rm", "nightly")
    assert code == 0
    assert "has no line of nightly any more" in errors
    assert world.table.read_bytes() == THEIRS


def test_the_history_keeps_the_newest_ticks() -> None:
    history = History()
    for day in range(1, 29):
        for hour in range(24):
            tick = f"2026-02-{day:02d}T{hour:02d}:00+00:00"
            history = history.with_result(Result(tick, tick, code=0))
    assert len(history.results) == catalog.REMEMBERED
    assert history.results[-1].cyctime == "2026-02-28T23:00+00:00"


def test_verbs_are_listed(world: World) -> None:
    code, output, _ = world.verb("--help")
    assert code == 0
    assert "usage: pai schedule VERB NAME" in output
    assert "run-now" in output
    assert "usage: pai schedule install FILE --cron" in world.verb("install", "--help")[1]
