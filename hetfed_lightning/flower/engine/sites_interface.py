"""Rules of the sites' interface: a site may answer its orders, and leave no more bytes than an answer takes.

The engine knows the caller, but does not check all that follows from it. A site with a registered key could send an
order to another in the coordinator's name, or leave objects without end.
"""

from __future__ import annotations

import binascii
import logging
import threading
from base64 import b64decode
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, NoReturn

from fastapi import HTTPException
from flwr.common.constant import SYSTEM_TIME_TOLERANCE, TIMESTAMP_HEADER, TIMESTAMP_TOLERANCE
from flwr.proto.fleet_pb2 import PullMessagesRequest, PullMessagesResponse, PushMessagesRequest, PushMessagesResponse
from flwr.proto.message_pb2 import PushObjectRequest, PushObjectResponse
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER
from flwr.supercore.date import now
from flwr.supercore.primitives.asymmetric import bytes_to_public_key, verify_signature

Handler = Callable[..., Any]

log = logging.getLogger("uvicorn.error")


class SitesInterface:
    """Checks before the engine's handlers, which are called by keyword.

    Args:
        pull_messages: The engine's handler that hands a site its orders.
        push_messages: The engine's handler that takes a site's answer, without its content.
        push_object: The engine's handler that takes a piece of its content.
        reply: Bytes that a site may leave for one order.
    """

    def __init__(self, pull_messages: Handler, push_messages: Handler, push_object: Handler, reply: int) -> None:
        self._pull_messages = pull_messages
        self._push_messages = push_messages
        self._push_object = push_object
        self._reply = reply
        self._left: dict[int, int] = {}
        self._lock = threading.Lock()

    def pull_messages(self, *, request: PullMessagesRequest, **rest: Any) -> PullMessagesResponse:
        """Orders of a site, each of which allows one answer.

        Args:
            request: Call of the site.
            rest: Further arguments of the engine's handler.
        """
        response: PullMessagesResponse = self._pull_messages(request=request, **rest)
        if response.messages_list:
            with self._lock:
                self._left[request.node.node_id] = 0
        return response

    def push_messages(self, *, request: PushMessagesRequest, **rest: Any) -> PushMessagesResponse:
        """Response to one answer, in the name of the site that has signed the call.

        Args:
            request: Call of the site.
            rest: Further arguments of the engine's handler.

        Raises:
            HTTPException: If it is no answer, or another site's.
        """
        site = request.node.node_id
        if len(request.messages_list) != 1 or len(request.message_object_trees) != 1:
            _refuse(site, 403, f"expected one answer, got {len(request.messages_list)} messages")
        told = request.messages_list[0].metadata
        if told.src_node_id != site or not told.reply_to_message_id:
            _refuse(site, 403, "a site answers orders, in its own name, and sends none")
        self._count(site, request.ByteSize())
        response: PushMessagesResponse = self._push_messages(request=request, **rest)
        return response

    def push_object(self, *, request: PushObjectRequest, **rest: Any) -> PushObjectResponse:
        """Response to a piece of an answer.

        Args:
            request: Call of the site.
            rest: Further arguments of the engine's handler.

        Raises:
            HTTPException: If it is more than an answer takes.
        """
        self._count(request.node.node_id, len(request.object_content))
        response: PushObjectResponse = self._push_object(request=request, **rest)
        return response

    def _count(self, site: int, size: int) -> None:
        with self._lock:
            left = self._left[site] = self._left.get(site, 0) + size
        if left > self._reply:
            _refuse(site, 413, f"it has left {left} bytes for one order, of {self._reply} that it may")


def _refuse(site: int, status: int, reason: str) -> NoReturn:
    log.warning("The site with node %d is refused: %s.", site, reason)
    raise HTTPException(status, f"{reason}.")


def signer_of(headers: Sequence[tuple[bytes, bytes]], is_registered: Callable[[bytes], bool]) -> bytes | None:
    """Registered public key that has signed a call, by its headers alone; None without one.

    The engine checks the same, after it has read the whole body.

    Args:
        headers: Names in lower case, and values.
        is_registered: Function that tells whether a key is a site's.
    """
    told = dict(headers)
    try:
        key = b64decode(told[FLEET_HTTP_PUBLIC_KEY_HEADER.lower().encode()], validate=True)
        signature = b64decode(told[FLEET_HTTP_SIGNATURE_HEADER.lower().encode()], validate=True)
        signed = told[TIMESTAMP_HEADER.lower().encode()]
        age = (now() - datetime.fromisoformat(signed.decode("ascii"))).total_seconds()
        if not -SYSTEM_TIME_TOLERANCE < age < TIMESTAMP_TOLERANCE + SYSTEM_TIME_TOLERANCE or not is_registered(key):
            return None
        return key if verify_signature(bytes_to_public_key(key), signed, signature) else None
    except (KeyError, ValueError, TypeError, OverflowError, binascii.Error):
        return None
