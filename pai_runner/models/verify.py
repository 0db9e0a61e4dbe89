"""Whether a model can be served: its files are whole, it loads, and its signatures answer.

It is loaded as TensorFlow Serving loads it, each MetaGraph by its tags into a session. A model
with ops that act on files or call Python is not loaded, unless that is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from pai_runner.errors import SetupError, UsageError
from pai_runner.models.findings import Finding
from pai_runner.models.lint import (
    denied_ops,
    lint_files,
    lint_model,
    reached_by,
    shown_tags,
    waits_for_data,
)
from pai_runner.models.manifest import ENTRIES, Manifest, digest_folder, entry_of
from pai_runner.models.place import LocalPlace
from pai_runner.models.proto import Graph, read_saved_model
from pai_runner.models.structure import public_signatures, shape_of
from pai_runner.models.synthetic import inputs_of

_Run = Callable[..., Mapping[str, Any]]


def verify(
    folder: str, shown: str, manifest: Manifest | None = None, runs_denied: bool = False
) -> list[Finding]:
    """Return what is wrong with the SavedModel in the local `folder`; nothing for a sound one.

    `shown` is what it is called in the findings. With a `manifest` every file is compared with
    it. `runs_denied`: also a model with denied ops is loaded and run. Raises OSError.
    """
    found = list(_verify(folder, manifest, runs_denied))
    # TensorFlow's messages name the files where they lie now.
    here, there = folder.rstrip("/"), shown.rstrip("/")
    return [replace(one, text=one.text.replace(here, there)) for one in found]


def _verify(folder: str, manifest: Manifest | None, runs_denied: bool) -> Iterator[Finding]:
    place = LocalPlace(folder)
    names = place.find()
    damages = list(_compare(folder, manifest)) if manifest else []
    yield from damages
    yield from lint_files(names)
    if not entry_of(names):
        yield Finding("incomplete", f"it has no {' or '.join(ENTRIES)}")
        return
    try:
        model = read_saved_model(place)
    except SetupError as error:
        if not damages:
            yield Finding("damaged", error.message)
        return
    yield from lint_model(model)
    denied = denied_ops(model)
    yield from denied
    if any(one.code == "damaged" for one in damages):
        yield Finding("not-run", "the model was not loaded: its files are damaged")
    elif denied and not runs_denied:
        yield Finding("not-run", "the model was not loaded: it has ops that act beyond it")
    else:
        for meta_graph in model.meta_graphs:
            yield from _run_meta_graph(folder, meta_graph)


def _compare(folder: str, manifest: Manifest) -> Iterator[Finding]:
    try:
        there = {file.path: file for file in digest_folder(folder)}
    except SetupError as error:
        yield Finding("damaged", error.message)
        return
    for file in manifest.files:
        found = there.pop(file.path, None)
        if found is None:
            yield Finding("damaged", f"{file.path}: it is missing")
        elif found.size != file.size:
            text = f"{file.path}: it has {found.size} bytes, published were {file.size}"
            yield Finding("damaged", text)
        elif found.sha256 != file.sha256:
            yield Finding("damaged", f"{file.path}: its content is not what was published")
    for path in there:
        yield Finding("unknown-file", f"{path}: it was not there when the version was published")


# ====== Loading and running ======


def _run_meta_graph(folder: str, meta_graph: Any) -> Iterator[Finding]:
    from pai_runner.models.loading import load_folder

    try:
        loaded = load_folder(folder, folder, meta_graph.meta_info_def.tags)
    except SetupError as error:
        yield Finding("not-loaded", f"{shown_tags(meta_graph)}: {error.message}")
        return
    except Exception as error:  # whatever TensorFlow raises, it cannot load this
        yield Finding("not-loaded", f"{shown_tags(meta_graph)}: {_said(error)}")
        return
    graph = Graph(meta_graph.graph_def)
    with loaded:
        for name, signature in public_signatures(meta_graph).items():
            for finding in _run_signature(loaded[name], graph, signature):
                yield replace(finding, text=f"signature `{name}`: {finding.text}")


def _run_signature(run: _Run, graph: Graph, signature: Any) -> Iterator[Finding]:
    reached = reached_by(graph, signature)
    if waits_for_data(reached):
        yield Finding("not-run", "it was not run: it reads from a queue or a reader")
        return
    outputs = None
    for values in inputs_of(signature, reached):
        try:
            outputs = run(**values)
            break
        except Exception as error:  # whatever an op raises, there is no answer
            code, said = _failure(error)
            if code != "needs-data":
                yield Finding(code, said)
                return
    if outputs is None:
        yield Finding("needs-data", f"synthetic input was refused: {said}")
        return
    yield from _check_outputs(signature, outputs)


def _failure(error: Exception) -> tuple[str, str]:
    """Return the code for what running a signature failed with, and what the error says."""
    import tensorflow.compat.v1 as tf1

    if isinstance(error, UsageError):  # a sparse or ragged tensor
        return "not-run", f"it was not run: {error.message}"
    if isinstance(error, tf1.errors.InvalidArgumentError):
        return "needs-data", _said(error)
    return "fails", _said(error)


def _check_outputs(signature: Any, outputs: Mapping[str, Any]) -> Iterator[Finding]:
    import numpy as np
    import tensorflow.compat.v2 as tf

    for alias, info in sorted(signature.outputs.items()):
        value, shape = outputs[alias], shape_of(info)
        declared, found = tf.as_dtype(info.dtype), tf.as_dtype(value.dtype)
        sizes = None if shape is None else [None if size == -1 else size for size in shape]
        if found != declared:
            text = f"output `{alias}` is of {found.name}, the signature says {declared.name}"
            yield Finding("wrong-output", text)
        elif not tf.TensorShape(sizes).is_compatible_with(value.shape):
            text = f"output `{alias}` has the shape {list(value.shape)}, the signature says {shape}"
            yield Finding("wrong-output", text)
        elif declared.is_floating and not np.isfinite(value.astype(np.float64)).all():
            yield Finding("not-finite", f"output `{alias}` has NaN or infinite values")


# What TensorFlow writes before an error's own words: where in a script the op was made.
_PREAMBLE = ("Graph execution error", "Detected at node", "Node: ")


def _said(error: Exception) -> str:
    """Return what an error of TensorFlow says, in a line and without its tracebacks."""
    lines = str(getattr(error, "message", "") or error).splitlines()
    said = (line for line in lines if line.strip() and not line.startswith((" ", *_PREAMBLE)))
    return f"{type(error).__name__}: {next(said, 'no message')}"
