"""Counts to ten and saves the count as a checkpoint, in TensorFlow 1's style."""

import os

import tensorflow as tf

tf.app.flags.DEFINE_string("checkpointDir", "", "the folder that receives the checkpoint")
tf.app.flags.DEFINE_integer("steps", 10, "how far to count")
FLAGS = tf.app.flags.FLAGS


def main(_):
    counter = tf.get_variable("counter", shape=[], initializer=tf.zeros_initializer())
    increment = tf.assign_add(counter, 1.0)
    saver = tf.train.Saver()
    with tf.Session() as sess:
        sess.run(tf.global_variables_initializer())
        for _ in range(FLAGS.steps):
            value = sess.run(increment)
        saved = saver.save(sess, os.path.join(FLAGS.checkpointDir, "model.ckpt"))
    print("counted to %d, saved to %s" % (value, saved))


if __name__ == "__main__":
    tf.app.run()
