"""What can be wrong with a model, as `pai models verify` names it."""

from __future__ import annotations

from dataclasses import dataclass

ERROR, WARNING = "error", "warning"

# code -> (level, what it means). Errors are what a server refuses or answers wrongly for.
CODES = {
    "incomplete": (ERROR, "it has no saved_model.pb or saved_model.pbtxt"),
    "damaged": (ERROR, "a file is missing, or is not what was published"),
    "unknown-file": (WARNING, "a file that the manifest does not name"),
    "leftover-file": (ERROR, "a checkpoint or an event file inside the version"),
    "denied-op": (ERROR, "an op that reads or writes files or prints"),
    "python-op": (ERROR, "an op that calls Python code, which is not in the model"),
    "no-serve-tag": (ERROR, "no MetaGraph has the tag `serve` alone, which servers ask for"),
    "no-signature": (ERROR, "a MetaGraph without a signature"),
    "bad-signature": (ERROR, "a signature that does not fit its method or its graph"),
    "custom-method": (WARNING, "a method that is not TensorFlow Serving's"),
    "fixed-batch": (ERROR, "an input whose first dimension is not None"),
    "training-op": (ERROR, "a signature's outputs depend on an op for training"),
    "conditional-training-op": (WARNING, "the same, in the branch of a condition"),
    "unused-training-op": (WARNING, "ops for training that no signature needs"),
    "gradient-op": (WARNING, "a signature computes gradients"),
    "changes-variable": (WARNING, "a signature changes the model's variables"),
    "not-loaded": (ERROR, "TensorFlow cannot load it"),
    "not-run": (WARNING, "a signature that was not run"),
    "fails": (ERROR, "a signature fails"),
    "needs-data": (WARNING, "a signature that refuses synthetic input"),
    "wrong-output": (ERROR, "an output is not of the dtype or shape that the signature says"),
    "not-finite": (WARNING, "an output is NaN or infinite"),
}


@dataclass(frozen=True)
class Finding:
    """Something that is wrong with a model: one of CODES, and the text that says where and why."""

    code: str
    text: str

    @property
    def level(self) -> str:
        """`error` or `warning`."""
        return CODES[self.code][0]
