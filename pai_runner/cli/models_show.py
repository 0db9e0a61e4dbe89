"""`pai models show LOCATION[/N]`: what a model is; its weights are not read."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from typing import Any

from pai_runner.cli.models_place import add_model_arguments, size_text
from pai_runner.cli.output import print_json, print_table, say
from pai_runner.entry import module_command, search_path
from pai_runner.errors import ExitCode, SetupError, UsageError
from pai_runner.location import Location
from pai_runner.run.access import Access, check_servers, ignores_roles
from pai_runner.secret import redact

_DEFAULT_SIGNATURE = "serving_default"


def run(arguments: Sequence[str]) -> int:
    """Print what the model is. Returns the exit code."""
    parser = argparse.ArgumentParser("pai models show", description=__doc__)
    add_model_arguments(parser)
    parser.add_argument("--signature", metavar="NAME", help="show this signature alone")
    parser.add_argument("--eas", action="store_true", help="print EAS's model structure, as JSON")
    options = parser.parse_args(arguments)
    found = ask("show", options.location, options.role)
    graphs = found["meta_graphs"]
    if options.signature:
        _keep_signature(graphs, options.signature)
    if options.eas:
        print_json(_structure(graphs, options.signature))
    elif options.json:
        print_json(found)
    else:
        _print(found)
    return ExitCode.OK


def ask(verb: str, location: Location, role: str | None, **values: Any) -> Any:
    """Return what the process that has TensorFlow answers; this one never imports it.

    Raises PaiError as that process does, and SetupError when it ends without an answer.
    """
    check_servers([location])
    place = location.directory()
    prefix, options = place.prefix, {}
    if location.is_local:
        prefix = os.path.abspath(os.path.expanduser(location.path))
    else:
        access = Access.of([place], "models", ignores_roles(role))
        for notice in access.notices([place]):
            say(notice)
        options = access.options(place)
    request = {"verb": verb, "prefix": prefix, "options": options, **values}
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
    ended = subprocess.run(
        module_command("pai_runner.models.tool"),
        env={**os.environ, **quiet, "PYTHONPATH": search_path()},
        input=json.dumps(request),
        capture_output=True,
        text=True,
    )
    if ended.returncode:
        lines = redact(ended.stderr).strip().splitlines() or ["it said nothing"]
        raise SetupError(
            f"{location}: the process that reads it ended with {ended.returncode}: {lines[-1]}",
            "a model that ends TensorFlow is damaged; `pai doctor` checks TensorFlow itself",
        )
    answer = json.loads(ended.stdout)
    if "error" in answer:
        kind = UsageError if answer["exit_code"] == ExitCode.USAGE else SetupError
        raise kind(answer["error"], answer["hint"])
    return answer["answer"]


# ====== Signatures ======


def _keep_signature(graphs: list[dict[str, Any]], name: str) -> None:
    """Leave only the signature `name`. Raises SetupError when no MetaGraph has it."""
    there = sorted({known for graph in graphs for known in graph["signatures"]})
    if name not in there:
        raise SetupError(
            f"there is no signature `{name}`", f"signatures: {', '.join(there) or 'none'}"
        )
    for graph in graphs:
        for part in ("signatures", "eas"):
            graph[part] = {known: one for known, one in graph[part].items() if known == name}


def _structure(graphs: list[dict[str, Any]], name: str | None) -> Any:
    """Return the model structure of one signature of the MetaGraph that servers load.

    Without a name it is `serving_default`, or the only one. Raises SetupError.
    """
    served = [graph for graph in graphs if graph["tags"] == ["serve"] and graph["eas"]]
    structures = next(graph["eas"] for graph in (*served, *graphs) if graph["eas"] or not name)
    chosen = name or (_DEFAULT_SIGNATURE if _DEFAULT_SIGNATURE in structures else None)
    if chosen is None and len(structures) == 1:
        chosen = next(iter(structures))
    if chosen is None:
        raise SetupError(
            f"which signature? There is no `{_DEFAULT_SIGNATURE}`",
            f"name one with --signature: {', '.join(structures) or 'there is none'}",
        )
    return structures[chosen]


# ====== For people ======


def _print(found: dict[str, Any]) -> None:
    for name, value in _facts(found):
        if value:
            print(f"{name:12}{value}")
    for graph in found["meta_graphs"]:
        tags = ", ".join(graph["tags"]) or "no tags"
        print(f"\nMetaGraph {tags} (TensorFlow {graph['tensorflow'] or 'unknown'})")
        header = ("signature", "method", "", "alias", "dtype", "shape", "tensor")
        print_table([header, *_signature_rows(graph["signatures"])])
    variables = found["variables"]
    if variables and variables["largest"]:
        print(f"\nlargest of {variables['count']} variables, {size_text(variables['bytes'])}")
        rows = [
            (one["name"], one["dtype"], str(one["shape"]), _size_text(one["bytes"]))
            for one in variables["largest"]
        ]
        print_table([("variable", "dtype", "shape", "size"), *rows])


def _facts(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    sizes = dict(found["bytes"])
    total = sizes.pop("total")
    parts = ", ".join(f"{part} {size_text(size)}" for part, size in sizes.items() if size)
    version = "" if found["version"] is None else str(found["version"])
    yield "location", found["location"]
    yield "version", version
    yield "size", f"{size_text(total)} in {found['files']} files: {parts}"
    manifest = found["manifest"] or {}
    step = manifest.get("step")
    yield "published", manifest.get("published_at", "")
    yield "job", manifest.get("job_id", "")
    yield "step", "" if step is None else str(step)


def _signature_rows(signatures: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    for name, signature in signatures.items():
        first = (name, signature["method"] or "none")
        for way in ("inputs", "outputs"):
            for alias, one in signature[way].items():
                shape = "unknown" if one["shape"] is None else str(one["shape"])
                yield (*first, way[:-1], alias, one["dtype"], shape, one["tensor"])
                first = ("", "")


def _size_text(size: int | None) -> str:
    return "unknown" if size is None else size_text(size)
