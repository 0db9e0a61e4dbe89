"""Trains a softmax classifier on the records of make_data.py, as PAI's scripts are written.

Records are read from FLAGS.buckets by queue runners; summaries and checkpoints go to
FLAGS.checkpointDir, and the model is exported below it under FLAGS.model_version.
"""

import os

import tensorflow as tf

tf.app.flags.DEFINE_string("buckets", "", "the folder that holds train-*.tfrecords")
tf.app.flags.DEFINE_string("checkpointDir", "", "the folder that receives what is made")
tf.app.flags.DEFINE_integer("model_version", 1, "the version that the model is exported under")
tf.app.flags.DEFINE_integer("steps", 100, "how many batches to train")
tf.app.flags.DEFINE_integer("batch_size", 50, "how many examples a batch holds")
tf.app.flags.DEFINE_float("learning_rate", 0.5, "the step of gradient descent")
FLAGS = tf.app.flags.FLAGS


def read_batch():
    """Return a batch of images (batch, 784) in 0 to 1, and of labels (batch,)."""
    names = tf.gfile.Glob(os.path.join(FLAGS.buckets, "train-*.tfrecords"))
    queue = tf.train.string_input_producer(sorted(names))
    _, record = tf.TFRecordReader().read(queue)
    features = tf.parse_single_example(
        record,
        features={
            "image_raw": tf.FixedLenFeature([], tf.string),
            "label": tf.FixedLenFeature([], tf.int64),
        },
    )
    image = tf.reshape(tf.decode_raw(features["image_raw"], tf.uint8), [784])
    image = tf.cast(image, tf.float32) / 255.0
    return tf.train.shuffle_batch(
        [image, features["label"]],
        batch_size=FLAGS.batch_size,
        capacity=1000,
        min_after_dequeue=200,
    )


def export(sess, images, scores):
    folder = os.path.join(FLAGS.checkpointDir, "export", str(FLAGS.model_version))
    builder = tf.saved_model.builder.SavedModelBuilder(folder)
    signature = tf.saved_model.signature_def_utils.build_signature_def(
        inputs={"images": tf.saved_model.utils.build_tensor_info(images)},
        outputs={"scores": tf.saved_model.utils.build_tensor_info(scores)},
        method_name=tf.saved_model.signature_constants.PREDICT_METHOD_NAME,
    )
    builder.add_meta_graph_and_variables(
        sess,
        [tf.saved_model.tag_constants.SERVING],
        signature_def_map={"predict_images": signature},
    )
    builder.save()
    return folder


def main(_):
    batch_images, batch_labels = read_batch()
    images = tf.placeholder_with_default(batch_images, [None, 784], name="images")
    labels = tf.placeholder_with_default(batch_labels, [None], name="labels")
    logits = tf.layers.dense(images, 10, name="softmax")
    scores = tf.nn.softmax(logits)
    loss = tf.losses.sparse_softmax_cross_entropy(labels, logits)
    correct = tf.equal(tf.argmax(logits, 1), labels)
    accuracy = tf.reduce_mean(tf.cast(correct, tf.float32))
    step = tf.train.get_or_create_global_step()
    optimizer = tf.train.GradientDescentOptimizer(FLAGS.learning_rate)
    train = optimizer.minimize(loss, global_step=step)
    tf.summary.scalar("loss", loss)
    tf.summary.scalar("accuracy", accuracy)
    summary = tf.summary.merge_all()
    saver = tf.train.Saver()

    with tf.Session() as sess:
        sess.run(tf.global_variables_initializer())
        writer = tf.summary.FileWriter(os.path.join(FLAGS.checkpointDir, "summary"), sess.graph)
        coordinator = tf.train.Coordinator()
        threads = tf.train.start_queue_runners(sess=sess, coord=coordinator)
        for number in range(FLAGS.steps):
            _, text, reached = sess.run([train, summary, accuracy])
            writer.add_summary(text, number)
        print("accuracy after %d steps: %.2f" % (FLAGS.steps, reached))
        saver.save(sess, os.path.join(FLAGS.checkpointDir, "model.ckpt"), global_step=step)
        print("exported to %s" % export(sess, images, scores))
        coordinator.request_stop()
        coordinator.join(threads)
        writer.close()


if __name__ == "__main__":
    tf.app.run()
