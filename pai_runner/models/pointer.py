"""`latest.json`: which version is the one to serve.

It is replaced under a condition: only when it still says what the writer has read. Not every
store can compare and replace (OSS cannot), but all can create a new object. So each state of the
pointer is first created as `.latest/<generation>`, which one writer alone can do; `latest.json`
is a copy of the highest. A writer that is killed between the two leaves it one behind, and the
next one puts it right.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass

from pai_runner.errors import SetupError
from pai_runner.models.place import Place

POINTER = "latest.json"
GENERATIONS = ".latest"

# Generations are numbered so that their names sort.
_DIGITS = 12
_ATTEMPTS = 1000
# Older generations are removed; a writer that has read one of them is long gone.
_KEPT = 50


@dataclass(frozen=True)
class Pointer:
    """A state of the pointer.

    `version` is the one to serve, `highest` the highest that it ever pointed at: after a
    rollback an older exporter that ends late does not move it. `moved_at` is in UTC, ISO 8601.
    """

    version: int
    highest: int
    generation: int
    moved_at: str

    def to_json(self) -> bytes:
        return (json.dumps(asdict(self), indent=1) + "\n").encode()


def read_pointer(place: Place) -> Pointer | None:
    """Return what the pointer says, or None where there is none. Raises OSError, SetupError."""
    generations = _generations(place)
    if generations:
        with suppress(FileNotFoundError):
            return _read(place, _name(generations[-1]))
    with suppress(FileNotFoundError):
        return _read(place, POINTER)
    return None


def pointed_versions(place: Place) -> set[int]:
    """Return the versions that readers may be led to.

    They are two where a writer was killed before it renewed `latest.json`. Raises OSError,
    SetupError.
    """
    pointers = [read_pointer(place)]
    with suppress(FileNotFoundError):
        pointers.append(_read(place, POINTER))
    return {pointer.version for pointer in pointers if pointer is not None}


def point_at(place: Place, version: int) -> Pointer:
    """Make `version` the one to serve, whatever the pointer says. Raises OSError, SetupError."""
    return _move(place, lambda _: version)


def advance(place: Place, version: int) -> Pointer:
    """Make a new version the one to serve, unless a higher one was so before.

    Returns what the pointer says then. Raises OSError, SetupError.
    """

    def decide(now: Pointer | None) -> int:
        return version if now is None or version > now.highest else now.version

    return _move(place, decide)


def _move(place: Place, decide: Callable[[Pointer | None], int]) -> Pointer:
    """Move the pointer to what `decide` says of its present state."""
    for _ in range(_ATTEMPTS):
        now = read_pointer(place)
        version = decide(now)
        if now is not None and version == now.version:
            moved = now
        else:
            moved = _next(now, version)
            if not place.claim(_name(moved.generation), moved.to_json()):
                continue
        _show(place, moved)
        return moved
    raise SetupError(
        f"{place.shown(POINTER)} could not be moved in {_ATTEMPTS} attempts",
        "others move it each time; see what publishes there",
    )


def _next(now: Pointer | None, version: int) -> Pointer:
    return Pointer(
        version=version,
        highest=max(version, now.highest if now else 0),
        generation=now.generation + 1 if now else 1,
        moved_at=utc_text(),
    )


def _show(place: Place, moved: Pointer) -> None:
    """Make `latest.json` the copy of the highest generation, which others may raise meanwhile."""
    while True:
        place.write(POINTER, moved.to_json())
        generations = _generations(place)
        if not generations or generations[-1] <= moved.generation:
            break
        moved = _read(place, _name(generations[-1]))
    for generation in generations[:-_KEPT]:
        place.remove(_name(generation))


def _generations(place: Place) -> list[int]:
    names = place.at(GENERATIONS).children()
    return sorted(int(name) for name in names if name.isascii() and name.isdigit())


def _name(generation: int) -> str:
    return f"{GENERATIONS}/{generation:0{_DIGITS}}"


def _read(place: Place, name: str) -> Pointer:
    data = place.read(name)
    try:
        values = json.loads(data)
        return Pointer(
            version=int(values["version"]),
            highest=int(values["highest"]),
            generation=int(values["generation"]),
            moved_at=str(values["moved_at"]),
        )
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise SetupError(
            f"{place.shown(name)} is damaged: {type(error).__name__}: {error}",
            "remove the file; `pai models rollback` writes it anew",
        ) from error


def utc_text() -> str:
    """Return the time now, in UTC, as ISO 8601 has it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
