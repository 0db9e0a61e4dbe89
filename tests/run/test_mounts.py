"""Which locations a job mounts, how they are opened, and where staged ones lie."""

from __future__ import annotations

from pathlib import Path

import pytest

from pai_runner.command import Job, make_job, parse_arguments
from pai_runner.errors import SetupError, UsageError
from pai_runner.jobs.directory import JobDirectory
from pai_runner.location import Location
from pai_runner.run.access import Access, check_servers, ignores_roles
from pai_runner.run.mounts import plan_mounts, stage_root
from pai_runner.run.plan import Mount
from pai_runner.run.secrets import SecretStore

ROLE = "acs:ram::1234567890:role/r"


def job_of(*words: str) -> Job:
    return make_job(parse_arguments(["-name", "tensorflow", "-Dscript=x.py", *words]))


def mounts_of(*words: str, ignore: bool = False) -> tuple[Mount, ...]:
    job = job_of(*words)
    access = Access.of(job.locations, "j1", ignore)
    return plan_mounts(job, access, SecretStore(), "/stage/j1")


def test_a_role_is_limited_to_the_buckets_of_the_job() -> None:
    (mount, _, other) = mounts_of(
        f"-Dbuckets=oss://b/?role_arn={ROLE},s3://d/",
        "-DcheckpointDir=oss://a/out/?id=AKIDEXAMPLE&key=hidden-value",
    )
    assert mount.options == {
        "role_arn": ROLE,
        "role_session": "pai-j1",
        "role_buckets": "a,b",
    }
    assert other.options == {
        "access_key_id": "${secret:checkpointDir.access_key_id}",
        "access_key_secret": "${secret:checkpointDir.access_key_secret}",
    }


def test_an_ignored_role_is_left_out_and_told() -> None:
    words = [f"-Dbuckets=oss://b/?role_arn={ROLE}&host=h"]
    (mount,) = mounts_of(*words, ignore=True)
    assert mount.options == {"host": "h"}
    access = Access.of(job_of(*words).locations, "j1", True)
    (notice,) = access.notices(job_of(*words).locations)
    assert "role/r is ignored" in notice
    assert "1234567890" not in notice


def test_ways_to_write_one_host_are_one_mount() -> None:
    mounts = mounts_of(
        "-Dbuckets=oss://b/?host=oss-cn-x.aliyuncs.com,oss://b.OSS-cn-x.aliyuncs.com/",
        "-DcheckpointDir=oss://b/?host=https://oss-cn-x.aliyuncs.com/",
        "-DsummaryDir=oss://b/",
        "-DossHost=oss-cn-x.aliyuncs.com/",
    )
    assert [mount.options for mount in mounts] == [{"host": "oss-cn-x.aliyuncs.com"}]


def test_a_role_that_is_none_is_refused_unless_it_is_ignored() -> None:
    words = ["-Dbuckets=oss://b/?role_arn=xxx"]
    with pytest.raises(UsageError, match="`xxx` is not a role"):
        mounts_of(*words)
    assert mounts_of(*words, ignore=True)[0].options == {}


def test_staged_folders() -> None:
    mounts = mounts_of(
        "-Dbuckets=s3://b/,s3://c/d/?mount=stream,memory://m/",
        "-DcheckpointDir=s3://b/x/out/",
        "-Dmount=stage",
    )
    assert {mount.prefix: (mount.mode, mount.folder) for mount in mounts} == {
        "s3://b/": ("stage", "/stage/j1-2/files"),
        "s3://b/x/out/": ("stage", "/stage/j1-2/files/x/out"),
        "s3://c/d/": ("stream", ""),
        "memory://m/": ("stage", "/stage/j1-1/files"),
    }


def test_a_folder_in_another_that_is_opened_otherwise_lies_by_itself() -> None:
    mounts = mounts_of(
        "-Dbuckets=oss://b/?host=h&id=AKIDEXAMPLE&key=hidden-value",
        "-DcheckpointDir=oss://b/out/?host=h&id=AKIDOTHER&key=other-value",
        "-DsummaryDir=oss://b/logs/?host=h&id=AKIDEXAMPLE&key=hidden-value",
        "-Dmount=stage",
    )
    assert [mount.folder for mount in mounts] == [
        "/stage/j1-1/files",
        "/stage/j1-2/files",
        "/stage/j1-1/files/logs",
    ]


@pytest.mark.parametrize("inner", ["../../../precious/x/", "./out/", "out//inner/"])
def test_a_location_that_leads_out_of_its_folder_is_not_staged(inner: str) -> None:
    words = ["-Dbuckets=s3://b/dir/", f"-DcheckpointDir=s3://b/dir/{inner}"]
    with pytest.raises(SetupError, match="cannot be staged"):
        mounts_of(*words, "-Dmount=stage")
    assert len(mounts_of(*words)) == 2


def test_one_prefix_is_mounted_one_way() -> None:
    with pytest.raises(SetupError, match="different options"):
        mounts_of("-Dbuckets=s3://b/d/", "-DcheckpointDir=s3://b/d/?mount=stage")


def test_where_staged_folders_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAI_HOME", str(tmp_path))
    directory = JobDirectory(tmp_path, "j1")
    assert stage_root(directory, {}) == f"{tmp_path}/stage/j1"
    assert stage_root(directory, {"PAI_STAGE_DIR": "/fast"}) == "/fast/j1"


@pytest.mark.parametrize(
    ("word", "environment", "ignored"),
    [
        (None, {}, False),
        ("assume", {"PAI_ROLE": "ignore"}, False),
        ("ignore", {}, True),
        (None, {"PAI_ROLE": "ignore"}, True),
        (None, {"PAI_ROLE": "worker", "PAI_ROLE_DIR": "/of/an/outer/job"}, False),
    ],
)
def test_whether_roles_are_ignored(
    word: str | None, environment: dict[str, str], ignored: bool
) -> None:
    assert ignores_roles(word, environment) == ignored


@pytest.mark.parametrize(("word", "environment"), [("no", {}), (None, {"PAI_ROLE": "worker"})])
def test_a_wrong_word_is_refused(word: str | None, environment: dict[str, str]) -> None:
    with pytest.raises(UsageError) as caught:
        ignores_roles(word, environment)
    assert "ignore" in str(caught.value.hint)


def test_servers_are_looked_at_before_anything_starts() -> None:
    check_servers([Location.parse("s3://b/?endpoint_url=https://s3.cn-north-1.amazonaws.com.cn")])
    with pytest.raises(SetupError) as caught:
        check_servers([Location.parse("s3://b/?endpoint_url=https://evil.example.com&secret=hid")])
    assert "s3://b/" in str(caught.value)
    assert "PAI_ALLOWED_HOSTS=evil.example.com" in str(caught.value.hint)
    assert "secret=***" in str(caught.value)
    for text in (
        "http://169.254.169.254/latest/user-data.py",
        "webhdfs://100.100.100.200:80/x",
        "sftp://box/x?host=169.254.169.254",
    ):
        with pytest.raises(SetupError, match="metadata"):
            check_servers([Location.parse(text)])
    with pytest.raises(SetupError, match="not one of"):
        check_servers([Location.parse("gs://b/?endpoint_url=https://evil.example.com")])
    check_servers([Location.parse("http://127.0.0.1:1/x.py"), Location.parse("./x.py")])
