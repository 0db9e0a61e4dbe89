"""`pai storage VERB LOCATION`: lists, copies, compares and removes files, wherever they lie."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module

from pai_runner.errors import ExitCode, UsageError, nearest

# verb -> (module, its function `(arguments) -> int`, what it does in a line)
VERBS = {
    "ls": ("storage_ls", "ls", "list files and directories"),
    "du": ("storage_ls", "du", "count files and bytes"),
    "cp": ("storage_cp", "cp", "copy files, or with -r directories"),
    "sync": ("storage_cp", "sync", "copy what is missing or has changed"),
    "rm": ("storage_rm", "run", "remove files, or with -r directories"),
    "doctor": ("storage_doctor", "run", "list what killed jobs have left, and remove it"),
}


def run(arguments: Sequence[str]) -> int:
    """Run the verb that comes first. Returns the exit code."""
    if not arguments or arguments[0] in ("--help", "-h"):
        print(_help())
        return ExitCode.OK if arguments else ExitCode.USAGE
    verb, *rest = arguments
    if verb not in VERBS:
        close = nearest(verb, VERBS)
        meant = f"; did you mean `{close[0]}`?" if close else ""
        raise UsageError(f"pai storage has no verb `{verb}`{meant}", f"verbs: {', '.join(VERBS)}")
    module, function, _ = VERBS[verb]
    return int(getattr(import_module(f"pai_runner.cli.{module}"), function)(rest))


def _help() -> str:
    verbs = "\n".join(f"  {verb:10}{summary}" for verb, (_, _, summary) in VERBS.items())
    return (
        "usage: pai storage VERB LOCATION ...\n\n"
        "LOCATION is a local path, oss://, s3:// or any other location that a command may name,\n"
        "with the same options: 's3://bucket/dir/?profile=NAME'.\n\n"
        f"verbs:\n{verbs}\n\n"
        "`pai storage VERB --help` explains a verb; each prints JSON with --json."
    )
