"""The credentials of the user's own settings, from the places where Alibaba's tools look.

The places and their order are those of alibabacloud-credentials' default chain, behind OSS's own
variables. That chain itself hides what is wrong: it takes the environment as it was at its
import, goes on behind a broken file and tells all reasons in one heap. So its members are asked
one by one: what is not there is passed over, what is there and does not work is an error.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from configparser import ConfigParser
from configparser import Error as ConfigError
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pai_runner.errors import SetupError
from pai_runner.secret import redact
from pai_runner.storage.alibaba import forget_connections, from_library, import_library, reason_of
from pai_runner.storage.keys import Credentials, key_pair

_VARIABLES = (
    ("OSS_ACCESS_KEY_ID", "OSS_ACCESS_KEY_SECRET", ("OSS_SESSION_TOKEN", "OSS_SECURITY_TOKEN")),
    (
        "ALIBABA_CLOUD_ACCESS_KEY_ID",
        "ALIBABA_CLOUD_ACCESS_KEY_SECRET",
        ("ALIBABA_CLOUD_SECURITY_TOKEN",),
    ),
)
_OIDC = (
    "ALIBABA_CLOUD_OIDC_TOKEN_FILE",
    "ALIBABA_CLOUD_ROLE_ARN",
    "ALIBABA_CLOUD_OIDC_PROVIDER_ARN",
)
_URI = "ALIBABA_CLOUD_CREDENTIALS_URI"
# On a machine that is no ECS instance nobody answers, and up to two requests are made.
_METADATA_MILLISECONDS = 800

Environment = Mapping[str, str]


def from_variables(environment: Environment) -> tuple[Credentials, str] | None:
    """Return the credentials of environment variables and the first one's name, or None.

    Raises SetupError for half a pair.
    """
    for names in _VARIABLES:
        found = key_pair(environment, *names)
        if found is not None:
            return found, names[0]
    return None


class Chain:
    """The settings files and services, asked in order; the first that has credentials is kept."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self._found: tuple[_Place, Any] | None = None
        self.description = "your own credentials"

    def credentials(self) -> Credentials:
        """Return credentials. Raises SetupError: there are none, or a setting does not work."""
        if self._found is not None:
            return _ask(*self._found)
        looked = [f"{names[0]} and {names[1]} (not set)" for names in _VARIABLES]
        for place in _places(self._environment):
            try:
                provider = _open(place, self._environment)
                made = _ask(place, provider)
            except _Absent as absent:
                looked.append(f"{place.name} ({absent})")
                continue
            except _Unusable as error:
                if not place.asks_to_know:
                    raise
                looked.append(f"{place.name} ({error.reason})")
                continue
            self._found = (place, provider)
            self.description = f"access key {made.shown_id} from {place.name}"
            return made
        raise SetupError(
            f"no credentials for OSS; looked in {'; '.join(looked)}",
            "set OSS_ACCESS_KEY_ID and OSS_ACCESS_KEY_SECRET, or run `aliyun configure`",
        )

    def forget(self) -> None:
        """Search anew at the next call."""
        self._found = None
        forget_connections()


class _Absent(Exception):
    """A place holds nothing; the text says why."""


@dataclass(frozen=True)
class _Place:
    """A place to look in. `find` returns a provider of the library, or why there is none.

    `asks_to_know`: only a request tells whether anybody is there.
    """

    name: str
    find: Callable[[Environment], Any]
    asks_to_know: bool = False


class _Unusable(SetupError):
    """A place is there, or seems to be, and does not work."""

    def __init__(self, place: _Place, error: Exception) -> None:
        self.reason = reason_of(error)
        super().__init__(
            f"{place.name}: no credentials could be had from it: {self.reason}",
            "correct it, or set OSS_ACCESS_KEY_ID and OSS_ACCESS_KEY_SECRET",
        )


def _places(environment: Environment) -> tuple[_Place, ...]:
    return (
        _Place(_OIDC[0], _oidc),
        _Place(str(_cli_file(environment)), _cli),
        _Place(str(_ini_file(environment)), _ini),
        _Place("the role of the ECS instance", _ecs, asks_to_know=True),
        _Place(_URI, _uri),
    )


def _open(place: _Place, environment: Environment) -> Any:
    try:
        found = place.find(environment)
    except SetupError:
        raise
    except Exception as error:
        raise _Unusable(place, error) from None
    if isinstance(found, str):
        raise _Absent(found)
    return found


def _ask(place: _Place, provider: Any) -> Credentials:
    try:
        return from_library(provider.get_credentials())
    except Exception as error:
        raise _Unusable(place, error) from None  # the library's text may hold a signed URL


# ====== The places ======


def _oidc(environment: Environment) -> Any:
    missing = [name for name in _OIDC if not environment.get(name)]
    if missing:
        return f"{', '.join(missing)} not set"
    return import_library().provider.OIDCRoleArnCredentialsProvider(
        oidc_token_file_path=environment[_OIDC[0]],
        role_arn=environment[_OIDC[1]],
        oidc_provider_arn=environment[_OIDC[2]],
        role_session_name=environment.get("ALIBABA_CLOUD_ROLE_SESSION_NAME"),
        sts_endpoint=environment.get("PAI_STS_ENDPOINT"),
    )


def _cli(environment: Environment) -> Any:
    """Look into the settings of the command `aliyun`."""
    path = _cli_file(environment)
    if environment.get("ALIBABA_CLOUD_CLI_PROFILE_DISABLED", "").lower() == "true":
        return "switched off by ALIBABA_CLOUD_CLI_PROFILE_DISABLED"
    if not path.is_file():
        return "no such file"
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
        names = [one["name"] for one in settings.get("profiles", ())]
        wanted = environment.get("ALIBABA_CLOUD_PROFILE") or settings.get("current")
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise _broken(path, error) from None
    if wanted not in names:
        return f"no profile `{wanted}`"
    return import_library().provider.CLIProfileCredentialsProvider(
        profile_name=wanted, profile_file=str(path)
    )


def _ini(environment: Environment) -> Any:
    path = _ini_file(environment)
    if not path.is_file():
        return "no such file"
    parser = ConfigParser(interpolation=None)
    try:
        parser.read_string(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, ConfigError) as error:
        raise _broken(path, error) from None
    wanted = environment.get("ALIBABA_CLOUD_PROFILE") or "default"
    if not parser.has_section(wanted):
        return f"no profile `{wanted}`"
    return import_library().provider.ProfileCredentialsProvider(
        profile_name=wanted, profile_file=str(path)
    )


def _ecs(environment: Environment) -> Any:
    if environment.get("ALIBABA_CLOUD_ECS_METADATA_DISABLED", "").lower() == "true":
        return "switched off by ALIBABA_CLOUD_ECS_METADATA_DISABLED"
    if environment.get("HTTP_PROXY") or environment.get("http_proxy"):
        # The library heeds no NO_PROXY: it would take the role of the machine of the proxy.
        return "not asked, because HTTP_PROXY is set"
    library = import_library()
    from alibabacloud_credentials.http import HttpOptions

    return library.provider.EcsRamRoleCredentialsProvider(
        role_name=environment.get("ALIBABA_CLOUD_ECS_METADATA", ""),
        http_options=HttpOptions(
            connect_timeout=_METADATA_MILLISECONDS, read_timeout=_METADATA_MILLISECONDS
        ),
        async_update_enabled=False,  # it would start a thread that asks every minute
    )


def _uri(environment: Environment) -> Any:
    address = environment.get(_URI)
    if not address:
        return "not set"
    return import_library().provider.URLCredentialsProvider(uri=address)


def _home(environment: Environment) -> Path:
    return Path(environment.get("HOME") or Path.home())


def _cli_file(environment: Environment) -> Path:
    return _home(environment) / ".aliyun" / "config.json"


def _ini_file(environment: Environment) -> Path:
    named = environment.get("ALIBABA_CLOUD_CREDENTIALS_FILE")
    return Path(named) if named else _home(environment) / ".alibabacloud" / "credentials.ini"


def _broken(path: Path, error: Exception) -> SetupError:
    # A parser's text quotes the line that it stumbled over, which may hold a secret.
    said = type(error).__name__
    if isinstance(error, OSError):
        said = redact(str(error.strerror))
    elif isinstance(error, json.JSONDecodeError):
        said = f"{error.msg} in line {error.lineno}"
    elif isinstance(error, ConfigError):
        said = f"{said} in line {getattr(error, 'lineno', '?')}"
    return SetupError(
        f"{path}: cannot be read as a file of credentials ({said})", "correct the file or remove it"
    )
