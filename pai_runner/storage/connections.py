"""Connections that check whom they speak to: see `guarded_session` and `guarded_pool`.

A name can resolve to something else each time, so what counts is the peer of the connection
that was made. With a proxy of the environment the peer is the proxy, which the user has chosen.
"""

from __future__ import annotations

import os
import socket
from typing import Any
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

import certifi
import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from pai_runner.secret import remember
from pai_runner.storage.hosts import refuse_address


class GuardedSession(requests.Session):
    """Follows no redirect and keeps up to `size` connections, each checked when it is made."""

    def __init__(self, size: int) -> None:
        super().__init__()
        # Without an `auth` requests would put a netrc's password in a signature's place.
        self.auth = _as_it_is
        for scheme in ("https://", "http://"):
            self.mount(scheme, _Adapter(pool_connections=size, pool_maxsize=size))

    def send(self, request: requests.PreparedRequest, **arguments: Any) -> requests.Response:
        return super().send(request, **{**arguments, "allow_redirects": False})


def _as_it_is(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request


class _CheckedHTTP(HTTPConnection):
    def _new_conn(self) -> socket.socket:
        return _checked(self.host, super()._new_conn())


class _CheckedHTTPS(HTTPSConnection):
    def _new_conn(self) -> socket.socket:
        return _checked(self.host, super()._new_conn())


def _checked(host: str, made: socket.socket) -> socket.socket:
    try:
        refuse_address(host, made.getpeername()[0])
    except BaseException:
        made.close()
        raise
    return made


class _HTTPPool(HTTPConnectionPool):
    ConnectionCls = _CheckedHTTP


class _HTTPSPool(HTTPSConnectionPool):
    ConnectionCls = _CheckedHTTPS


_POOLS = {"http": _HTTPPool, "https": _HTTPSPool}


class _Adapter(HTTPAdapter):
    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        super().init_poolmanager(*arguments, **options)
        self.poolmanager.pool_classes_by_scheme = _POOLS


def guarded_session(size: int) -> requests.Session:
    """Return a session with up to `size` connections for requests that carry credentials.

    It follows no redirect: one is returned as the answer. It sends nothing before the address
    at the other end is known to be none of a metadata service: that is a SetupError.
    """
    return GuardedSession(size)


def guarded_pool(url: str, size: int, ca_certificates: str | None) -> urllib3.PoolManager:
    """Return what keeps up to `size` connections to the server of `url`, or to its proxy.

    Each is checked as those of `guarded_session` are. Redirects are the caller's matter.
    """
    parts = urlsplit(url)
    options: dict[str, Any] = {
        "maxsize": size,
        "cert_reqs": "CERT_REQUIRED",
        "ca_certs": ca_certificates or os.environ.get("REQUESTS_CA_BUNDLE") or certifi.where(),
    }
    proxy = None if proxy_bypass(parts.netloc) else getproxies().get(parts.scheme)
    if proxy:
        return _through(proxy, options)
    pool = urllib3.PoolManager(**options)
    pool.pool_classes_by_scheme = _POOLS
    return pool


def _through(proxy: str, options: dict[str, Any]) -> urllib3.ProxyManager:
    """Return connections through a proxy, as the environment names it: `[user:password@]host`."""
    parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    if parts.username is not None:
        remember(unquote(parts.password or ""))
        user = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        options["proxy_headers"] = urllib3.make_headers(proxy_basic_auth=user)
    return urllib3.ProxyManager(f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}", **options)
