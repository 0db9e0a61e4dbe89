"""The publisher: makes versions of what a script exported by plain TensorFlow.

    python -m pai_runner.models.publish LOCATION [--keep N]
    publish.py --job JOB_DIRECTORY --report DESCRIPTOR

The second form is the job's supervisor's, when the script has ended: what to publish is in the
plan, the secrets come through a descriptor, and what came of it goes to REPORT, a pipe, as one line
of JSON: {"problem": what is not published, "message": what was done}. Lines for the user go to
standard output; standard error is TensorFlow's. SIGTERM ends it; what it had not finished is done
by the next run.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, NoReturn

from pai_runner.errors import PaiError
from pai_runner.models.place import BucketPlace, LocalPlace, Place, open_place
from pai_runner.secret import receive, redact, resolve
from pai_runner.storage.failures import describe_error

_MOST_SHOWN = 5


def main(arguments: Sequence[str]) -> int:
    """Publish, as the module's text says. Returns the exit code: 0 when all is published."""
    options = _parser().parse_args(arguments)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end)
    # What TensorFlow says of the machine and of its future is no news here. Its errors are.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    if options.job is None:
        return _publish_by_hand(options)
    # They are meant for the script and for `pai`, whose group this process may be in.
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    os.set_inheritable(options.report, False)
    secrets = receive(int(os.environ["PAI_SECRETS_FD"]))
    try:
        with open(os.path.join(options.job, "spec.json"), encoding="utf-8") as file:
            spec = json.load(file)
        problem, message = _publish(_place_of(spec, secrets), spec["publish"]["keep"])
    except PaiError as error:
        problem, message = _in_words(error), ""
    os.write(options.report, json.dumps({"problem": problem, "message": message}).encode() + b"\n")
    return int(bool(problem))


def _publish_by_hand(options: argparse.Namespace) -> int:
    try:
        problem, _ = _publish(open_place(options.location), options.keep)
    except PaiError as error:
        _say(f"error: {_in_words(error)}")
        return int(error.exit_code)
    if problem:
        _say(f"error: {problem}")
    return int(bool(problem))


def _publish(place: Place, keep: int | None) -> tuple[str, str]:
    """Publish what lies below `place`; return what is not published, and what was done."""
    from pai_runner.models.promotion import Outcome, promote

    outcome = Outcome()
    try:
        promote(place, keep, outcome, _say)
    except (PaiError, OSError) as error:
        text = _in_words(error) if isinstance(error, PaiError) else describe_error(error)
        outcome.problems.append(text if place.prefix in text else f"{place.prefix}: {text}")
    except Exception as error:
        print(redact("".join(traceback.format_exception(error))), file=sys.stderr)
        text = f"{type(error).__name__}: {describe_error(error)}"
        outcome.problems.append(f"{place.prefix}: {text}")
    done = f"published {_listed([one.location for one in outcome.published])}"
    if not outcome.published:
        done = f"there is nothing new to publish below {place.prefix}"
        if not outcome.found:
            done = f"nothing was published: no SavedModel was found below {place.prefix}"
    if outcome.problems:
        text = f"not all of its exports are published: {_listed(outcome.problems)}"
        return redact(f"{text}; {done}" if outcome.published else text), ""
    if not outcome.published:
        _say(done)
    return "", redact(done)


def _say(line: str) -> None:
    # A full disk of the log must not end it: the report carries what came of it.
    with suppress(OSError):
        print(f"pai: {redact(line)}", flush=True)


def _listed(texts: Sequence[str]) -> str:
    more = f" and {len(texts) - _MOST_SHOWN} more" if len(texts) > _MOST_SHOWN else ""
    return ", ".join(texts[:_MOST_SHOWN]) + more


def _in_words(error: PaiError) -> str:
    return f"{error.message} ({error.hint})" if error.hint else error.message


def _end(number: int, _: object) -> NoReturn:
    """End by way of all `finally`: what was staged is removed."""
    raise SystemExit(128 + number)


# ====== The hand-over ======


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m pai_runner.models.publish",
        description="Publish what was exported by plain TensorFlow as versions, with a manifest "
        "and latest.json, and remove older ones.",
        allow_abbrev=False,
    )
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("location", nargs="?", help="a local folder, oss://… or s3://…")
    where.add_argument("--job", metavar="DIRECTORY", help="a job's folder; started by `pai`")
    parser.add_argument("--report", type=int, default=1, help=argparse.SUPPRESS)
    parser.add_argument(
        "--keep", type=_count, metavar="N", help="keep the newest N versions (default: all)"
    )
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"`{text}` is not a number of 1 or more")
    return int(text)


def _place_of(spec: Mapping[str, Any], secrets: Mapping[str, str]) -> Place:
    """Return what a plan says is to be published: the bucket itself, also of a staged folder.

    Raises SetupError.
    """
    location = spec["publish"]["location"]
    for mount in spec["mounts"]:
        if mount["prefix"] == location:
            options = {name: resolve(text, secrets) for name, text in mount["options"].items()}
            return BucketPlace.opened(location, options)
    return LocalPlace(location)
