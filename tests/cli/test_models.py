"""`pai models`: ls, gc, pin, unpin and rollback, on the local disk and in buckets."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fault_server import CREDENTIALS, Faults, fault_server
from model_folders import KINDS, Shelf, lay_versions, make_shelf, publish_model
from oss_server import REFUSED_ROLE, OSSServer
from support import ROLE, Pai, wait_until

from pai_runner.cli import models
from pai_runner.cli.main import main
from pai_runner.cli.models_place import age_text, opened, size_text
from pai_runner.errors import SetupError
from pai_runner.location import Location
from pai_runner.models.pointer import POINTER, advance
from pai_runner.models.versions import PINS


@pytest.fixture(params=KINDS)
def shelf(request: pytest.FixtureRequest) -> Shelf:
    return make_shelf(request.param, request)


@pytest.fixture
def local(request: pytest.FixtureRequest) -> Shelf:
    return make_shelf("local", request)


Verb = Callable[..., tuple[int, str, str]]


@pytest.fixture
def verb(capsys: pytest.CaptureFixture[str]) -> Verb:
    """Runs `pai models …` in this process; returns the code, standard output and error."""

    def run(*arguments: str) -> tuple[int, str, str]:
        code: int | str | None
        try:
            code = main(["models", *arguments])
        except SystemExit as end:  # argparse's
            code = end.code
        printed = capsys.readouterr()
        return int(code or 0), printed.out, printed.err

    return run


def json_of(ran: tuple[int, str, str]) -> Any:
    code, output, errors = ran
    assert code == 0, errors
    return json.loads(output)


# ====== ls ======


def test_versions_are_listed_newest_first(shelf: Shelf, verb: Verb) -> None:
    publish_model(shelf.place)
    publish_model(shelf.place, version=10)
    shelf.raw.put("009/saved_model.pbtxt", b"theirs")
    shelf.raw.delete("1/fingerprint.pb")
    shelf.raw.put(f"{PINS}/9", b"")
    code, output, errors = verb("ls", shelf.location)
    assert (code, errors) == (0, "")
    header, *rows = [line.split() for line in output.splitlines()]
    assert header == ["version", "age", "size", "signatures", "state", "marks"]
    assert [row[0] for row in rows] == ["10", "9", "1"]
    assert rows[0][1][-1] == "s"
    assert rows[0][4:] == ["predict_images", "complete", "latest"]
    assert rows[1][2:] == ["6", "B", "-", "complete", "pinned"]
    assert "fingerprint.pb is missing" in output
    listed = json_of(verb("ls", shelf.location, "--json"))
    assert [(one["version"], one["latest"], one["pinned"]) for one in listed] == [
        (10, True, False),
        (9, False, True),
        (1, False, False),
    ]
    assert [one["complete"] for one in listed] == [True, True, False]
    assert listed[0]["signatures"] == ["predict_images"]
    assert (listed[0]["step"], listed[0]["job_id"]) == (7, "job-1")
    assert listed[1]["signatures"] is None
    assert listed[2]["problem"] == "fingerprint.pb is missing"


def test_where_there_is_no_version_it_is_said(shelf: Shelf, verb: Verb) -> None:
    shelf.raw.put("v1/saved_model.pb", b"graph")
    for arguments in (["ls", shelf.location], ["ls", shelf.location, "--json"]):
        code, output, errors = verb(*arguments)
        assert (code, output) == (125, "")
        assert f"{shelf.prefix} has no versions" in errors
        assert f"a version is a directory with a number, such as {shelf.prefix}1/" in errors
        assert "there: v1" in errors


def test_the_usual_slips_are_led_to_the_versions(local: Shelf, verb: Verb) -> None:
    shelf = local
    for name in ("export/1/saved_model.pb", "export/2/saved_model.pb"):
        shelf.raw.put(name, b"graph")
    place = local.location.rstrip("/")
    assert f"the versions lie in {place}/export/" in verb("ls", place)[2]
    said = verb("ls", f"{place}/export/2")[2]
    assert f"it is a version itself; the directory of the versions is {place}/export/" in said


def test_what_decides_about_removal_is_not_guessed(local: Shelf, verb: Verb) -> None:
    lay_versions(local, 2)
    before = local.raw.names()
    for words, code, text in (
        (["--younger-than", "7"], 2, "write 90s, 30m, 12h or 7d"),
        (["--grace", "0"], 2, "write 90s, 30m, 12h or 7d"),
        (["--pinned", "99"], 125, "versions there: 1, 2"),
    ):
        ended, _, errors = verb("gc", local.location, "--last", "1", *words)
        assert (ended, local.raw.names()) == (code, before)
        assert text in errors


# ====== gc ======


def test_old_versions_are_removed(shelf: Shelf, verb: Verb) -> None:
    lay_versions(shelf, 5)
    advance(shelf.place, 5)
    shelf.raw.put(".staging-0123/variables/variables.index", b"left")
    before = shelf.raw.names()
    how = ["gc", shelf.location, "--last", "1", "--pinned", "1", "2", "--pinned", "3"]
    would = json_of(verb(*how, "--grace", "0s", "--dry-run", "--json"))
    assert shelf.raw.names() == before
    assert would["dry_run"] is True
    assert [one["name"] for one in would["removed"]] == ["4", ".staging-0123"]
    assert would["bytes"] == sum(one["bytes"] for one in would["removed"]) > 0
    code, output, errors = verb(*how)
    assert (code, errors) == (0, "")
    header, gone, total = output.splitlines()
    assert header.split() == ["gone", "size", "reason"]
    assert gone.split()[0] == "4"
    assert gone.endswith("not among the last 1")
    assert total.startswith("total")
    assert before - shelf.raw.names() == {name for name in before if name.startswith("4/")}
    assert verb(*how) == (0, "nothing to remove\n", "")
    # The newest stays, whatever is said.
    assert verb("gc", shelf.location, "--last", "1")[0] == 0
    assert {name.partition("/")[0] for name in shelf.raw.names()} >= {"5"}


def test_young_versions_stay(local: Shelf, verb: Verb) -> None:
    lay_versions(local, 3)
    for name in local.raw.names():
        if name.startswith("1/"):
            os.utime(f"{local.prefix}{name}", (1, 1))
    how = ["gc", local.location, "--last", "1", "--younger-than", "7d", "--json"]
    assert [one["name"] for one in json_of(verb(*how))["removed"]] == ["1"]


# ====== pin, unpin, rollback ======


def test_pins_and_rollbacks_say_what_they_did(shelf: Shelf, verb: Verb) -> None:
    lay_versions(shelf, 2)
    where = shelf.location
    assert verb("pin", where, "1") == (0, f"version 1 of {shelf.prefix} is pinned\n", "")
    assert json_of(verb("pin", where, "2", "--json")) == {"version": 2, "pinned": True}
    said = f"version 1 of {shelf.prefix} is no longer pinned\n"
    assert verb("unpin", where, "1") == (0, said, "")
    assert f"{PINS}/2" in shelf.raw.names()
    assert f"{PINS}/1" not in shelf.raw.names()
    assert verb("rollback", where, "1") == (0, f"{shelf.prefix}: version 1 is the latest\n", "")
    assert json.loads(shelf.raw.read(POINTER))["version"] == 1
    moved = json_of(verb("rollback", where, "2", "--json"))
    assert (moved["version"], moved["generation"]) == (2, 2)
    again = json_of(verb("rollback", where, "1", "--republish", "--json"))
    assert again == {"version": 3, "location": f"{shelf.prefix}3/", "republished": 1}
    assert shelf.raw.read("3/saved_model.pb") == shelf.raw.read("1/saved_model.pb")
    assert json.loads(shelf.raw.read(POINTER))["version"] == 3


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["pin", "9"], "has no version 9"),
        (["rollback", "9"], "has no version 9"),
        (["rollback", "9", "--republish"], "has no version 9"),
        (["unpin", "1"], "version 1 is not pinned"),
    ],
)
def test_a_version_that_is_not_there(
    arguments: list[str], says: str, local: Shelf, verb: Verb
) -> None:
    lay_versions(local, 2)
    name, *rest = arguments
    code, output, errors = verb(name, local.location, *rest)
    assert (code, output) == (125, "")
    assert f"error: {local.prefix}" in errors
    assert says in errors
    assert "versions there: 1, 2" in errors or "pinned: none" in errors


# ====== What is wrong with the command ======


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "usage: pai models VERB"),
        (["lss"], "pai models has no verb `lss`; did you mean `ls`?"),
        (["zzz"], "verbs: ls, show, verify, gc, pin, unpin, rollback"),
        (["ls"], "LOCATION"),
        (["ls", ""], "an empty location"),
        (["ls", "oss:/bucket"], "write oss://bucket"),
        (["ls", "s3://bucket/?hots=x"], "has no option `hots`"),
        (["ls", ".", "--role", "maybe"], "no such choice"),
        (["pin", "."], "N"),
        (["pin", ".", "v1"], "`v1` is not a version"),
        (["unpin", ".", "-1"], "-1"),
        (["rollback", ".", "latest"], "`latest` is not a version"),
        (["gc", ".", "--last", "0"], "at least one version is kept"),
        (["gc", ".", "--last", "all"], "--last"),
        (["gc", ".", "--younger-than", "soon"], "`soon` is not a duration"),
        (["gc", ".", "--grace", "-1h"], "--grace"),
        (["gc", ".", "--pinned", "x"], "`x` is not a version"),
    ],
)
def test_a_wrong_command_is_told_what_is_right(arguments: list[str], says: str, verb: Verb) -> None:
    code, output, errors = verb(*arguments)
    assert code == 2
    assert says in output + errors
    assert "Traceback" not in errors


def test_each_verb_is_listed_and_explains_itself(verb: Verb) -> None:
    code, output, _ = verb("--help")
    assert code == 0
    for name, (_, _, summary) in models.VERBS.items():
        assert f"  {name}" in output
        assert summary in output
        code, explained, _ = verb(name, "--help")
        assert code == 0
        assert f"pai models {name}" in explained
        assert "--json" in explained


# ====== What is wrong with the world ======


def test_a_folder_that_is_none(local: Shelf, verb: Verb) -> None:
    for name, says in (("missing", "does not exist"), ("file", "is not a folder")):
        local.raw.put("file", b"")
        code, output, errors = verb("ls", f"{local.prefix}{name}")
        assert (code, output) == (125, "")
        assert f"{local.prefix}{name} {says}" in errors


def test_what_a_file_system_refuses_names_the_file(local: Shelf, verb: Verb) -> None:
    lay_versions(local, 1)
    local.raw.put(PINS, b"a file where a folder belongs")
    code, output, errors = verb("pin", local.location, "1")
    assert (code, output) == (125, "")
    assert f"{local.prefix}{PINS}" in errors
    assert "Traceback" not in errors


@pytest.mark.parametrize("kind", ["s3", "oss"])
def test_a_bucket_that_is_missing(kind: str, request: pytest.FixtureRequest, verb: Verb) -> None:
    shelf = make_shelf(kind, request)
    bucket = shelf.prefix.split("/")[2]
    location = shelf.location.replace(f"//{bucket}/", "//no-such-bucket/")
    for name, *rest in (["ls"], ["gc"], ["pin", "1"], ["rollback", "1"]):
        code, output, errors = verb(name, location, *rest)
        assert (code, output) == (125, "")
        assert "there is no bucket `no-such-bucket`" in errors
        assert not any(value in errors for value in secrets(shelf))


def secrets(shelf: Shelf) -> list[str]:
    names = ("key", "secret", "access_key_id", "access_key_secret")
    return [shelf.server.options[name] for name in names if name in shelf.server.options]


@pytest.fixture
def faults() -> Iterator[Faults]:
    with fault_server() as made:
        yield made


def faulty_location(faults: Faults, port: int | None = None) -> str:
    url = f"http://127.0.0.1:{port or faults.port}"
    key, secret = CREDENTIALS["key"], CREDENTIALS["secret"]
    return f"s3://bucket/dir/?endpoint_url={url}&region=r&key={key}&secret={secret}"


def test_a_server_that_denies_or_is_not_there(faults: Faults, verb: Verb) -> None:
    faults.refused = {"GET", "HEAD", "PUT", "POST", "DELETE"}
    for port, says in ((faults.port, "access denied"), (9, "the server does not answer")):
        code, output, errors = verb("ls", faulty_location(faults, port))
        assert (code, output) == (125, "")
        assert f"s3://bucket/dir/: {says}" in errors
        assert "Traceback" not in errors
        assert not any(value in errors for value in CREDENTIALS.values())


def test_a_write_that_is_denied(faults: Faults) -> None:
    faults.refused = {"PUT"}

    def write() -> None:
        with opened(Location.parse(faulty_location(faults)), None) as place:
            place.write("file", b"data")

    with pytest.raises(SetupError, match=r"^s3://bucket/dir/: access denied") as caught:
        write()
    assert not any(value in caught.value.message for value in CREDENTIALS.values())


def test_a_role_opens_a_bucket_or_is_ignored(
    oss_server: OSSServer,
    request: pytest.FixtureRequest,
    verb: Verb,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in {
        "OSS_ACCESS_KEY_ID": oss_server.options["access_key_id"],
        "OSS_ACCESS_KEY_SECRET": oss_server.options["access_key_secret"],
        "PAI_STS_ENDPOINT": oss_server.sts_url,
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("PAI_ROLE", raising=False)
    shelf = make_shelf("oss", request)
    lay_versions(shelf, 1)
    bucket = shelf.prefix.split("/")[2]
    location = f"{shelf.prefix}?host={oss_server.url}&role_arn={ROLE}"
    assert json_of(verb("ls", location, "--json"))[0]["version"] == 1
    call = oss_server.calls_of_sts()[-1]
    assert (call["session_name"], call["role_arn"]) == ("pai-models", ROLE)
    assert f"acs:oss:*:*:{bucket}/*" in call["policy"]
    refused = location.replace(ROLE, REFUSED_ROLE)
    code, _, errors = verb("ls", refused)
    assert code == 125
    assert "--role ignore" in errors
    code, output, errors = verb("ls", refused, "--role", "ignore")
    assert code == 0
    assert "is ignored: your own keys are used" in errors
    assert output.splitlines()[1].startswith("1 ")
    assert "1234567890123456" not in errors


# ====== As a process ======


@pytest.mark.slow
def test_a_verb_needs_no_tensorflow_and_shows_no_secret(
    pai: Pai, request: pytest.FixtureRequest
) -> None:
    shelf = make_shelf("s3", request)
    lay_versions(shelf, 1)
    ran = pai("models", "ls", shelf.location, PYTHONVERBOSE="1")
    assert ran.returncode == 0
    assert "import 'pai_runner.models.versions'" in ran.stderr
    assert "import 'tensorflow'" not in ran.stderr
    plain = pai("models", "pin", shelf.location, "1")
    assert (plain.returncode, plain.stderr) == (0, "")
    assert not any(value in plain.stdout for value in secrets(shelf))


@pytest.mark.slow
def test_ctrl_c_ends_a_verb(pai: Pai, faults: Faults) -> None:
    faults.answering.clear()
    running = pai.start("models", "ls", faulty_location(faults))
    wait_until(lambda: faults.requests, seconds=60)
    running.send_signal(signal.SIGINT)
    output, errors = running.communicate(timeout=30)
    assert (running.returncode, output) == (130, "")
    assert "Traceback" not in errors


# ====== Words ======


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (1536, "1.54 kB"),
        (999_499, "999 kB"),
        (999_999, "1 MB"),
        (1_234_567_890, "1.23 GB"),
        (5_000_000_000_000, "5.0 TB"),
    ],
)
def test_sizes_for_people(size: int, text: str) -> None:
    assert size_text(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5.0, "0s"),
        (0.4, "0s"),
        (119.9, "119s"),
        (120.0, "2m"),
        (7199.0, "119m"),
        (7200.0, "2h"),
        (2 * 86400.0, "2d"),
        (400 * 86400.0, "400d"),
    ],
)
def test_ages_for_people(seconds: float, text: str) -> None:
    assert age_text(seconds) == text
