"""Takes secret values out of a plan's texts, and keeps them beside it."""

from __future__ import annotations

from collections.abc import Iterable

from pai_runner.secret import (
    Secret,
    holds_reference,
    is_secret_name,
    redact_secrets,
    reference,
    resolve,
)


class SecretStore:
    """The secrets of one plan: `values` maps the name in each reference to its value."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}

    def put(self, name: str, value: str) -> str:
        """Keep `value`; return the reference that stands for it in the plan."""
        unique, number = name, 1
        while self.values.get(unique, value) != value:
            number += 1
            unique = f"{name}.{number}"
        Secret(value)  # from now on every text that is shown is masked
        self.values[unique] = value
        return reference(unique)

    def hide(self, name: str, value: str) -> str:
        """Return `value`, or a reference when it, or its name, tells of a secret.

        A value that happens to look like a reference is kept as one too, so that it reaches the
        script as it was written.
        """
        if is_secret_name(name) or redact_secrets(value) != value or holds_reference(value):
            return self.put(name, value)
        return value

    def reveal(self, text: str) -> str:
        """Return `text` with this plan's references replaced by their values."""
        return resolve(text, self.values)

    def hide_words(self, words: Iterable[str]) -> list[str]:
        """Return a command line's words with the values of `--secret=x` and `--secret x` hidden."""
        hidden: list[str] = []
        name = ""
        for word in words:
            flag, separator, value = word.partition("=")
            if flag.startswith("-") and separator:
                hidden.append(f"{flag}={self.hide(flag.lstrip('-'), value)}")
                name = ""
            elif word.startswith("-"):
                hidden.append(word)
                name = word.lstrip("-")
            else:
                hidden.append(self.hide(name or "argument", word))
                name = ""
        return hidden
