"""`python -m pai_runner.models.tool`: what the verbs of `pai models` need TensorFlow for.

One request, JSON on standard input; one answer, JSON on standard output. A request has `verb`
(show or verify), `prefix`, `options` (of the location's filesystem, secrets in clear: arguments
and environments can be read by others) and what the verb takes. An answer has `answer`, or
`error`, `hint` and `exit_code`. All that TensorFlow prints goes to standard error.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from pai_runner.errors import PaiError, SetupError
from pai_runner.models.failures import as_setup_error
from pai_runner.models.findings import Finding
from pai_runner.models.keeping import existing_version, latest_version
from pai_runner.models.manifest import ENTRIES, Manifest, read_manifest
from pai_runner.models.place import BucketPlace, LocalPlace, Place
from pai_runner.models.versions import number_at, version_numbers

_Request = Mapping[str, Any]


def main() -> int:
    """Answer the request on standard input. Returns 0; a failure is part of the answer."""
    with os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8") as answers:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        json.dump(_answer(json.load(sys.stdin)), answers)
    return 0


def _answer(request: _Request) -> dict[str, Any]:
    try:
        return {"answer": _VERBS[request["verb"]](_opened(request), request)}
    except PaiError as error:
        found = error
    except OSError as error:
        found = as_setup_error(request["prefix"], error)
    except ImportError as error:
        found = SetupError(f"TensorFlow cannot be imported: {error}", "pip install tensorflow")
    return {"error": found.message, "hint": found.hint, "exit_code": int(found.exit_code)}


def _show(place: Place, request: _Request) -> dict[str, Any]:
    """Return what the model is that `place` holds, or its latest version."""
    from pai_runner.models.inspection import describe

    model = model_at(place)
    return {**describe(model), "version": number_at(model)}


def _verify(place: Place, request: _Request) -> list[dict[str, Any]]:
    """Return each model that was checked, with what is wrong with it.

    With `all` these are the versions of `place`, each in its turn. What lies in a bucket is
    copied below the local folder `folder`.
    """
    if request["all"]:
        names = version_numbers(place).values()
        models = [place.at(name) for name in names]
        if not models:
            latest_version(place)  # it says what is there instead
    else:
        models = [model_at(place)]
    return [_verified(model, request) for model in models]


_VERBS: Mapping[str, Callable[[Place, _Request], Any]] = {"show": _show, "verify": _verify}


# ====== From a location to a model ======


def _opened(request: _Request) -> Place:
    place = _place(request["prefix"], request["options"])
    # A version that is not there is told from those that are.
    if isinstance(place, LocalPlace) and number_at(place) is None:
        if not os.path.exists(place.folder):
            raise SetupError(f"{place.folder} does not exist", "check the name")
        if not os.path.isdir(place.folder):
            raise SetupError(f"{place.folder} is not a folder", "name the folder of a model")
    return place


def _place(prefix: str, options: Mapping[str, str]) -> Place:
    if "://" not in prefix:
        return LocalPlace(prefix)
    place = BucketPlace.opened(prefix, options)
    place.check()
    return place


def model_at(place: Place) -> Place:
    """Return the place of a model: `place` itself, or its latest version.

    A model without its saved_model.pb is returned where its directory has a version's name.
    Raises SetupError that says what is there instead, OSError.
    """
    if any(place.info(name) for name in ENTRIES):
        return place
    number = number_at(place)
    if number is None or version_numbers(place):
        return place.at(version_numbers(place)[latest_version(place)])
    above = place.above()
    version = existing_version(above, number)
    return above.at(version.name)


# ====== Verifying ======


def _verified(model: Place, request: _Request) -> dict[str, Any]:
    from pai_runner.models.verify import verify

    found: list[Finding] = []
    manifest: Manifest | None = None
    try:
        manifest = read_manifest(model)
    except SetupError as error:
        found.append(Finding("damaged", error.message))
    if isinstance(model, LocalPlace):
        folder = model.folder
    else:
        folder = os.path.join(request["folder"], str(number_at(model)))
        _fetch(model, folder)
    found += verify(folder, model.prefix, manifest, request["runs_denied"])
    return {
        "location": model.prefix,
        "version": number_at(model),
        "findings": [{"level": one.level, **asdict(one)} for one in found],
    }


def _fetch(model: Place, folder: str) -> None:
    """Copy all files of a model into a local folder, whatever state they are in."""
    names = list(model.find())
    root = os.path.realpath(folder)
    for name in names:
        path = os.path.normpath(os.path.join(root, name))
        if os.path.relpath(path, root) != name:
            raise SetupError(f"{model.shown(name)!r} cannot be a file's name", "remove it")
        os.makedirs(os.path.dirname(path), exist_ok=True)
    model.each(lambda name: model.get(name, os.path.join(root, name)), names)


if __name__ == "__main__":
    sys.exit(main())
