"""Verbs that have verbs of their own: `pai models ls`, `pai storage cp`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module

from pai_runner.errors import ExitCode, UsageError, nearest

# verb -> (module of `cli`, its function `(arguments) -> int`, what it does in a line)
Verbs = Mapping[str, tuple[str, str, str]]


def run_verb(
    name: str, verbs: Verbs, about: str, arguments: Sequence[str], subject: str = "LOCATION"
) -> int:
    """Run the verb of `pai NAME` that comes first, or print its help, and return the exit code.

    `about` says in the help what `subject` is. Raises UsageError.
    """
    if not arguments or arguments[0] in ("--help", "-h"):
        print(_help(name, verbs, about, subject))
        return ExitCode.OK if arguments else ExitCode.USAGE
    verb, *rest = arguments
    if verb not in verbs:
        close = nearest(verb, verbs)
        meant = f"; did you mean `{close[0]}`?" if close else ""
        raise UsageError(f"pai {name} has no verb `{verb}`{meant}", f"verbs: {', '.join(verbs)}")
    module, function, _ = verbs[verb]
    return int(getattr(import_module(f"pai_runner.cli.{module}"), function)(rest))


def _help(name: str, verbs: Verbs, about: str, subject: str) -> str:
    lines = "\n".join(f"  {verb:10}{summary}" for verb, (_, _, summary) in verbs.items())
    return (
        f"usage: pai {name} VERB {subject} ...\n\n{subject} is {about}\n\nverbs:\n{lines}\n\n"
        f"`pai {name} VERB --help` explains a verb; most print JSON with --json."
    )
