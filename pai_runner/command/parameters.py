"""The one table of -D parameters: help, documents, validation and notices are made from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType

from pai_runner.location import MOUNTS


class Kind(Enum):
    """What a value must be, in words."""

    TEXT = "text"
    INTEGER = "integer"
    HOURS = "hours"
    BOOLEAN = "true or false"
    CHOICE = "one of"
    TAGS = "list of"
    JSON = "JSON"
    WORDS = "flags"
    FILE = "file location"
    PATH = "path"
    DIRECTORY = "directory location"
    DIRECTORIES = "list of directory locations"
    TABLES = "list of tables"
    PYTHON = "interpreter"
    KEEP = "keep:N or keep:all"


class Status(Enum):
    """What is done with a parameter, in words."""

    HONOURED = "honoured"
    LATER = "from a later version on"
    IGNORED = "accepted, ignored"
    UNSUPPORTED = "not supported"


@dataclass(frozen=True)
class Parameter:
    """A -D parameter.

    `default` is what holds when it is not given, in words; `reason` says why a parameter is not
    (or not yet) honoured; `values` are the allowed ones, where they can be listed.
    """

    name: str
    kind: Kind
    default: str
    meaning: str
    status: Status = Status.HONOURED
    reason: str = ""
    values: tuple[str, ...] = ()

    @property
    def type(self) -> str:
        """The type in words, with the allowed values where they can be listed."""
        return f"{self.kind.value} {', '.join(self.values)}" if self.values else self.kind.value


def _unused(name: str, kind: Kind, meaning: str, reason: str) -> Parameter:
    return Parameter(name, kind, "", meaning, Status.IGNORED, reason)


def _later(name: str, kind: Kind, default: str, meaning: str, reason: str) -> Parameter:
    return Parameter(name, kind, default, meaning, Status.LATER, reason)


def _refused(name: str, kind: Kind, meaning: str, reason: str) -> Parameter:
    return Parameter(name, kind, "", meaning, Status.UNSUPPORTED, reason)


_TAGS = (
    "cnn", "dnn", "rnn", "bert", "ctr", "cvr", "inception", "resnet", "gnn", "gcn", "ocr",
    "maskrcnn", "transformer", "nmt", "others",
)  # fmt: skip
_CLUSTER = "it concerns clusters, which are not run yet"
_TABLE = "odps:// tables are not read yet; the script gets the text as typed"
_TUNING = "it tunes Alibaba's own machines"
_SERVICE = "it chooses a service of Alibaba; odpscmd takes it out of the command as well"
_NETWORK = "a job here uses this machine's network"

_ROWS = (
    # What is run.
    Parameter(
        "script", Kind.FILE, "required",
        "the script: a path, file://, oss://, s3:// or any fsspec location; a .py, or a .tar.gz, "
        ".tgz, .tar or .zip with entryFile",
    ),
    Parameter(
        "entryFile", Kind.PATH, "required for an archive",
        "the file to run, relative to the archive's root",
    ),
    Parameter(
        "hyperParameters", Kind.FILE, "",
        "a file of name=value lines; each becomes --name=value for the script",
    ),
    Parameter(
        "userDefinedParameters", Kind.WORDS, "",
        "flags for the script as typed, split as xargs does; they come after hyperParameters",
    ),
    Parameter(
        "python", Kind.PYTHON, "the one that runs pai",
        "an interpreter that has TensorFlow and this package",
    ),
    Parameter(
        "tfApi", Kind.CHOICE, "auto",
        "the TensorFlow API that the script gets; auto decides from its source and the algorithm",
        values=("v1", "v2", "auto"),
    ),
    # Its data.
    Parameter(
        "buckets", Kind.DIRECTORIES, "",
        "buckets or folders that the script reads and writes; it gets them as --buckets",
    ),
    Parameter(
        "checkpointDir", Kind.DIRECTORY, "",
        "where checkpoints are kept; the script gets it as --checkpointDir",
    ),
    Parameter(
        "summaryDir", Kind.DIRECTORY, "",
        "where summaries are kept; the script gets it as --summaryDir",
    ),
    Parameter(
        "volumes", Kind.DIRECTORIES, "",
        "further folders or buckets; the script gets them as --volumes",
    ),
    _later("tables", Kind.TABLES, "", "MaxCompute tables to read; passed as --tables", _TABLE),
    _later("outputs", Kind.TABLES, "", "MaxCompute tables to write; passed as --outputs", _TABLE),
    Parameter(
        "arn", Kind.TEXT, "",
        "the role that opens the oss:// locations which name neither a role nor keys",
    ),
    Parameter(
        "ossHost", Kind.TEXT, "OSS_ENDPOINT",
        "the endpoint of the oss:// locations which name none",
    ),
    Parameter(
        "mount", Kind.CHOICE, "stream",
        "how the script gets at remote locations: stream, TensorFlow reads and writes the bucket; "
        "stage, the files are copied to a local folder before it starts, and new ones back; "
        "?mount=stage says it of one location",
        values=MOUNTS,
    ),
    Parameter(
        "asyncCheckpoint", Kind.BOOLEAN, "false",
        "saving a checkpoint returns when it is on the local disk; it is uploaded meanwhile, in "
        "order; the next save waits for that, and the job ends when all is uploaded",
    ),
    Parameter(
        "exportVersions", Kind.KEEP, "",
        "after the script, check each SavedModel below checkpointDir, publish it as a version with "
        "a manifest and latest.json, and remove all but the newest N; one in a directory X that "
        "has no number is copied to X-versions/1, X-versions/2, …; to export nothing is no failure",
    ),
    # Its resources.
    Parameter(
        "gpuRequired", Kind.INTEGER, "a GPU if there is one",
        "100 for each GPU, 50 for half of one, 0 for the CPU",
    ),
    _later(
        "cluster", Kind.JSON, "one process",
        'roles and their resources: {"ps": {"count": 1}, "worker": {"count": 2, "gpu": 100}}',
        "several processes are not run yet; a cluster of one process runs as a single job",
    ),
    _unused(
        "cpuRequired", Kind.INTEGER, "CPU of a single job, 100 for a core",
        "a job may use the whole machine",
    ),
    _unused(
        "memRequired", Kind.INTEGER, "memory of a single job in MB",
        "a job may use the whole machine",
    ),
    _refused(
        "workerCount", Kind.INTEGER, "number of workers of PyTorch algorithms",
        "TensorFlow algorithms take cluster instead",
    ),
    _refused(
        "workerGPU", Kind.INTEGER, "GPUs of each worker of PyTorch algorithms",
        "TensorFlow algorithms take gpuRequired or cluster instead",
    ),
    # Its limits and its name.
    Parameter(
        "maxTrainingTimeInHour", Kind.HOURS, "0",
        "end the job after so many hours, fractions allowed; 0 is no limit",
    ),
    Parameter(
        "maxHungTimeBeforeGCInSeconds", Kind.INTEGER, "0",
        "end the job when it shows no progress for so many seconds; 0 is no limit",
    ),
    Parameter("jobName", Kind.TEXT, "the script's name", "a name for people to know the job by"),
    Parameter("tags", Kind.TAGS, "", "what kind of model it is, kept in the record", values=_TAGS),
    # Clusters.
    _later(
        "enableDynamicCluster", Kind.BOOLEAN, "false",
        "start a failed worker again instead of ending the job", _CLUSTER,
    ),
    _later(
        "autoEnablePsTaskFailover", Kind.BOOLEAN, "false",
        "start a failed parameter server again instead of ending the job", _CLUSTER,
    ),
    _later(
        "useSparseClusterSchema", Kind.BOOLEAN, "false",
        "show a worker the parameter servers and itself only", _CLUSTER,
    ),
    _unused(
        "allOrNothing", Kind.BOOLEAN, "start all processes of a cluster together or none",
        "that is always so here",
    ),
    # Alibaba's own machines.
    _unused("vpcId", Kind.TEXT, "the network to join", _NETWORK),
    _unused("vpcRegion", Kind.TEXT, "the region of vpcId", _NETWORK),
    _unused("autoStrategy", Kind.TEXT, "choose the distribution strategy", _TUNING),
    _unused("enableJITDeviceTuning", Kind.TEXT, "tune devices at run time", _TUNING),
    _unused("autoGPUSelect", Kind.TEXT, "choose the kind of GPU", _TUNING),
    _unused("rdmaRequired", Kind.TEXT, "ask for an RDMA network", _TUNING),
    _unused("oversubscription", Kind.TEXT, "share resources with other jobs", _TUNING),
    _unused("enableDockerFusion", Kind.TEXT, "put processes into one container", _TUNING),
    _unused("serviceSelection", Kind.TEXT, "the service that runs the job", _SERVICE),
    _unused("dlcParameters", Kind.TEXT, "parameters of the service DLC", _SERVICE),
    _unused("tableTokenLife", Kind.TEXT, "how long a table's token is valid", _SERVICE),
    _refused(
        "gitConfig", Kind.TEXT, "a script out of a Git repository",
        "its form is not documented; clone the repository and give the script's path",
    ),
)  # fmt: skip

PARAMETERS: Mapping[str, Parameter] = MappingProxyType({row.name: row for row in _ROWS})


def rows() -> list[tuple[str, str, str, str, str]]:
    """Return each parameter's name, type, default, status and meaning, for people to read."""
    return [
        (
            parameter.name,
            parameter.type,
            parameter.default,
            parameter.status.value,
            parameter.meaning + (f"; {parameter.reason}" if parameter.reason else ""),
        )
        for parameter in _ROWS
    ]
