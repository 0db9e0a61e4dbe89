"""Values that must never be seen, and the one place where they are taken out of a text.

A secret travels as a `Secret`, which prints as ***. Text that may hold one (an error of a
library, a line for the record, TensorFlow's status) passes through `redact` before it leaves
the process. `redact` works by known value and by known name, and leaves other words alone.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

MASK = "***"

# Shorter values would turn ordinary words of a log into ***.
_SHORTEST_KNOWN_VALUE = 6

# The values of every Secret of this process: the one piece of shared state in the project,
# because a text to be redacted comes from anywhere (a TensorFlow thread, a library's error).
_known_values: set[str] = set()

# A value that a URL holds as it is.
_PLAIN = re.compile(r"[\w.~-]+", re.ASCII)

# A flag called `label_key` or `pad_token` is none: its value is an ordinary word.
_SECRET_NAME = re.compile(
    r"^(token|auth|authorization|credentials?)$"
    r"|(^|[_.-])(secret|password|passwd|passphrase|pwd|signature|ak|sk|sas)$"
    r"|(access|account|api|auth|bearer|private|refresh|secret|security|session|shared|storage)"
    r"[_-]?(key|token)([_-]?(id|secret))?$",
    re.IGNORECASE,
)
# In a location's query these are, too.
_SECRET_IN_QUERY = re.compile(r"^(id|key)$", re.IGNORECASE)
# `name=value` where the name says that the value is secret. Bare `id` and `key` are ordinary
# words outside a URL's query, hence the two forms.
_QUERY_PAIR = re.compile(
    r"(?P<head>[?&\x01\x02](?:id|key|secret|token|password|[\w.-]*(?:secret|token|signature"
    r"|access_?key(?:_?id)?|credential)[\w.-]*)=)[^&\s'\"`\x02,;]+",
    re.IGNORECASE,
)
# tensorflow-io's form of an oss:// location, its control characters as people type them or as
# PAI unescapes them: oss://bucket\x01id=…\x02key=…, oss://bucketx01id=…x02key=…
_CONTROL_FORM = re.compile(r"\boss:?/{1,2}[^\s'\"/]*?x01(?:id|key|host)=[^\s'\"]*", re.IGNORECASE)
_CONTROL_PAIR = re.compile(r"(?P<head>x0[12](?:id|key)=)(?:(?!\\*x02)[^\s,;])+", re.IGNORECASE)
_ASSIGNMENT = re.compile(
    r"(?P<head>(?:secret|security[_-]?token|session[_-]?token|access_?key(?:_?id)?"
    r"|password|passwd)[\w.-]{0,40}\\*['\"]?\s*[=:]\s*(?:b?\\*['\"])?)"
    r"(?!['\"\s])[^&\s'\"`,;})\\]+",
    re.IGNORECASE,
)
# ====== What is left of a request: its headers, its signature, an answer ======
# The values of an Authorization header: `OSS id:signature`, `Bearer token`.
_KEY_AND_SIGNATURE = re.compile(r"(?P<head>\b(?:OSS|AWS|acs)\s+)[\w.-]+:[A-Za-z0-9+/]{27}=")
_BEARER = re.compile(
    r"(?P<head>\bAuthorization['\"]?\s*[:=,]\s*(?:b?['\"])?(?:Bearer|Basic)\s+)[\w.~+/=-]+",
    re.IGNORECASE,
)
# `Credential=`, and a signature in hexadecimal or base64: no name of a model's signature is one.
_SIGNATURE = re.compile(
    r"(?P<head>\b(?:Credential=|Signature\\*['\"]?\s*[=:]\s*(?:b?\\*['\"])?))"
    r"(?:[0-9a-f]{40,128}\b|[\w.-]+(?:/|%2F)\d{8}(?:/|%2F)[\w%/-]+|[A-Za-z0-9+/%]{26,}(?:=|%3D))",
    re.IGNORECASE,
)
# A header as a pair, ('X-Amz-Security-Token', b'…'), and an XML element.
_PAIR = re.compile(
    r"(?P<head>['\"](?:x-(?:amz|oss|acs)-security-token|x-aliyun-ecs-metadata-token)['\"],\s*b?['\"])"
    r"[^'\"]+",
    re.IGNORECASE,
)
_ELEMENT = re.compile(
    r"(?P<head><\w*(?:AccessKeyId|SecretAccessKey|AccessKeySecret|SecurityToken|SessionToken"
    r"|SignatureProvided)>)[^<]+",
    re.IGNORECASE,
)
_REQUEST = (_KEY_AND_SIGNATURE, _BEARER, _SIGNATURE, _PAIR, _ELEMENT)
_FLAG = re.compile(r"(?P<head>(?<![\w-])--?(?P<name>[\w.-]+)(?:=|\s+))(?!-)(?P<value>[^\s'\"]+)")
_USER = re.compile(r"(://[^/@\s:]*:)[^/@\s]+@")
_ACCOUNT = re.compile(
    r"(acs(?::|%3A)ram(?::|%3A){2})[^:%&\s]+((?::|%3A)(?:assumed-)?role)", re.IGNORECASE
)


class Secret:
    """A string that prints as ***; `reveal()` gives the value to whoever must send it."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value
        remember(value)

    def reveal(self) -> str:
        return self._value

    def __repr__(self) -> str:
        return MASK

    __str__ = __repr__

    def __format__(self, specification: str) -> str:
        return format(MASK, specification)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash((Secret, self._value))

    def __reduce__(self) -> tuple[type, tuple[str]]:
        raise TypeError("a secret is not pickled; pass it through a descriptor")


def remember(value: str) -> None:
    """Make `redact` mask `value` from now on, also where it stands in a URL."""
    if len(value) < _SHORTEST_KNOWN_VALUE:
        return
    _known_values.add(value)
    if not _PLAIN.fullmatch(value):
        from urllib.parse import quote  # few values need it, and it loads slowly

        once = quote(value, safe="")
        # Signed texts hold a query that is quoted once more.
        quoted = (once, once.lower(), quote(value), quote(once, safe=""))
        _known_values.update(one for one in quoted if one != value)


def is_secret_name(name: str, in_query: bool = False) -> bool:
    """Tell whether a parameter of this name holds a secret, as far as its name tells.

    `in_query`: it is an option of a location, where `id` and `key` are a secret's names as well.
    """
    if in_query and _SECRET_IN_QUERY.search(name):
        return True
    return _SECRET_NAME.search(name) is not None


def redact_known(text: str) -> str:
    """Return `text` with every known secret as ***, and nothing else changed."""
    for value in sorted(_known_values, key=len, reverse=True):
        text = text.replace(value, MASK)
    return text


def redact(text: str) -> str:
    """Return `text` as it may be shown: secrets and account numbers are ***."""
    return mask_account(redact_secrets(text))


def redact_secrets(text: str) -> str:
    """Return `text` with every known secret, and every value under a secret's name, as ***.

    A role stays as it is, so that a command which is recorded can be run again.
    """
    text = redact_known(text)
    text = _QUERY_PAIR.sub(rf"\g<head>{MASK}", text)
    text = _CONTROL_FORM.sub(_masked_control_form, text)
    text = _ASSIGNMENT.sub(rf"\g<head>{MASK}", text)
    for pattern in _REQUEST:
        text = pattern.sub(rf"\g<head>{MASK}", text)
    text = _FLAG.sub(_masked_flag, text)
    return _USER.sub(rf"\1{MASK}@", text)


def _masked_control_form(found: re.Match[str]) -> str:
    return _CONTROL_PAIR.sub(rf"\g<head>{MASK}", found[0])


def _masked_flag(found: re.Match[str]) -> str:
    return f"{found['head']}{MASK}" if is_secret_name(found["name"]) else found[0]


def mask_account(text: str) -> str:
    """Return `text` with the account number of every `acs:ram::NUMBER:role/…` as ***."""
    return _ACCOUNT.sub(rf"\1{MASK}\2", text)


# ====== References: what a plan holds in a secret's place ======

_REFERENCE = re.compile(r"\$\{secret:([^}]+)\}")


def reference(name: str) -> str:
    """Return the text that stands in a plan for the secret called `name`."""
    return f"${{secret:{name}}}"


def receive(descriptor: int) -> dict[str, str]:
    """Return the secrets that another process hands over through a descriptor, by name.

    `redact` knows them from then on. Raises OSError, and ValueError for what is no JSON.
    """
    # Here, not above: this module is on the way of every start.
    import json

    # Not inheritable at once: no process that is started meanwhile may read from it.
    os.set_inheritable(descriptor, False)
    with open(descriptor, encoding="utf-8") as stream:
        secrets: dict[str, str] = json.load(stream)
    for value in secrets.values():
        remember(value)
    return secrets


def resolve(text: str, secrets: Mapping[str, str]) -> str:
    """Return `text` with its references replaced by their values.

    Raises KeyError when a secret is missing.
    """
    return _REFERENCE.sub(lambda match: secrets[match.group(1)], text)


def holds_reference(text: str) -> bool:
    """Tell whether `text` holds a reference to a secret."""
    return _REFERENCE.search(text) is not None
