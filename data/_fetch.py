"""Fetches one file from the web, and trusts nobody: neither the table, nor the name server, nor the server itself.

Where a connection goes is checked when its socket is made, on the very address it is about to connect to. So a name that
answers with a private address, or with a public one now and a private one later, an address written as one number, and
a redirect to any of them are all the same case. Private are, beside the usual, what an IPv6 address wraps.
"""

from __future__ import annotations

import asyncio
import email.utils
import errno
import ipaddress
import socket
import ssl
import time
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import aiohttp
from aiohttp.resolver import ThreadedResolver

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_MAY_PASS_CODES = {408, 425, 429, 500, 502, 503, 504}
_OPT_OUTS = {"noai", "noimageai"}
_PIECE_BYTES = 1 << 16


class FetchError(Exception):
    """Why there is no file: `status` is counted; `may_pass` says whether another try may do better."""

    def __init__(
        self,
        status: str,
        detail: str,
        *,
        may_pass: bool = False,
        was_reached: bool = True,
        wait_seconds: float = 0.0,
    ) -> None:
        super().__init__(detail)
        self.status, self.may_pass, self.was_reached, self.wait_seconds = (
            status,
            may_pass,
            was_reached,
            wait_seconds,
        )


class ForbiddenAddressError(OSError):
    """An address that we do not connect to."""


@dataclass(frozen=True, kw_only=True)
class FetchLimits:
    """What is asked of a server, and how much of it is borne."""

    max_bytes: int = 20 << 20
    seconds: float = 30.0
    """For one try from the name to the last byte, redirects included."""
    connect_seconds: float = 10.0
    max_redirects: int = 5
    allow_networks: tuple[str, ...] = ()
    """Networks that may be connected to though they are not public, as ("10.1.0.0/16",)."""
    respect_opt_out: bool = True
    """Whether a picture is left alone whose server says `X-Robots-Tag: noai` or `noimageai`."""
    user_agent: str = "crosstie (image-text datasets)"


class Fetcher:
    """An async context in which `fetch` may be called any number of times at once."""

    def __init__(self, limits: FetchLimits, *, connections: int, connections_a_host: int) -> None:
        self.limits = limits
        self._networks = [ipaddress.ip_network(network, strict=False) for network in limits.allow_networks]
        self._connections, self._connections_a_host = connections, connections_a_host
        self._session: aiohttp.ClientSession | None = None
        self._resolving = ThreadPoolExecutor(connections, thread_name_prefix="resolve")

    async def __aenter__(self) -> Fetcher:
        # A name server that does not answer blocks its thread for many seconds: there must be enough of them.
        asyncio.get_running_loop().set_default_executor(self._resolving)
        limits = self.limits
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=self._connections,
                limit_per_host=self._connections_a_host,
                resolver=ThreadedResolver(),
                ttl_dns_cache=600,
                socket_factory=self._checked_socket,
            ),
            timeout=aiohttp.ClientTimeout(total=limits.seconds, sock_connect=limits.connect_seconds),
            headers={
                "User-Agent": limits.user_agent,
                "Accept": "image/*,*/*;q=0.5",
                "Accept-Encoding": "identity",
            },
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            read_bufsize=_PIECE_BYTES,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._session is not None
        await self._session.close()
        self._resolving.shutdown(wait=False, cancel_futures=True)

    async def fetch(self, url: str) -> bytes:
        """The file at an http or https address. Raises FetchError for every other outcome."""
        if self._session is None:
            raise RuntimeError("a Fetcher is used inside `async with`")
        try:
            async with self._session.get(url, max_redirects=self.limits.max_redirects) as response:
                self._check_answer(response)
                return await self._body(response)
        except FetchError:
            raise
        except Exception as error:
            raise _as_fetch_error(error, self.limits) from error

    def _check_answer(self, response: aiohttp.ClientResponse) -> None:
        if response.status != 200:
            raise FetchError(
                f"http_{response.status}",
                f"the server says {response.status} {response.reason or ''}".strip(),
                may_pass=response.status in _MAY_PASS_CODES,
                wait_seconds=_retry_after(response.headers.get("Retry-After", "")),
            )
        if self.limits.respect_opt_out and _opts_out(response.headers.getall("X-Robots-Tag", ())):
            raise FetchError("opted_out", "the server asks not to use it for training (X-Robots-Tag)")
        if (response.content_length or 0) > self.limits.max_bytes:
            raise self._too_large()

    async def _body(self, response: aiohttp.ClientResponse) -> bytes:
        body = bytearray()
        async for piece in response.content.iter_chunked(_PIECE_BYTES):
            body += piece
            if len(body) > self.limits.max_bytes:
                raise self._too_large()  # leaving the response unread closes its connection
        content = bytes(body)
        if response.headers.get("Content-Encoding", "").lower() in ("gzip", "x-gzip", "deflate"):
            content = zlib.decompressobj(wbits=47).decompress(content, self.limits.max_bytes + 1)
            if len(content) > self.limits.max_bytes:
                raise self._too_large()
        if not content:
            raise FetchError("empty", "the answer has no bytes", may_pass=True)
        return content

    def _too_large(self) -> FetchError:
        return FetchError("too_large", f"more than {self.limits.max_bytes / (1 << 20):g} MiB")

    def _checked_socket(self, address: Any) -> socket.socket:
        family, kind, protocol, _, where = address
        if not is_allowed(where[0], self._networks):
            raise ForbiddenAddressError(errno.EACCES, f"{where[0]} is not a public address")
        return socket.socket(family=family, type=kind, proto=protocol)


def is_allowed(address: str, allowed: Sequence[Network] = ()) -> bool:
    """Whether an IP address is on the public internet, or in one of the allowed networks."""
    ip: Address = ipaddress.ip_address(address.partition("%")[0])
    if any(ip in network for network in allowed):
        return True
    wrapped = _wrapped(ip)
    if wrapped is not None:
        return is_allowed(str(wrapped), allowed)
    return ip.is_global and not ip.is_multicast


def _wrapped(ip: Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that an IPv6 one stands for."""
    if isinstance(ip, ipaddress.IPv4Address):
        return None
    if ip in _NAT64:
        return ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    teredo = ip.teredo
    return ip.ipv4_mapped or ip.sixtofour or (teredo[1] if teredo else None)


def _as_fetch_error(error: Exception, limits: FetchLimits) -> FetchError:
    detail = " ".join(str(error).split()) or type(error).__name__
    match error:
        case aiohttp.ConnectionTimeoutError():
            detail = f"no connection in {limits.connect_seconds:g} s"
            return FetchError("timeout", detail, may_pass=True, was_reached=False)
        case asyncio.TimeoutError():
            return FetchError("timeout", f"no whole answer in {limits.seconds:g} s", may_pass=True)
        case aiohttp.TooManyRedirects():
            return FetchError("redirects", f"more than {limits.max_redirects} redirects")
        case aiohttp.NonHttpUrlClientError():
            return FetchError("forbidden_scheme", f"only http and https are fetched: {detail}")
        case aiohttp.InvalidURL():
            return FetchError("bad_url", detail)
        case aiohttp.ClientConnectorDNSError():
            # "no such name" is final; "the name server did not answer" is not
            is_for_now = error.os_error.errno == socket.EAI_AGAIN
            return FetchError("dns", detail, may_pass=is_for_now, was_reached=False)
        case aiohttp.ClientConnectorCertificateError() | aiohttp.ClientSSLError() | ssl.SSLError():
            return FetchError("tls", detail)
        case aiohttp.ClientConnectorError() if "is not a public address" in str(error.os_error):
            return FetchError("forbidden_address", str(error.os_error.strerror or error.os_error))
        case aiohttp.ClientPayloadError():
            return FetchError("truncated", f"the answer broke off: {detail}", may_pass=True)
        case aiohttp.ClientResponseError() | aiohttp.ClientConnectionResetError() | zlib.error():
            return FetchError("bad_response", detail)
        case aiohttp.ClientConnectionError() | OSError():
            was_reached = not isinstance(error, aiohttp.ClientConnectorError)
            return FetchError("connection", detail, may_pass=True, was_reached=was_reached)
        case aiohttp.ClientError():
            return FetchError("bad_response", detail)
        case ValueError():
            return FetchError("bad_url", detail)
        case _:
            return FetchError("error", f"{type(error).__name__}: {detail}")


def _retry_after(value: str) -> float:
    """Seconds to wait, as the header says it in seconds or as a date; 0 when it says nothing."""
    if value.strip().isdigit():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return 0.0


def _opts_out(tags: Sequence[str]) -> bool:
    """Whether a tag for every robot forbids it; those for a named robot ("name: noai") are not for us."""
    words = {word.strip().lower() for tag in tags if ":" not in tag for word in tag.split(",")}
    return not words.isdisjoint(_OPT_OUTS)
