"""`pai storage VERB LOCATION`: lists, copies, compares and removes files, wherever they lie."""

from __future__ import annotations

from collections.abc import Sequence

from pai_runner.cli.verbs import run_verb

VERBS = {
    "ls": ("storage_ls", "ls", "list files and directories"),
    "du": ("storage_ls", "du", "count files and bytes"),
    "cp": ("storage_cp", "cp", "copy files, or with -r directories"),
    "sync": ("storage_cp", "sync", "copy what is missing or has changed"),
    "rm": ("storage_rm", "run", "remove files, or with -r directories"),
    "doctor": ("storage_doctor", "run", "list what killed jobs have left, and remove it"),
}

_LOCATION = (
    "a local path, oss://, s3:// or any other location that a command may name,\n"
    "with the same options: 's3://bucket/dir/?profile=NAME'."
)


def run(arguments: Sequence[str]) -> int:
    """Run the verb that comes first. Returns the exit code."""
    return run_verb("storage", VERBS, _LOCATION, arguments)
