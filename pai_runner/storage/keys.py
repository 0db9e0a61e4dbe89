"""What credentials are, and what a source of them can do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn, Protocol

from pai_runner.errors import SetupError
from pai_runner.secret import MASK, remember


@dataclass(frozen=True, repr=False)
class Credentials:
    """Keys, perhaps with a session token that ends at `expires` (seconds since the epoch)."""

    access_key_id: str
    access_key_secret: str
    security_token: str | None = None
    expires: float | None = None

    def __post_init__(self) -> None:
        for value in (self.access_key_id, self.access_key_secret, self.security_token):
            remember(value or "")

    def __repr__(self) -> str:
        return f"Credentials({MASK})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("credentials are not pickled; each process asks for its own")

    @property
    def shown_id(self) -> str:
        """As much of the key's id as tells one key from another."""
        known = self.access_key_id
        return f"{known[:4]}…{known[-4:]}" if len(known) >= 12 else MASK


class CredentialSource(Protocol):
    """Where credentials come from. Every method may be called by several threads."""

    @property
    def description(self) -> str:
        """Whose credentials these are, without anything secret."""

    def get(self) -> Credentials:
        """Return credentials that are good now. Raises SetupError."""

    def renew(self, refused: Credentials | None = None) -> bool:
        """Forget credentials that the server refused; False where there are no others.

        With `refused` only those are forgotten: another thread may have renewed them already.
        """


def key_pair(
    values: Mapping[str, str], id_name: str, secret_name: str, token_names: Sequence[str]
) -> Credentials | None:
    """Return the credentials that `values` hold under these names, or None.

    An empty value counts as none. Raises SetupError for half a pair.
    """
    key_id, secret = values.get(id_name, ""), values.get(secret_name, "")
    tokens = [values[name] for name in token_names if values.get(name)]
    if key_id and secret:
        return Credentials(key_id, secret, tokens[0] if tokens else None)
    if not (key_id or secret or tokens):
        return None
    raise SetupError(
        f"{secret_name if key_id else id_name} is missing beside "
        f"{id_name if key_id else secret_name if secret else token_names[0]}",
        f"set {id_name} and {secret_name}, or neither",
    )
