"""Composes a script's command line: what the platform passes, then what the user wrote.

The user's own words are never changed. A value of the platform or of the hyperParameters file
takes the form that the script's parser reads; of two values of one flag the parser keeps the
last, so the order here is the order of precedence: platform, hyperParameters, words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pai_runner.run.script_flags import Flag, Form, ScriptFlags

# What people write for true and false in a parameter file. absl itself takes true, t and 1.
_TRUE = frozenset(("1", "on", "t", "true", "y", "yes"))
_FALSE = frozenset(("0", "f", "false", "n", "no", "off"))


def compose(
    flags: ScriptFlags,
    platform: Mapping[str, str],
    hyper_parameters: Sequence[tuple[str, str]],
    words: Sequence[str],
) -> tuple[str, ...]:
    """Return `sys.argv[1:]` of a script with these flags.

    Of `platform` (flag name -> value) only what the script declares is passed. Where the scan
    cannot tell, the rest is passed too if the script's parser can be told, or is known, to leave
    it alone. `hyper_parameters`, in order, and `words` are always passed.
    """
    passed = {name: value for name, value in platform.items() if is_passed(flags, name)}
    undefok = _undefok(flags, passed)
    pairs = [*passed.items(), *hyper_parameters]
    return (*undefok, *_options(flags, pairs), *words)


def is_passed(flags: ScriptFlags, name: str) -> bool:
    """Tell whether the platform's flag `name` is passed to a script with these flags."""
    flag = flags.find(name)
    if flag is not None:
        return flag.form is not Form.BARE and (flag.certain or _leaves_alone(flags, flag.parser))
    return not flags.complete and any(_leaves_alone(flags, name) for name in flags.parsers)


def _leaves_alone(flags: ScriptFlags, parser: str) -> bool:
    """Tell whether a flag that is not declared after all does no harm."""
    return parser in flags.tolerant or (parser == "absl" and _is_absl_alone(flags))


def _is_absl_alone(flags: ScriptFlags) -> bool:
    """Tell whether absl parses the command line, and no parser that refuses --undefok does."""
    others = flags.parsers - flags.tolerant - {"absl", "sys.argv"}
    return "absl" in flags.parsers and not others


def _undefok(flags: ScriptFlags, passed: Mapping[str, str]) -> tuple[str, ...]:
    """Return absl's own flag for the names that may turn out not to be declared."""
    if not _is_absl_alone(flags):
        return ()
    declared = {name: flags.find(name) for name in passed}
    doubtful = [name for name, flag in declared.items() if flag is None or not flag.certain]
    return (f"--undefok={','.join(doubtful)}",) if doubtful else ()


def _options(flags: ScriptFlags, pairs: Sequence[tuple[str, str]]) -> list[str]:
    """Return the options for `pairs`, without those that a later pair takes back."""
    options: list[tuple[Flag | None, str]] = []
    for name, value in pairs:
        flag = flags.find(name)
        if flag is not None and flag.form in (Form.ON, Form.OFF):
            # It can only be given or left out: an earlier one would still be in force.
            options = [option for option in options if option[0] is not flag]
        word = f"--{name}={value}" if flag is None else _option(flag, name, value)
        if word:
            options.append((flag, word))
    return [word for _, word in options]


def _option(flag: Flag, name: str, value: str) -> str:
    """Return the option that gives `flag` the value, "" where leaving it out does."""
    truth = _truth(value)
    if flag.form is Form.VALUE or truth is None:
        # A boolean's value that is none goes to the parser, whose own words tell the user best.
        return f"{flag.spelling}={value}"
    if flag.form is Form.SWITCH:
        return f"{flag.spelling}=true" if truth else flag.negative
    if flag.form is Form.PAIR:
        return flag.spelling if truth else flag.negative
    if flag.form is Form.OFF and name.replace("-", "_") == flag.variable:
        # `cache=false` for `--no-cache` with dest="cache": the pair names the variable.
        return "" if truth else flag.spelling
    return flag.spelling if truth else ""


def _truth(value: str) -> bool | None:
    lowered = value.strip().lower()
    if lowered in _TRUE:
        return True
    return False if lowered in _FALSE else None
