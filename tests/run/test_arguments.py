"""The composed command line, read by the very parsers that scripts use."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from pai_runner.run.arguments import compose, is_passed
from pai_runner.run.script_flags import ScriptFlags, scan

PLATFORM = {"buckets": "s3://b/in/,s3://c/", "checkpointDir": "s3://b/out dir/"}


def composed(
    flags: ScriptFlags,
    platform: Mapping[str, str] = PLATFORM,
    hyper: Sequence[tuple[str, str]] = (),
    words: Sequence[str] = (),
) -> list[str]:
    return list(compose(flags, platform, hyper, words))


class Script:
    """A script that prints its flags as JSON; `read` composes its command line and runs it."""

    def __init__(self, folder: Path, text: str, **modules: str) -> None:
        self.path = folder / "script.py"
        self.path.write_text(textwrap.dedent(text))
        for name, source in modules.items():
            (folder / f"{name}.py").write_text(textwrap.dedent(source))
        self.flags = scan(self.path)

    def read(
        self,
        platform: Mapping[str, str] = PLATFORM,
        hyper: Sequence[tuple[str, str]] = (),
        words: Sequence[str] = (),
    ) -> Any:
        arguments = compose(self.flags, platform, hyper, words)
        result = subprocess.run(
            [sys.executable, str(self.path), *arguments], capture_output=True, text=True
        )
        assert result.returncode == 0, f"{arguments}\n{result.stderr}"
        return json.loads(result.stdout)


ABSL = """
    import json
    from absl import app, flags
    flags.DEFINE_string("buckets", "none", "")
    flags.DEFINE_integer("steps", 1, "")
    flags.DEFINE_boolean("fast", {fast}, "")
    flags.DEFINE_list("layers", [], "")
    FLAGS = flags.FLAGS
    def main(argv):
        print(json.dumps([FLAGS.buckets, FLAGS.steps, FLAGS.fast, FLAGS.layers, argv[1:]]))
    app.run(main)
"""

ARGPARSE = """
    import argparse, json
    parser = argparse.ArgumentParser()
    parser.add_argument("--buckets", default="none")
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--fast", action="store_true")
    parser.add_argument("--no-cache", dest="cache", action="store_false")
    parser.add_argument("--slow", action="store_false")
    parser.add_argument("--color", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("-v", "--verbose", action="count", default=0)
    print(json.dumps(vars(parser.{parse})))
"""

CLICK = """
    import json
    import click
    @click.command()
    @click.option("--buckets", default="none")
    @click.option("--steps", type=int, default=1)
    @click.option("--fast", is_flag=True)
    @click.option("--color/--no-color", default=True)
    def main(**options):
        print(json.dumps(options))
    main()
"""


# ====== absl ======


def test_absl_gets_what_it_declares_and_nothing_else(tmp_path: Path) -> None:
    script = Script(tmp_path, ABSL.format(fast=False))
    assert composed(script.flags) == [f"--buckets={PLATFORM['buckets']}"]
    hyper = [("steps", "5"), ("layers", "a,b")]
    assert script.read(hyper=hyper) == [PLATFORM["buckets"], 5, False, ["a", "b"], []]


@pytest.mark.parametrize(
    ("value", "truth"),
    [
        *((word, True) for word in ("true", "True", "1", "yes", "on", "t")),
        *((word, False) for word in ("false", "False", "0", "no", "off")),
    ],
)
def test_absl_booleans(tmp_path: Path, value: str, truth: bool) -> None:
    script = Script(tmp_path, ABSL.format(fast=not truth))
    assert script.read(hyper=[("fast", value)])[2] is truth


def test_a_word_that_is_no_boolean_reaches_absl_as_it_is(tmp_path: Path) -> None:
    flags = Script(tmp_path, ABSL.format(fast=True)).flags
    assert composed(flags, {}, [("fast", "maybe")]) == ["--fast=maybe"]


def test_the_last_of_a_name_wins_in_absl(tmp_path: Path) -> None:
    script = Script(tmp_path, ABSL.format(fast=False))
    read = script.read(
        hyper=[("buckets", "hyper"), ("steps", "2"), ("steps", "3"), ("fast", "1")],
        words=["--nofast", "--steps", "4"],
    )
    assert read == ["hyper", 4, False, [], []]
    assert script.read(words=["--buckets=user"])[0] == "user"


def test_what_may_not_be_declared_is_passed_to_absl_with_undefok(tmp_path: Path) -> None:
    text = "import flags_of_mine, installed_apart\n" + textwrap.dedent(ABSL.format(fast=False))
    # To run it, the package that the scan takes for an installed one is in the folder after all.
    script = Script(tmp_path, text, flags_of_mine="")
    (tmp_path / "installed_apart.py").write_text(
        "from absl import flags\nflags.DEFINE_string('checkpointDir', '', '')\n"
    )
    assert not script.flags.complete
    platform = {**PLATFORM, "volumes": "odps://p/volumes/v"}
    assert composed(script.flags, platform) == [
        "--undefok=checkpointDir,volumes",
        *(f"--{name}={value}" for name, value in platform.items()),
    ]
    assert script.read(platform)[0] == PLATFORM["buckets"]


def test_a_flag_under_a_condition_is_passed_with_undefok(tmp_path: Path) -> None:
    text = """
        from absl import flags
        if {}:
            flags.DEFINE_string("buckets", "none", "")
        flags.FLAGS(__import__("sys").argv)
        print(int("buckets" in flags.FLAGS))
    """
    assert Script(tmp_path, text.format(True)).read() == 1
    script = Script(tmp_path, text.format(False))
    assert script.read() == 0
    assert composed(script.flags)[0] == "--undefok=buckets"


def test_undefok_of_the_user_and_ours_add_up(tmp_path: Path) -> None:
    script = Script(tmp_path, "import installed_apart\n" + textwrap.dedent(ABSL.format(fast=False)))
    (tmp_path / "installed_apart.py").write_text("")
    assert script.read(words=["--undefok=mine", "--mine=1"])[0] == PLATFORM["buckets"]


# ====== argparse ======


def test_strict_argparse_gets_what_it_declares_and_nothing_else(tmp_path: Path) -> None:
    script = Script(tmp_path, ARGPARSE.format(parse="parse_args()"))
    assert composed(script.flags) == [f"--buckets={PLATFORM['buckets']}"]
    assert script.read()["buckets"] == PLATFORM["buckets"]


@pytest.mark.parametrize(
    ("name", "variable"),
    [
        ("fast", "fast"),
        ("cache", "cache"),
        ("slow", "slow"),
        ("color", "color"),
    ],
)
@pytest.mark.parametrize(("value", "truth"), [("true", True), ("0", False)])
def test_argparse_booleans(
    tmp_path: Path, name: str, variable: str, value: str, truth: bool
) -> None:
    script = Script(tmp_path, ARGPARSE.format(parse="parse_args()"))
    assert script.read(hyper=[(name, value)])[variable] is truth


def test_the_name_of_an_option_that_says_no(tmp_path: Path) -> None:
    script = Script(tmp_path, ARGPARSE.format(parse="parse_args()"))
    assert script.read(hyper=[("no-cache", "true")])["cache"] is False
    assert script.read(hyper=[("no-cache", "false")])["cache"] is True


def test_a_switch_that_is_turned_off_again_is_left_out(tmp_path: Path) -> None:
    script = Script(tmp_path, ARGPARSE.format(parse="parse_args()"))
    assert script.read(hyper=[("fast", "true"), ("fast", "false")])["fast"] is False
    assert script.read(hyper=[("fast", "false"), ("fast", "true")])["fast"] is True
    assert script.read(hyper=[("fast", "false")], words=["--fast"])["fast"] is True


def test_an_option_without_a_value_is_given_or_not(tmp_path: Path) -> None:
    script = Script(tmp_path, ARGPARSE.format(parse="parse_args()"))
    assert script.read(hyper=[("verbose", "true")])["verbose"] == 1
    assert script.read(hyper=[("verbose", "false")])["verbose"] == 0


def test_a_platform_flag_that_sets_the_variable_of_its_name(tmp_path: Path) -> None:
    script = Script(
        tmp_path,
        """
        import argparse
        parser = argparse.ArgumentParser()
        parser.add_argument("--out", dest="checkpointDir")
        print('"' + parser.parse_args().checkpointDir + '"')
        """,
    )
    assert script.read() == PLATFORM["checkpointDir"]


def test_strict_argparse_gets_no_more_where_the_scan_cannot_tell(tmp_path: Path) -> None:
    text = ARGPARSE.format(parse="parse_args()")
    script = Script(tmp_path, text + '    [parser.add_argument("--%d" % i) for i in range(3)]\n')
    assert not script.flags.complete
    assert composed(script.flags) == [f"--buckets={PLATFORM['buckets']}"]


def test_tolerant_argparse_gets_all_where_the_scan_cannot_tell(tmp_path: Path) -> None:
    script = Script(
        tmp_path,
        """
        import argparse, json
        parser = argparse.ArgumentParser()
        for i in range(2):
            parser.add_argument(f"--n{i}")
        parser.add_argument("--" + "checkpoint" + str("Dir"))
        known, rest = parser.parse_known_args()
        print(json.dumps([known.checkpointDir, rest]))
        """,
    )
    assert not script.flags.complete
    assert script.read() == [PLATFORM["checkpointDir"], [f"--buckets={PLATFORM['buckets']}"]]


def test_tolerant_argparse_gets_what_it_declares_where_the_scan_can_tell(tmp_path: Path) -> None:
    script = Script(tmp_path, ARGPARSE.format(parse="parse_known_args()[0]"))
    assert composed(script.flags) == [f"--buckets={PLATFORM['buckets']}"]


def test_argparse_before_absl_as_in_old_examples(tmp_path: Path) -> None:
    script = Script(
        tmp_path,
        """
        import argparse, json, sys
        from absl import app
        import installed_apart
        def main(argv):
            print(json.dumps([FLAGS.buckets, argv[1:]]))
        if __name__ == "__main__":
            parser = argparse.ArgumentParser()
            parser.add_argument("--buckets")
            FLAGS, unparsed = parser.parse_known_args()
            app.run(main=main, argv=[sys.argv[0]] + unparsed)
        """,
    )
    (tmp_path / "installed_apart.py").write_text("")
    assert script.read(words=["word"]) == [PLATFORM["buckets"], ["word"]]


# ====== click ======


def test_click_options_and_booleans(tmp_path: Path) -> None:
    pytest.importorskip("click")
    script = Script(tmp_path, CLICK)
    hyper = [("steps", "2"), ("fast", "true"), ("color", "false")]
    assert script.read(hyper=hyper, words=["--steps", "3"]) == {
        "buckets": PLATFORM["buckets"],
        "steps": 3,
        "fast": True,
        "color": False,
    }
    assert script.read(hyper=[("fast", "false"), ("color", "yes")])["color"] is True


# ====== Any parser ======


def test_a_script_without_flags_gets_none_of_the_platforms(tmp_path: Path) -> None:
    script = Script(tmp_path, "import json, sys\nprint(json.dumps(sys.argv[1:]))\n")
    assert script.read() == []
    assert script.read(hyper=[("a", "1"), ("b", "x y=z")], words=["c"]) == [
        "--a=1",
        "--b=x y=z",
        "c",
    ]


def test_the_users_words_are_never_changed() -> None:
    words = ["--x", "-y", "--fast=false", "--", "", " a b ", "--k='v'", "词"]
    assert composed(ScriptFlags(), PLATFORM, [], words) == words


def test_references_to_secrets_pass_as_they_are(tmp_path: Path) -> None:
    script = Script(tmp_path, ABSL.format(fast=False))
    hyper = [("steps", "${secret:steps}"), ("key", "${secret:key}"), ("fast", "${secret:f}")]
    assert composed(script.flags, {}, hyper) == [
        "--steps=${secret:steps}",
        "--key=${secret:key}",
        "--fast=${secret:f}",
    ]


def test_it_can_be_asked_what_is_passed(tmp_path: Path) -> None:
    flags = Script(tmp_path, ABSL.format(fast=False)).flags
    assert is_passed(flags, "buckets")
    assert not is_passed(flags, "checkpointDir")
