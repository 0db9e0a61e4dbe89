"""Which servers may be sent credentials.

The host in a PAI command is a stranger's input: whoever answers there sees a signed request and
perhaps a session token. So it must be a cloud's own name or one that the user lists, it is
spoken to over TLS, and an address at which machines keep their own credentials (metadata
services, link-local) is never spoken to, whatever name or spelling leads there.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pai_runner.errors import SetupError
from pai_runner.secret import MASK

ALLOWED_HOSTS = "PAI_ALLOWED_HOSTS"
_CLOUDS = ("*.aliyuncs.com", "*.aliyun-inc.com", "*.amazonaws.com", "*.amazonaws.com.cn")

# 100.100.100.200 is Alibaba's metadata service, fd00:ec2::/32 are Amazon's.
_FORBIDDEN = tuple(
    ipaddress.ip_network(text)
    for text in ("169.254.0.0/16", "100.100.100.200/32", "fe80::/10", "fd00:ec2::/32")
)
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")

_LABEL = r"[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?"
_ADDRESS = re.compile(
    rf"((?P<scheme>https?)://)?(?P<host>(\*\.)?{_LABEL}(\.{_LABEL})*|\[[0-9A-Fa-f:.]+\])"
    r"(:(?P<port>[0-9]{1,5}))?",
    re.ASCII | re.IGNORECASE,
)


def check_endpoint(text: str, what: str, environment: Mapping[str, str] = os.environ) -> str:
    """Return the endpoint that a command names, as `https://host[:port]`.

    `text` is a host, perhaps with a scheme and a port; `what` names it in an error. It must be
    below one of the clouds' domains, or listed in PAI_ALLOWED_HOSTS; plain http is only for
    what is listed with http://. No name is resolved here. Raises SetupError.
    """
    asked = _parse(text)
    if asked is None or asked.host.startswith("*."):
        raise SetupError(
            f"{what}: `{_shown(text)}` is not a host",
            "write host or host:port, for example oss-cn-hangzhou.aliyuncs.com",
        )
    written = _resolve(asked.host, socket.AI_NUMERICHOST)
    _refuse_forbidden(f"{what}: `{asked.host}`", written)
    listed = [rule for rule in _allowed(environment) if rule.covers(asked)]
    if not listed and not any(_below(asked.host, cloud) for cloud in _CLOUDS):
        raise SetupError(
            f"{what}: the host `{asked.place}` is not one of {', '.join(_CLOUDS)}, "
            "and credentials are sent to no other",
            f"if you trust it with your credentials, set {ALLOWED_HOSTS}={asked.listing}",
        )
    if asked.scheme == "http" and not any(rule.scheme == "http" for rule in listed):
        raise SetupError(
            f"{what}: plain http:// to `{asked.place}` would show your credentials to the network",
            f"leave out http://, or set {ALLOWED_HOSTS}={asked.listing}",
        )
    return f"{asked.scheme or 'https'}://{asked.place}"


def refuse_metadata(host: str) -> None:
    """Raise SetupError when `host` is, or resolves to, a metadata or link-local address.

    `host` is a name or an address without a port. A name that does not resolve is not refused:
    connecting to it fails by itself, or is a proxy's matter.
    """
    _refuse_forbidden(f"`{_shown(host)}`", _resolve(host))


def refuse_address(host: str, address: str) -> None:
    """Raise SetupError when `address`, to which `host` led, may not be spoken to."""
    _refuse_forbidden(f"`{_shown(host)}`", (address,))


# ====== Names ======


@dataclass(frozen=True)
class _Endpoint:
    """A host as it is asked for, or as it is listed. `scheme` is "" where none is given."""

    scheme: str
    host: str
    port: str

    @property
    def place(self) -> str:
        return f"{self.host}:{self.port}" if self.port else self.host

    @property
    def listing(self) -> str:
        """What to put into PAI_ALLOWED_HOSTS for it."""
        return f"http://{self.place}" if self.scheme == "http" else self.place

    def covers(self, asked: _Endpoint) -> bool:
        """Tell whether this entry of the list names the endpoint that is asked for."""
        return self.port in ("", asked.port) and (
            self.host == asked.host or _below(asked.host, self.host)
        )


def _parse(text: str) -> _Endpoint | None:
    match = _ADDRESS.fullmatch(text)
    if match is None or int(match["port"] or 0) > 65535:
        return None
    return _Endpoint((match["scheme"] or "").lower(), match["host"].lower(), match["port"] or "")


def _allowed(environment: Mapping[str, str]) -> list[_Endpoint]:
    rules = []
    for entry in environment.get(ALLOWED_HOSTS, "").split(","):
        if not entry.strip():
            continue
        rule = _parse(entry.strip())
        if rule is None:
            raise SetupError(
                f"{ALLOWED_HOSTS}: `{_shown(entry.strip())}` is not a host",
                "write a comma list of host, host:port, http://host or *.domain",
            )
        rules.append(rule)
    return rules


def _below(host: str, pattern: str) -> bool:
    """Tell whether `host` is below the domain of `*.domain`, by whole labels."""
    return pattern.startswith("*.") and host.endswith(pattern[1:])


def _shown(text: str) -> str:
    """Return a wrong text so that it can be shown: no user and password, no look-alikes."""
    _, at, rest = text.rpartition("@")
    return ascii(f"{MASK}@{rest}" if at else text)[1:-1]


# ====== Addresses ======


def _resolve(host: str, flags: int = 0) -> Iterable[str]:
    """Return the addresses of `host`; with AI_NUMERICHOST, only if it is written as one."""
    try:
        found = socket.getaddrinfo(host.strip("[]"), None, type=socket.SOCK_STREAM, flags=flags)
    except (socket.gaierror, UnicodeError):  # no such name, or none that can be one
        return ()
    return [str(entry[4][0]) for entry in found]


def _refuse_forbidden(subject: str, addresses: Iterable[str]) -> None:
    for address in addresses:
        if _is_forbidden(address):
            raise SetupError(
                f"{subject} is {address}, the address of a metadata service or a "
                "link-local one: no request is sent there",
                "give the host of the object store",
            )


def _is_forbidden(text: str) -> bool:
    address = ipaddress.ip_address(text.partition("%")[0])
    forms: list[ipaddress.IPv4Address | ipaddress.IPv6Address] = [address]
    if isinstance(address, ipaddress.IPv6Address):
        forms += [inner for inner in (address.ipv4_mapped, address.sixtofour) if inner]
        if address in _NAT64:
            forms.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    return any(form in network for form in forms for network in _FORBIDDEN)
