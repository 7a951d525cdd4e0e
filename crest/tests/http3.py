"""Speaks HTTP/3 with a platform through aioquic, as nobody's own client would.

Arguments: host, port, the certificate to trust. With `until-stopped` behind them it orders on one
connection until the platform ends that, and prints how many orders were answered.
"""

import asyncio
import contextlib
import json
import socket
import sys
import uuid

from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.h3.connection import H3_ALPN, ErrorCode, FrameType, H3Connection
from aioquic.h3.connection import encode_frame
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ConnectionTerminated, StopSendingReceived, StreamReset

HOST, PORT, AUTHORITY = sys.argv[1], int(sys.argv[2]), sys.argv[3]
PATIENCE_S = 30
# After which the platform gives a handshake up.
HANDSHAKE_S = 10


class Client(QuicConnectionProtocol):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.http = H3Connection(self._quic)
        self.answers = {}
        self.stopped = set()
        self.ended = asyncio.get_running_loop().create_future()

    def quic_event_received(self, event):
        if isinstance(event, ConnectionTerminated) and not self.ended.done():
            self.ended.set_result(event.error_code)
        if isinstance(event, StopSendingReceived):
            self.stopped.add(event.error_code)
        if isinstance(event, StreamReset) and event.stream_id in self.answers:
            answer = self.answers.pop(event.stream_id)
            answer[0].set_exception(ConnectionResetError(event.error_code))
        for found in self.http.handle_event(event):
            if isinstance(found, (HeadersReceived, DataReceived)) and found.stream_id in self.answers:
                future, headers, body = self.answers[found.stream_id]
                if isinstance(found, HeadersReceived):
                    headers.update(found.headers)
                else:
                    body += found.data
                if found.stream_ended:
                    del self.answers[found.stream_id]
                    future.set_result((int(headers[b":status"]), headers, bytes(body)))

    async def ask(self, method, path, body=None, headers=(), rest=True):
        """Sends a request, and waits for its answer."""
        stream = self._quic.get_next_available_stream_id()
        data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        head = [(b":method", method.encode()), (b":scheme", b"https"),
                (b":authority", f"localhost:{PORT}".encode()), (b":path", path.encode())]
        if body is not None:
            head.append((b"content-type", b"application/json"))
        head += headers
        future = asyncio.get_running_loop().create_future()
        self.answers[stream] = (future, {}, bytearray())
        self.http.send_headers(stream, head, end_stream=body is None)
        if body is not None:
            self.http.send_data(stream, data, end_stream=rest)
        self.transmit()
        return await asyncio.wait_for(future, PATIENCE_S)

    async def move(self):
        """Goes on from another port."""
        udp = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        udp.bind(("::", 0, 0, 0))
        old = self._transport
        self._transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
            lambda: Forward(self), sock=udp)
        old.abort()
        self._quic.change_connection_id()


class Forward(asyncio.DatagramProtocol):
    """Hands on what comes in at another port."""

    def __init__(self, client):
        self.client = client

    def datagram_received(self, data, address):
        self.client.datagram_received(data, address)


class Deaf(Client):
    """Never gets an answer, as who sends somebody else's packets again."""

    def datagram_received(self, data, address):
        pass


def configuration(**more):
    found = QuicConfiguration(is_client=True, alpn_protocols=H3_ALPN, server_name="localhost", **more)
    found.load_verify_locations(AUTHORITY)
    return found


@contextlib.asynccontextmanager
async def connected(tickets=None, **more):
    more.setdefault("wait_connected", True)
    wait = more.pop("wait_connected")
    kind = more.pop("kind", Client)
    keep = tickets.append if tickets is not None else None
    async with connect(HOST, PORT, configuration=configuration(**more), create_protocol=kind,
                       session_ticket_handler=keep, wait_connected=wait) as client:
        yield client


def order(buyer):
    return {"buyer": buyer, "id": str(uuid.uuid4()), "currency": "GBP", "payment": "balance",
            "lines": [{"item": 7, "quantity": 1}]}


def want(found, expected, what):
    assert found == expected, f"{what}: {found!r}, and not {expected!r}"


async def trade(client):
    status, headers, body = await client.ask("POST", "/v1/items", {
        "item": 7, "seller": 900, "currency": "GBP", "price": 1250, "stock": 1_000_000})
    want(status, 201, body)
    for buyer in range(1, 41):
        account = {"party": buyer, "currency": "GBP", "balance": 100_000_000}
        want((await client.ask("POST", "/v1/accounts", account))[0], 201, "an account")
    placed = order(42 % 40)
    status, headers, body = await client.ask("POST", "/v1/orders", placed)
    want((status, json.loads(body)["total"]), (201, 1250), "an order")
    location = headers[b"location"].decode()
    status, headers, body = await client.ask("GET", location)
    want((status, json.loads(body)["state"]), (200, "paid"), "the order")
    assert b"alt-svc" not in headers, "it is spoken already"
    length = int(headers[b"content-length"])
    want(length, len(body), "the length")
    assert headers[b"date"].endswith(b" GMT"), headers
    # Many at once, on one connection.
    orders = [order(1 + n % 40) for n in range(300)]
    answers = await asyncio.gather(*(client.ask("POST", "/v1/orders", one) for one in orders))
    want({status for status, _, _ in answers}, {201}, "orders at once")
    again = await client.ask("POST", "/v1/orders", orders[0])
    want((again[0], json.loads(again[2])["outcome"]), (200, "already_done"), "a repeat")
    status, _, body = await client.ask("POST", "/v1/orders/batch",
                                       {"orders": [order(1 + n % 40) for n in range(1000)]})
    want((status, {one["outcome"] for one in json.loads(body)["results"]}), (200, {"ok"}), "a batch")
    status, headers, body = await client.ask("GET", "/v1/feed?from=earliest&until=now&type=order")
    placed = sum(b"order.placed" in line for line in body.splitlines())
    want((status, placed), (200, 1301), "the feed")


async def refusals(client):
    status, headers, body = await client.ask("GET", "/v1/nothing")
    want((status, headers[b"content-type"]), (404, b"application/problem+json"), "no path")
    want((await client.ask("DELETE", "/v1/orders"))[0], 405, "a method")
    status, _, body = await client.ask("POST", "/v1/orders", b'{"buyer":')
    want((status, json.loads(body)["type"]), (400, "urn:crest:problem:invalid"), "half a body")
    too_large = b" " * (9 << 20)
    status, _, body = await client.ask("POST", "/v1/orders", too_large,
                                       [(b"content-length", str(len(too_large)).encode())])
    want((status, client.stopped), (413, {ErrorCode.H3_NO_ERROR}), body)
    # Lengths that aren't true (RFC 9114, 4.1.2).
    whole = json.dumps(order(1)).encode()
    for length in (len(whole) - 1, len(whole) + 1):
        status, _, body = await client.ask("POST", "/v1/orders", whole,
                                           [(b"content-length", str(length).encode())])
        want((status, json.loads(body)["type"]), (400, "urn:crest:problem:broken_body"), length)
    # A body that doesn't end takes nobody else's time.
    slow = asyncio.ensure_future(client.ask("POST", "/v1/orders", b"{", rest=False))
    want((await client.ask("GET", "/v1/items/7"))[0], 200, "beside one that doesn't end")
    slow.cancel()


async def in_odd_pieces(client):
    """Empty frames, and some that nobody knows, are nothing (RFC 9114, 7.2.1 and 9)."""
    body = json.dumps(order(9)).encode()
    stream = client._quic.get_next_available_stream_id()
    future = asyncio.get_running_loop().create_future()
    client.answers[stream] = (future, {}, bytearray())
    client.http.send_headers(stream, [
        (b":method", b"POST"), (b":scheme", b"https"), (b":authority", b"localhost"),
        (b":path", b"/v1/orders"), (b"content-length", str(len(body)).encode())])
    for piece in (b"", body[:10], b"", body[10:], b""):
        client.http.send_data(stream, piece, end_stream=False)
        client._quic.send_stream_data(stream, encode_frame(0x21, b"x" * 100_000))
        client.transmit()
        await asyncio.sleep(0.01)
    client.http.send_data(stream, b"", end_stream=True)
    client.transmit()
    want((await asyncio.wait_for(future, PATIENCE_S))[0], 201, "in pieces")


async def malformed(frames, expected, ends=False):
    """What is no request ends its connection, and no other one."""
    async with connected() as client:
        stream = client._quic.get_next_available_stream_id()
        client._quic.send_stream_data(stream, frames, end_stream=ends)
        client.transmit()
        want(await asyncio.wait_for(client.ended, PATIENCE_S), expected, frames)


async def moved():
    async with connected() as client:
        for number in range(12):
            await client.move()
            status, _, body = await client.ask("POST", "/v1/orders", order(1 + number))
            want(status, 201, body)


async def early():
    """With the first packet: what is read at once, what writes when the handshake is done."""
    tickets = []
    async with connected(tickets) as client:
        await client.ask("GET", "/v1/items/7")
    for ticket in tickets[:1]:
        async with connected(session_ticket=ticket, wait_connected=False) as client:
            read = client.ask("GET", "/v1/items/7")
            wrote = client.ask("POST", "/v1/orders", order(3))
            read, wrote = await asyncio.gather(read, wrote)
            want((read[0], wrote[0]), (200, 201), "with the first packet")
            assert client._quic.tls.early_data_accepted, "nothing was early"
            return
    raise AssertionError("there was no ticket")


async def unconfirmed():
    """Whose handshake never ends, he orders nothing, though he sent an order with his first packet."""
    tickets = []
    async with connected(tickets) as client:
        await client.ask("GET", "/v1/items/7")
    placed = order(5)
    async with connected(session_ticket=tickets[0], wait_connected=False, kind=Deaf) as deaf:
        asked = asyncio.ensure_future(deaf.ask("POST", "/v1/orders", placed))
        await asyncio.sleep(HANDSHAKE_S + 2)
        asked.cancel()
    async with connected() as client:
        status, _, _ = await client.ask("GET", f"/v1/buyers/5/orders/{placed['id']}")
        want(status, 404, "an order that nobody confirmed")


async def until_stopped():
    async with connected() as client:
        await client.ask("POST", "/v1/items", {
            "item": 7, "seller": 900, "currency": "GBP", "price": 1250, "stock": 1_000_000})
        for buyer in range(1, 41):
            account = {"party": buyer, "currency": "GBP", "balance": 100_000_000}
            await client.ask("POST", "/v1/accounts", account)
        placed = 0

        async def order_on(buyer):
            nonlocal placed
            # What the platform rejects because it stops, it hasn't begun.
            with contextlib.suppress(ConnectionError):
                while not client.ended.done():
                    status, _, body = await client.ask("POST", "/v1/orders", order(buyer))
                    want(status, 201, body)
                    placed += 1

        print("orders", flush=True)
        orders = [asyncio.ensure_future(order_on(1 + n)) for n in range(40)]
        want(await client.ended, ErrorCode.H3_NO_ERROR, "the end")
        for one in orders:
            # An answer that came with the end was taken before it.
            one.cancel()
        print(placed)


async def main():
    async with connected() as client:
        await trade(client)
        await refusals(client)
        data = encode_frame(FrameType.DATA, b"1")
        await malformed(data, ErrorCode.H3_FRAME_UNEXPECTED)
        await malformed(encode_frame(FrameType.SETTINGS, b""), ErrorCode.H3_FRAME_UNEXPECTED)
        # Longer than anybody can keep it, or than it is.
        huge = bytes([FrameType.HEADERS]) + (1 << 40 | 3 << 62).to_bytes(8, "big")
        await malformed(huge, ErrorCode.H3_EXCESSIVE_LOAD)
        await malformed(encode_frame(FrameType.HEADERS, b"12")[:-1], ErrorCode.H3_FRAME_ERROR, True)
        want((await client.ask("GET", "/v1/items/7"))[0], 200, "beside others that are closed")
        await in_odd_pieces(client)
    await moved()
    await early()
    await unconfirmed()
    many = [connected() for _ in range(20)]
    async with contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(one) for one in many]
        answers = await asyncio.gather(*(one.ask("GET", "/v1/items/7") for one in clients))
        want({status for status, _, _ in answers}, {200}, "many connections")
    print("done")


asyncio.run(until_stopped() if sys.argv[4:] == ["until-stopped"] else main())
