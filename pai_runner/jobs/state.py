"""The states of a job, why it is in one, and where its exit code comes from.

`State("RUNNING")` gives the member of that value; a value that a newer version has written
gives UNKNOWN.
"""

from __future__ import annotations

from enum import Enum


class State(Enum):
    """Where a job stands, in order. A final state never changes."""

    PENDING = "PENDING", False, "prepared; its supervisor has not taken over yet"
    STARTING = "STARTING", False, "the supervisor is up and starts the script"
    RUNNING = "RUNNING", False, "the script runs"
    STOPPING = "STOPPING", False, "the script was asked to end"
    PUBLISHING = "PUBLISHING", False, "the script has ended; its results are being published"
    SUCCEEDED = "SUCCEEDED", True, "the script ended with 0"
    FAILED = "FAILED", True, "the script failed, or could not be started"
    CANCELLED = "CANCELLED", True, "the job was asked to end before it was done"
    TIMED_OUT = "TIMED_OUT", True, "the job passed a limit and was ended"
    LOST = "LOST", True, "who watched the job is gone; how it ended is not known"
    UNKNOWN = "UNKNOWN", False, "the record is damaged, or of a newer version"

    final: bool
    meaning: str

    def __new__(cls, value: str, final: bool = False, meaning: str = "") -> State:
        member = object.__new__(cls)
        member._value_ = value
        member.final = final
        member.meaning = meaning
        return member

    @classmethod
    def _missing_(cls, value: object) -> State:
        return cls.UNKNOWN


class Reason(Enum):
    """Why a job ended, or is ending."""

    SCRIPT_FAILED = "script failed", "the script ended with a code other than 0"
    KILLED_BY_SIGNAL = "killed by signal", "a signal that pai did not send killed the script"
    OUT_OF_MEMORY = "out of memory", "the kernel killed the script for want of memory"
    SETUP_FAILED = "setup failed", "the script's first line never ran"
    NOT_COPIED_BACK = "not copied back", "the script ended; not all it made is in the bucket"
    NOT_UPLOADED = "not uploaded", "the script ended; checkpoints of it wait to be uploaded"
    NOT_PUBLISHED = "not published", "the script ended; not all models it exported are published"
    TIME_LIMIT = "time limit", "the job passed its time limit"
    NO_PROGRESS = "no progress", "nothing was printed or saved for too long"
    CANCELLED_BY_USER = "cancelled by user", "`pai cancel`"
    INTERRUPTED = "interrupted", "`pai` got SIGINT (Ctrl-C) or SIGTERM"
    HANGUP = "terminal closed", "`pai` got SIGHUP"
    LAUNCHER_GONE = "launcher gone", "the `pai` process was killed"
    SUPERVISOR_GONE = "supervisor gone", "the job's supervisor was killed"
    GUARD_GONE = "guard gone", "the process between supervisor and script was killed"
    MACHINE_RESTARTED = "machine restarted", "the machine went down while the job ran"
    INTERNAL_ERROR = "internal error", "pai itself failed; supervisor.log says how"
    UNKNOWN = "unknown", "the record is damaged, or of a newer version"

    meaning: str

    def __new__(cls, value: str, meaning: str = "") -> Reason:
        member = object.__new__(cls)
        member._value_ = value
        member.meaning = meaning
        return member

    @classmethod
    def _missing_(cls, value: object) -> Reason:
        return cls.UNKNOWN


class Kind(Enum):
    """Where a job's exit code comes from."""

    SCRIPT = "script", "the script's own code"
    SIGNAL = "signal", "128 + the number of the signal that ended the script"
    RUNNER = "runner", "one of pai's own codes"

    meaning: str

    def __new__(cls, value: str, meaning: str = "") -> Kind:
        member = object.__new__(cls)
        member._value_ = value
        member.meaning = meaning
        return member
