"""Exports that a server can trust: `from pai_runner import export`.

    export.saved_model(session, signatures={"predict_images": ({"images": x}, {"scores": y})})

A model is built on the local disk and then published as a numbered version, whole or not at all,
beside the versions that are there. Servers of TensorFlow (EAS, TensorFlow Serving) are pointed at
the directory of the versions. Without a directory that is `export/` below the job's checkpointDir.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from pai_runner.errors import SetupError, UsageError
from pai_runner.models.keeping import (
    KeepRule,
    Removal,
    collect,
    complete_version,
    latest_version,
)
from pai_runner.models.manifest import ENTRIES
from pai_runner.models.place import LocalPlace, Place, open_place
from pai_runner.models.publishing import publish, staging_folder
from pai_runner.models.quiet import quietly
from pai_runner.models.scratch import scratch_folder
from pai_runner.models.signatures import MetaGraph, Signature
from pai_runner.models.versions import check_wanted, number_at, wanted_number

if TYPE_CHECKING:
    from pai_runner.models.loading import Loaded

__all__ = ["Export", "MetaGraph", "Signature", "keep", "load", "saved_model"]

_Location = str | os.PathLike[str]


@dataclass(frozen=True)
class Export:
    """A version that was published.

    `location` names it, with a final `/`. `signatures` are by name, in the form of EAS's model
    structure; `files` are the paths in the version, `bytes` their size together.
    """

    version: int
    location: str
    signatures: Mapping[str, Mapping[str, Any]]
    files: tuple[str, ...]
    bytes: int


def saved_model(
    source: Any,
    directory: _Location | None = None,
    signatures: Mapping[str, Any] | None = None,
    *,
    version: int | str | None = None,
    tags: Sequence[str] = ("serve",),
    assets: Sequence[str | os.PathLike[str]] = (),
    main_op: Any = None,
    clear_devices: bool = True,
    meta_graphs: Sequence[MetaGraph] = (),
    serving_input_fn: Callable[[], Any] | None = None,
    step: int | None = None,
) -> Export:
    """Export a model as a new version below `directory`, and return what was published.

    `source` is a session of TensorFlow 1, a Keras model, a tf.Module or tf.function, or an
    Estimator with `serving_input_fn` (TensorFlow 2.15). `signatures` maps names to tf.functions,
    or to inputs and outputs by alias, as a pair, a triple with the method, or a `Signature`. How
    they, `tags`, `assets`, `main_op`, `clear_devices` and `meta_graphs` are used is said at
    `building.build`.

    `version` is a number (also as text, such as FLAGS.model_version), "timestamp", or None for
    the next after the highest that was ever given. A version is never overwritten. `step` is kept
    in the manifest; where the source has a step of its own, that is the default.

    Raises UsageError for what cannot be exported so, SetupError where the directory cannot be
    written or the version is taken, OSError; then nothing was published.
    """
    from pai_runner.models.building import build
    from pai_runner.models.description import about_model, step_of

    place = _place(directory)
    check_wanted(place, version)
    with staging_folder(place) as folder, quietly():
        build(
            source,
            folder,
            signatures=signatures,
            tags=tags,
            assets=assets,
            main_op=main_op,
            clear_devices=clear_devices,
            meta_graphs=meta_graphs,
            serving_input_fn=serving_input_fn,
        )
        about = about_model(folder, step if step is not None else step_of(source))
        published = publish(place, folder, version, about)
    return Export(
        published.version,
        published.location,
        published.manifest.about.signatures,
        tuple(file.path for file in published.manifest.files),
        published.manifest.total_bytes,
    )


def load(
    location: _Location | None = None,
    version: int | str = "latest",
    tags: Collection[str] = ("serve",),
) -> Loaded:
    """Load a version and return its signatures, which are called by alias.

    `location` is the directory of the versions, or of one of them; "latest" is the version that
    `latest.json` names, else the highest complete one. The files are compared with the manifest
    first, where there is one; a version in a bucket is copied to the local disk. Raises SetupError
    that names the damaged file, or lists the versions, tags or aliases that there are; UsageError,
    OSError.
    """
    from pai_runner.models.fetching import check_digests, fetch_version
    from pai_runner.models.loading import load_folder

    place = _place(location)
    own = number_at(place)
    if version == "latest" and own is not None and any(map(place.info, ENTRIES)):
        place, version = place.above(), own
    number = latest_version(place) if version == "latest" else wanted_number(version)
    found = complete_version(place, number)
    shown = place.shown(f"{found.name}/")
    if isinstance(place, LocalPlace):
        check_digests(place, found)
        return load_folder(place.path(found.name), shown, tags)
    # TensorFlow has read all of it when it is loaded; assets too, into its tables.
    with scratch_folder() as above:
        folder = os.path.join(above, "model")
        fetch_version(place, found, folder)
        return load_folder(folder, shown, tags)


def keep(
    last: int | None = 5,
    pinned: Collection[int] = (),
    younger_than: float | timedelta | None = None,
    *,
    directory: _Location | None = None,
) -> tuple[Removal, ...]:
    """Remove older versions, and return what was removed.

    The `last` newest complete ones are kept (None: all), those in `pinned`, those written within
    `younger_than` (seconds, or a timedelta), and always the newest, the one that `latest.json`
    names and those that `pai models pin` has pinned. Raises UsageError, SetupError, OSError.
    """
    seconds = younger_than.total_seconds() if isinstance(younger_than, timedelta) else younger_than
    return tuple(collect(_place(directory), KeepRule(last, tuple(pinned), seconds)))


def _place(directory: _Location | None) -> Place:
    if directory is not None and not os.fspath(directory).strip():
        raise UsageError("the directory is an empty text", "name one, or leave it out")
    if directory is None:
        above = os.environ.get("PAI_CHECKPOINT_DIR", "")
        if not above:
            raise SetupError(
                "no directory for exports: the job has no checkpointDir",
                "pass directory=, or run the script by `pai` with -DcheckpointDir",
            )
        directory = f"{above.rstrip('/')}/export"
    return open_place(directory)
