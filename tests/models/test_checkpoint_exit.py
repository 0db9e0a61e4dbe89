"""What a script that asked for it saves when it is told to end."""

from __future__ import annotations

import os
import random
import re
import signal
import time

import pytest
from checkpoint_scripts import Scripts

pytestmark = [pytest.mark.tensorflow, pytest.mark.slow]


SAVES = {
    "graph": """
graph = Graph(width=200_000)
saver = checkpoint.Saver("out", max_to_keep=2)
session = graph.begin()
print("from", saver.restore(session), flush=True)
while True:
    session.run(graph.train)
    saver.save(session)
    print("saved", graph.check(session), flush=True)
""",
    "objects": """
step, value = tf.Variable(0, dtype=tf.int64), tf.Variable(tf.zeros([200_000]))
manager = checkpoint.Manager({"step": step, "value": value}, "out", max_to_keep=2)
print("from", manager.restore(), flush=True)
assert (value.numpy() == int(step)).all()
while True:
    step.assign_add(1)
    value.assign_add(tf.ones([200_000]))
    manager.save()
    print("saved", int(step), flush=True)
""",
}


@pytest.mark.proof_checkpoints
@pytest.mark.parametrize("style", SAVES)
def test_whenever_it_is_killed_the_newest_checkpoint_is_whole(scripts: Scripts, style: str) -> None:
    count = int(os.environ.get("PAI_PROOF_COUNT", "6"))
    chance = random.Random(f"{style} {os.environ.get('PAI_PROOF_SEED', '')}")
    last = 0
    for _ in range(max(1, count // len(SAVES))):
        started = scripts.start(SAVES[style])
        scripts.wait_for("from")
        time.sleep(chance.uniform(0.0, 0.5))
        os.kill(started, signal.SIGKILL)
        ended = scripts.end()
        assert ended.code == -signal.SIGKILL, ended.errors
        # TensorFlow's MergeBundles writes the index of tf.train.Checkpoint in place: that of the
        # one that was under way may be cut, and no other.
        assert set(re.findall(r"-(\d+)\.index is damaged", ended.errors)) <= {str(last + 1)}
        assert "cut off" not in ended.errors
        steps = [int(line.split()[1].replace("None", "0")) for line in ended.output.splitlines()]
        # One more was saved if it was killed before it could say so.
        assert steps[0] in (last, last + 1)
        last = steps[-1]
    assert last > 0


TRAINS_A_GRAPH = """
graph = Graph()
saver = checkpoint.Saver(os.environ["DIRECTORY"], save_on_exit=True)
with graph.begin() as session:
    print("from", saver.restore(session), graph.check(session), flush=True)
    while graph.check(session) < int(os.environ["STEPS"]):
        session.run(graph.train)
    if os.environ.get("TERMINATES"):
        terminate()
    print("to", graph.check(session))
"""


def test_a_graph_goes_on_from_where_it_was_told_to_end(scripts: Scripts) -> None:
    started = scripts.start(TRAINS_A_GRAPH, DIRECTORY="out", STEPS="1000000000")
    scripts.wait_for("from")
    os.kill(started, signal.SIGTERM)
    first = scripts.end()
    assert (first.code, first.output) == (143, "from None 0\n"), first.errors
    (index,) = (scripts.folder / "out").glob("*.index")
    step = int(index.stem.rpartition("-")[2])
    second = scripts(TRAINS_A_GRAPH, DIRECTORY="out", STEPS=str(step + 2))
    assert second.output == f"from {step} {step}\nto {step + 2}\n", second.errors


TRAINS_OBJECTS = """
class Model(tf.Module):
    def __init__(self):
        self.one = tf.Variable(tf.zeros([3]))
        self.step = tf.Variable(0, dtype=tf.int64)

    @tf.function
    def train(self):
        self.one.assign_add(tf.ones([3]))
        self.step.assign_add(1)

model = Model()
manager = checkpoint.Manager({"model": model, "step": model.step}, "out", save_on_exit=True)
print("from", manager.restore(), model.one.numpy().sum(), flush=True)
for _ in range(int(os.environ["STEPS"])):
    model.train()
print("to", int(model.step), model.one.numpy().sum())
"""


def test_objects_go_on_from_where_they_were_told_to_end(scripts: Scripts) -> None:
    started = scripts.start(TRAINS_OBJECTS, STEPS="1000000000")
    scripts.wait_for("from")
    os.kill(started, signal.SIGTERM)
    first = scripts.end()
    assert (first.code, first.output) == (143, "from None 0.0\n"), first.errors
    second = scripts(TRAINS_OBJECTS, STEPS="2")
    (before, after) = (line.split()[1:] for line in second.output.splitlines())
    assert float(before[1]) == 3 * int(before[0])
    assert after == [str(int(before[0]) + 2), str(float(3 * int(before[0]) + 6))]


def test_the_handler_of_the_script_is_called_after_the_save(scripts: Scripts) -> None:
    ended = scripts("""
def stop(number, frame):
    print("asked to stop", number, os.listdir("out"))

signal.signal(signal.SIGTERM, stop)
graph = Graph()
saver = checkpoint.Saver("out", save_on_exit=True)
session = graph.begin()
saver.restore(session)
session.run(graph.train)
terminate()
session.run(graph.train)
print("goes on", graph.check(session))
terminate()
print(saver._directory.newest())
""")
    assert ended.code == 0, ended.errors
    lines = ended.output.splitlines()
    assert lines[0].startswith("asked to stop 15 [")
    assert "model.ckpt-1.index" in lines[0]
    assert lines[1] == "goes on 2"
    assert lines[3] == "[2, 1]"


def test_what_was_not_restored_yet_is_not_the_newest(scripts: Scripts) -> None:
    script = """
step = tf.Variable(int(os.environ["STEP"]))
manager = checkpoint.Manager({"step": step}, "out", save_on_exit=True)
if "RESTORES" in os.environ:
    manager.restore()
    step.assign_add(1)
terminate()
"""
    for environment, kept in (
        ({"STEP": "7"}, ["ckpt-7.index"]),  # there is nothing to restore
        ({"STEP": "0"}, ["ckpt-7.index"]),
        ({"STEP": "0", "RESTORES": "1"}, ["ckpt-7.index", "ckpt-8.index"]),
    ):
        ended = scripts(script, **environment)
        assert ended.code == 143, ended.errors
        names = [path.name for path in sorted((scripts.folder / "out").glob("*.index"))]
        assert names == kept


def test_two_savers_both_save(scripts: Scripts) -> None:
    ended = scripts("""
graph = Graph()
one = checkpoint.Saver("one", save_on_exit=True)
two = checkpoint.Saver("two", save_on_exit=True)
session = graph.begin()
one.restore(session), two.restore(session)
session.run(graph.train)
terminate()
""")
    assert ended.code == 143, ended.errors
    assert (scripts.folder / "one" / "model.ckpt-1.index").exists()
    assert (scripts.folder / "two" / "model.ckpt-1.index").exists()


@pytest.mark.parametrize(
    ("at", "kept"), [(1, ["ckpt-5.index"]), (2, ["ckpt-5.index", "ckpt-6.index"])]
)
def test_a_save_under_way_ends_first(scripts: Scripts, at: int, kept: list[str]) -> None:
    # At the second save, which is the last one already, the signal changes nothing.
    ended = scripts(
        """
step = tf.Variable(5, dtype=tf.int64)
manager = checkpoint.Manager(
    {"step": step, "state": Terminating(int(os.environ["AT"]))}, "out", save_on_exit=True
)
manager.save()
step.assign_add(1)
terminate()
print("never")
""",
        AT=str(at),
    )
    assert (ended.code, ended.output) == (143, ""), ended.errors
    names = [path.name for path in sorted((scripts.folder / "out").glob("*.index"))]
    assert names == kept
    assert (scripts.folder / "out" / "checkpoint").exists()


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ("session.close()", "the session is closed"),
        ("import shutil; shutil.rmtree('out'); open('out', 'w').close()", "out"),
    ],
)
def test_what_cannot_be_saved_at_the_end_is_told(scripts: Scripts, what: str, told: str) -> None:
    ended = scripts(f"""
graph = Graph()
saver = checkpoint.Saver("out", save_on_exit=True, step=lambda: 7)
session = tf1.train.MonitoredTrainingSession() if "close" in {what!r} else graph.begin()
saver.save(session, 1)
{what}
terminate()
""")
    assert ended.code == 143, ended.errors
    assert "no checkpoint could be saved at the end" in ended.errors
    assert told in ended.errors.partition("at the end")[2]


def test_a_forked_child_saves_nothing(scripts: Scripts) -> None:
    ended = scripts("""
graph = Graph()
saver = checkpoint.Saver("out", save_on_exit=True)
child = os.fork()
if child == 0:
    terminate()
    os._exit(0)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), os.path.exists("out"))
""")
    assert ended.output == "-15 False\n", ended.errors


def test_signals_are_for_the_main_thread(scripts: Scripts) -> None:
    ended = scripts("""
def make():
    try:
        checkpoint.Manager({}, "out", save_on_exit=True)
    except Exception as error:
        print(type(error).__name__, error)

thread = threading.Thread(target=make)
thread.start()
thread.join()
""")
    assert ended.output.startswith("SetupError save_on_exit=True works on the main thread only")


def test_a_graph_that_is_being_built_is_built_first(scripts: Scripts) -> None:
    # A session waits as long as its graph is added to.
    ended = scripts("""
graph = Graph()
saver = checkpoint.Saver("out", save_on_exit=True)
session = graph.begin()
session.run(graph.train)
saver.restore(session)
def place(operation):
    terminate()
    return ""
with tf1.device(place):
    tf1.constant(1)
print("never")
""")
    assert (ended.code, ended.output) == (143, ""), ended.errors
    assert (scripts.folder / "out" / "model.ckpt-1.index").exists()


def test_a_function_of_python_that_tensorflow_calls_ends_first(scripts: Scripts) -> None:
    ended = scripts("""
manager = checkpoint.Manager({"step": tf.Variable(1)}, "out", save_on_exit=True)
def function(value):
    terminate()
    print("ends")
    return value
tf.py_function(function, [1.0], tf.float32)
print("never")
""")
    assert (ended.code, ended.output) == (143, "ends\n"), ended.errors
    assert (scripts.folder / "out" / "ckpt-1.index").exists()


def test_a_file_in_a_bucket_is_finished_first(scripts: Scripts) -> None:
    # TensorFlow calls Python on the main thread to copy a file. What a handler raised there would
    # become an error of TensorFlow's; and locks are held.
    ended = scripts("""
import atexit
from fsspec.implementations.memory import MemoryFileSystem
import fsspec
from pai_runner.script.filesystem import register
from file_systems import Place

class Memory(MemoryFileSystem):
    protocol = "terminating"
    store, pseudo_dirs = {}, [""]
    copies = 0

    def cp_file(self, source, target, **options):
        Memory.copies += 1
        if Memory.copies == 1:
            terminate()
        super().cp_file(source, target, **options)

fsspec.register_implementation("terminating", Memory)
register([Place("terminating://box/", "terminating")])
step = tf.Variable(1, dtype=tf.int64)
manager = checkpoint.Manager({"step": step}, "terminating://box/out", save_on_exit=True)
with tf.io.gfile.GFile("terminating://box/file", "w") as file:
    file.write("text")

def report():
    print("copied", tf.io.gfile.exists("terminating://box/copy"), flush=True)
    print(sorted(tf.io.gfile.listdir("terminating://box/out")))
atexit.register(report)
tf.io.gfile.copy("terminating://box/file", "terminating://box/copy")
print("never")
""")
    assert ended.code == 143, ended.errors
    assert ended.output.startswith("copied True\n['checkpoint', 'ckpt-1.data-"), ended.errors
    assert "never" not in ended.output
