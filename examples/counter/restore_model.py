"""Restores the count that save_model.py saved, from the bucket, and prints it."""

import os

import tensorflow as tf

tf.app.flags.DEFINE_string("buckets", "", "the folder that holds the checkpoint")
FLAGS = tf.app.flags.FLAGS


def main(_):
    counter = tf.get_variable("counter", shape=[])
    saver = tf.train.Saver()
    with tf.Session() as sess:
        saver.restore(sess, os.path.join(FLAGS.buckets, "model.ckpt"))
        print("the counter is %d" % sess.run(counter))


if __name__ == "__main__":
    tf.app.run()
