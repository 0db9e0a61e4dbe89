"""`pai models VERB LOCATION`: looks after the versions of a model, on a disk or in a bucket."""

from __future__ import annotations

from collections.abc import Sequence

from pai_runner.cli.verbs import run_verb

VERBS = {
    "ls": ("models_ls", "run", "list the versions, newest first"),
    "show": ("models_show", "run", "show a version's tags, signatures and sizes"),
    "verify": ("models_verify", "run", "check a version's files, load it and try its signatures"),
    "gc": ("models_gc", "run", "remove old versions, and what killed exporters left"),
    "pin": ("models_pin", "pin", "keep a version, whatever gc is told"),
    "unpin": ("models_pin", "unpin", "let gc remove a version again"),
    "rollback": ("models_rollback", "run", "make an earlier version the one to serve"),
}

_LOCATION = (
    "the directory that the versions lie in: a local folder, oss://, s3:// or\n"
    "any other location that a command may name."
)


def run(arguments: Sequence[str]) -> int:
    """Run the verb that comes first. Returns the exit code."""
    return run_verb("models", VERBS, _LOCATION, arguments)
