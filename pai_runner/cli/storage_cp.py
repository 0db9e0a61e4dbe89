"""`pai storage cp` and `pai storage sync`: copies between any two locations."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field

from pai_runner.cli.output import print_json, say
from pai_runner.cli.storage_place import (
    ASKED_FROM,
    Ended,
    add_location_arguments,
    add_removal_arguments,
    agreed,
    ended_by_signals,
    kind_of,
    naming,
    opened,
)
from pai_runner.cli.storage_report import Progress, say_failures, summary
from pai_runner.errors import ExitCode, UsageError
from pai_runner.location import Location
from pai_runner.storage.copying import (
    Chosen,
    Copier,
    Outcome,
    as_json,
    changed_moves,
    moves_below,
    remove_in_order,
)
from pai_runner.storage.local_tree import is_unfinished
from pai_runner.storage.moving import Move
from pai_runner.storage.trees import Kind, Tree

_CP = """\
Copies files, or with -r directories, between any two locations.

TARGET is a directory where it ends with `/`, where there is a directory of its name, or where
there are several SOURCEs: a file is then copied into it, under its own name. Else TARGET is the
name of the copy. Of a directory SOURCE the files below it come right below TARGET, under the same
names, whether TARGET exists or not: the same command can be given again. With several SOURCEs each
directory comes below TARGET under its own name.
"""
_SYNC = """\
Copies from the directory SOURCE to the directory TARGET what is missing there or has changed.

A file has changed when its size or, where both buckets tell it, its MD5 is another; else when it
was written later than its copy. With --checksum contents are compared.
"""
_BOTH = """\
A copy becomes visible when it is whole and verified: by the checksum that the source's store keeps
(MD5, CRC64), and by those of each request. Checkpoints are copied data first, then the index, then
the `checkpoint` file. A file that fails does not stop others, but those that need it. Of what is
interrupted, the same command goes on with each file of more than 16 MiB where it stopped, as long
as the source is what it was.

Links to files are followed, links to folders are passed over. PATTERNs are those of a shell, but
`*` stands for `/` as well. One without `/` is for the last part of a name, one with it for the
whole name below SOURCE.

exit code 1: some files could not be copied or deleted; 130 or 143: ended by a signal
"""
# Some files could not be copied or deleted.
_FAILED = 1


@dataclass
class _Plan:
    """What a command does: `same` files are there already, `deleted` go from `target`."""

    moves: list[Move]
    target: Tree
    same: int = 0
    deleted: list[str] = field(default_factory=list)


def cp(arguments: Sequence[str]) -> int:
    """Copy files. Returns the exit code."""
    parser = _parser("cp", _CP)
    parser.add_argument("source", metavar="SOURCE", nargs="+", type=Location.parse)
    parser.add_argument("target", metavar="TARGET", type=Location.parse)
    parser.add_argument("-r", "--recursive", action="store_true", help="copy directories")
    options = parser.parse_args(arguments)
    with opened([*options.source, options.target], options.role) as (*sources, target):
        return _run(_plan_cp(sources, target, options), options)


def sync(arguments: Sequence[str]) -> int:
    """Copy what differs. Returns the exit code."""
    parser = _parser("sync", _SYNC)
    parser.add_argument("source", metavar="SOURCE", type=Location.parse)
    parser.add_argument("target", metavar="TARGET", type=Location.parse)
    parser.add_argument(
        "--delete", action="store_true", help="delete from TARGET what SOURCE does not have"
    )
    parser.add_argument("--checksum", action="store_true", help="compare contents")
    add_removal_arguments(parser)
    options = parser.parse_args(arguments)
    with opened([options.source, options.target], options.role) as (source, target):
        plan = _plan_sync(source, target, options)
        if len(plan.deleted) > ASKED_FROM and not options.dry_run:
            agreed(f"Delete {len(plan.deleted):,} files from {target.shown()}?", options.yes)
        return _run(plan, options)


def _parser(verb: str, description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        f"pai storage {verb}",
        description=description,
        epilog=_BOTH,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for name, text in (
        ("--include", "copy only files that a PATTERN fits; may be repeated"),
        ("--exclude", "do not copy files that it fits; may be repeated"),
    ):
        parser.add_argument(name, action="append", default=[], metavar="PATTERN", help=text)
    parser.add_argument("--dry-run", action="store_true", help="only say what would be done")
    parser.add_argument("--quiet", "-q", action="store_true", help="print errors only")
    add_location_arguments(parser)
    return parser


# ====== Plans ======


def _chosen(options: argparse.Namespace) -> Chosen:
    return Chosen(tuple(options.include), tuple(options.exclude))


def _plan_cp(sources: Sequence[Tree], target: Tree, options: argparse.Namespace) -> _Plan:
    with naming(target):
        there = target.kind()
    is_into = len(sources) > 1 or options.target.path.endswith("/") or there is Kind.DIRECTORY
    kinds = [kind_of(source) for source in sources]
    if there is Kind.FILE and (is_into or Kind.DIRECTORY in kinds):
        raise UsageError(f"{target.shown().rstrip('/')} is a file", "name a directory as TARGET")
    moves: list[Move] = []
    for source, kind in zip(sources, kinds, strict=True):
        if kind is Kind.FILE:
            moves += _moves_of_file(source, target, is_into, _chosen(options))
            continue
        if not options.recursive:
            raise UsageError(f"{source.shown()} is a directory", "add -r to copy it")
        into = f"{source.file()[1]}/" if len(sources) > 1 else ""
        with naming(source):
            moves += moves_below(source, target, into, _chosen(options))
    _check(moves)
    return _Plan(moves, target)


def _moves_of_file(source: Tree, target: Tree, is_into: bool, chosen: Chosen) -> list[Move]:
    folder, name = source.file()
    with naming(source):
        entry = folder.entry(name)
    if entry is None or name not in chosen:
        return []
    if is_into:
        return [Move(folder, name, entry, target, name)]
    return [Move(folder, name, entry, *target.file())]


def _check(moves: Sequence[Move]) -> None:
    """Check that no file is copied to itself, and no two to one name. Raises UsageError."""
    seen: dict[str, Move] = {}
    for move in moves:
        source, target = move.source.shown(move.source_name), move.target.shown(move.name)
        if source == target and move.source.store == move.target.store:
            raise UsageError(f"{source} would be copied to itself", "name another TARGET")
        if target in seen:
            other = seen[target]
            raise UsageError(
                f"{source} and {other.source.shown(other.source_name)} would both become {target}",
                "copy them one after the other, into two directories",
            )
        seen[target] = move


def _plan_sync(source: Tree, target: Tree, options: argparse.Namespace) -> _Plan:
    for tree in (source, target):
        with naming(tree):
            kind = tree.kind()
        if kind is Kind.FILE:
            where = tree.shown().rstrip("/")
            raise UsageError(f"{where} is a file", "sync is for directories; use pai storage cp")
    kind_of(source)
    prefixes = (source.shown(), target.shown())
    if source.store == target.store and any(
        first.startswith(second) for first, second in (prefixes, prefixes[::-1])
    ):
        raise UsageError(
            f"{prefixes[0]} and {prefixes[1]} lie one in the other", "sync needs two directories"
        )
    chosen = _chosen(options)
    with naming(source):
        moves = moves_below(source, target, "", chosen)
    with naming(target):
        there = target.find() if target.kind() else {}
    with naming(source):
        changed = changed_moves(moves, there, options.checksum)
    names = {move.name for move in moves}
    extra = [
        name
        for name in there
        if name in chosen and name not in names and not (target.is_local and is_unfinished(name))
    ]
    deleted = extra if options.delete else []
    return _Plan(changed, target, len(moves) - len(changed), deleted)


# ====== Doing it ======


def _run(plan: _Plan, options: argparse.Namespace) -> int:
    if options.dry_run:
        return _show(plan, options.json)
    with Progress(plan.moves, options.quiet or options.json) as progress:
        copier = Copier(plan.moves, progress.sent, progress.copied)
        try:
            with ended_by_signals():
                try:
                    outcome = copier.run()
                    deleted = _delete(plan, outcome)
                except Ended:
                    copier.stop()
                    raise
        except Ended as ended:
            say(_interrupted(copier.outcome, plan))
            return 128 + ended.number
    if options.json:
        print_json({**as_json(outcome), "same": plan.same, "deleted": deleted, "dry_run": False})
    else:
        say_failures(outcome.failures)
        if not options.quiet:
            print(summary(outcome, plan.same, deleted))
    return _FAILED if outcome.failures else ExitCode.OK


def _delete(plan: _Plan, outcome: Outcome) -> int:
    """Delete what is too much at the target; nothing where the copy is not whole."""
    if not plan.deleted:
        return 0
    if outcome.failures:
        say("nothing was deleted, as some files could not be copied")
        return 0
    with naming(plan.target):
        failures = remove_in_order(plan.target, plan.deleted)
        plan.target.remove_directories(plan.deleted)
    outcome.failures.update({plan.target.shown(name): why for name, why in failures.items()})
    return len(plan.deleted) - len(failures)


def _interrupted(outcome: Outcome, plan: _Plan) -> str:
    return (
        f"interrupted after {outcome.files} of {len(plan.moves)} files; the same command goes on "
        "with large files where they stopped"
    )


def _show(plan: _Plan, is_json: bool) -> int:
    size = sum(move.entry.size for move in plan.moves)
    deleted = [plan.target.shown(name) for name in plan.deleted]
    if is_json:
        copies = [
            {
                "source": move.source.shown(move.source_name),
                "target": move.target.shown(move.name),
                "bytes": move.entry.size,
            }
            for move in plan.moves
        ]
        told = {"bytes": size, "same": plan.same, "copies": copies, "deletes": deleted}
        print_json({**told, "dry_run": True})
        return ExitCode.OK
    for move in plan.moves:
        print(f"copy {move}")
    for name in deleted:
        print(f"delete {name}")
    print(f"would copy {len(plan.moves)} files, {size} bytes, and delete {len(deleted)}")
    return ExitCode.OK
