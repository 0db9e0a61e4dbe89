"""Reads the text of a parameter as its kind demands."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from pai_runner.command.cluster import parse_cluster
from pai_runner.command.grammar import shown
from pai_runner.command.parameters import PARAMETERS, Kind, Parameter, Status
from pai_runner.command.words import split_words
from pai_runner.errors import LocationError, ParameterError, nearest
from pai_runner.location import Location, parse_list

_INTEGER = re.compile(r"\d{1,18}", re.ASCII)
_DECIMAL = re.compile(r"\d{1,9}(\.\d*)?|\.\d+", re.ASCII)
_KEEP = re.compile(r"keep:(?P<number>[1-9]\d{0,8}|all)", re.ASCII)
_RESOURCE = re.compile(r"(?P<project>[^/]+)/resources/(?P<name>[^/]+)")


def given(parameters: Mapping[str, str]) -> dict[str, str]:
    """Return the parameters that have a value, each checked against the table.

    PAI takes an empty value for none. Raises ParameterError for a name that does not exist, one
    that is not supported, and a value that its parameter cannot have.
    """
    for name, text in parameters.items():
        parameter = PARAMETERS.get(name)
        if parameter is None:
            raise _unknown(name)
        if parameter.status is Status.UNSUPPORTED:
            raise ParameterError(name, f"-D{name} is not supported", parameter.reason)
        if text:
            _READERS[parameter.kind](name, text)
    return {name: text for name, text in parameters.items() if text}


def integer(name: str, text: str) -> int:
    """Return an integer of 0 or more. Raises ParameterError."""
    if _INTEGER.fullmatch(text.strip()) is None:
        raise _wrong(name, text, "an integer of 0 or more")
    return int(text)


def hours(name: str, text: str) -> float:
    """Return a number of hours. Raises ParameterError."""
    if _DECIMAL.fullmatch(text.strip()) is None:
        raise _wrong(name, text, "a number of hours such as 12 or 0.5")
    return float(text)


def boolean(name: str, text: str) -> bool:
    """Return what `true` or `false` means, in any case. Raises ParameterError."""
    if text.strip().lower() not in ("true", "false"):
        raise _wrong(name, text, "true or false")
    return text.strip().lower() == "true"


def keep(name: str, text: str) -> int | None:
    """Return how many versions `keep:N` keeps; None for `keep:all`. Raises ParameterError."""
    found = _KEEP.fullmatch(text.strip())
    if found is None:
        raise _wrong(name, text, "keep:N, so many of the newest versions (1 or more), or keep:all")
    return None if found["number"] == "all" else int(found["number"])


def choice(name: str, text: str) -> str:
    """Return one of the parameter's values. Raises ParameterError."""
    values = PARAMETERS[name].values
    if text not in values:
        raise _wrong(name, text, f"one of {', '.join(values)}")
    return text


def parts(name: str, text: str) -> tuple[str, ...]:
    """Return the parts of a comma-separated list, as typed."""
    return tuple(text.split(","))


def directory(name: str, text: str) -> Location:
    """Return a location as a directory. Raises ParameterError."""
    return _location(name, text).directory()


def directories(name: str, text: str) -> tuple[Location, ...]:
    """Return the locations of a comma-separated list, as directories. Raises ParameterError."""
    try:
        locations = parse_list(text)
    except LocationError as error:
        raise _bad_location(name, error) from error
    if not locations:
        raise _wrong(name, text, "a list of locations")
    for location in locations:
        _refuse_maxcompute(name, location)
    return tuple(location.directory() for location in locations)


def file(name: str, text: str) -> Location:
    """Return the location of a file. Raises ParameterError, also for MaxCompute's resources."""
    resource = _RESOURCE.fullmatch(text)
    if resource is not None:
        raise ParameterError(
            name,
            f"{name}: `{shown(text)}` names a resource of a MaxCompute project, which cannot be "
            "reached from here",
            f"download it and write -D{name}=file:///path/to/{shown(resource['name'])}; for a "
            f"local file of this path write -D{name}=./{shown(text)}",
        )
    if text.lower().startswith("file://@@"):
        raise ParameterError(
            name,
            f"{name}: `{shown(text)}` names a resource of DataWorks, which cannot be reached from "
            "here",
            f"download it and write -D{name}=file:///path/to/{shown(text[9:])}",
        )
    return _location(name, text)


def _location(name: str, text: str) -> Location:
    try:
        location = Location.parse(text)
    except LocationError as error:
        raise _bad_location(name, error) from error
    _refuse_maxcompute(name, location)
    return location


def _refuse_maxcompute(name: str, location: Location) -> None:
    if location.protocol == "odps":
        raise ParameterError(
            name,
            f"{name}: `{shown(str(location))}` lies in MaxCompute, which cannot be reached from "
            "here",
            f"copy it to a folder or a bucket and write -D{name}=file:///path or s3://bucket/path",
        )


def _bad_location(name: str, error: LocationError) -> ParameterError:
    return ParameterError(name, f"{name}: {error.message}", error.hint)


def _wrong(name: str, text: str, wanted: str) -> ParameterError:
    return ParameterError(
        name,
        f"{name} must be {wanted}, not `{shown(text)}`",
        f"{name}: {PARAMETERS[name].meaning}",
    )


def _unknown(name: str) -> ParameterError:
    close = nearest(name, PARAMETERS)
    known = " or ".join(f"`{candidate}`" for candidate in close)
    return ParameterError(
        name,
        f"there is no parameter `{shown(name)}`" + (f"; did you mean {known}?" if close else ""),
        "`pai help parameters` lists them all; a flag of the script goes into "
        "-DuserDefinedParameters='--flag=value'",
        suggestions=close,
    )


def _text(name: str, text: str) -> str:
    return text


_READERS: Mapping[Kind, Callable[[str, str], object]] = {
    Kind.TEXT: _text,
    Kind.INTEGER: integer,
    Kind.HOURS: hours,
    Kind.BOOLEAN: boolean,
    Kind.CHOICE: choice,
    Kind.TAGS: parts,
    Kind.JSON: lambda name, text: parse_cluster(text),
    Kind.WORDS: lambda name, text: split_words(text),
    Kind.FILE: file,
    Kind.PATH: _text,
    Kind.DIRECTORY: directory,
    Kind.DIRECTORIES: directories,
    Kind.TABLES: parts,
    Kind.PYTHON: _text,
    Kind.KEEP: keep,
}


def is_default(parameter: Parameter, text: str) -> bool:
    """Tell whether a given value says no more than the default does."""
    return parameter.kind is Kind.BOOLEAN and not boolean(parameter.name, text)
