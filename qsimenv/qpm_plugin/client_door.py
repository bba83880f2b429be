"""The clients' door: a frame comes in, is decoded, carried out and answered, whatever is in it.

A request that a client sends twice (its connection broke) is carried out once: each link's last answer is kept until
its next request. The controller opens the door and says how a request is carried out; answers leave through the
``outbox``, which hands them back to ``send``. Relies on ``ports`` for the socket.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

import zmq

from qsimenv.errors import QSimEnvError
from qsimenv.qpm_plugin import messages as m
from qsimenv.qpm_plugin.outbox import Answer, Outbox
from qsimenv.qpm_plugin.outside import Asker
from qsimenv.qpm_plugin.ports import Keys, Port
from qsimenv.qpm_plugin.sockets import CLIENTS, Socket
from qsimenv.qpm_plugin.subscribers import ARE_YOU_THERE, Subscribers

_KEPT_LINKS = 10_000
_LARGE_BYTES, _LARGE_KEPT_S = 1 << 20, 60.0
"""An answer over so many bytes can be asked for again for so long only."""
_log = logging.getLogger("qsimenv.controller")


@dataclass(eq=False)
class _Link:
    """A client's connection: its last request, and the answer in case it asks again."""

    number: int = -1
    frames: list[bytes] = field(default_factory=list)


class ClientDoor:
    """``carry_out`` returns the answer to a request, or None where ``send`` will be called with it later; ``settle`` is
    called after each batch of requests."""

    def __init__(
        self,
        context: zmq.Context[Socket],
        host: str,
        keys: Keys,
        carry_out: Callable[[Asker, m.RequestBody], m.ReplyBody | None],
        outbox: Outbox,
        settle: Callable[[], None],
    ) -> None:
        self._carry_out, self._outbox = carry_out, outbox
        self.port = Port(context, host, CLIENTS, keys, self._receive, settle)
        self.subscribers = Subscribers(self.port)
        self._links: OrderedDict[bytes, _Link] = OrderedDict()
        self.requests = self.refused = 0

    def send(self, answer: Answer) -> None:
        """Send an answer now, and keep it in case it is asked for again."""
        asker = answer.asker
        try:
            frames = [m.encode(m.Reply(asker.number, part)) for part in answer.parts]
        except QSimEnvError as error:
            frames = [m.encode(m.Reply(asker.number, _failed(error)))]
        self._keep(asker, frames)
        sent = [self.port.send(asker.link, frame) for frame in frames]
        if not all(sent) and answer.lost is not None:
            answer.lost()

    def is_there(self, asker: Asker) -> bool:
        """Whether the asker's connection still stands."""
        return self.port.send(asker.link, ARE_YOU_THERE)

    def _receive(self, link_id: bytes, frame: bytes) -> bool:
        """Answer a request, sooner or later; False for one that makes no sense, or came before."""
        self.requests += 1
        try:
            request = m.decode_request(frame)
        except QSimEnvError as error:
            self.refused += 1
            self.port.send(link_id, m.encode(m.Reply(0, _failed(error))))
            return False
        if not self._is_new(link_id, request):
            return False
        asker = Asker(link_id, request.number, request.client, request.maps)
        body = self._answer(asker, request.body)
        if body is not None:
            self._outbox.add(Answer(asker, [body]))  # the port settles when it has read all that came
        return True

    def _answer(self, asker: Asker, body: m.RequestBody) -> m.ReplyBody | None:
        try:
            return self._carry_out(asker, body)
        except QSimEnvError as error:
            self.refused += 1
            return _failed(error)
        except Exception as error:  # noqa: BLE001 - the controller lives on, whatever a request does
            _log.exception("a request failed in a way nobody foresaw")
            return m.Failed(QSimEnvError.code, f"{type(body).__name__}: {type(error).__name__}: {error}")

    def _is_new(self, link_id: bytes, request: m.Request) -> bool:
        """Whether it has to be carried out; the last one that came before is answered as it was.

        ``Abandon`` bears the number of the read that it is about; ``Subscribe`` is repeated with each new connection.
        """
        link = self._link(link_id)
        repeats = isinstance(request.body, m.Abandon | m.Subscribe)
        if request.number == link.number and not repeats:
            for frame in link.frames:
                self.port.send(link_id, frame)
            return False
        if request.number < link.number:
            return False
        if not isinstance(request.body, m.Abandon):
            link.number, link.frames = request.number, []
        return True

    def _keep(self, asker: Asker, frames: list[bytes]) -> None:
        link = self._link(asker.link)
        if link.number == asker.number:
            link.frames = frames
            if sum(map(len, frames)) > _LARGE_BYTES:
                asyncio.get_running_loop().call_later(_LARGE_KEPT_S, frames.clear)

    def _link(self, link_id: bytes) -> _Link:
        link = self._links.setdefault(link_id, _Link())
        self._links.move_to_end(link_id)
        if len(self._links) > _KEPT_LINKS:
            self._links.popitem(last=False)
        return link


def _failed(error: QSimEnvError) -> m.Failed:
    return m.Failed(error.code, error.message)
