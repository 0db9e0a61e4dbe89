"""What a manifest says of a model: signatures, tags, versions of TensorFlow, job and step."""

from __future__ import annotations

import os
from typing import Any

import tensorflow.compat.v1 as tf1

from pai_runner.models.manifest import About
from pai_runner.models.place import LocalPlace
from pai_runner.models.proto import read_saved_model
from pai_runner.models.signatures import SERVE
from pai_runner.models.sources import raw_session
from pai_runner.models.structure import signatures_of


def about_model(folder: str, step: int | None = None) -> About:
    """Return what is known of the SavedModel in a local folder, exported by this job.

    Its signatures are those of the graph for serving, else of the first. Raises SetupError.
    """
    graphs = read_saved_model(LocalPlace(folder)).meta_graphs
    served = next((one for one in graphs if SERVE in one.meta_info_def.tags), graphs[0])
    return About(
        signatures=signatures_of(served),
        tags=tuple(tuple(sorted(one.meta_info_def.tags)) for one in graphs),
        tensorflow=served.meta_info_def.tensorflow_version,
        keras=_keras_version(),
        job_id=os.environ.get("PAI_JOB_ID", ""),
        step=step,
    )


def step_of(source: Any) -> int | None:
    """Return the training step of what is exported, where it has one."""
    if hasattr(source, "run") and isinstance(getattr(source, "graph", None), tf1.Graph):
        step = tf1.train.get_global_step(source.graph)
        return None if step is None else int(raw_session(source).run(step))
    if hasattr(source, "get_variable_names") and hasattr(source, "export_saved_model"):
        names = source.get_variable_names()
        return int(source.get_variable_value("global_step")) if "global_step" in names else None
    iterations = getattr(getattr(source, "optimizer", None), "iterations", None)
    if iterations is None or tf1.executing_eagerly():
        return None if iterations is None else int(iterations)
    return int(tf1.keras.backend.get_session().run(iterations))


def _keras_version() -> str:
    """Return the version of Keras, if the process has loaded one; loading it would take seconds."""
    import sys

    for name in ("keras", "tf_keras"):
        if name in sys.modules:
            return str(getattr(sys.modules[name], "__version__", ""))
    return ""
