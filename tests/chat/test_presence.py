"""A session holds a bounded number of connections, and a closed one makes room again."""

from __future__ import annotations

import contextlib
import json

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from accounts.guests import ensure_owner
from chat.presence import CONNECTIONS_MAX
from tests.browser_client import Guest
from tests.rows import queued
from tests.stack import wait_until


def _connect(guest: Guest) -> ClientConnection:
    headers = {"Cookie": f"sessionid={guest.http.cookies['sessionid']}", "Origin": guest.base}
    return connect(guest.base.replace("http", "ws") + "/ws/chat/", additional_headers=headers)


def test_a_session_with_too_many_sockets_gets_no_other_until_one_closes(guest: Guest) -> None:
    generation = queued(ensure_owner(guest.http.cookies["sessionid"]))
    address = f"/generations/{generation.pk}/events"
    with contextlib.ExitStack() as tabs:
        last = [tabs.enter_context(_connect(guest)) for _ in range(CONNECTIONS_MAX)][-1]
        with _connect(guest) as crowded:
            refusal = json.loads(crowded.recv(10))
            assert (refusal["type"], refusal["code"]) == ("error", "too_many_connections")
            with pytest.raises(ConnectionClosed) as closed:
                crowded.recv(10)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 4429
        refused = guest.http.get(address)
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "too_many_connections")
        last.close()

        def admitted() -> bool:
            with guest.http.stream("GET", address) as stream:
                return stream.status_code == 200

        wait_until(admitted, "room for one more")


def test_another_session_is_not_touched(guest: Guest) -> None:
    with contextlib.ExitStack() as tabs:
        for _ in range(CONNECTIONS_MAX):
            tabs.enter_context(_connect(guest))
        with Guest(guest.base) as other, _connect(other) as socket:
            socket.send(json.dumps({"type": "nonsense"}))
            assert json.loads(socket.recv(10))["code"] == "bad_frame"
