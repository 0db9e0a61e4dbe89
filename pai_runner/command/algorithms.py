"""The algorithm names that run, and the TensorFlow API that each implies."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from pai_runner.errors import UsageError, nearest


class Algorithm(NamedTuple):
    """An algorithm: its TensorFlow API, v1 or v2, and whether it runs on the CPU only."""

    name: str
    api: str
    cpu_only: bool = False


# Every TensorFlow name of PAI that is publicly known.
ALGORITHMS: Mapping[str, Algorithm] = MappingProxyType(
    {
        name: Algorithm(name, "v1", cpu_only="_cpu_" in name)
        for name in (
            "tensorflow",
            "tensorflow121",
            "tensorflow140",
            "tensorflow140_lite",
            "tensorflow140_hvd_test",
            "tensorflow180",
            "tensorflow180_hvd_test",
            "tensorflow112_boosting",
            "tensorflow1120",
            "tensorflow1120_py3",
            "tensorflow1150",
            "tensorflow1120_ext",
            "tensorflow1120_cpu_ext",
            "tensorflow1120_py3_ext",
            "tensorflow1150_ext",
        )
    }
)
# PAI names no TensorFlow 2; the form follows its habit, for example tensorflow2150 for 2.15.0.
_TENSORFLOW_2 = re.compile(r"tensorflow2\d{1,4}(_[a-z0-9]+)*", re.ASCII)
_TENSORFLOW_2_SHOWN = "tensorflow2xx"


def find_algorithm(name: str) -> Algorithm:
    """Return the algorithm called `name`. Raises UsageError, which lists those that run."""
    if name in ALGORITHMS:
        return ALGORITHMS[name]
    if _TENSORFLOW_2.fullmatch(name):
        return Algorithm(name, "v2", cpu_only="_cpu" in name)
    # Other algorithms of PAI, tensorboard for one, are no typing errors.
    close = nearest(name, ALGORITHMS) if "flow" in name.lower() else []
    meant = f"; did you mean `{close[0]}`?" if close else ""
    raise UsageError(
        f"the algorithm `{name}` is not run here{meant}",
        f"supported: {', '.join(ALGORITHMS)}, {_TENSORFLOW_2_SHOWN} (for example tensorflow2150)",
    )


def algorithm_rows() -> list[tuple[str, str]]:
    """Return each algorithm's name and the TensorFlow API that it implies, for people to read."""
    rows = [(algorithm.name, algorithm.api) for algorithm in ALGORITHMS.values()]
    return [*rows, (_TENSORFLOW_2_SHOWN, "v2")]
