"""A night's training: one step from the last checkpoint, an export, and the pruning of old ones.

Its first argument is the date; `log` says which dates were trained.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import tensorflow.compat.v2 as tf

from pai_runner import export

KEPT = 2


class Model(tf.Module):
    def __init__(self) -> None:
        self.step = tf.Variable(0, dtype=tf.int64)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int64, name="x")])
    def scaled(self, x: Any) -> dict[str, Any]:
        return {"y": x * self.step}


model = Model()
place = os.environ["PAI_CHECKPOINT_DIR"]
manager = tf.train.CheckpointManager(tf.train.Checkpoint(model=model), place + "saved", 3)
manager.restore_or_initialize()
model.step.assign_add(1)
manager.save()
made = export.saved_model(model, place + "export", signatures={"scale": model.scaled})
export.keep(KEPT, directory=place + "export")
with open("log", "a") as log:
    print(sys.argv[1], made.version, file=log)
