"""From a protocol and its options to an fsspec filesystem, and what its failures mean.

A filesystem made here is not shared: it keeps no listings (another process writes to the same
bucket) and stays out of fsspec's instance cache, which would hold secrets. It belongs to the
process that made it; after a fork make another (s3fs: "This class is not fork-safe").
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime
from typing import TYPE_CHECKING, Any, cast

from pai_runner.errors import SetupError, nearest
from pai_runner.library_logs import redact_library_logs
from pai_runner.secret import is_secret_name, remember
from pai_runner.storage.failures import Failure, describe_error, failure_of

if TYPE_CHECKING:
    from fsspec.spec import AbstractFileSystem

# A server that does not answer fails within 3 x 15 s plus waits: botocore repeats, s3fs does
# not (its own loop around botocore's would multiply the time).
_CONNECT_SECONDS = 5
_READ_SECONDS = 15
_ATTEMPTS = 3


def filesystem(protocol: str, options: Mapping[str, str]) -> AbstractFileSystem:
    """Return a new fsspec filesystem for `protocol`, made with `options` (secrets in clear).

    s3 takes endpoint_url, region, profile, anon, key, secret and token, and the usual AWS
    settings for what is not given. oss takes host, access_key_id, access_key_secret,
    security_token, role_arn, role_session and role_buckets, and Alibaba's usual settings. Other
    protocols take what their filesystem takes. No request is made. From then on what the
    libraries log holds no secrets. Raises SetupError.
    """
    keep_secret(options)
    return _MAKERS.get(protocol, _any)(protocol, options)


def keep_secret(options: Mapping[str, str]) -> None:
    """Let neither errors of ours nor what the libraries log hold the secrets of `options`."""
    redact_library_logs()
    _quieten_botocore()
    for name, value in options.items():
        if is_secret_name(name, in_query=True):
            remember(value)


def _quieten_botocore() -> None:
    """Keep botocore from telling a script's users where it found keys, unless they want to know.

    Under absl's logging, which TensorFlow scripts use, what is INFO is printed.
    """
    for name in ("botocore.credentials", "botocore.configprovider"):
        logger = logging.getLogger(name)
        if logger.level == logging.NOTSET and not logger.isEnabledFor(logging.DEBUG):
            logger.setLevel(logging.WARNING)


def options_at(location: str, options: Mapping[str, str]) -> dict[str, Any]:
    """Return `options` with what the location itself says of its filesystem.

    Protocols such as ftp, sftp and hdfs have their host or account in the address. Raises
    SetupError.
    """
    protocol = location.partition("://")[0]
    if protocol in _MAKERS:
        return dict(options)
    said = _class_of(protocol)._get_kwargs_from_urls(location)
    return {**{name: value for name, value in said.items() if value is not None}, **options}


def takes_threads(fs: AbstractFileSystem) -> bool:
    """Tell whether several threads may use a filesystem at once.

    Asynchronous ones are entered by one thread; of the others few say that they are safe.
    """
    return bool(fs.async_impl or getattr(fs, "takes_threads", False))


def turn_of(fs: AbstractFileSystem) -> AbstractContextManager[Any]:
    """Return what a thread enters before it calls a filesystem: the same for all who use it."""
    if takes_threads(fs):
        return nullcontext()
    turn: AbstractContextManager[Any] = vars(fs).setdefault("_pai_turn", threading.RLock())
    return turn


def modified_ns(info: Mapping[str, Any]) -> int:
    """Return when a file was written, in nanoseconds since 1970; 0 where `info` does not tell."""
    for name in ("LastModified", "last_modified", "modified", "mtime", "updated", "created"):
        value = info.get(name)
        if isinstance(value, datetime):
            return int(value.timestamp() * 1e9)
        if isinstance(value, (int, float)) and value:
            return int(value * 1e9)
    return 0


def check_directory(fs: AbstractFileSystem, location: str) -> None:
    """Check that `location` (`s3://bucket/dir/`) can be reached, with one cheap request.

    The directory itself may be missing: it comes to be with its first file. Raises SetupError
    when its bucket is missing, access is denied, credentials are missing or the server does not
    answer.
    """
    protocol, _, path = location.partition("://")
    try:
        if protocol in ("s3", "s3a"):
            _list_one_key(fs, path)
        elif protocol == "oss":
            cast("Any", fs).has_below(path)
        else:
            fs.exists(location)
    except SetupError:
        raise
    except Exception as error:
        raise _unreachable(location, path.split("/", 1)[0], error) from error


# ====== Makers ======

_Maker = Callable[[str, Mapping[str, str]], "AbstractFileSystem"]


def _s3(protocol: str, options: Mapping[str, str]) -> AbstractFileSystem:
    try:
        from s3fs import S3FileSystem
    except ImportError as error:
        raise SetupError(f"{protocol}:// needs the package s3fs", "pip install s3fs") from error
    from urllib.parse import urlsplit

    from pai_runner.storage.aiohttp_connections import guarded_aiobotocore
    from pai_runner.storage.hosts import check_endpoint, refuse_metadata

    config: dict[str, Any] = {
        "connect_timeout": _CONNECT_SECONDS,
        "read_timeout": _READ_SECONDS,
        "retries": {"mode": "standard", "total_max_attempts": _ATTEMPTS},
    }
    config.update(guarded_aiobotocore())
    if "endpoint_url" in options:
        endpoint = check_endpoint(options["endpoint_url"], "endpoint_url")
        refuse_metadata(urlsplit(endpoint).hostname or "")
        # Other servers than Amazon's often refuse the checksums that botocore adds by default.
        config["request_checksum_calculation"] = "when_required"
        config["response_checksum_validation"] = "when_required"
    arguments: dict[str, Any] = {
        name: options[name]
        for name in ("endpoint_url", "profile", "key", "secret", "token")
        if name in options
    }
    region = options.get("region")
    fs = S3FileSystem(
        anon=is_true(options.get("anon", "")),
        client_kwargs={"region_name": region} if region else {},
        config_kwargs=config,
        use_listings_cache=False,
        skip_instance_cache=True,
        **arguments,
    )
    fs.retries = 1
    return cast("AbstractFileSystem", fs)


def _oss(protocol: str, options: Mapping[str, str]) -> AbstractFileSystem:
    try:
        from pai_runner.storage.oss import open_oss
    except ImportError as error:
        raise SetupError(f"{protocol}:// needs the package ossfs", "pip install ossfs") from error
    return cast("AbstractFileSystem", open_oss(options))


def _any(protocol: str, options: Mapping[str, str]) -> AbstractFileSystem:
    maker = _class_of(protocol)
    try:
        return cast(
            "AbstractFileSystem",
            maker(**options, use_listings_cache=False, skip_instance_cache=True),
        )
    except (TypeError, ValueError, ImportError, OSError) as error:
        names = ", ".join(sorted(options)) or "none"
        raise SetupError(
            f"{protocol}:// cannot be opened: {describe_error(error)}",
            f"options given: {names}; see the filesystem {maker.__name__} for what it takes",
        ) from error


def _class_of(protocol: str) -> Any:
    import fsspec

    try:
        return fsspec.get_filesystem_class(protocol)
    except ValueError as error:
        known = sorted({*fsspec.available_protocols(), *_MAKERS})
        close = nearest(protocol, known)
        raise SetupError(
            f"{protocol}:// is not a protocol"
            + (f"; did you mean {close[0]}://?" if close else ""),
            f"known protocols: {', '.join(known)}",
        ) from error
    except ImportError as error:
        raise SetupError(f"{protocol}:// needs a package that is missing", str(error)) from error


_MAKERS: Mapping[str, _Maker] = {"s3": _s3, "s3a": _s3, "oss": _oss}


def is_true(text: str) -> bool:
    """Tell whether an option is switched on."""
    return text.strip().lower() in ("1", "true", "yes", "on")


# ====== Checks ======


def _list_one_key(fs: Any, path: str) -> None:
    bucket, _, key = path.strip("/").partition("/")
    fs.call_s3("list_objects_v2", Bucket=bucket, Prefix=f"{key}/" if key else "", MaxKeys=1)


def server_option(protocol: str) -> str:
    """Return the option that names a location's server."""
    return "host" if protocol == "oss" else "endpoint_url"


NO_CREDENTIALS_HINT = (
    "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or AWS_PROFILE, "
    "or add ?profile=NAME or ?anon=true to the location"
)


def _unreachable(location: str, bucket: str, error: Exception) -> SetupError:
    kind = failure_of(error)
    detail = describe_error(error)
    server = server_option(location.partition("://")[0])
    if kind is Failure.MISSING:
        return SetupError(
            f"{location}: there is no bucket `{bucket}` ({detail})",
            f"create the bucket, or correct its name or {server}",
        )
    if kind is Failure.DENIED:
        return SetupError(
            f"{location}: access denied ({detail})",
            "check the credentials, and that they may list, read and write in this bucket",
        )
    if kind is Failure.NO_CREDENTIALS:
        return SetupError(f"{location}: no credentials ({detail})", NO_CREDENTIALS_HINT)
    if kind is Failure.UNAVAILABLE:
        return SetupError(
            f"{location}: the server does not answer ({detail})",
            f"check {server} and the network",
        )
    return SetupError(f"{location}: {detail}", "check the location and its options")
