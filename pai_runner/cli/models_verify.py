"""`pai models verify LOCATION[/N]`: whether a model can be served.

Its files are compared with what was published, it is loaded, each signature is run on synthetic
input, and it is looked through for what servers refuse.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from pai_runner.cli.models_place import add_model_arguments
from pai_runner.cli.models_show import ask
from pai_runner.cli.output import print_json
from pai_runner.errors import ExitCode
from pai_runner.models.findings import CODES, ERROR
from pai_runner.models.scratch import scratch_folder

# Something is wrong with a model.
_FAULTY = 1


def run(arguments: Sequence[str]) -> int:
    """Print what is wrong. Returns 0, or 1 when there are errors."""
    options = _parser().parse_args(arguments)
    with scratch_folder() as folder:
        models = ask(
            "verify",
            options.location,
            options.role,
            all=options.all,
            folder=folder,
            runs_denied=options.run_denied,
        )
    for model in models:
        model["findings"] = [one for one in model["findings"] if one["code"] not in options.allow]
        model["ok"] = not any(_counts(one, options.strict) for one in model["findings"])
    if options.json:
        print_json(models)
    else:
        for model in models:
            _print(model)
    return ExitCode.OK if all(model["ok"] for model in models) else _FAULTY


def _parser() -> argparse.ArgumentParser:
    width = max(map(len, CODES))
    codes = "\n".join(f"  {code:{width}} {level:8}{text}" for code, (level, text) in CODES.items())
    parser = argparse.ArgumentParser(
        "pai models verify",
        description=__doc__,
        epilog=f"what is looked for:\n{codes}\n\nexit code 1: there are errors",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_model_arguments(parser)
    parser.add_argument("--all", action="store_true", help="verify every version")
    parser.add_argument("--strict", action="store_true", help="warnings count as errors")
    parser.add_argument(
        "--allow",
        action="append",
        default=[],
        choices=CODES,
        metavar="CODE",
        help="pass over what has this code; may be repeated",
    )
    parser.add_argument(
        "--run-denied",
        action="store_true",
        help="load and run also a model whose ops act on files or call Python: it may do anything",
    )
    return parser


def _counts(finding: dict[str, Any], strict: bool) -> bool:
    return strict or finding["level"] == ERROR


def _print(model: dict[str, Any]) -> None:
    findings = model["findings"]
    if not findings:
        print(f"ok  {model['location']}")
        return
    print(f"{'ok  ' if model['ok'] else 'NO  '}{model['location']}")
    for one in sorted(findings, key=lambda one: one["level"]):
        print(f"    {one['level']}: {one['code']}: {one['text']}")
