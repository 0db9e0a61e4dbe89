"""What the scan reads out of a script: flags, parsers, where it cannot tell, and the dialect."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from pai_runner.errors import SetupError
from pai_runner.run.script_flags import Form, ScriptFlags, choose_api, scan


def write(folder: Path, **modules: str) -> Path:
    """Write modules, by path without `.py`, and return the script, `script.py`."""
    for name, text in modules.items():
        path = folder / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text), encoding="utf-8")
    return folder / "script.py"


def read(folder: Path, script: str, **modules: str) -> ScriptFlags:
    return scan(write(folder, script=script, **modules))


def names(flags: ScriptFlags) -> list[str]:
    return [flag.name for flag in flags.flags]


# ====== absl ======

ABSL = {
    "absl": "from absl import flags\nflags.DEFINE_string('buckets', None, '')",
    "one name": "from absl.flags import DEFINE_string\nDEFINE_string('buckets', None, '')",
    "tf.app.flags": "import tensorflow as tf\ntf.app.flags.DEFINE_string('buckets', '', '')",
    "tf.flags": "import tensorflow as tf\ntf.flags.DEFINE_string('buckets', '', '')",
    "alias": "import tensorflow as tf\nf = tf.app.flags\nf.DEFINE_string('buckets', '', '')",
    "compat": "import tensorflow as tf\ntf.compat.v1.flags.DEFINE_string('buckets', '', '')",
    "keyword": "from absl import flags\nflags.DEFINE_string(name='buckets', default='', help='')",
    "old keyword": "import tensorflow as tf\ntf.flags.DEFINE_string(flag_name='buckets')",
    "DEFINE": "from absl import flags\nflags.DEFINE(flags.ArgumentParser(), 'buckets', '', '')",
    "alias of a flag": "from absl import flags\nflags.DEFINE_alias('buckets', 'inputs')",
    "in a function": (
        "from absl import flags\ndef define():\n    flags.DEFINE_list('buckets', '', '')\n"
    ),
    "under the guard": (
        "from absl import flags\nif __name__ == '__main__':\n    flags.DEFINE_string('buckets', '')"
    ),
    "tried": (
        "from absl import flags\ntry:\n    flags.DEFINE_string('buckets', '', '')\n"
        "except flags.DuplicateFlagError:\n    pass\n"
    ),
    "a constant": (
        "from absl import flags\nNAME = 'buc' + 'kets'\nflags.DEFINE_string(NAME, '', '')"
    ),
    "a text with a constant": (
        "from absl import flags\nX = 'buck'\nflags.DEFINE_string(f'{X}ets', '', '')"
    ),
}


@pytest.mark.parametrize("text", ABSL.values(), ids=ABSL.keys())
def test_absl_flags_are_found_however_they_are_declared(tmp_path: Path, text: str) -> None:
    flags = read(tmp_path, text)
    assert names(flags) == ["buckets"]
    assert flags.parsers == {"absl"}
    assert flags.complete
    assert flags.flags[0].certain


@pytest.mark.parametrize(
    ("kind", "form"),
    [
        ("string", Form.VALUE),
        ("integer", Form.VALUE),
        ("float", Form.VALUE),
        ("bool", Form.SWITCH),
        ("boolean", Form.SWITCH),
        ("list", Form.VALUE),
        ("spaceseplist", Form.VALUE),
        ("enum", Form.VALUE),
        ("multi_string", Form.VALUE),
        ("multi_integer", Form.VALUE),
    ],
)
def test_every_kind_of_absl_flag_has_its_form(tmp_path: Path, kind: str, form: Form) -> None:
    flags = read(tmp_path, f"from absl import flags\nflags.DEFINE_{kind}('x', None, '')\n")
    (flag,) = flags.flags
    assert (flag.form, flag.spelling, flag.negative) == (form, "--x", "--nox")
    assert flag.place == "script.py:2"


def test_names_of_loops_are_followed(tmp_path: Path) -> None:
    flags = read(
        tmp_path,
        """
        from absl import flags
        MORE = {"tables": "", "outputs": "o"}
        for name in ["buckets", "volumes"]:
            flags.DEFINE_string(name, "", "")
        for name, (default, text) in [("a", (1, "")), ("b", (2, ""))]:
            flags.DEFINE_integer("n_" + name, default, text)
        for name, default in MORE.items():
            flags.DEFINE_string(name, default, "")
        [flags.DEFINE_bool(name, False, "") for name in ("x", "y")]
        """,
    )
    assert names(flags) == ["buckets", "volumes", "n_a", "n_b", "tables", "outputs", "x", "y"]
    assert flags.complete


UNKNOWN = {
    "a variable": "import os\nfrom absl import flags\nflags.DEFINE_string(os.environ['N'], '', '')",
    "a parameter": (
        "from absl import flags\ndef add(name):\n    flags.DEFINE_string(name, '', '')\nadd('x')"
    ),
    "a constant set twice": (
        "from absl import flags\nN = 'a'\nN = 'b'\nflags.DEFINE_string(N, '', '')"
    ),
    "a loop over what is read": (
        "import json\nfrom absl import flags\nfor n in json.load(open('x')):\n"
        "    flags.DEFINE_string(n, '', '')"
    ),
    "a formatted text": (
        "from absl import flags\nfor i in range(3):\n    flags.DEFINE_string(f'n{i}', '', '')"
    ),
    "a flag object": "from absl import flags\nflags.DEFINE_flag(make())",
    "an installed package": "from absl import app\nimport easy_rec\napp.run(easy_rec.main)",
    "a plug-in": (
        "import importlib, sys\nfrom absl import flags\nimportlib.import_module(sys.argv[1])"
    ),
    "an argparse option of a variable": (
        "import argparse\np = argparse.ArgumentParser()\np.add_argument(name())"
    ),
    "argparse options from a list": (
        "import argparse\np = argparse.ArgumentParser()\np.add_argument(*names)"
    ),
}


@pytest.mark.parametrize("text", UNKNOWN.values(), ids=UNKNOWN.keys())
def test_where_the_scan_cannot_tell_it_says_so(tmp_path: Path, text: str) -> None:
    flags = read(tmp_path, text)
    assert not flags.complete
    assert all(reason.startswith("script.py:") for reason in flags.unknown)


def test_a_platform_flag_that_is_read_but_not_declared_is_declared_elsewhere(
    tmp_path: Path,
) -> None:
    text = "from absl import app, flags\nFLAGS = flags.FLAGS\nprint(FLAGS.buckets, FLAGS.verbosity)"
    flags = read(tmp_path, text)
    assert flags.unknown == ("script.py:3: FLAGS.buckets is read, and declared elsewhere",)


def test_usual_packages_leave_the_scan_complete(tmp_path: Path) -> None:
    text = (
        "import os, numpy as np, tensorflow as tf, yaml\nfrom absl import flags\nfrom six import x"
    )
    assert read(tmp_path, text).complete


def test_an_absl_flag_under_a_condition_is_not_certain(tmp_path: Path) -> None:
    flags = read(
        tmp_path,
        """
        from absl import flags
        if not hasattr(flags.FLAGS, "buckets"):
            flags.DEFINE_string("buckets", "", "")
        """,
    )
    assert [flag.certain for flag in flags.flags] == [False]


# ====== argparse, click and others ======


def test_argparse_options_and_their_forms(tmp_path: Path) -> None:
    flags = read(
        tmp_path,
        """
        import argparse
        parser = argparse.ArgumentParser()
        parser.add_argument("input")
        parser.add_argument("-b", "--buckets", default="")
        group = parser.add_argument_group("more")
        group.add_argument("--on", action="store_true")
        group.add_argument("--no-cache", dest="cache", action="store_false")
        parser.add_argument("--pair", action=argparse.BooleanOptionalAction)
        parser.add_argument("--verbose", "-v", action="count")
        parser.add_argument("-single", "--lr", "--learning-rate", type=float)
        args = parser.parse_args()
        """,
    )
    assert {flag.name: (flag.form, flag.spelling, flag.variable) for flag in flags.flags} == {
        "buckets": (Form.VALUE, "--buckets", "buckets"),
        "on": (Form.ON, "--on", "on"),
        "no-cache": (Form.OFF, "--no-cache", "cache"),
        "pair": (Form.PAIR, "--pair", "pair"),
        "verbose": (Form.BARE, "--verbose", "verbose"),
        "single": (Form.VALUE, "-single", "lr"),
        "lr": (Form.VALUE, "--lr", "lr"),
        "learning-rate": (Form.VALUE, "--learning-rate", "lr"),
    }
    assert flags.parsers == {"argparse"}
    assert flags.tolerant == frozenset()
    assert flags.complete
    cache = flags.find("cache")
    assert cache is not None
    assert cache.name == "no-cache"


def test_parse_known_args_makes_argparse_tolerant(tmp_path: Path) -> None:
    text = "import argparse\np = argparse.ArgumentParser()\nargs, rest = p.parse_known_args()\n"
    assert read(tmp_path, text).tolerant == {"argparse"}
    assert read(tmp_path, f"{text}p.parse_args(rest)\n").tolerant == frozenset()


def test_options_of_sub_commands_are_not_the_scripts(tmp_path: Path) -> None:
    flags = read(
        tmp_path,
        """
        import argparse
        parser = argparse.ArgumentParser()
        parser.add_argument("--verbose")
        sub = parser.add_subparsers()
        train = sub.add_parser("train")
        train.add_argument("--buckets")
        train.add_argument_group("g").add_argument("--volumes")
        group = train.add_mutually_exclusive_group()
        group.add_argument("--tables")
        """,
    )
    assert names(flags) == ["verbose"]


def test_click_options_and_their_forms(tmp_path: Path) -> None:
    flags = read(
        tmp_path,
        """
        import click

        @click.command()
        @click.option("--buckets", "-b", default="")
        @click.option("--fast", is_flag=True)
        @click.option("--color/--no-color", " /-N", default=True)
        @click.option("-v", "--verbose", count=True)
        def main(**options):
            pass
        """,
    )
    assert {flag.name: (flag.form, flag.negative) for flag in flags.flags} == {
        "buckets": (Form.VALUE, ""),
        "fast": (Form.ON, ""),
        "color": (Form.PAIR, "--no-color"),
        "verbose": (Form.BARE, ""),
    }
    assert flags.parsers == {"click"}


def test_options_of_click_groups_are_the_scripts_and_those_of_commands_are_not(
    tmp_path: Path,
) -> None:
    flags = read(
        tmp_path,
        """
        from click import group, option

        @group()
        @option("--verbose")
        def cli(verbose): ...

        @cli.command("train")
        @option("--buckets")
        def train(buckets): ...
        """,
    )
    assert names(flags) == ["verbose"]


@pytest.mark.parametrize(
    ("text", "parser"),
    [
        ("import fire\nfire.Fire(main)", "fire"),
        ("import typer\ntyper.run(main)", "typer"),
        ("import getopt, sys\ngetopt.getopt(sys.argv[1:], 'h')", "getopt"),
        ("import sys\nprint(sys.argv[1])", "sys.argv"),
        ("import optparse\noptparse.OptionParser()", "optparse"),
    ],
)
def test_other_parsers_are_noted(tmp_path: Path, text: str, parser: str) -> None:
    assert parser in read(tmp_path, text).parsers


def test_optparse_is_read_like_argparse(tmp_path: Path) -> None:
    flags = read(
        tmp_path,
        "import optparse\np = optparse.OptionParser()\np.add_option('-b', '--buckets')\n"
        "p.add_option('--fast', action='store_true', dest='quick')\n",
    )
    assert [(flag.name, flag.form) for flag in flags.flags] == [
        ("buckets", Form.VALUE),
        ("fast", Form.ON),
    ]


# ====== Modules ======


def test_modules_of_the_script_are_read_and_theirs_too(tmp_path: Path) -> None:
    flags = read(
        tmp_path,
        "import first\nfrom pkg import second\nfrom pkg.deep.third import X\nimport spaces.fourth",
        first="from absl import flags\nflags.DEFINE_string('one', '', '')",
        never="from absl import flags\nflags.DEFINE_string('never', '', '')",
        **{
            "pkg/__init__": "from . import nearby",
            "pkg/nearby": "from absl import flags\nflags.DEFINE_string('near', '', '')",
            "pkg/second": "from absl import flags\nflags.DEFINE_string('two', '', '')",
            "pkg/deep/__init__": "",
            "pkg/deep/third": "from ..sibling import Y\nX = Y",
            "pkg/sibling": "from absl import flags\nflags.DEFINE_string('three', '', '')\nY = 1",
            "spaces/fourth": "from absl import flags\nflags.DEFINE_string('four', '', '')",
        },
    )
    assert sorted(names(flags)) == ["four", "near", "one", "three", "two"]
    assert flags.complete


def test_roots_beside_the_scripts_folder_are_searched(tmp_path: Path) -> None:
    script = write(tmp_path / "bin", script="import common")
    write(tmp_path, common="from absl import flags\nflags.DEFINE_string('buckets', '', '')")
    assert names(scan(script, [tmp_path])) == ["buckets"]
    assert names(scan(script)) == []


def test_what_a_module_does_only_as_a_program_is_not_read(tmp_path: Path) -> None:
    helper = """
        import argparse
        def parse():
            p = argparse.ArgumentParser()
            p.add_argument("--buckets")
            return p.parse_args()
        def use(): pass
        if __name__ == "__main__":
            main = parse()
        """
    script = "import argparse, helper\nargparse.ArgumentParser().parse_args()\nhelper.use()\n"
    assert names(read(tmp_path, script, helper=helper)) == []
    assert names(read(tmp_path, f"{script}helper.parse()\n", helper=helper)) == ["buckets"]
    assert names(read(tmp_path, "from helper import *\nparse()\n", helper=helper)) == ["buckets"]
    renamed = "from helper import parse as p\np()\n"
    assert names(read(tmp_path, renamed, helper=helper)) == ["buckets"]


def test_methods_are_read_when_their_name_is_used(tmp_path: Path) -> None:
    options = """
        class Options:
            def __init__(self): self.initialize()
            def initialize(self): self.parser.add_argument("--buckets")
            def never(self): self.parser.add_argument("--never")
        """
    assert names(read(tmp_path, "import options\noptions.Options()\n", options=options)) == [
        "buckets"
    ]


def test_modules_that_import_each_other_are_read_once(tmp_path: Path) -> None:
    flags = read(
        tmp_path,
        "import a",
        a="import b\nfrom absl import flags\nflags.DEFINE_string('x', '', '')",
        b="import a, script",
    )
    assert names(flags) == ["x"]


# ====== Sources that cannot be read ======

PYTHON_2 = {
    "print": ("x = 1\nprint x\n", 2),
    "print a text": ("print 'hello'\n", 1),
    "except": ("try:\n    pass\nexcept IOError, e:\n    pass\n", 3),
    "exec": ("exec 'x = 1'\n", 1),
    "raise": ("raise ValueError, 'bad'\n", 1),
    "octal": ("import os\nos.mkdir('x', 0777)\n", 2),
    "unequal": ("if 1 <> 2: pass\n", 1),
    "long": ("x = 10L\n", 1),
}


@pytest.mark.parametrize(("text", "line"), PYTHON_2.values(), ids=PYTHON_2.keys())
def test_python_2_is_named(tmp_path: Path, text: str, line: int) -> None:
    with pytest.raises(SetupError, match=rf"script\.py:{line}: this is Python 2") as caught:
        read(tmp_path, text)
    assert caught.value.hint is not None


WRONG = {
    "syntax": ("x = 1\ny = = 2\n", 2),
    "open bracket": ("x = (\n", 1),
    "indentation": ("def f():\npass\n", 2),
    "a number": ("print(0.01 0.02)\n", 1),
}


@pytest.mark.parametrize(("text", "line"), WRONG.values(), ids=WRONG.keys())
def test_a_syntax_error_has_file_and_line(tmp_path: Path, text: str, line: int) -> None:
    with pytest.raises(SetupError, match=rf"script\.py:{line}: ") as caught:
        read(tmp_path, text)
    assert "Python 2" not in str(caught.value)


def test_bytes_that_are_no_text_are_a_setup_error(tmp_path: Path) -> None:
    path = tmp_path / "script.py"
    path.write_bytes(b"x = '\xff\xfe'\n")
    with pytest.raises(SetupError, match="utf-8"):
        scan(path)
    path.write_bytes(b"x = 1\x00\n")
    with pytest.raises(SetupError, match="null bytes"):
        scan(path)
    path.write_bytes(b"# -*- coding: gbk -*-\nx = '\xb4\xca'\n")
    assert scan(path).complete


def test_a_missing_script_is_a_setup_error(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"no\.py cannot be read: No such file"):
        scan(tmp_path / "no.py")


def test_a_module_that_is_surely_imported_must_be_readable(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"old\.py:1: this is Python 2"):
        read(tmp_path, "import old", old="print 'x'")


def test_a_module_that_may_not_be_imported_only_makes_the_scan_incomplete(tmp_path: Path) -> None:
    script = "import sys\nfrom absl import flags\nif sys.version_info[0] == 2:\n    import old\n"
    flags = read(tmp_path, script, old="print 'x'")
    assert not flags.complete
    assert "old.py:1" in flags.unknown[0]


# ====== TensorFlow's dialect ======

DIALECTS = {
    "session": ("import tensorflow as tf\ntf.Session()", "v1", "tf.Session (script.py:2)"),
    "nested": ("import tensorflow as tf\ntf.train.Saver()", "v1", "tf.train.Saver (script.py:2)"),
    "not renamed": ("import tensorflow\ntensorflow.placeholder(1)", "v1", "script.py:2"),
    "from": ("from tensorflow import placeholder", "v1", "script.py:1"),
    "contrib": ("import tensorflow.contrib.slim as slim", "v1", "script.py:1"),
    "contrib name": ("from tensorflow.contrib import slim", "v1", "script.py:1"),
    "examples": ("from tensorflow.examples.tutorials.mnist import input_data", "v1", ""),
    "switch by plain name": ("import tensorflow as tf\ntf.disable_v2_behavior()", "v1", ""),
    "eager in 1": (
        "import tensorflow as tf\ntf.enable_eager_execution()\nwith tf.GradientTape(): pass",
        "v1",
        "tf.enable_eager_execution (script.py:2)",
    ),
    "iterator": ("import tensorflow as tf\nd().make_one_shot_iterator()", "v1", ""),
    "function": ("import tensorflow as tf\n@tf.function\ndef f(): pass", "v2", "tf.function"),
    "tape": ("import tensorflow as tf\nwith tf.GradientTape() as t: pass", "v2", "script.py:2"),
    "keras": ("import tensorflow as tf\nm = tf.keras.Sequential()\nm.fit(x)", "v2", "tf.keras"),
    "keras by name": ("from tensorflow.keras.layers import Dense", "v2", "script.py:1"),
    "gfile of 2": ("import tensorflow as tf\ntf.io.gfile.exists('x')", "v2", "tf.io.gfile"),
    "eager value": ("import tensorflow as tf\nprint(tf.constant(1).numpy())", "v2", ".numpy()"),
    "losses of 2": ("import tensorflow as tf\ntf.losses.MeanSquaredError()", "v2", "tf.losses"),
    "losses of 1": ("import tensorflow as tf\ntf.losses.log_loss(a, b)", "v1", "tf.losses"),
    "both": (
        "import tensorflow as tf\nif tf.__version__ > '2':\n    tf.random.set_seed(1)\n"
        "else:\n    tf.set_random_seed(1)",
        "v2",
        "tf.random.set_seed (script.py:3)",
    ),
    "own choice": (
        "import tensorflow.compat.v1 as tf\ntf.disable_v2_behavior()\ntf.placeholder(1)",
        "v2",
        "chooses for itself",
    ),
    "own choice, from": (
        "from tensorflow.compat import v1 as tf\ntf.Session()",
        "v2",
        "chooses for itself",
    ),
    "own choice, rebound": (
        "import tensorflow as tf\nif tf.__version__ >= '2.0':\n    tf = tf.compat.v1\n",
        "v2",
        "chooses for itself",
    ),
    "own choice, call": (
        "import tensorflow as tf\ntf.compat.v1.disable_eager_execution()\n",
        "v2",
        "chooses for itself",
    ),
    "version 2 by name": ("import tensorflow.compat.v2 as tf", "v2", "chooses for itself"),
    "graph without a choice": (
        "import tensorflow.compat.v1 as tf\nx = tf.placeholder(tf.float32)",
        "v1",
        "builds graphs",
    ),
    "neutral": ("import tensorflow as tf\nprint(tf.constant(1))", "v1", "algorithm"),
    "none": ("print(1)", "v1", "algorithm"),
}


@pytest.mark.parametrize(("text", "api", "reason"), DIALECTS.values(), ids=DIALECTS.keys())
def test_the_source_decides_on_the_api(tmp_path: Path, text: str, api: str, reason: str) -> None:
    choice = choose_api(read(tmp_path, text), "auto", "v1")
    assert choice.api == api, choice.reason
    assert reason in choice.reason
    assert "\n" not in choice.reason


def test_a_module_of_the_script_decides_as_well(tmp_path: Path) -> None:
    flags = read(tmp_path, "import net", net="import tensorflow as tf\ntf.layers.dense(1, 2)")
    choice = choose_api(flags, "auto", "v2")
    assert choice.api == "v1"
    assert "net.py:2" in choice.reason


def test_the_algorithm_decides_where_the_source_does_not_tell(tmp_path: Path) -> None:
    flags = read(tmp_path, "import tensorflow as tf\n")
    assert choose_api(flags, "auto", "v1").api == "v1"
    assert choose_api(flags, "auto", "v2").api == "v2"


def test_a_forced_api_wins(tmp_path: Path) -> None:
    flags = read(tmp_path, "import tensorflow as tf\ntf.Session()\n")
    assert choose_api(flags, "v2", "v1") == choose_api(flags, "v2", "v2")
    assert choose_api(flags, "v2", "v1").reason == "-DtfApi=v2 asks for it"
