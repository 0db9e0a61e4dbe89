"""The environment variables of the project: one table, from which the documents are made."""

from __future__ import annotations

from typing import NamedTuple


class Variable(NamedTuple):
    """An environment variable and what it means."""

    name: str
    meaning: str


# What the script finds in its environment, beside everything that `pai` itself was started with.
FOR_THE_SCRIPT = (
    Variable("PAI_JOB_ID", "the job's id"),
    Variable("PAI_JOB_NAME", "the job's name: -DjobName, else the script's name"),
    Variable("PAI_JOB_DIR", "the job's record folder"),
    Variable("PAI_RUN_KEY", "name and date of a run that may succeed once (--once-per)"),
    Variable("PAI_ROLE", "the role of this process; `worker` for a single process"),
    Variable("PAI_TASK_INDEX", "the number of this process within its role, from 0"),
    Variable("PAI_ROLE_DIR", "the folder of this process's logs in the record"),
    Variable("PAI_ALGORITHM", "the algorithm name of the command"),
    Variable("PAI_TF_API", "the TensorFlow API that `import tensorflow` gives: v1 or v2"),
    Variable("PAI_BUCKETS", "-Dbuckets as the script sees it: joinable prefixes, comma-separated"),
    Variable("PAI_CHECKPOINT_DIR", "-DcheckpointDir as the script sees it"),
    Variable("PAI_SUMMARY_DIR", "-DsummaryDir as the script sees it"),
    Variable("PAI_VOLUMES", "-Dvolumes as the script sees it"),
    Variable("PAI_TABLES", "-Dtables as typed"),
    Variable("PAI_OUTPUTS", "-Doutputs as typed"),
    Variable(
        "PAI_HYPER_PARAMETERS",
        "the hyperParameters file as a JSON object, without the entries whose names are a secret's",
    ),
    Variable("PAI_PENDING_DIR", "where checkpoints wait that are uploaded in the background"),
    Variable("CUDA_VISIBLE_DEVICES", "the chosen GPUs by UUID, -1 for the CPU"),
    Variable("CUDA_DEVICE_ORDER", "PCI_BUS_ID, so that indices mean the same everywhere"),
    Variable("TF_FORCE_GPU_ALLOW_GROWTH", "true: TensorFlow takes GPU memory as it needs it"),
    Variable("TF_USE_LEGACY_KERAS", "1 for TensorFlow 1 scripts, whose layers need Keras 2"),
    Variable("PYTHONUNBUFFERED", "1: a line that is printed is in the log at once"),
)

# What `pai` itself reads.
FOR_PAI = (
    Variable("PAI_HOME", "where records are kept; default ~/.pai_runner"),
    Variable(
        "PAI_EVENT_UPLOAD_SECONDS",
        "how often a growing event file is uploaded at most; default 30, always at its close",
    ),
    Variable(
        "PAI_READ_AHEAD_MB",
        "how much a process may hold of what it reads ahead from buckets; default 512",
    ),
    Variable(
        "PAI_RETRY_SECONDS",
        "how long a server that asks to slow down is asked again; default 60",
    ),
    Variable(
        "PAI_TASKS",
        "how many processes save one checkpoint together, where TF_CONFIG does not tell; default 1",
    ),
    Variable(
        "PAI_ROLE",
        "`ignore`: buckets are opened with your own keys, not with the role that the command names",
    ),
    Variable(
        "PAI_ALLOWED_HOSTS",
        "servers, beside Alibaba's and Amazon's, that a command may name: a comma list; "
        "`http://HOST` permits plain http to it",
    ),
    Variable(
        "PAI_ASYNC_CHECKPOINT",
        "1: as -DasyncCheckpoint=true, for commands that do not say; in any process whose "
        "TensorFlow uses our file systems, also without pai",
    ),
    Variable(
        "PAI_STAGE_DIR",
        "where staged folders lie, and checkpoints that are uploaded in the background; default "
        "`stage` in PAI_HOME",
    ),
    Variable(
        "PAI_STAGE_SECONDS", "how often a staged folder is looked through for new files; default 10"
    ),
    Variable("CUDA_VISIBLE_DEVICES", "restricts the GPUs that `pai` chooses from"),
    Variable("TMPDIR", "where files wait for their upload"),
    Variable(
        "OSS_…",
        "your own keys and endpoint: OSS_ACCESS_KEY_ID, OSS_ACCESS_KEY_SECRET, OSS_SESSION_TOKEN, "
        "OSS_ENDPOINT; OSS_REGION where the endpoint's name does not tell it",
    ),
    Variable(
        "ALIBABA_CLOUD_…",
        "the usual settings of Alibaba: keys, profile, ECS role, as its credentials library "
        "reads them",
    ),
    Variable("PAI_STS_ENDPOINT", "the server that gives out roles; default Alibaba's"),
    Variable(
        "AWS_…", "the usual AWS settings: keys, profile, region, endpoint, as botocore reads them"
    ),
)
