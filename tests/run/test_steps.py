"""Steps, and their speed, from what TensorFlow and Keras print."""

from __future__ import annotations

import pytest

from pai_runner.run.steps import Progress, StepMeter, last_line, read_progress

ESTIMATOR = """\
INFO:tensorflow:Calling model_fn.
INFO:tensorflow:loss = 0.6931472, step = 0
INFO:tensorflow:global_step/sec: 812.5
INFO:tensorflow:loss = 0.5931472, step = 100 (0.123 sec)
INFO:tensorflow:Saving checkpoints for 150 into s3://b/model.ckpt.
"""
SESSION = """\
INFO:tensorflow:loss = 0.6931472, step = 100
INFO:tensorflow:loss = 0.5931472, step = 300 (0.500 sec)
"""
KERAS_2 = (
    "Epoch 1/3\n"
    "  1/100 [..............................] - ETA: 5s - loss: 2.3"
    + "\b" * 60
    + "\r 45/100 [============>.................] - ETA: 0s - loss: 1.2"
    + "\b" * 60
    + "\r100/100 [==============================] - 3s 25ms/step - loss: 0.9\nEpoch 2/3\n"
    + "\r 20/100 [=====>........................] - ETA: 1s - loss: 0.8"
)
KERAS_3 = (
    "Epoch 2/2\n\r\x1b[1m 1/64\x1b[0m \x1b[37m━━━━━━━━━━━━\x1b[0m \x1b[1m1s\x1b[0m 20ms/step"
    " - loss: 0.1\r\x1b[1m32/64\x1b[0m \x1b[32m━━━━━━━━━━\x1b[0m\x1b[37m━━━━━━━━━━\x1b[0m"
    " \x1b[1m0s\x1b[0m 500us/step - loss: 0.05"
)


@pytest.mark.parametrize(
    ("text", "step", "rate"),
    [
        ("", None, None),
        ("nothing of the kind\n1/2 of it, in 3 steps\n", None, None),
        (ESTIMATOR, 100, 100 / 0.123),
        (ESTIMATOR[: ESTIMATOR.index("INFO:tensorflow:loss = 0.59")], 0, 812.5),
        (SESSION, 300, 400.0),
        (SESSION.splitlines()[1], 300, None),
        ("INFO:tensorflow:global step 120: loss = 2.13 (0.250 sec/step)", 120, 4.0),
        ("I1121 controller.py] train | step:   2000 | steps/sec:   10.5 | output: {}", 2000, 10.5),
        (KERAS_2, 120, 40.0),
        (KERAS_3, 96, 2000.0),
        ("Epoch 1/9\n100/100 - 3s - 30ms/step - loss: 0.5\n", 100, 1000 / 30),
        ("    7/Unknown \x1b[1m1s\x1b[0m 2s/step", 7, 0.5),
        ("      7/Unknown - 1s 2s/step - loss: 0.1", 7, 0.5),
        ("step = 5 (0.000 sec)", 5, None),
        ("step = 7\nstep = 5 (1.000 sec)", 5, None),
    ],
)
def test_what_is_printed_tells_the_step(text: str, step: int | None, rate: float | None) -> None:
    found = read_progress(text)
    assert found.step == step
    assert found.rate == (None if rate is None else pytest.approx(rate))


def test_every_cut_of_a_text_can_be_read() -> None:
    for text in (ESTIMATOR, KERAS_2, KERAS_3):
        for cut in range(len(text)):
            assert isinstance(read_progress(text[cut:]), Progress)
            assert last_line(text[:cut]).isprintable()


def test_the_last_line_obeys_no_terminal() -> None:
    assert last_line("a\n\x1b[2J\x1b]0;title\x07b\tc \x00\u202e\ufffd\n \n\n") == "b   c \ufffd"
    assert last_line(KERAS_3).startswith("32/64 ━━")
    assert last_line("\n \r\n") == ""


def test_a_meter_measures_from_change_to_change() -> None:
    meter = StepMeter()
    assert meter.note(100, 10.0) is None
    assert meter.note(100, 12.0) is None
    assert meter.note(200, 14.0) == 25.0
    assert meter.note(200, 16.0) == 25.0
    assert meter.note(220, 18.0) == 5.0
    assert meter.note(10, 20.0) is None
    assert meter.note(20, 20.0) is None
    assert meter.note(30, 22.0) == 10.0
