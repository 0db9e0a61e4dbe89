"""`pai models VERB LOCATION`: looks after the versions of a model, on a disk or in a bucket."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module

from pai_runner.errors import ExitCode, UsageError, nearest

# verb -> (module, its function `(arguments) -> int`, what it does in a line)
VERBS = {
    "ls": ("models_ls", "run", "list the versions, newest first"),
    "show": ("models_show", "run", "show a version's tags, signatures and sizes"),
    "verify": ("models_verify", "run", "check a version's files, load it and try its signatures"),
    "gc": ("models_gc", "run", "remove old versions, and what killed exporters left"),
    "pin": ("models_pin", "pin", "keep a version, whatever gc is told"),
    "unpin": ("models_pin", "unpin", "let gc remove a version again"),
    "rollback": ("models_rollback", "run", "make an earlier version the one to serve"),
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
        raise UsageError(f"pai models has no verb `{verb}`{meant}", f"verbs: {', '.join(VERBS)}")
    module, function, _ = VERBS[verb]
    return int(getattr(import_module(f"pai_runner.cli.{module}"), function)(rest))


def _help() -> str:
    verbs = "\n".join(f"  {verb:10}{summary}" for verb, (_, _, summary) in VERBS.items())
    return (
        "usage: pai models VERB LOCATION ...\n\n"
        "LOCATION is the directory that the versions lie in: a local folder, oss://, s3:// or\n"
        "any other location that a command may name.\n\n"
        f"verbs:\n{verbs}\n\n"
        "`pai models VERB --help` explains a verb; each prints JSON with --json."
    )
