"""Trains a softmax classifier in TensorFlow 1's style, goes on where it was killed, and exports it.

Run the same command every night: each run begins with the newest complete checkpoint in
FLAGS.checkpointDir, trains FLAGS.steps further steps unless it was interrupted (then what is left
of them), and exports the model as the next version below it.
"""

import numpy as np
import tensorflow as tf

from pai_runner import checkpoint, export

tf.app.flags.DEFINE_string("checkpointDir", "", "the folder that receives checkpoints and versions")
tf.app.flags.DEFINE_integer("steps", 200, "how many batches a run trains")
tf.app.flags.DEFINE_integer("batch_size", 50, "how many images a batch holds")
tf.app.flags.DEFINE_integer("save_steps", 50, "how many batches lie between two checkpoints")
tf.app.flags.DEFINE_float("learning_rate", 0.5, "the step of gradient descent")
FLAGS = tf.app.flags.FLAGS


class Softmax:
    """One dense layer over images of 784 bytes.

    Images come as they are stored, 0 to 255, and are brought to 0 to 1 in the graph: who calls
    the model needs to know nothing of how it was trained.
    """

    def __init__(self, learning_rate):
        self.images = tf.placeholder(tf.uint8, [None, 784], name="images")
        self.labels = tf.placeholder(tf.int64, [None], name="labels")
        pixels = tf.cast(self.images, tf.float32) / 255.0
        weights = tf.get_variable("weights", [784, 10], initializer=tf.zeros_initializer())
        biases = tf.get_variable("biases", [10], initializer=tf.zeros_initializer())
        logits = tf.matmul(pixels, weights) + biases
        self.scores = tf.nn.softmax(logits, name="scores")
        loss = tf.losses.sparse_softmax_cross_entropy(self.labels, logits)
        hits = tf.equal(tf.argmax(self.scores, 1), self.labels)
        self.accuracy = tf.reduce_mean(tf.cast(hits, tf.float32))
        self.step = tf.train.get_or_create_global_step()
        optimizer = tf.train.GradientDescentOptimizer(learning_rate)
        self.train = optimizer.minimize(loss, global_step=self.step)

    def signatures(self):
        """Return what a server offers: images in, the score of each digit out."""
        return {"predict_images": ({"images": self.images}, {"scores": self.scores}, "predict")}


def batch(random, size):
    """Return images with a bright bar, and the digit that its place stands for."""
    labels = random.randint(10, size=size)
    images = random.randint(0, 60, size=(size, 28, 28)).astype(np.uint8)
    for number, label in enumerate(labels):
        images[number, 4:24, 2 + 2 * label : 5 + 2 * label] = 230
    return images.reshape(size, 784), labels


def main(_):
    model = Softmax(FLAGS.learning_rate)
    saver = checkpoint.Saver(max_to_keep=3)
    with tf.Session() as sess:
        sess.run(tf.global_variables_initializer())
        start = saver.restore(sess) or 0
        # A run that was killed left its last checkpoint between two multiples of FLAGS.steps.
        end = (start // FLAGS.steps + 1) * FLAGS.steps
        print("from step %d to %d" % (start, end), flush=True)
        for step in range(start + 1, end + 1):
            images, labels = batch(np.random.RandomState(step), FLAGS.batch_size)
            feed = {model.images: images, model.labels: labels}
            _, accuracy = sess.run([model.train, model.accuracy], feed)
            if step % FLAGS.save_steps == 0 or step == end:
                saver.save(sess, step)
        print("accuracy after %d steps: %.2f" % (end, accuracy))
        made = export.saved_model(sess, signatures=model.signatures())
        print("exported version %d to %s" % (made.version, made.location))


if __name__ == "__main__":
    tf.app.run()
