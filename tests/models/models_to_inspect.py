"""SavedModels of all makes to look into, and a server's door that counts what goes through it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tensorflow.compat.v1 as tf1
import tensorflow.compat.v2 as tf
from tensorflow.core.protobuf import saved_model_pb2

METHODS = "tensorflow/serving/"

# Inputs and outputs of a signature, by alias.
Tensors = Mapping[str, Any]


def signature(inputs: Tensors, outputs: Tensors, method: str = f"{METHODS}predict") -> Any:
    """Return a SignatureDef; a value is a tensor of the graph."""
    info = tf1.saved_model.utils.build_tensor_info
    return tf1.saved_model.signature_def_utils.build_signature_def(
        {alias: info(tensor) for alias, tensor in inputs.items()},
        {alias: info(tensor) for alias, tensor in outputs.items()},
        method,
    )


def model_of(
    build: Callable[[], Mapping[str, Any]], tags: Sequence[str] = ("serve",)
) -> saved_model_pb2.SavedModel:
    """Return a SavedModel of one MetaGraph, which no file holds: `build` makes its signatures."""
    model = saved_model_pb2.SavedModel()
    with tf.Graph().as_default() as graph:
        signatures = build()
        meta_graph = model.meta_graphs.add()
        meta_graph.graph_def.CopyFrom(graph.as_graph_def())
    meta_graph.meta_info_def.tags.extend(tags)
    for name, made in signatures.items():
        meta_graph.signature_def[name].CopyFrom(made)
    return model


def save_session(
    folder: Path,
    build: Callable[[], Mapping[str, Any]],
    tags: Sequence[str] = ("serve",),
    as_text: bool = False,
    has_tables: bool = True,
) -> str:
    """Save what `build` makes in a graph of its own, in TensorFlow 1's style. Returns the folder.

    Without `has_tables` nothing initializes them when the model is loaded.
    """
    with tf.Graph().as_default(), tf1.Session() as session:
        signatures = build()
        session.run(tf1.global_variables_initializer())
        builder = tf1.saved_model.Builder(str(folder))
        main_op = tf1.tables_initializer() if has_tables else None
        builder.add_meta_graph_and_variables(session, list(tags), signatures, main_op=main_op)
        builder.save(as_text=as_text)
    return str(folder)


def classifier() -> dict[str, Any]:
    """Build a model on tf.Example, to classify and to regress; its `pixels` are required."""
    rows = tf1.placeholder(tf.string, (None,), "rows")
    features = {
        "pixels": tf.io.FixedLenFeature((4,), tf.float32),
        "weight": tf.io.FixedLenFeature((), tf.int64),
        "words": tf.io.VarLenFeature(tf.string),
    }
    parsed = tf1.io.parse_example(rows, features)
    weights = tf1.get_variable("weights", (4, 2), tf.float32)
    scores = tf.nn.softmax(tf.matmul(parsed["pixels"], weights), name="scores")
    names = tf.gather(tf.constant(["cat", "dog"]), tf.argsort(scores))
    sums = tf.reduce_sum(scores, 1) * tf.cast(parsed["weight"], tf.float32)
    return {
        "serving_default": signature(
            {"inputs": rows}, {"classes": names, "scores": scores}, f"{METHODS}classify"
        ),
        "sum": signature({"inputs": rows}, {"outputs": sums}, f"{METHODS}regress"),
    }


class WordScores(tf.Module):
    """Looks words up in a vocabulary that is an asset, and weighs numbers."""

    def __init__(self, vocabulary: Path) -> None:
        super().__init__()
        vocabulary.write_text("cat\ndog\n", encoding="utf-8")
        self.vocabulary = tf.saved_model.Asset(str(vocabulary))
        lines = tf.lookup.TextFileInitializer(
            self.vocabulary,
            tf.string,
            tf.lookup.TextFileIndex.WHOLE_LINE,
            tf.int64,
            tf.lookup.TextFileIndex.LINE_NUMBER,
        )
        self.table = tf.lookup.StaticVocabularyTable(lines, 1)
        self.weights = tf.Variable(tf.ones((4, 3)), name="weights")

    @tf.function(
        input_signature=[
            tf.TensorSpec((None,), tf.string, name="words"),
            tf.TensorSpec((None, 4), tf.float32, name="numbers"),
        ]
    )
    def score(self, words: tf.Tensor, numbers: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"ids": self.table.lookup(words), "scores": numbers @ self.weights}


def save_module(folder: Path) -> str:
    """Save a tf.Module with a table that is made from an asset. Returns the folder."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    module = WordScores(folder.with_name(f"{folder.name}-words.txt"))
    tf.saved_model.save(module, str(folder), {"serving_default": module.score})
    return str(folder)


def save_large(folder: Path, megabytes: int) -> str:
    """Save a model whose one variable has so many megabytes. Returns the folder."""
    module = tf.Module()
    module.table = tf.Variable(tf.zeros((megabytes, 250_000)), name="table")

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.int32, name="rows")])
    def look_up(rows: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"values": tf.gather(module.table, rows)}

    tf.saved_model.save(module, str(folder), {"serving_default": look_up})
    return str(folder)


# ====== Counting what a server sends ======


@dataclass
class Door:
    """Another port of a server. `sent` are the bytes that the server sent through it."""

    port: int
    sent: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


@contextmanager
def counted_door(port: int) -> Iterator[Door]:
    """Open another port to the server on `port` of 127.0.0.1, and count what comes through."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        door = Door(listener.getsockname()[1])
        threading.Thread(target=_accept, args=(listener, port, door), daemon=True).start()
        yield door


def _accept(listener: socket.socket, port: int, door: Door) -> None:
    with suppress(OSError):  # the listener is closed
        while True:
            client, _ = listener.accept()
            server = socket.create_connection(("127.0.0.1", port))
            for source, target, counts in ((client, server, False), (server, client, True)):
                arguments = (source, target, door if counts else None)
                threading.Thread(target=_pass_on, args=arguments, daemon=True).start()


def _pass_on(source: socket.socket, target: socket.socket, door: Door | None) -> None:
    with suppress(OSError):  # one of the two has gone
        while data := source.recv(65536):
            if door is not None:
                with door.lock:
                    door.sent += len(data)
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
