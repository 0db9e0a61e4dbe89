"""Whom the oss:// filesystem asks, what it shows of itself, and what its paths mean."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping, Sequence
from typing import Any

import ossfs
from fsspec.utils import stringify_path

from pai_runner.errors import SetupError
from pai_runner.secret import is_secret_name, remember
from pai_runner.storage.credentials import CredentialSource, credential_source
from pai_runner.storage.oss_client import Client
from pai_runner.storage.oss_upload import BLOCK, Place


def own_endpoint() -> str:
    """Return the endpoint of the user's settings. Raises SetupError."""
    endpoint = os.environ.get("OSS_ENDPOINT")
    if not endpoint:
        raise SetupError(
            "oss:// has no host",
            "add ?host=oss-cn-hangzhou.aliyuncs.com to the location, or -DossHost to the "
            "command, or set OSS_ENDPOINT",
        )
    return endpoint


class OSSAccess(ossfs.OSSFileSystem):  # type: ignore[misc]
    """Whom `OSSFileSystem` asks, with which credentials, and what its paths mean."""

    cachable = False
    takes_threads = True

    def __init__(
        self,
        endpoint: str | None = None,
        key: str | None = None,
        secret: str | None = None,
        token: str | None = None,
        *,
        source: CredentialSource | None = None,
        region: str | None = None,
        default_cache_type: str = "readahead",
        default_block_size: int | None = None,
        **options: Any,
    ) -> None:
        options.update(use_listings_cache=False, default_cache_type=default_cache_type)
        endpoint = endpoint or own_endpoint()
        super().__init__(
            endpoint=endpoint, default_block_size=default_block_size or BLOCK, **options
        )
        given = {"access_key_id": key, "access_key_secret": secret, "security_token": token}
        named = {name: value for name, value in given.items() if value}
        for value in named.values():
            remember(value)
        self._is_secretive = source is not None or bool(named)
        self._source = source or credential_source(named)
        self._region = region
        self.set_endpoint(endpoint)

    # ====== Who is asked ======

    def client(self, path: str) -> Client:
        """Return what reaches `path` (`bucket/key`). Every request goes through it."""
        return self._client

    def place(self, path: str) -> Place:
        """Return the object that `path` names; its key is literal, a final `/` included."""
        bucket, key = self.split_path(path)
        if not key:
            raise IsADirectoryError(errno.EISDIR, f"{path}: names no object")
        return Place(self.client(f"{bucket}/{key}"), bucket, key)

    def set_endpoint(self, endpoint: str) -> None:
        """Speak to another server from now on; https where no scheme is written."""
        endpoint = endpoint.rstrip("/")
        self._endpoint = endpoint if "://" in endpoint else f"https://{endpoint}"
        self._client = Client(self._endpoint, self._source, self._region)

    def _call_oss(self, *arguments: Any, **options: Any) -> Any:
        """Refuse what ossfs itself would ask: it goes round `client`, and appends."""
        raise NotImplementedError("not with OSS: see pai_runner.storage.oss")

    # ====== Secrets ======

    @property
    def storage_options(self) -> dict[str, Any]:
        """What the filesystem was made with, without its secrets."""
        return self._shown_options

    @storage_options.setter
    def storage_options(self, options: Mapping[str, Any]) -> None:
        self._shown_options = {
            name: value
            for name, value in options.items()
            if name != "source" and not is_secret_name(name, in_query=True)
        }

    @property
    def storage_args(self) -> tuple[Any, ...]:
        return self._shown_arguments

    @storage_args.setter
    def storage_args(self, arguments: Sequence[Any]) -> None:
        self._shown_arguments = tuple(arguments[:1])  # the endpoint; the others are secrets

    def __reduce__(self) -> Any:
        if self._is_secretive:
            raise TypeError("an oss filesystem with credentials of its own is not pickled")
        return super().__reduce__()

    # ====== Names ======

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        if isinstance(path, list):
            return [cls._strip_protocol(one) for one in path]
        return cls.bare_path(path).rstrip("/")

    @classmethod
    def bare_path(cls, path: Any) -> str:
        """Return `bucket/key` of a path; a final `/` stays.

        A bucket's name has no dot: `bucket.oss-cn-hangzhou.aliyuncs.com/key` is `bucket/key`.
        """
        text: str = stringify_path(path)
        first, slash, key = text.removeprefix("oss://").lstrip("/").partition("/")
        return first.partition(".")[0] + slash + key

    def split_path(self, path: str) -> tuple[str, str]:
        """Return the bucket and the key, which may be empty, of a path."""
        bucket, _, key = self.bare_path(path).partition("/")
        return bucket, key

    def invalidate_cache(self, path: str | None = None) -> None:
        """Do nothing: no listing is kept."""
