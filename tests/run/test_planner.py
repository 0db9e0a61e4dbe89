"""What a plan holds, and what it does not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pai_runner.command import make_job, parse_arguments
from pai_runner.errors import SetupError
from pai_runner.jobs.directory import JobDirectory
from pai_runner.run.options import Options, parse_duration
from pai_runner.run.plan import Plan, Publish
from pai_runner.run.planner import Prepared, make_plan
from pai_runner.run.secrets import SecretStore
from pai_runner.secret import resolve

SCRIPT = """\
from absl import app, flags
for name in ("buckets", "checkpointDir", "tables", "rate", "oss_ak"):
    flags.DEFINE_string(name, "", "")
"""
DEVICES = "cpu"


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "train.py"
    path.write_text(SCRIPT, encoding="utf-8")
    return path


def plan_of(folder: Path, *words: str, options: Options | None = None) -> Prepared:
    job = make_job(parse_arguments(["-name", "tensorflow", *words]))
    directory = JobDirectory(folder / "home", "20261121-000000-abcdef")
    chosen = options or Options(devices=DEVICES)
    return make_plan(job, directory, chosen, folder, Path(directory.code))


def test_a_plan_goes_to_json_and_back_unchanged(tmp_path: Path, script: Path) -> None:
    made = plan_of(
        tmp_path, f"-Dscript={script}", "-Dbuckets=s3://b/d/?region=x", "-DcheckpointDir=out"
    ).plan
    assert Plan.from_json(json.loads(json.dumps(made.to_json()))) == made
    with pytest.raises(ValueError, match="schema"):
        Plan.from_json({**made.to_json(), "schema": 99})


def test_what_is_published(tmp_path: Path, script: Path) -> None:
    words = [f"-Dscript={script}", "-DexportVersions=keep:3"]
    remote = plan_of(tmp_path, *words, "-DcheckpointDir=s3://b/out?region=x&mount=stage").plan
    # The bucket itself, not the folder that the script gets.
    assert remote.publish == Publish("s3://b/out/", 3)
    assert Plan.from_json(json.loads(json.dumps(remote.to_json()))) == remote
    local = plan_of(tmp_path, *words, "-DcheckpointDir=out").plan
    assert local.publish == Publish(f"{tmp_path}/out/", 3)
    none = plan_of(tmp_path, f"-Dscript={script}", "-DcheckpointDir=out").plan
    assert none.publish is None
    # As a plan of an earlier version.
    old = {name: value for name, value in none.to_json().items() if name != "publish"}
    assert Plan.from_json(old) == none


def test_the_script_gets_joinable_prefixes_without_a_query(tmp_path: Path, script: Path) -> None:
    (tmp_path / "data").mkdir()
    made = plan_of(
        tmp_path,
        f"-Dscript={script}",
        "-Dbuckets=s3://b/d/?region=x,data,file://data/",
        "-DcheckpointDir=s3://b/out",
        "-Dtables=odps://p/tables/t",
    ).plan
    (role,) = made.roles
    assert role.arguments == (
        f"--buckets=s3://b/d/,{tmp_path}/data/,{tmp_path}/data/",
        "--checkpointDir=s3://b/out/",
        "--tables=odps://p/tables/t",
    )
    assert role.environment["PAI_CHECKPOINT_DIR"] == "s3://b/out/"
    assert [mount.prefix for mount in made.mounts] == ["s3://b/d/", "s3://b/out/"]


def test_secrets_stand_beside_the_plan(tmp_path: Path, script: Path) -> None:
    hyper = tmp_path / "hyper.txt"
    hyper.write_text("rate=0.1\nsqlflow_oss_ak=AkInTheFile\n", encoding="utf-8")
    prepared = plan_of(
        tmp_path,
        f"-Dscript={script}",
        "-Dbuckets=s3://b/d/?key=KeyInTheQuery&secret=SecretInTheQuery",
        f"-DhyperParameters={hyper}",
        "-DuserDefinedParameters=--oss_ak=AkTyped --password PasswordTyped --rate=1"
        " --data=oss://b?id=IdInAUrl&key=KeyInAUrl",
    )
    hidden = ("AkInTheFile", "KeyInTheQuery", "SecretInTheQuery", "AkTyped", "PasswordTyped")
    text = json.dumps(prepared.plan.to_json())
    for value in (*hidden, "IdInAUrl", "KeyInAUrl"):
        assert value not in text + repr(prepared.plan)
    (role,) = prepared.plan.roles
    assert [resolve(argument, prepared.secrets) for argument in role.arguments] == [
        "--buckets=s3://b/d/",
        "--rate=0.1",
        "--sqlflow_oss_ak=AkInTheFile",
        "--oss_ak=AkTyped",
        "--password",
        "PasswordTyped",
        "--rate=1",
        "--data=oss://b?id=IdInAUrl&key=KeyInAUrl",
    ]
    (mount,) = prepared.plan.mounts
    assert resolve(mount.options["secret"], prepared.secrets) == "SecretInTheQuery"
    assert json.loads(role.environment["PAI_HYPER_PARAMETERS"]) == {"rate": "0.1"}


def test_one_prefix_has_one_set_of_options(tmp_path: Path, script: Path) -> None:
    words = [f"-Dscript={script}", "-Dbuckets=s3://b/d/?key=a&secret=FirstOfTwo"]
    same = plan_of(tmp_path, *words, "-DcheckpointDir=s3://b/d/?key=a&secret=FirstOfTwo")
    assert len(same.plan.mounts) == 1
    with pytest.raises(SetupError, match="different options"):
        plan_of(tmp_path, *words, "-DcheckpointDir=s3://b/d/?key=a&secret=SecondOfTwo")


def test_a_local_bucket_must_be_there_unless_it_is_the_output(tmp_path: Path, script: Path) -> None:
    words = [f"-Dscript={script}", "-Dbuckets=new/"]
    with pytest.raises(SetupError, match="no folder"):
        plan_of(tmp_path, *words)
    made = plan_of(tmp_path, *words, "-DcheckpointDir=./new").plan
    assert made.folders == (str(tmp_path / "new"),)
    assert not (tmp_path / "new").exists()


def test_an_option_wins_over_the_commands_own_limit(tmp_path: Path, script: Path) -> None:
    words = [f"-Dscript={script}", "-DmaxTrainingTimeInHour=2", "-DmaxHungTimeBeforeGCInSeconds=0"]
    assert plan_of(tmp_path, *words).plan.limits.total_seconds == 7200
    assert plan_of(tmp_path, *words).plan.limits.no_progress_seconds is None
    options = Options(devices=DEVICES, total_seconds=60, no_progress_seconds=5)
    limits = plan_of(tmp_path, *words, options=options).plan.limits
    assert (limits.total_seconds, limits.no_progress_seconds) == (60, 5)


def test_durations() -> None:
    spoken = ("90", "90s", "1.5m", "6h", "1d")
    assert [parse_duration(text) for text in spoken] == [90, 90, 90, 21600, 86400]


def test_a_text_like_a_reference_reaches_the_script_as_it_is() -> None:
    store = SecretStore()
    shown = store.hide("rate", "${secret:other}")
    assert shown != "${secret:other}"
    assert store.reveal(shown) == "${secret:other}"


def test_two_secrets_of_one_name_are_kept_apart() -> None:
    store = SecretStore()
    first, second = store.put("key", "one"), store.put("key", "two")
    assert [store.reveal(first), store.reveal(second)] == ["one", "two"]
    assert store.put("key", "one") == first


# ====== Saving in the background ======


def test_where_checkpoints_wait_for_their_upload(
    tmp_path: Path, script: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [f"-Dscript={script}", "-DcheckpointDir=s3://b/out/?region=x"]
    monkeypatch.setenv("PAI_STAGE_DIR", "/large/disk")
    plain = plan_of(tmp_path, *words).plan
    assert plain.pending == "/large/disk/20261121-000000-abcdef-pending"
    assert plain.roles[0].environment["PAI_PENDING_DIR"] == plain.pending
    # Then the environment of `pai` decides.
    assert "PAI_ASYNC_CHECKPOINT" not in plain.roles[0].environment
    for text, passed in (("true", "1"), ("false", "0")):
        made = plan_of(tmp_path, *words, f"-DasyncCheckpoint={text}").plan
        assert made.roles[0].environment["PAI_ASYNC_CHECKPOINT"] == passed
        assert not any("asyncCheckpoint" in notice for notice in made.notices)


def test_where_nothing_can_wait(tmp_path: Path, script: Path) -> None:
    words = [f"-Dscript={script}", "-DasyncCheckpoint=true"]
    staged = plan_of(tmp_path, *words, "-DcheckpointDir=s3://b/out/?region=x&mount=stage").plan
    local = plan_of(tmp_path, *words, "-DcheckpointDir=out").plan
    for made, reason in ((staged, "on s3://b/out/: it is staged"), (local, "names no bucket")):
        assert made.pending == ""
        assert "PAI_PENDING_DIR" not in made.roles[0].environment
        assert any(reason in notice for notice in made.notices)
    # As a plan of an earlier version.
    old = {name: value for name, value in local.to_json().items() if name != "pending"}
    assert Plan.from_json(old) == local
