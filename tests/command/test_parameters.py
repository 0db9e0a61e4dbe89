"""The table of -D parameters, and every parameter's good and bad values."""

from __future__ import annotations

import pytest

from pai_runner.command import PARAMETERS, Kind, Status, rows
from pai_runner.command.parameters import Parameter
from pai_runner.command.values import given as checked
from pai_runner.errors import ParameterError

# Section 3 of the reference, and what odpscmd cuts out.
OF_PAI = (
    "script", "entryFile", "buckets", "tables", "outputs", "volumes", "checkpointDir",
    "summaryDir", "cluster", "gpuRequired", "arn", "ossHost", "hyperParameters",
    "userDefinedParameters", "enableDynamicCluster", "autoEnablePsTaskFailover",
    "useSparseClusterSchema", "allOrNothing", "maxTrainingTimeInHour",
    "maxHungTimeBeforeGCInSeconds", "jobName", "tags", "vpcId", "vpcRegion", "python",
    "workerCount", "workerGPU", "cpuRequired", "memRequired", "autoStrategy",
    "enableJITDeviceTuning", "autoGPUSelect", "rdmaRequired", "oversubscription",
    "enableDockerFusion", "gitConfig", "serviceSelection", "dlcParameters",
    "tableTokenLife",
)  # fmt: skip
OURS = ["tfApi", "mount", "asyncCheckpoint", "exportVersions"]

LOCATION = (["s3://b/d/", "oss://b.oss-cn-x.aliyuncs.com/d", "./out", "file:///d", "memory://d"],
            ["oss:/b", "s3://", "odps://p/volumes/v/1", "s3://b/?nosuch=1"])  # fmt: skip
FILE = ([*LOCATION[0], "file://path/to/x.py", "job.tar.gz", "./p/resources/x.py"],
        [*LOCATION[1], "p/resources/x.py", "odps://p/resources/x.py", "file://@@x.py"])  # fmt: skip
LOCATIONS = (
    [*LOCATION[0], "s3://a/, s3://b/"],
    [*LOCATION[1], ",", "s3://a/,odps://p/volumes/v/1"],
)
INTEGER = (["0", "100", " 50 "], ["many", "-1", "1.5", "true", "1e3", "٣"])
BOOLEAN = (["true", "false", "True"], ["yes", "1", "no"])
TEXT: tuple[list[str], list[str]] = (["x", "a b", "no", "中"], [])

# Of each kind: good values and bad ones.
VALUES: dict[Kind, tuple[list[str], list[str]]] = {
    Kind.TEXT: TEXT,
    Kind.PATH: (["main.py", "./a/b.py"], []),
    Kind.PYTHON: (["2.7", "3.6", "/usr/bin/python3", "python3"], []),
    Kind.TAGS: (["cnn", "cnn,others", "mine"], []),
    Kind.TABLES: (["odps://p/tables/t", "odps://p/tables/t/ds=1,odps://p/tables/u"], []),
    Kind.INTEGER: INTEGER,
    Kind.HOURS: (["0", "1440", "0.5", ".5", " 2 "], ["-1", "1h", "nan", "inf", "1e3", "."]),
    Kind.BOOLEAN: BOOLEAN,
    Kind.CHOICE: ([], ["V1", "v3", "true", "STAGE"]),  # the good ones are the table's
    Kind.KEEP: (
        ["keep:1", "keep:25", "keep:all", " keep:3 "],
        ["keep:0", "keep:-1", "keep:", "keep:many", "5", "all", "KEEP:5", "keep:1.5", "keep:٣"],
    ),
    Kind.JSON: (['{"worker":{"count":1}}'], ['{"ps":', "true"]),
    Kind.WORDS: (["--a=1 --b 'c d'"], ["--a='b"]),
    Kind.FILE: FILE,
    Kind.DIRECTORY: LOCATION,
    Kind.DIRECTORIES: LOCATIONS,
}
SUPPORTED = [row for row in PARAMETERS.values() if row.status is not Status.UNSUPPORTED]


def _good(row: Parameter) -> list[str]:
    return list(row.values) if row.kind is Kind.CHOICE else VALUES[row.kind][0]


def error(**parameters: str) -> ParameterError:
    with pytest.raises(ParameterError) as caught:
        checked(parameters)
    assert caught.value.exit_code == 2
    assert caught.value.name in parameters
    assert caught.value.hint
    return caught.value


def test_the_table_holds_every_parameter_of_pai_and_ours() -> None:
    assert set(PARAMETERS) == {*OF_PAI, *OURS}
    assert all(name == parameter.name for name, parameter in PARAMETERS.items())


def test_every_parameter_is_explained() -> None:
    for parameter in PARAMETERS.values():
        assert parameter.meaning
        assert bool(parameter.reason) == (parameter.status is not Status.HONOURED), parameter.name


@pytest.mark.parametrize(
    ("status", "names"),
    [
        (
            Status.HONOURED,
            "script entryFile hyperParameters userDefinedParameters python tfApi buckets "
            "checkpointDir summaryDir volumes arn ossHost mount asyncCheckpoint exportVersions "
            "gpuRequired maxTrainingTimeInHour maxHungTimeBeforeGCInSeconds jobName tags",
        ),
        (
            Status.LATER,
            "tables outputs cluster enableDynamicCluster autoEnablePsTaskFailover "
            "useSparseClusterSchema",
        ),
        (Status.UNSUPPORTED, "workerCount workerGPU gitConfig"),
    ],
)
def test_statuses(status: Status, names: str) -> None:
    assert [row.name for row in PARAMETERS.values() if row.status is status] == names.split()


@pytest.mark.parametrize(
    ("name", "value"),
    [(row.name, value) for row in SUPPORTED for value in [*_good(row), ""]],
)
def test_good_values(name: str, value: str) -> None:
    assert checked({name: value}) == ({name: value} if value else {})


@pytest.mark.parametrize(
    ("name", "value"), [(row.name, value) for row in SUPPORTED for value in VALUES[row.kind][1]]
)
def test_bad_values(name: str, value: str) -> None:
    caught = error(**{name: value})
    assert caught.name == name
    assert name in str(caught)


@pytest.mark.parametrize(
    ("name", "value", "message", "hint"),
    [
        (
            "gpuRequired",
            "many",
            "gpuRequired must be an integer of 0 or more, not `many`",
            "100 for each GPU",
        ),
        (
            "exportVersions",
            "5",
            "keep:N, so many of the newest versions (1 or more), or keep:all, not `5`",
            "latest.json",
        ),
        (
            "maxTrainingTimeInHour",
            "1h",
            "a number of hours such as 12 or 0.5, not `1h`",
            "0 is no limit",
        ),
        ("allOrNothing", "yes", "must be true or false, not `yes`", "all processes"),
        ("tfApi", "v3", "one of v1, v2, auto, not `v3`", "TensorFlow API"),
        ("cluster", '{"ps":', "cluster is not JSON", '{"worker": {"count": 1'),
        ("buckets", "oss:/b/d", "buckets: `oss:/b/d` is not a location", "oss://b/d"),
        ("script", "p/resources/x.py", "a resource of a MaxCompute project", "./p/resources/x.py"),
        ("hyperParameters", "file://@@h.txt", "a resource of DataWorks", "file:///path/to/h.txt"),
        ("volumes", "odps://p/volumes/v/1", "lies in MaxCompute", "-Dvolumes=file:///path"),
    ],
)
def test_what_a_bad_value_is_told(name: str, value: str, message: str, hint: str) -> None:
    caught = error(**{name: value})
    assert message in str(caught)
    assert hint in str(caught.hint)


@pytest.mark.parametrize("name", ["workerCount", "workerGPU", "gitConfig"])
def test_what_is_not_supported_says_why(name: str) -> None:
    caught = error(**{name: "1"})
    assert f"-D{name} is not supported" in str(caught)
    assert caught.hint == PARAMETERS[name].reason


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("clutser", "cluster"),
        ("Script", "script"),
        ("ARN", "arn"),
        ("checkpointdir", "checkpointDir"),
        ("hyperparameter", "hyperParameters"),
        ("bucket", "buckets"),
    ],
)
def test_an_unknown_name_suggests_the_nearest(name: str, suggestion: str) -> None:
    caught = error(**{name: "secret value"})
    assert caught.suggestions[0] == suggestion
    assert f"there is no parameter `{name}`; did you mean `{suggestion}`" in str(caught)
    assert "secret value" not in str(caught)


def test_a_name_like_no_other_points_to_the_scripts_flags() -> None:
    caught = error(batch_size="10")
    assert caught.suggestions == ()
    assert str(caught) == "there is no parameter `batch_size`"
    assert "-DuserDefinedParameters" in str(caught.hint)


def test_bad_values_show_no_secrets() -> None:
    secret = "hIdDeNsEcReT0123"
    for name in ("gpuRequired", "script", "buckets", "hyperParameters"):
        for value in (
            f"p/resources/x?access_key_secret={secret}",
            f"odps://b/?access_key_secret={secret}",
            f"oss:/b/?access_key_secret={secret}",
        ):
            if name == "buckets" and value.startswith("p/"):
                continue
            caught = error(**{name: value})
            assert secret not in f"{caught} {caught.hint}"


def test_rows_are_for_people() -> None:
    table = {row[0]: row for row in rows()}
    assert list(table) == list(PARAMETERS)
    assert table["tfApi"][1:4] == ("one of v1, v2, auto", "auto", "honoured")
    assert table["vpcId"][3] == "accepted, ignored"
    assert table["cluster"][3] == "from a later version on"
    assert table["gitConfig"][4].endswith("; " + PARAMETERS["gitConfig"].reason)
    assert all(len(row) == 5 and "\n" not in "".join(row) for row in rows())
