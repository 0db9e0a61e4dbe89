"""The tables of names, against the TensorFlow that is installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

_CHECK = """
import tensorflow as tf
from pai_runner.run.tensorflow_names import ONLY_V1, ONLY_V2, USUAL_IN_V2, dotted

def has(module, name):
    for part in name.split("."):
        if not hasattr(module, part):
            return False
        module = getattr(module, part)
    return True

v1, v2 = tf.compat.v1, tf
assert not [name for name in dotted(ONLY_V1) if has(v2, name)]
assert not [name for name in dotted(ONLY_V2) if has(v1, name) or not has(v2, name)]
assert not [name for name in dotted(USUAL_IN_V2) if not has(v1, name) or not has(v2, name)]
# All but a few that TensorFlow 2 has lost altogether.
assert len([name for name in dotted(ONLY_V1) if not has(v1, name)]) < 20
"""


@pytest.mark.slow
@pytest.mark.tensorflow
def test_the_tables_agree_with_the_installed_tensorflow() -> None:
    root = Path(__file__).parents[2]
    result = subprocess.run(
        [sys.executable, "-c", _CHECK],
        env={"PYTHONPATH": str(root), "TF_CPP_MIN_LOG_LEVEL": "3", "TF_USE_LEGACY_KERAS": "1"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr[-2000:]
