"""`pai explain`: the plan of a command, without running it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from pai_runner.cli.command_input import (
    Given,
    add_command_arguments,
    given,
    split_arguments,
)
from pai_runner.cli.job import add_run_options, run_options
from pai_runner.cli.output import print_json, say
from pai_runner.run.plan import Mount, Plan
from pai_runner.secret import mask_account, redact, redact_known


def run(arguments: Sequence[str]) -> int:
    """Print the plan of each command. Returns the exit code."""
    from pai_runner import api

    parser = argparse.ArgumentParser("pai explain", description=__doc__, allow_abbrev=False)
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_command_arguments(parser)
    add_run_options(parser)
    options, words = split_arguments(parser, arguments)
    asked = given(options, words)
    for notice in asked.notices:
        say(notice)
    plans = api.plans(asked.statements, run_options(options), say)
    if options.json:
        print_json([plan.to_json() for plan in plans])
    else:
        print("\n\n".join([*_filled_text(asked), *(_text(plan) for plan in plans)]))
    return 0


def _filled_text(asked: Given) -> list[str]:
    """Return the command before and after its dates were filled in; nothing where none were."""
    if asked.before == asked.text:
        return []
    rows = [("cyctime", asked.instant.cyctime.isoformat(sep=" "))]
    for name, text in (("before", asked.before), ("after", asked.text)):
        lines = redact(text).strip().splitlines()
        rows += [(name if number == 0 else "", line) for number, line in enumerate(lines)]
    return ["\n".join(f"{name:12}{value}" for name, value in rows)]


def _text(plan: Plan) -> str:
    lines = [
        ("command", plan.command),
        ("algorithm", plan.algorithm),
        ("TensorFlow", f"{plan.tf_api} API: {plan.tf_api_reason}"),
        *(("mount", _mount_text(mount)) for mount in plan.mounts),
        *_publish_lines(plan),
        ("limits", _limits_text(plan)),
    ]
    for role in plan.roles:
        lines += [
            ("role", role.label),
            ("  python", role.interpreter),
            ("  script", role.script),
            *(("  argument", argument) for argument in role.arguments),
            ("  folder", role.working_directory),
            ("  devices", ", ".join(role.devices) or "CPU"),
            *(("  set", f"{name}={value}") for name, value in sorted(role.environment.items())),
        ]
    lines += [("notice", notice) for notice in plan.notices]
    return mask_account(redact_known("\n".join(f"{name:12}{value}" for name, value in lines)))


def _mount_text(mount: Mount) -> str:
    options = "".join(f" {name}={value}" for name, value in mount.options.items())
    staged = f" staged in {mount.folder}" if mount.folder else ""
    return f"{mount.prefix} ({mount.purpose}){options}{staged}"


def _publish_lines(plan: Plan) -> list[tuple[str, str]]:
    if plan.publish is None:
        return []
    kept = "all" if plan.publish.keep is None else f"the newest {plan.publish.keep}"
    return [("publish", f"what is exported below {plan.publish.location}; kept versions: {kept}")]


def _limits_text(plan: Plan) -> str:
    limits = plan.limits
    words = [f"grace {limits.grace_seconds:g} s"]
    if limits.total_seconds is not None:
        words.append(f"time {limits.total_seconds:g} s")
    if limits.no_progress_seconds is not None:
        words.append(f"no progress {limits.no_progress_seconds:g} s")
    return ", ".join(words)
