"""The script's process: to the script it is `python script.py`."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from role_process import Result, RoleProcess


def _interpreters() -> list[str]:
    """Return this interpreter, and one of each other supported version that is installed."""
    found = [sys.executable]
    for minor in (10, 11, 12, 13):
        python = shutil.which(f"python3.{minor}")
        if minor == sys.version_info.minor or python is None:
            continue
        # A version manager's shim may exist without the version.
        if subprocess.run([python, "-c", ""], capture_output=True).returncode == 0:
            found.append(python)
    return found


INTERPRETERS = _interpreters()


@pytest.fixture(params=INTERPRETERS, ids=lambda path: Path(path).name)
def python(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def _write(folder: Path, text: str, name: str = "script.py") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def _run(folder: Path, text: str, **fields: object) -> Result:
    script = _write(folder / "code", text)
    return RoleProcess(folder / "job", script, **fields).run()  # type: ignore[arg-type]


# ====== Alike to `python script.py` ======

ALIKE = {
    "ends well": "print('done')",
    "exit code": "import sys; sys.exit(3)",
    "exit message": "import sys; sys.exit('no data')",
    "exit without a code": "import sys; sys.exit()",
    "exit at once": "import os; os._exit(5)",
    "uncaught": "def f():\n    raise ValueError('x')\n\nf()\n",
    "a typing mistake": "value = 1\nprint(valeu)\n",
    "chain": "try:\n    1/0\nexcept ZeroDivisionError as e:\n    raise KeyError('k') from e\n",
    "context": "try:\n    1/0\nexcept ZeroDivisionError:\n    open('/nowhere')\n",
    "syntax error": "print('never')\nx = = 1\n",
    "missing module": "import no_such_module\n",
    "failing sibling": "import broken\n",
    "failing import by name": "import importlib\nimportlib.import_module('broken')\n",
    "interrupted": "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n",
    "killed": "import os, signal\nos.kill(os.getpid(), signal.SIGTERM)\n",
    "at exit": "import atexit\natexit.register(print, 'bye')\nraise SystemExit(4)\n",
    "thread": "import threading\nthreading.Thread(target=lambda: print('thread')).start()\n1/0\n",
    "own hook": "import sys\nsys.excepthook = lambda *a: print('hook', a[0].__name__)\n1/0\n",
    "hook untouched": "import sys\nprint(sys.excepthook is sys.__excepthook__)\n",
    "no future import of ours": "def f(x: 1 + 1): pass\nprint(f.__annotations__)\n",
    "latin-1": "# -*- coding: latin-1 -*-\nprint(ascii('h\xe9llo'))\n",
    "main": (
        "print(sorted(globals()), __name__, __file__, __spec__, __package__, __cached__)\n"
        "print(type(__loader__).__name__, __loader__.path, __builtins__, __doc__)\n"
    ),
    "docstring": "'''What I do.'''\nprint(__doc__)\n",
    "pickle": (
        "import pickle\nclass Point:\n    pass\n"
        "print(type(pickle.loads(pickle.dumps(Point()))) is Point)\n"
    ),
    "source": "import inspect\ndef f():\n    return 1\nprint(inspect.getsource(f))\n",
    "arguments": "import sys\nprint(sys.argv)\n",
    "path": "import sys, os\nprint(sys.path, os.getcwd())\n",
    "flags": "import sys\nprint(sys.stdout.line_buffering, sys.stdin.read())\n",
    "forked child fails": (
        "import os\npid = os.fork()\nif pid == 0:\n    raise ValueError('child')\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))\n"
    ),
}


@pytest.mark.parametrize("text", ALIKE.values(), ids=ALIKE.keys())
def test_the_script_sees_and_shows_what_it_does_without_us(
    tmp_path: Path, python: str, text: str
) -> None:
    script = tmp_path / "my code" / "script.py"
    script.parent.mkdir()
    script.write_text(text, encoding="latin-1" if "latin-1" in text else "utf-8")
    _write(script.parent, "import os\ndef f():\n    raise OSError('broken')\nf()\n", "broken.py")
    arguments = ["--buckets=s3://b/x y/", "positional", "--词=值"]
    job = RoleProcess(tmp_path / "job", script, arguments, python=python, cwd=tmp_path)
    result = job.run()

    plain = subprocess.run(
        [python, "-u", str(script), *arguments],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert (result.out, result.err, result.code) == (plain.stdout, plain.stderr, plain.returncode)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="exception groups came with Python 3.11")
def test_a_group_of_exceptions_is_shown_without_our_frames(tmp_path: Path) -> None:
    result = _run(tmp_path, "raise ExceptionGroup('many', [ValueError('a'), KeyError('b')])\n")
    assert "ValueError: a" in result.err
    assert "bootstrap.py" not in result.err


def test_a_script_behind_a_link_finds_its_siblings_as_with_python(tmp_path: Path) -> None:
    script = _write(tmp_path / "real", "import sibling\nprint(sibling.NAME)\n")
    _write(tmp_path / "real", "NAME = 'found'\n", "sibling.py")
    link = tmp_path / "link.py"
    link.symlink_to(script)
    assert RoleProcess(tmp_path / "job", link).run().out == "found\n"


def test_the_roots_of_the_sources_follow_the_scripts_folder(tmp_path: Path) -> None:
    root = tmp_path / "archive"
    script = _write(root / "bin", "import sys, both, only_root\nprint(both.WHERE, sys.path[:2])\n")
    _write(root / "bin", "WHERE = 'bin'\n", "both.py")
    _write(root, "WHERE = 'root'\n", "both.py")
    _write(root, "", "only_root.py")
    roots = [str(root / "bin"), str(root)]
    result = RoleProcess(tmp_path / "job", script, source_roots=roots).run()
    assert result.out == f"bin {roots}\n"


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_processes_of_multiprocessing_work(tmp_path: Path, python: str, method: str) -> None:
    result = _run(
        tmp_path,
        f"""
import multiprocessing, sys

class Point:
    def __init__(self, x):
        self.x = x

def double(point):
    return Point(2 * point.x)

if __name__ == "__main__":
    with multiprocessing.get_context({method!r}).Pool(1) as pool:
        print([p.x for p in pool.map(double, [Point(1), Point(2)])], sys.argv[1:])
""",
        arguments=["--flag=1"],
        python=python,
    )
    assert (result.out, result.code) == ("[2, 4] ['--flag=1']\n", 0), result.err


def test_nothing_heavy_is_imported_for_a_local_script(tmp_path: Path) -> None:
    text = "import sys\nprint(*sys.modules)\n"
    bare = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    # What an editable install brings to every start of its interpreter is not ours.
    loaded = set(_run(tmp_path, text).out.split()) - set(bare.stdout.split())
    heavy = {
        "asyncio",
        "dataclasses",
        "fsspec",
        "inspect",
        "numpy",
        "pathlib",
        "s3fs",
        "tensorflow",
    }
    assert loaded.isdisjoint(heavy)
    assert not any(name.startswith("pai_runner.storage") for name in loaded)


def test_our_site_packages_do_not_reach_another_interpreter(tmp_path: Path) -> None:
    other = tmp_path / "other"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(other)], check=True)
    text = (
        "import sys, importlib.util as u\n"
        "print(u.find_spec('pytest'), any('pai_runner' in p for p in sys.path))\n"
    )
    result = _run(tmp_path, text, python=str(other / "bin" / "python"))
    assert result.out == "None False\n", result.err


# ====== Failures on the record ======


def test_an_uncaught_exception_is_recorded(tmp_path: Path) -> None:
    result = _run(tmp_path, "def f():\n    raise ValueError('no data')\n\nf()\n")
    assert result.code == 1
    assert result.err.endswith("ValueError: no data\n")
    assert result.error is not None
    ended = datetime.fromisoformat(result.error.pop("time").replace("Z", "+00:00"))
    assert abs(datetime.now(timezone.utc) - ended) < timedelta(minutes=1)
    assert result.error == {
        "kind": "script",
        "type": "ValueError",
        "message": "no data",
        "hint": None,
        "traceback": result.err,
    }


@pytest.mark.parametrize(
    "text",
    ["print()", "import sys; sys.exit(3)", "raise KeyboardInterrupt", ALIKE["forked child fails"]],
)
def test_what_is_no_failure_of_the_script_leaves_no_error_file(tmp_path: Path, text: str) -> None:
    assert _run(tmp_path, text).error is None


def test_an_error_whose_text_cannot_be_made_is_recorded(tmp_path: Path) -> None:
    text = "class E(Exception):\n    def __str__(self): return 1 / 0\nraise E\n"
    result = _run(tmp_path, text)
    assert result.error is not None
    assert result.error["type"] == "E"
    assert "ZeroDivisionError" in result.error["message"]


def test_a_record_that_cannot_be_written_does_not_hide_the_scripts_error(tmp_path: Path) -> None:
    result = _run(
        tmp_path,
        "import os, shutil\nshutil.rmtree(os.environ['PAI_ROLE_DIR'])\nraise ValueError('mine')\n",
    )
    assert result.code == 1
    assert result.err.startswith("pai: error.json cannot be written: ")
    assert result.err.endswith("ValueError: mine\n")


def test_a_crash_leaves_a_stack(tmp_path: Path) -> None:
    result = _run(tmp_path, "import os\ndef f():\n    os.abort()\nf()\n")
    assert result.code == -signal.SIGABRT
    assert "Fatal Python error: Aborted" in result.err
    assert "in f\n" in result.err


def test_sigquit_dumps_the_stacks_and_the_script_goes_on(tmp_path: Path) -> None:
    text = (
        "import os, time\n"
        "def wait():\n"
        "    print('ready')\n"
        "    while not os.path.exists('go'):\n"
        "        time.sleep(0.01)\n"
        "wait()\n"
        "print('went on')\n"
    )
    job = RoleProcess(tmp_path / "job", _write(tmp_path, text), cwd=tmp_path)
    with job.start() as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGQUIT)
        lines = iter(process.stderr.readline, "")
        assert any("in wait" in line for line in lines)
        (tmp_path / "go").touch()
        assert process.stdout.read() == "went on\n"
    assert process.returncode == 0


# ====== Secrets ======

SECRET = "AKIDsecretsecret42"


def test_references_are_resolved_in_this_process_alone(tmp_path: Path) -> None:
    result = _run(
        tmp_path,
        "import os, sys\nprint(sys.argv[1:])\n"
        "print(open('/proc/self/cmdline').read(), dict(os.environ))\n"
        "print(os.listdir('/proc/self/fd'))\n",
        arguments=["--key=${secret:oss}", "--plain=${HOME}"],
        secrets={"oss": SECRET},
    )
    first, second, descriptors = result.out.splitlines()
    assert first == f"['--key={SECRET}', '--plain=${{HOME}}']"
    assert SECRET not in second
    assert "PAI_SECRETS_FD" not in second
    # The three standard ones, and the one that lists them.
    assert descriptors == "['0', '1', '2', '3']"


def test_a_secret_is_masked_in_the_traceback_and_in_the_record(tmp_path: Path) -> None:
    result = _run(
        tmp_path,
        "import sys\ntry:\n    int(sys.argv[1])\n"
        "except ValueError as e:\n    raise RuntimeError('cannot connect as ' + sys.argv[1])\n",
        arguments=["${secret:oss}"],
        secrets={"oss": SECRET},
    )
    assert result.code == 1
    assert result.err.endswith("RuntimeError: cannot connect as ***\n")
    assert "During handling of the above exception" in result.err
    assert SECRET not in result.err
    assert SECRET not in str(result.error)


# ====== Setup ======


def test_a_script_that_is_not_there_is_a_setup_error(tmp_path: Path) -> None:
    result = RoleProcess(tmp_path / "job", tmp_path / "no.py").run()
    assert result.code == 125
    assert result.err.startswith(f"pai: error: the script {tmp_path}/no.py cannot be read: No such")
    assert result.error is not None
    assert result.error["kind"] == "setup"
    assert result.error["type"] == "SetupError"
    assert result.error["hint"] == "check -Dscript and -DentryFile"


def test_a_secret_that_was_not_handed_over_is_a_setup_error(tmp_path: Path) -> None:
    result = _run(tmp_path, "print('never')", arguments=["${secret:lost}"])
    assert (result.code, result.out) == (125, "")
    assert "secret 'lost'" in result.err


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("PAI_SECRETS_FD", "99", "descriptor 99 cannot be read"),
        ("PAI_SECRETS_FD", "", "PAI_SECRETS_FD is not set"),
        ("PAI_JOB_DIR", "/nowhere", "/nowhere/spec.json cannot be read"),
        ("PAI_JOB_DIR", "", "PAI_JOB_DIR is not set"),
    ],
)
def test_a_broken_handover_is_a_setup_error(
    tmp_path: Path, name: str, value: str, message: str
) -> None:
    class Broken(RoleProcess):
        def _handover(self, descriptor: int) -> dict[str, str]:
            return {**super()._handover(descriptor), name: value}

    result = Broken(tmp_path / "job", _write(tmp_path, "print('never')")).run()
    assert (result.code, result.out) == (125, "")
    assert message in result.err
    assert "Traceback" not in result.err


def test_another_role_is_a_setup_error_that_lists_the_roles(tmp_path: Path) -> None:
    class Stranger(RoleProcess):
        @property
        def role_directory(self) -> Path:
            return self.home / "attempts" / "1" / "ps-3"

    result = Stranger(tmp_path / "job", _write(tmp_path, "print('never')")).run()
    assert result.code == 125
    assert "no role `ps-3`" in result.err
    assert "roles: worker-0" in result.err


def test_folders_are_made_before_the_script_starts(tmp_path: Path) -> None:
    folders = [str(tmp_path / "made" / "deep"), str(tmp_path)]
    text = f"import os\nprint(*map(os.path.isdir, {folders!r}))\n"
    assert _run(tmp_path, text, folders=folders).out == "True True\n"


def test_a_folder_that_cannot_be_made_is_a_setup_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = _run(tmp_path, "print('never')", folders=[str(tmp_path / "file" / "x")])
    assert (result.code, result.out) == (125, "")
    assert f"the folder {tmp_path}/file/x cannot be made" in result.err


def test_no_folder_is_made_for_a_job_that_cannot_start(tmp_path: Path) -> None:
    job = RoleProcess(tmp_path / "job", tmp_path / "no.py", folders=[str(tmp_path / "made")])
    assert job.run().code == 125
    assert not (tmp_path / "made").exists()


def test_a_plan_of_another_version_is_a_setup_error(tmp_path: Path) -> None:
    class Old(RoleProcess):
        def _write_plan(self) -> None:
            super()._write_plan()
            plan = json.loads((self.home / "spec.json").read_text())
            del plan["tf_api"]
            (self.home / "spec.json").write_text(json.dumps(plan))

    result = Old(tmp_path / "job", _write(tmp_path, "print('never')")).run()
    assert result.code == 125
    assert "spec.json lacks 'tf_api'" in result.err


def test_a_start_by_hand_says_so(tmp_path: Path) -> None:
    bootstrap = Path(__file__).parents[2] / "pai_runner" / "script" / "bootstrap.py"
    environment = {n: v for n, v in os.environ.items() if not n.startswith("PAI_")}
    result = subprocess.run(
        [sys.executable, str(bootstrap)], env=environment, capture_output=True, text=True
    )
    assert result.returncode == 125
    assert "this program is started by `pai`" in result.stderr
