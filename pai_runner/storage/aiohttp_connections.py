"""The same care as `connections`, for s3fs: what `guarded_aiobotocore` is made of.

aiobotocore lets aiohttp follow redirects, with a session token in their headers; botocore does
not: it reads an S3 redirect and signs anew.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import aiohttp
from aiobotocore.httpsession import AIOHTTPSession
from aiohttp.abc import AbstractResolver, ResolveResult

from pai_runner.storage.hosts import refuse_address


class _CheckedResolver(AbstractResolver):
    """aiohttp's own resolver, which is made late because it belongs to a running loop."""

    def __init__(self) -> None:
        self._resolver: AbstractResolver | None = None

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        if self._resolver is None:
            self._resolver = aiohttp.DefaultResolver(loop=asyncio.get_running_loop())
        found = await self._resolver.resolve(host, port, family)
        for one in found:
            refuse_address(host, one["host"])
        return found

    async def close(self) -> None:
        if self._resolver is not None:
            await self._resolver.close()


def checked_resolver() -> AbstractResolver:
    """Return a resolver that raises SetupError for a metadata or link-local address."""
    return _CheckedResolver()


class _WithoutRedirects:
    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def request(self, *arguments: Any, **options: Any) -> aiohttp.ClientResponse:
        return await self._session.request(*arguments, allow_redirects=False, **options)


class GuardedAioSession(AIOHTTPSession):  # type: ignore[misc]
    """aiobotocore's HTTP session, without redirects."""

    async def _get_session(self, proxy_url: str | None) -> _WithoutRedirects:
        return _WithoutRedirects(await super()._get_session(proxy_url))


def guarded_aiobotocore() -> dict[str, Any]:
    """Return the options of `aiobotocore.config.AioConfig` that do the same for s3fs.

    Addresses written as such are not resolved, so `refuse_metadata` is called for the endpoint
    beforehand.
    """
    return {
        "connector_args": {"resolver": checked_resolver()},
        "http_session_cls": GuardedAioSession,
    }
