"""Statement -> Job."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pai_runner.command import (
    ALGORITHMS,
    Cluster,
    ClusterRole,
    Job,
    apply_settings,
    make_job,
    parse,
    parse_arguments,
    script_candidates,
)
from pai_runner.errors import ParameterError, UsageError
from pai_runner.location import Location

DATA = Path(__file__).parents[1] / "data"
SECRET = "hIdDeNsEcReT0123"


def job(*words: str, script: str | None = "train.py", name: str = "tensorflow") -> Job:
    given_script = [] if script is None else [f"-Dscript={script}"]
    return make_job(parse_arguments(["-name", name, *given_script, *words]))


def error(*words: str, script: str | None = "train.py", name: str = "tensorflow") -> UsageError:
    with pytest.raises(UsageError) as caught:
        job(*words, script=script, name=name)
    assert caught.value.exit_code == 2
    assert caught.value.hint
    return caught.value


def test_the_least_job() -> None:
    statement = parse("PAI -name tensorflow -Dscript=train.py;")[0]
    assert make_job(statement) == Job(
        statement=statement,
        algorithm="tensorflow",
        algorithm_api="v1",
        project="algo_public",
        script=Location("file", "train.py"),
        entry_file=None,
        buckets=(),
        checkpoint_dir=None,
        summary_dir=None,
        volumes=(),
        tables=(),
        outputs=(),
        hyper_parameters=None,
        user_defined_parameters=(),
        gpu_required=None,
        cluster=None,
        job_name=None,
        tags=(),
        total_seconds=None,
        no_progress_seconds=None,
        python=None,
        tf_api="auto",
        mount="stream",
        saves_behind=None,
        publishes_exports=False,
        keep_versions=None,
        notices=(),
    )


def test_everything_typed() -> None:
    made = job(
        "-project=p",
        "-DentryFile=./src/main.py",
        "-Dbuckets=s3://a/x,s3://b/",
        "-DcheckpointDir=./out",
        "-DsummaryDir=s3://b/summary",
        "-Dvolumes=/data,memory://v",
        "-Dtables=odps://p/tables/t/ds=1,odps://p/tables/u",
        "-Doutputs=odps://p/tables/o",
        "-DhyperParameters=s3://b/hyper.txt",
        "-DuserDefinedParameters=--a=1 --b 'c d'",
        "-DgpuRequired=200",
        "-DjobName=my job",
        "-Dtags=cnn, others",
        "-DmaxTrainingTimeInHour=1.5",
        "-DmaxHungTimeBeforeGCInSeconds=60",
        "-Dpython=/usr/bin/python3",
        "-DtfApi=v2",
        "-Darn=acs:ram::123456:role/r",
        "-DossHost=oss-cn-x.aliyuncs.com",
        "-Dmount=stage",
        "-DasyncCheckpoint=true",
        "-DexportVersions=keep:5",
        script="s3://b/code.tar.gz",
        name="tensorflow2150",
    )
    assert (made.algorithm, made.algorithm_api, made.tf_api) == ("tensorflow2150", "v2", "v2")
    assert made.project == "p"
    assert made.script == Location("s3", "b/code.tar.gz")
    assert made.script_is_archive
    assert made.entry_file == "src/main.py"
    assert made.buckets == (Location("s3", "a/x/"), Location("s3", "b/"))
    assert made.checkpoint_dir == Location("file", "./out/")
    assert made.summary_dir == Location("s3", "b/summary/")
    assert made.volumes == (Location("file", "/data/"), Location("memory", "v/"))
    assert made.tables == ("odps://p/tables/t/ds=1", "odps://p/tables/u")
    assert made.outputs == ("odps://p/tables/o",)
    assert made.hyper_parameters == Location("s3", "b/hyper.txt")
    assert made.user_defined_parameters == ("--a=1", "--b", "c d")
    assert made.gpu_required == 200
    assert made.job_name == "my job"
    assert made.tags == ("cnn", "others")
    assert made.total_seconds == 5400
    assert made.no_progress_seconds == 60
    assert made.python == "/usr/bin/python3"
    assert made.mount == "stage"
    assert made.saves_behind is True
    assert (made.publishes_exports, made.keep_versions) == (True, 5)
    assert [notice.split(" ")[0] for notice in made.notices] == [
        "-Dtables", "-Doutputs", "-Darn", "-DossHost",
    ]  # fmt: skip


def test_exports_are_published_where_there_is_a_directory() -> None:
    made = job("-DcheckpointDir=out", "-DexportVersions=keep:all")
    assert (made.publishes_exports, made.keep_versions) == (True, None)
    caught = error("-DexportVersions=keep:5")
    assert "checkpointDir, which is not given" in caught.message
    assert "-DcheckpointDir=" in str(caught.hint)


# ====== What is run ======


def test_what_is_no_pai_command() -> None:
    with pytest.raises(UsageError, match="not a PAI command"):
        make_job(parse("select 1")[0])


def test_an_algorithm_that_does_not_run_is_told_before_its_parameters() -> None:
    caught = error("-Dconfig=x", "-Dcmd=train", script=None, name="easy_rec_ext")
    assert "`easy_rec_ext`" in str(caught)
    assert "tensorflow1120_ext" in str(caught.hint)


def test_a_price_is_not_estimated() -> None:
    assert "-cost" in str(error("-cost"))


@pytest.mark.parametrize("words", [[], ["-Dscript="]])
def test_without_a_script_there_is_nothing_to_run(words: list[str]) -> None:
    caught = error(*words, script=None)
    assert isinstance(caught, ParameterError)
    assert caught.name == "script"
    assert "-Dscript=train.py" in str(caught.hint)


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("src/", "is a folder"),
        ("code.tar.bz2", "an archive of a kind that is not read"),
        ("odps://p/resources/x.py", "lies in MaxCompute"),
        ("p/resources/x.py", "a resource of a MaxCompute project"),
        ("FILE://@@x.py", "a resource of DataWorks"),
        ("oss//b/x.py", "not a location"),
    ],
)
def test_scripts_that_cannot_be_run(script: str, message: str) -> None:
    assert message in str(error(script=script))


@pytest.mark.parametrize(
    "script", ["code.tar.gz", "code.tar", "s3://b/CODE.TGZ", "file:///a/code.zip"]
)
def test_an_archive_needs_an_entry_file(script: str) -> None:
    caught = error(script=script)
    assert "entryFile is missing" in str(caught)
    assert "-DentryFile=main.py" in str(caught.hint)
    assert job("-DentryFile=a/./b.py", script=script).entry_file == "a/b.py"


@pytest.mark.parametrize("path", ["/abs.py", "../x.py", "a/../../x.py", ".", "..", "a/", "a/.."])
def test_an_entry_file_stays_inside_the_archive(path: str) -> None:
    assert "is not a file inside the archive" in str(
        error(f"-DentryFile={path}", script="code.zip")
    )


def test_an_entry_file_beside_a_single_script_is_ignored() -> None:
    made = job("-DentryFile=main.py")
    assert made.entry_file is None
    assert not made.script_is_archive
    assert made.notices == ("-DentryFile is ignored: the script is a single file",)


@pytest.mark.parametrize(
    ("text", "candidates"),
    [
        ("train.py", ("train.py",)),
        ("./a/train.py", ("./a/train.py",)),
        ("../train.py", ("../train.py",)),
        ("/abs/train.py", ("/abs/train.py",)),
        ("file:///abs/train.py", ("/abs/train.py",)),
        ("file://path/to/x.py", ("path/to/x.py", "/path/to/x.py")),
        ("file:///a%20b/c+d.py", ("/a%20b/c+d.py", "/a b/c d.py")),
        ("file://a/b%2Bc.py", ("a/b%2Bc.py", "/a/b%2Bc.py", "a/b+c.py", "/a/b+c.py")),
        ("s3://b/x.py", ()),
    ],
)
def test_where_a_script_may_lie(text: str, candidates: tuple[str, ...]) -> None:
    assert script_candidates(Location.parse(text)) == candidates


# ====== Devices, limits and the rest ======


@pytest.mark.parametrize(
    ("words", "gpu"),
    [
        ([], None),
        (["-DgpuRequired="], None),
        (["-DgpuRequired=0"], 0),
        (["-DgpuRequired=50"], 50),
        (['-Dcluster={"worker":{"count":1,"gpu":300}}'], 300),
        (['-Dcluster={"worker":{"count":1,"gpu":300}}', "-DgpuRequired=100"], 300),
        (['-Dcluster={"worker":{"count":1}}', "-DgpuRequired=100"], 100),
        (['-Dcluster={"worker":{"count":1}}'], None),
    ],
)
def test_the_gpus_that_are_demanded(words: list[str], gpu: int | None) -> None:
    assert job(*words).gpu_required == gpu


def test_a_cpu_algorithm_runs_on_the_cpu_unless_a_gpu_is_asked_for() -> None:
    assert job(name="tensorflow1120_cpu_ext").gpu_required == 0
    assert job(name="tensorflow1120_cpu_ext").notices
    assert job("-DgpuRequired=100", name="tensorflow1120_cpu_ext").gpu_required == 100


def test_a_cluster_of_one_process_is_a_single_job() -> None:
    made = job('-Dcluster={"worker":{"count":1,"gpu":100}}', "-DgpuRequired=200")
    assert made.cluster == Cluster((ClusterRole("worker", gpu=100),))
    assert made.notices == (
        "-Dcluster: one process (1 worker) runs as a single job",
        "-DgpuRequired is ignored: -Dcluster says the GPUs",
    )


def test_a_cluster_of_several_processes_is_not_run_yet() -> None:
    caught = error('-Dcluster={"ps":{"count":1},"worker":{"count":2}}')
    assert "3 processes (1 ps, 2 worker)" in str(caught)
    assert "leave -Dcluster out to run one process" in str(caught.hint)


@pytest.mark.parametrize("zero", ["0", ""])
def test_a_limit_of_zero_is_none(zero: str) -> None:
    made = job(f"-DmaxTrainingTimeInHour={zero}", f"-DmaxHungTimeBeforeGCInSeconds={zero}")
    assert (made.total_seconds, made.no_progress_seconds) == (None, None)
    assert made.notices == ()


@pytest.mark.parametrize("version", ["2.7", "3.6", "3"])
def test_a_python_version_of_pai_is_no_interpreter(version: str) -> None:
    made = job(f"-Dpython={version}")
    assert made.python is None
    assert f"-Dpython={version} is a Python of PAI" in made.notices[0]


def test_an_unknown_tag_is_kept_with_a_notice() -> None:
    made = job("-Dtags=cnn,mine")
    assert made.tags == ("cnn", "mine")
    assert "does not know mine; it knows cnn, dnn" in made.notices[0]


@pytest.mark.parametrize("name", ["vpcId", "rdmaRequired", "autoGPUSelect", "serviceSelection"])
def test_what_is_ignored_is_told(name: str) -> None:
    (notice,) = job(f"-D{name}=no").notices
    assert notice.startswith(f"-D{name} is ignored: ")


def test_what_odpscmd_cuts_out_is_told_too() -> None:
    made = make_job(parse("pai -name tensorflow -DserviceSelection=dlc -Dscript=x.py")[0])
    assert made.notices[0].startswith("-DserviceSelection is ignored: ")


def test_other_options_are_told() -> None:
    notices = job("-jobname", "j", "-lineage", "{}", "-alink_version=1-2-3").notices
    assert [notice.split(" is ignored: ")[0] for notice in notices] == [
        "-jobname", "-lineage", "-alink_version",
    ]  # fmt: skip


def test_what_says_no_more_than_the_default_is_no_notice() -> None:
    assert job("-DenableDynamicCluster=false", "-DallOrNothing=False").notices == ()
    assert len(job("-DenableDynamicCluster=true").notices) == 1


def test_a_set_statement_reaches_the_job() -> None:
    _, statement = apply_settings(
        parse("set odps.pai.property.gpuRequired=0; pai -name tensorflow -Dscript=x.py")
    )
    assert make_job(statement).gpu_required == 0


# ====== Locations ======


def test_role_and_host_of_the_command_are_those_of_its_oss_locations() -> None:
    made = job(
        "-Dbuckets=oss://a/,s3://c/,oss://b.own.aliyuncs.com/?id=AKIDAKIDAKID&key=hidden-value",
        "-DcheckpointDir=oss://a/out",
        "-DhyperParameters=oss://a/h.txt",
        "-Darn=acs:ram::1:role/r",
        "-DossHost=oss-cn-x.aliyuncs.com",
        script="oss://a/x.py",
    )
    ours = Location.parse("oss://a/?role_arn=acs:ram::1:role/r&host=oss-cn-x.aliyuncs.com")
    plain, amazon, own = made.buckets
    assert plain == ours
    assert amazon.options == ()
    assert own.plain_options() == {
        "host": "own.aliyuncs.com",
        "access_key_id": "AKIDAKIDAKID",
        "access_key_secret": "hidden-value",
    }
    for location in (made.checkpoint_dir, made.hyper_parameters, made.script):
        assert location is not None
        assert location.options == ours.options
    assert not made.notices
    assert len(made.locations) == 6


# ====== Secrets ======


def test_no_secret_is_printed() -> None:
    query = f"?id=AKIDAKIDAKID&key={SECRET}&host=h"
    made = job(
        f"-Dbuckets=oss://b/{query}",
        f"-DcheckpointDir=oss://b/d/{query}",
        f"-DuserDefinedParameters=--oss_ak={SECRET} --x={SECRET}",
        "-Darn=acs:ram::1234567890:role/r",
        script=f"oss://b/x.py{query}",
    )
    shown = f"{made!r} {made} {made.notices}"
    for secret in (SECRET, "AKIDAKIDAKID", "1234567890"):
        assert secret not in shown
    assert made.buckets[0].prefix == "oss://b/"


@given(name=st.text(max_size=8), value=st.text(max_size=12))
def test_any_parameter_gives_a_job_or_a_usage_error(name: str, value: str) -> None:
    statement = parse("pai -name tensorflow -Dscript=x.py")[0]
    statement.parameters[name] = value
    try:
        outcome: Job | UsageError = make_job(statement)
    except UsageError as caught:
        outcome = caught
    assert isinstance(outcome, Job) or outcome.hint


def test_real_commands_give_a_job_or_a_clear_refusal() -> None:
    entries = json.loads((DATA / "pai_commands.json").read_text(encoding="utf-8"))
    jobs, refusals = [], []
    for entry in entries:
        if any("error" in statement for statement in entry["statements"]):
            continue
        for statement in parse(entry["text"]):
            if statement.name not in ALGORITHMS:
                continue
            try:
                jobs.append(make_job(statement))
            except ParameterError as caught:
                refusals.append(caught.name)
    assert len(jobs) == 10
    # Several processes, a parameter that PAI-TF does not have, MaxCompute's own resources.
    assert sorted(refusals) == ["cluster"] * 5 + ["other_param"] + ["script"] * 3
