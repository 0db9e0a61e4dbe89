"""Numbers that users set in the environment."""

from __future__ import annotations

import os

from pai_runner.errors import SetupError


def number_set(name: str, default: float, example: str) -> float:
    """Return the number that the variable `name` holds, or `default` where it is not set.

    `example` says in the error what to give: `seconds, for example 60`. Raises SetupError.
    """
    text = os.environ.get(name, "")
    try:
        return float(text) if text else default
    except ValueError:
        raise SetupError(f"{name}={text} is not a number", f"give {example}") from None
