"""Scripts that use checkpoints, each in a process of its own, without the wait for TensorFlow.

    python checkpoint_scripts.py

It imports TensorFlow, then reads lines of JSON: {"script": …, "folder": …, "environment": …}. For
each it forks a process that runs the text as `__main__`, in that folder, and that prints to
`output` and `errors` there. It answers with the process's number and, when the process has
ended, with how; a script finds `tf`, `tf1`, `checkpoint` and what is below `_HELP` ready.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from support import ROOT, wait_until

_HELP = '''
import os, signal, sys, threading
import tensorflow.compat.v1 as tf1
import tensorflow.compat.v2 as tf
from pai_runner import checkpoint

def terminate():
    """Have this process get SIGTERM, handled as soon as Python goes on."""
    os.kill(os.getpid(), signal.SIGTERM)

class Graph:
    """A TensorFlow 1 graph that counts its steps; `check` fails if it is half restored."""

    def __init__(self, width=3):
        tf1.disable_eager_execution()
        self.step = tf1.train.get_or_create_global_step()
        self.one = tf1.get_variable(
            "one", [width], initializer=tf1.zeros_initializer(), use_resource=False
        )
        self.two = tf1.get_variable(
            "two", [width], initializer=tf1.zeros_initializer(), use_resource=True
        )
        with tf1.control_dependencies([tf1.assign_add(self.one, tf1.ones([width]))]):
            with tf1.control_dependencies([tf1.assign_add(self.two, tf1.ones([width]))]):
                self.train = tf1.assign_add(self.step, 1)

    def begin(self):
        session = tf1.Session()
        session.run(tf1.global_variables_initializer())
        return session

    def check(self, session):
        step, one, two = session.run([self.step, self.one, self.two])
        assert (one == step).all() and (two == step).all(), (step, one, two)
        return int(step)

class Terminating(tf.train.experimental.PythonState):
    """A state that has its process terminated when it is saved for the `at`th time."""

    def __init__(self, at=1):
        self.at, self.saves = at, 0

    def serialize(self):
        self.saves += 1
        if self.saves == self.at:
            terminate()
        return str(self.saves)

    def deserialize(self, text):
        pass
'''


class Ended(NamedTuple):
    """How a process ended: its code, negative for a signal, and what it printed."""

    code: int
    output: str
    errors: str


@dataclass
class Scripts:
    """Runs scripts one after the other in `folder`."""

    process: subprocess.Popen[str]
    folder: Path
    running: int = 0

    def start(self, script: str, **environment: str) -> int:
        """Start a script and return its process's number."""
        order = {"script": script, "folder": str(self.folder), "environment": environment}
        (self.folder / "output").unlink(missing_ok=True)  # of the script before
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        self.running = self._answer()
        return self.running

    def wait_for(self, text: str) -> None:
        """Return when the script has printed `text`."""
        output = self.folder / "output"
        wait_until(lambda: output.exists() and text in output.read_text(), 120)

    def give_up(self) -> None:
        """Kill the script if it still runs."""
        if self.running:
            os.kill(self.running, signal.SIGKILL)
            self.end()

    def end(self) -> Ended:
        """Return how the script ended that was started."""
        code = self._answer()
        self.running = 0
        texts = [(self.folder / name).read_text() for name in ("output", "errors")]
        return Ended(code, *texts)

    def __call__(self, script: str, **environment: str) -> Ended:
        self.start(script, **environment)
        return self.end()

    def _answer(self) -> int:
        assert self.process.stdout is not None
        return int(self.process.stdout.readline())


@contextmanager
def scripts_process() -> Iterator[subprocess.Popen[str]]:
    paths = [ROOT, ROOT / "tests", ROOT / "tests" / "servers"]
    process = subprocess.Popen(
        [sys.executable, __file__],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(map(str, paths)),
            "TF_CPP_MIN_LOG_LEVEL": "2",
            "CUDA_VISIBLE_DEVICES": "",
        },
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


def main() -> None:
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(_HELP, "help", "exec"), names)
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        order = json.loads(line)
        process = os.fork()
        if process == 0:
            run(order, names)
            return
        print(process, file=answers, flush=True)
        _, status = os.waitpid(process, 0)
        print(os.waitstatus_to_exitcode(status), file=answers, flush=True)


def run(order: dict[str, Any], names: dict[str, Any]) -> None:
    """Run a script as this process's own; it ends as Python ends it."""
    os.chdir(order["folder"])
    os.environ.update(order["environment"])
    for descriptor, name in ((1, "output"), (2, "errors")):
        opened = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(opened, descriptor)
        os.close(opened)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    exec(compile(order["script"], "script", "exec"), names)


if __name__ == "__main__":
    main()
