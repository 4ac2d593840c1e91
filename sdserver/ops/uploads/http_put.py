"""Uploads by plain HTTP: one PUT per picture."""

import logging
import re
from typing import Final

import httpx2

from sdserver.ops.uploads.failure import UploadFailure, failure_of
from sdserver.ops.uploads.target import Target

CONNECT_SECONDS: Final = 10.0
SILENCE_SECONDS: Final = 60.0
READ_OF_BODY: Final = 4096


class HttpPut:
    """Puts objects to addresses made of a target's. Proxies and CA files come from the environment.

    Redirects are not followed: they could lead the token elsewhere.

    Args:
        target: of the service `http`.
        token: sent as `Authorization: Bearer`, empty for none.
    """

    def __init__(self, target: Target, token: str = "") -> None:
        for name in ("httpx2", "httpcore2"):
            # They log addresses, and signed addresses are secrets.
            logging.getLogger(name).setLevel(logging.WARNING)
        headers = {"user-agent": "sdserver", **({"authorization": f"Bearer {token}"} if token else {})}
        timeout = httpx2.Timeout(SILENCE_SECONDS, connect=CONNECT_SECONDS)
        self._client = httpx2.AsyncClient(follow_redirects=False, timeout=timeout, headers=headers)
        self._target = target

    async def put(self, key: str, data: bytes, media_type: str) -> None:
        """Store an object.

        Raises:
            UploadFailure: it is not stored, or not known to be.
        """
        address = self._target.address(key)
        headers = {"content-type": media_type}
        try:
            async with self._client.stream("PUT", address, content=data, headers=headers) as response:
                if response.is_success:
                    return
                body = await _beginning(response)
        except httpx2.ConnectTimeout:
            raise UploadFailure("unreachable", "no connection in time") from None
        except httpx2.TimeoutException:
            raise UploadFailure("timeout") from None
        except (httpx2.TransportError, httpx2.InvalidURL) as error:
            raise UploadFailure("unreachable", type(error).__name__) from None
        raise failure_of(response.status_code, body, _retry_after(response))

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()


async def _beginning(response: httpx2.Response) -> str:
    """As much of the body as an error code needs."""
    found = b""
    async for part in response.aiter_bytes(READ_OF_BODY):
        found += part
        if len(found) >= READ_OF_BODY:
            break
    return found[:READ_OF_BODY].decode("utf-8", "replace")


def _retry_after(response: httpx2.Response) -> float:
    text = response.headers.get("retry-after", "")
    return float(text) if re.fullmatch(r"[0-9]{1,6}", text) else 0.0
