"""Trains a Keras model in TensorFlow 2's style, goes on where it was killed, and exports it.

Run the same command every night: each run begins with the newest complete checkpoint in
--checkpointDir, trains --steps further steps unless it was interrupted (then what is left of
them), and exports the model as the next version below it.
"""

import tensorflow as tf
from absl import app, flags

from pai_runner import checkpoint, export

flags.DEFINE_string("checkpointDir", "", "the folder that receives checkpoints and versions")
flags.DEFINE_integer("steps", 200, "how many batches a run trains")
flags.DEFINE_integer("batch_size", 64, "how many points a batch holds")
flags.DEFINE_integer("save_steps", 50, "how many batches lie between two checkpoints")
flags.DEFINE_float("learning_rate", 0.01, "the step of Adam")
FLAGS = flags.FLAGS


def build():
    """Return a model that says whether a point of the plane lies in the unit circle."""
    model = tf.keras.Sequential(
        [
            tf.keras.Input([2], name="point"),
            tf.keras.layers.Dense(16, activation="tanh"),
            tf.keras.layers.Dense(1, activation="sigmoid", name="inside"),
        ]
    )
    model.compile(tf.keras.optimizers.Adam(FLAGS.learning_rate), "binary_crossentropy")
    return model


def batch(step):
    """Return points and labels; the same step always has the same ones."""
    points = tf.random.stateless_uniform([FLAGS.batch_size, 2], [step, 0], -1.5, 1.5)
    inside = tf.reduce_sum(points**2, axis=1, keepdims=True) < 1.0
    return points, tf.cast(inside, tf.float32)


def main(_):
    model = build()
    step = tf.Variable(0, dtype=tf.int64)
    manager = checkpoint.Manager(
        tf.train.Checkpoint(model=model, optimizer=model.optimizer, step=step), max_to_keep=3
    )
    start = manager.restore() or 0
    # A run that was killed left its last checkpoint between two multiples of FLAGS.steps.
    end = (start // FLAGS.steps + 1) * FLAGS.steps
    print("from step %d to %d" % (start, end), flush=True)
    for number in range(start + 1, end + 1):
        loss = model.train_on_batch(*batch(number))
        step.assign(number)
        if number % FLAGS.save_steps == 0 or number == end:
            manager.save(number)
    print("loss after %d steps: %.3f" % (end, loss))
    made = export.saved_model(model, step=end)
    print("exported version %d to %s" % (made.version, made.location))


if __name__ == "__main__":
    app.run(main)
