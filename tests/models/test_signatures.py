"""What serving needs of a signature is checked on plain descriptions, without TensorFlow."""

from __future__ import annotations

import subprocess
import sys

import pytest
from support import ROOT

from pai_runner.errors import UsageError
from pai_runner.models.signatures import (
    Signature,
    Tensor,
    as_signature,
    check_signature,
    full_method,
    in_words,
)

TEXTS = {"inputs": Tensor("t:0", "string", (None,))}
SCORES = {"scores": Tensor("s:0", "float32", (None, 2))}
CLASSES = {"classes": Tensor("c:0", "string", (None, 2))}
WIDE = Tensor("s:0", "float64", (None,))
VALUE = {"outputs": Tensor("v:0", "float32", (None,))}
NUMBERS = {"scores": Tensor("n:0", "int64", (None,))}


@pytest.mark.parametrize(
    ("method", "inputs", "outputs"),
    [
        ("predict", {}, VALUE),
        ("predict", SCORES, CLASSES),
        ("classify", TEXTS, SCORES),
        ("classify", TEXTS, CLASSES),
        ("tensorflow/serving/classify", TEXTS, {**SCORES, **CLASSES}),
        ("regress", TEXTS, VALUE),
        ("my/method", NUMBERS, NUMBERS),
    ],
)
def test_what_servers_can_call(
    method: str, inputs: dict[str, Tensor], outputs: dict[str, Tensor]
) -> None:
    check_signature("s", method, inputs, outputs)


@pytest.mark.parametrize(
    ("method", "inputs", "outputs", "message"),
    [
        ("predict", TEXTS, {}, "signature s has no outputs"),
        ("classify", SCORES, SCORES, "one input, inputs, of strings"),
        ("classify", {"inputs": NUMBERS["scores"]}, SCORES, "has inputs inputs: int64"),
        ("classify", {**TEXTS, **SCORES}, SCORES, "one input, inputs"),
        ("classify", TEXTS, VALUE, "no other outputs than classes"),
        ("classify", TEXTS, {**SCORES, **VALUE}, "no other outputs than classes"),
        ("classify", TEXTS, {"classes": SCORES["scores"]}, "strings as classes"),
        ("classify", TEXTS, NUMBERS, "float32 as scores.*outputs scores: int64"),
        ("classify", TEXTS, {"scores": WIDE}, "float32 as scores"),
        ("regress", TEXTS, {"outputs": WIDE}, "one output, outputs, of float32"),
        ("tensorflow/serving/regress", TEXTS, SCORES, "one output, outputs, of float32"),
        ("regress", TEXTS, {"outputs": NUMBERS["scores"]}, "one output, outputs, of float32"),
        ("regress", {}, VALUE, "has inputs none"),
        ("", TEXTS, VALUE, "method name is empty"),
    ],
)
def test_what_servers_cannot_call(
    method: str, inputs: dict[str, Tensor], outputs: dict[str, Tensor], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        check_signature("s", method, inputs, outputs)


@pytest.mark.parametrize("name", ["", "__saved_model_init_op"])
def test_names_of_tensorflow_itself_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match="cannot be the name of a signature"):
        check_signature(name, "predict", TEXTS, VALUE)


def test_the_short_forms_of_a_signature() -> None:
    whole = Signature({"x": 1}, {"y": 2}, "regress")
    assert as_signature("s", whole) is whole
    assert as_signature("s", ({"x": 1}, {"y": 2})) == Signature({"x": 1}, {"y": 2}, "predict")
    assert as_signature("s", ({"x": 1}, {"y": 2}, "regress")) == whole
    assert as_signature("s", abs) == Signature({}, abs, "predict")
    assert as_signature("s", (abs, "mine")) == Signature({}, abs, "mine")
    for wrong in (None, (), (1, 2), [{}, {}], ({}, {}, "a", "b")):
        with pytest.raises(UsageError, match="signature s: cannot use a value"):
            as_signature("s", wrong)


def test_method_names_are_servings_own_or_as_given() -> None:
    assert full_method("classify") == "tensorflow/serving/classify"
    assert full_method("tensorflow/serving/classify") == "tensorflow/serving/classify"
    assert full_method("Predict") == "Predict"


def test_tensors_in_words() -> None:
    tensors = {
        "b": Tensor("b:0", "int64", ()),
        "a": Tensor("a:0", "float32", (None, 3)),
        "c": Tensor("c:0", "string", None),
    }
    assert in_words(tensors) == "a: float32 (?, 3), b: int64 scalar, c: string of any shape"


def test_tensorflow_is_not_imported() -> None:
    code = "import sys, pai_runner.models.signatures; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60).returncode == 0
