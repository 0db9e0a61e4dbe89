"""How far a script's training is, read from what TensorFlow and Keras print of it.

Known are the lines of tf.estimator and MonitoredSession (`loss = 0.5, step = 200 (0.81 sec)`,
`global_step/sec: 123`), of tf_slim (`global step 200: loss = 0.5 (0.01 sec/step)`), of the Model
Garden (`step: 200 | steps/sec: 10.5`), and the progress bars of Keras 2 and 3, also with verbose=2.
"""

from __future__ import annotations

import re
from typing import NamedTuple

# What moves a terminal's cursor or sets its colours (ECMA-48), and its titles.
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\^_])")
# A bar is drawn anew behind a carriage return or, by Keras 2, many backspaces.
_LINE_ENDS = re.compile(r"[\r\n\b]+")

_NUMBER = r"(\d+(?:\.\d+)?(?:e[+-]?\d+)?)"
_STEP = re.compile(r"\b(?:global[ _])?step(?:\s*[:=]\s*|\s+)(\d+)\b", re.IGNORECASE)
_RATE = re.compile(rf"\b(?:global_)?steps?/sec(?:ond)?\s*[:=]\s*{_NUMBER}", re.IGNORECASE)
_PER_STEP = re.compile(rf"\b{_NUMBER}\s?(s|sec|ms|us)/step\b")
# Since the line before of the same kind.
_SINCE_LAST = re.compile(rf"\bstep = \d+ \({_NUMBER} sec\)")
_EPOCH = re.compile(r"^Epoch (\d+)/\d+\b")
_BAR = re.compile(r"^\s*(\d+)/(?:(\d+)\s+(?:\[[=>.]*\]|[━-]+)|Unknown)(?:\s|$)")
_UNIT_SECONDS = {"s": 1.0, "sec": 1.0, "ms": 1e-3, "us": 1e-6}


class Progress(NamedTuple):
    """The last step that a text tells of, and how many there are a second; None if it does not.

    Of Keras's bars steps count through all epochs, where the text tells the epoch.
    """

    step: int | None = None
    rate: float | None = None


def read_progress(text: str) -> Progress:
    """Return what the newest lines of `text` tell."""
    progress = Progress()
    epoch: int | None = None
    for line in lines_of(text):
        begun = _EPOCH.search(line)
        if begun:
            epoch = int(begun[1])
        found = _read_bar(line, epoch) or _read_line(line, progress.step)
        progress = Progress(
            progress.step if found.step is None else found.step,
            progress.rate if found.rate is None else found.rate,
        )
    return progress


def last_line(text: str) -> str:
    """Return the last line of `text` that is not blank, without what a terminal would obey."""
    shown = (_printable(line) for line in reversed(lines_of(text)))
    return next((line for line in shown if line), "")


def lines_of(text: str) -> list[str]:
    """Return the lines of `text`, each drawing of a progress bar one of them, without escapes."""
    return _LINE_ENDS.split(_ESCAPES.sub("", text))


def _printable(line: str) -> str:
    return "".join(letter for letter in line.expandtabs(4) if letter.isprintable()).strip()


def _read_bar(line: str, epoch: int | None) -> Progress | None:
    bar = _BAR.search(line)
    if bar is None:
        return None
    step = int(bar[1])
    if epoch is not None and bar[2] is not None:
        step += (epoch - 1) * int(bar[2])
    return Progress(step, _rate_per_step(line))


def _read_line(line: str, step_before: int | None) -> Progress:
    found = _STEP.search(line)
    step = None if found is None else int(found[1])
    rate = _RATE.search(line)
    if rate is not None:
        return Progress(step, float(rate[1]))
    since = _SINCE_LAST.search(line)
    if since is not None and step is not None and step_before is not None:
        seconds = float(since[1])
        if seconds > 0 and step > step_before:
            return Progress(step, (step - step_before) / seconds)
    return Progress(step, _rate_per_step(line))


def _rate_per_step(line: str) -> float | None:
    found = _PER_STEP.search(line)
    if found is None or float(found[1]) <= 0:
        return None
    return 1 / (float(found[1]) * _UNIT_SECONDS[found[2]])


class StepMeter:
    """Measures a rate from steps that are seen one after another."""

    def __init__(self) -> None:
        self._step: int | None = None
        self._seen_at = 0.0
        self._rate: float | None = None

    def note(self, step: int, now: float) -> float | None:
        """Note that `step` was reached at `now`, in seconds; return the steps a second so far.

        None until a second step is seen. A script that begins anew is measured anew.
        """
        if self._step is None or step < self._step:
            self._step, self._seen_at, self._rate = step, now, None
        elif step > self._step and now > self._seen_at:
            self._rate = (step - self._step) / (now - self._seen_at)
            self._step, self._seen_at = step, now
        return self._rate
