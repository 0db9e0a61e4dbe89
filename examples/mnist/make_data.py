"""Writes MNIST-shaped records into the bucket: 28 by 28 images of bars whose place is the label.

Real MNIST needs a download; these are made here, and are as easy to learn.
"""

import os

import numpy as np
import tensorflow as tf

tf.app.flags.DEFINE_string("buckets", "", "the folder that receives train-*.tfrecords")
tf.app.flags.DEFINE_integer("files", 2, "how many files to write")
tf.app.flags.DEFINE_integer("examples", 500, "how many examples a file holds")
FLAGS = tf.app.flags.FLAGS


def picture(label, random):
    image = random.randint(0, 60, size=(28, 28)).astype(np.uint8)
    column = 2 + 2 * label
    image[4:24, column : column + 3] = 230
    return image


def example(label, image):
    features = {
        "image_raw": tf.train.Feature(bytes_list=tf.train.BytesList(value=[image.tobytes()])),
        "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
    }
    return tf.train.Example(features=tf.train.Features(feature=features))


def main(_):
    random = np.random.RandomState(7)
    for number in range(FLAGS.files):
        name = os.path.join(FLAGS.buckets, "train-%02d.tfrecords" % number)
        with tf.python_io.TFRecordWriter(name) as writer:
            for _ in range(FLAGS.examples):
                label = random.randint(10)
                writer.write(example(label, picture(label, random)).SerializeToString())
        print("wrote %d examples to %s" % (FLAGS.examples, name))


if __name__ == "__main__":
    tf.app.run()
