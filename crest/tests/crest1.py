"""Speaks `crest/1` with a platform through aioquic, written from docs/binary.md and docs/layout.md.

Arguments: host, port, the certificate to trust; the platform is a new one. With `until-stopped`
behind them it orders on one connection until the platform ends that, and prints how many orders
were answered as placed.
"""

import asyncio
import collections
import contextlib
import http.client
import json
import pathlib
import re
import struct
import sys
import time
import uuid

from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import (ConnectionTerminated, StopSendingReceived, StreamDataReceived,
                                 StreamReset)

HOST, PORT, AUTHORITY = sys.argv[1], int(sys.argv[2]), sys.argv[3]
PATIENCE_S = 60
PAGE = pathlib.Path(__file__).parents[2] / "docs" / "binary.md"
BYTES, JSON = "application/vnd.crest.v1", "application/json"
GBP = 826
NIL = uuid.UUID(int=0)
NOT_BEGUN = 1

CREATE_ACCOUNT, TRANSFER, CREATE_ITEM, RESTOCK, PLACE, PAY, CANCEL, REFUND = range(1, 9)
UPDATE_ITEM, RECEIVE, ISSUE_COUPON, HOLD, SETTLE_HOLD, UPDATE_ACCOUNT = range(13, 19)
OK, ALREADY_DONE, ID_REUSED, SOLD_OUT, INSUFFICIENT_FUNDS = range(1, 6)
UNKNOWN_ACCOUNT, UNKNOWN_ITEM, UNKNOWN_ORDER, CURRENCY_MISMATCH, WRONG_STATE = range(8, 13)
PRICE_MISMATCH, SUSPENDED = 15, 16
REFUSED, RESERVED, PAID, PARTLY_REFUNDED, REFUNDED, CANCELLED = range(1, 7)
AWAIT, BALANCE, EXTERNAL, COUPON = range(4)
BY_BALANCE, FROM_OUTSIDE, AUTHORISE, VOID = range(1, 5)
GOODS, SHIPPING = range(2)
MAIN, CLEARING = 1, 3
AGREED, CHECKED = 1, 2
WITHDRAWN, FORFEIT = 1, 2
PRICE, WINDOW, LIMIT = 1, 2, 4
OVERDRAFT, CLOSE = 1, 2
ANY_LEG = 65535

Result = collections.namedtuple("Result", "outcome state line amount offset")


def command(kind, scope, id, body):
    """`id` is None for a new one."""
    id = (uuid.uuid4() if id is None else id).int.to_bytes(16, "little")
    body += bytes(-len(body) % 8)
    return struct.pack("<IBBBBQ16s24x", 56 + len(body), kind, 0, 0, 0, scope, id) + body


def account(party, balance=0, overdraft=0):
    return command(CREATE_ACCOUNT, party, NIL, struct.pack("<HB5xQQ", GBP, MAIN, balance, overdraft))


def update_account(party, flags, overdraft=0):
    return command(UPDATE_ACCOUNT, party, None, struct.pack("<HBB4xQ", GBP, MAIN, flags, overdraft))


def transfer(debit, credit, moved):
    (party, kind), (to, to_kind) = debit, credit
    return command(TRANSFER, party, None, struct.pack("<HBB4xQQ8x", GBP, kind, to_kind, to, moved))


def item(number, price=1250, stock=1_000_000, opens=0, closes=0, limit=0):
    return command(CREATE_ITEM, number, NIL, struct.pack(
        "<QQQQQHxxI", 900, price, stock, opens, closes, GBP, limit))


def update_item(number, flags, price=0, opens=0, closes=0, limit=0):
    return command(UPDATE_ITEM, number, None,
                   struct.pack("<QQQIB3x", price, opens, closes, limit, flags))


def restock(number, quantity=1):
    return command(RESTOCK, number, None, struct.pack("<Q", quantity))


def coupon(buyer, number, amount, expires=0):
    return command(ISSUE_COUPON, buyer, NIL,
                   struct.pack("<QQQQQQH6x", number, 902, 0, amount, 0, expires, GBP))


def leg(method, amount=None, term=0):
    return struct.pack("<BB6xQQ", method, amount is not None, amount or 0, term)


def line(number, quantity=1, price=0, kind=GOODS, flags=0):
    return struct.pack("<QQIBBxx", number, price, quantity, kind, flags)


def extra(of_line, payee=0, discount=0):
    return struct.pack("<HHIQQ", of_line, 0, 0, payee, discount)


def place(buyer, lines=(line(7),), legs=(leg(BALANCE),), extras=(), flags=0, private="", id=None):
    kept = bytes(12) + private.encode() + bytes(16) if private else b""
    return command(PLACE, buyer, id, b"".join((struct.pack(
        "<HHHHBB4xH", GBP, len(lines), len(extras), 0, len(legs), flags, len(kept)),
        *legs, *lines, *extras, kept)))


def pay(buyer, order, step, amount=None, number=ANY_LEG):
    return command(PAY, buyer, None, number_of(order) + struct.pack(
        "<QHBB4x", amount or 0, number, step, amount is not None))


def cancel(buyer, order):
    return command(CANCEL, buyer, None, number_of(order) + bytes(8))


def receive(buyer, order):
    return command(RECEIVE, buyer, None, number_of(order))


def refund(buyer, order, *lines, restocks=False):
    return command(REFUND, buyer, None, number_of(order) + struct.pack(
        "<8xHB3xxx", len(lines), restocks) + b"".join(struct.pack("<HxxI", *one) for one in lines))


def hold(party, held, deadline=0):
    return command(HOLD, party, None, struct.pack("<HB5xQQ", GBP, MAIN, held, deadline))


def settle(party, held, credit=(0, 0), captured=0):
    to, kind = credit
    return command(SETTLE_HOLD, party, None, number_of(held) + struct.pack(
        "<BB6xQQ8x", kind != 0, kind, to, captured))


def number_of(one):
    """An id as it is within a body: that of a command, which is where its header has it."""
    return one[16:32]


def id_of(one):
    return str(uuid.UUID(int=int.from_bytes(number_of(one), "little")))


def put(one, at, data):
    return one[:at] + data + one[at + len(data):]


def results(body):
    want(len(body) % 24, 0, "whole results")
    found = list(struct.iter_unpack("<BBHIQQ", body))
    want({one[3] for one in found} | {0}, {0}, "reserved")
    return [Result(*one[:3], *one[4:]) for one in found]


class Client(QuicConnectionProtocol):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.answers = {}
        self.stopped = set()
        self.ended = asyncio.get_running_loop().create_future()

    def quic_event_received(self, event):
        if isinstance(event, ConnectionTerminated):
            self.ended.set_result(event.error_code)
            while self.answers:
                self.fail(next(iter(self.answers)), ConnectionError("ended"))
        elif isinstance(event, StopSendingReceived):
            self.stopped.add(event.error_code)
        elif isinstance(event, StreamReset):
            self.fail(event.stream_id, ConnectionResetError(event.error_code))
        elif isinstance(event, StreamDataReceived) and event.stream_id in self.answers:
            future, body = self.answers[event.stream_id]
            body += event.data
            if event.end_stream:
                del self.answers[event.stream_id]
                if not future.done():
                    future.set_result(bytes(body))

    def fail(self, stream, error):
        future, _ = self.answers.pop(stream, (None, None))
        if future and not future.done():
            future.set_exception(error)

    def open(self, data, rest=True):
        """Sends on a new stream; its answer comes to the future."""
        if self.ended.done():
            raise ConnectionError("ended")
        stream = self._quic.get_next_available_stream_id()
        future = asyncio.get_running_loop().create_future()
        self.answers[stream] = (future, bytearray())
        self._quic.send_stream_data(stream, data, end_stream=rest)
        self.transmit()
        return stream, future

    async def ask(self, *commands):
        """Sends commands, and waits for status and results, or the problem."""
        answer = await asyncio.wait_for(self.open(b"".join(commands))[1], PATIENCE_S)
        (status, zero), rest = struct.unpack("<H6s", answer[:8]), answer[8:]
        want(zero, bytes(6), "the head")
        return status, results(rest) if status == 200 else json.loads(rest)

    async def done(self, one, amount=0, state=0, outcome=OK, of_line=0):
        """One command, and what must become of it."""
        status, found = await self.ask(one)
        want((status, len(found)), (200, 1), found)
        want(found[0][:4], (outcome, state, of_line, amount), f"kind {one[4]}: {one.hex()}")
        return found[0]

    async def refused(self, field, *commands, status=400):
        found, problem = await self.ask(*commands)
        want((found, problem.get("field"), problem["status"]), (status, field, status), problem)


@contextlib.asynccontextmanager
async def connected(wait=True, tickets=None, **more):
    found = QuicConfiguration(is_client=True, alpn_protocols=["crest/1"], server_name="localhost",
                              **more)
    found.load_verify_locations(AUTHORITY)
    keep = tickets.append if tickets is not None else None
    async with connect(HOST, PORT, configuration=found, create_protocol=Client, wait_connected=wait,
                       session_ticket_handler=keep) as client:
        yield client


def http_ask(method, path, body=None, **headers):
    """Over HTTP/1.1. What isn't bytes already is JSON, both ways."""
    if body is not None and not isinstance(body, bytes):
        body, headers = json.dumps(body).encode(), {"Content-Type": JSON, **headers}
    connection = http.client.HTTPConnection(HOST, PORT, timeout=PATIENCE_S)
    with contextlib.closing(connection):
        connection.request(method, path, body, {k.replace("_", "-"): v for k, v in headers.items()})
        answer = connection.getresponse()
        found, kind = answer.read(), answer.headers["content-type"]
        return answer.status, results(found) if kind == BYTES else json.loads(found)


def order_json(buyer, id=None):
    return {"buyer": buyer, "id": id or str(uuid.uuid4()), "currency": "GBP", "payment": "balance",
            "lines": [{"item": 7, "quantity": 1}]}


def get(path):
    status, found = http_ask("GET", path)
    want(status, 200, found)
    return found


def want(found, expected, what):
    assert found == expected, f"{what}: {found!r}, and not {expected!r}"


async def trade(client):
    """Every kind that callers have, and then all of it again."""
    later = (int(time.time()) + 3600) * 1_000_000
    one, promised, held = place(41), place(41, legs=[leg(AWAIT)]), hold(42, 300, later)
    waits = place(41, legs=[leg(AWAIT, 1000, later), leg(BALANCE)])
    dropped = place(41, legs=[leg(AWAIT, term=later)], flags=FORFEIT)
    full = place(41, [line(7, 2), line(8, 1, 999, flags=AGREED), line(900, 1, 499, SHIPPING, AGREED)],
                 [leg(COUPON, term=5), leg(BALANCE, 1000), leg(EXTERNAL)],
                 [extra(0, discount=100), extra(1, payee=901)])
    sent = [
        (account(42, 10_000), 10_000), (account(41, 100_000), 100_000),
        (item(7),), (item(8, 999, 5),), (coupon(41, 5, 300, later), 300),
        (transfer((0, CLEARING), (42, MAIN), 500), 500), (transfer((42, MAIN), (41, MAIN), 200), 200),
        (transfer((42, MAIN), (41, MAIN), 20_000), 0, 0, INSUFFICIENT_FUNDS),
        (one, 1250, PAID), (full, 3898, PAID),
        (place(41, [line(7), line(8, 6)]), 0, REFUSED, SOLD_OUT, 2),
        (place(41, [line(7, 1, 1, flags=CHECKED)]), 0, REFUSED, PRICE_MISMATCH, 1),
        (place(44), 0, REFUSED, UNKNOWN_ACCOUNT),
        (refund(41, full, (0, 1), restocks=True), 1200, PARTLY_REFUNDED),
        (refund(41, full, (1, 1), (0, 2)), 0, PARTLY_REFUNDED, WRONG_STATE, 2),
        (refund(41, full), 2698, REFUNDED), (receive(41, one), 1250, PAID),
        (receive(41, dropped), 0, 0, UNKNOWN_ORDER),
        (waits, 1250, RESERVED), (pay(41, waits, FROM_OUTSIDE, 400, 0), 400, RESERVED),
        (pay(41, waits, FROM_OUTSIDE), 600, PAID), (pay(41, waits, FROM_OUTSIDE, 50), 50, PAID, SUSPENDED),
        (promised, 1250, RESERVED), (pay(41, promised, AUTHORISE), 1250, RESERVED),
        (pay(41, promised, VOID), 1250, RESERVED), (pay(41, promised, BY_BALANCE), 1250, PAID),
        (dropped, 1250, RESERVED), (cancel(41, dropped), 0, CANCELLED),
        (held, 300), (settle(42, held, (41, MAIN), 100), 100), (settle(42, held), 200),
        (restock(8, 4),), (update_item(8, PRICE, price=1099),),
        (update_item(8, WINDOW | LIMIT, opens=1_000_000, closes=later, limit=3),),
        (update_account(42, OVERDRAFT, 5000), 5000),
    ]
    first = [await client.done(*one) for one in sent]
    status, again = await client.ask(*(one[0] for one in sent))
    want((status, len(again)), (200, len(sent)), "all again")
    for (one, *_), then, now in zip(sent, first, again):
        expected = then._replace(outcome=ALREADY_DONE if then.outcome == OK else then.outcome)
        if one[4] in (CREATE_ACCOUNT, CREATE_ITEM, ISSUE_COUPON):
            expected = expected._replace(offset=0)
        if one[4] == PLACE:  # Its state and offset are today's.
            expected = expected._replace(state=now.state, offset=now.offset)
        want(now, expected, f"kind {one[4]} again")
    one = place(41)
    await client.done(one, 1250, PAID)
    await client.done(place(41, [line(7, 2)], id=uuid.UUID(id_of(one))), outcome=ID_REUSED)
    await client.done(account(43))
    await client.done(update_account(43, CLOSE))
    want(get("/v1/accounts/43?currency=GBP")["closed"], True, "closed")
    order = get(f"/v1/buyers/41/orders/{id_of(full)}")
    want((order["state"], [one["paid"] for one in order["payments"]]), ("refunded", [300, 1000, 2598]), order)
    found = get("/v1/items/8")
    want([found[key] for key in ("price", "stocked", "sold", "limit", "closes_ms")],
         [1099, 9, 1, 3, later // 1000], found)
    found = get("/v1/accounts/42?currency=GBP")
    want((found["balance"], found["overdraft"]), (10_200, 5000), found)
    # Only an encrypted directory keeps what is private.
    status, found = await client.ask(one := place(41, private="Ada, 1 Street"))
    if status == 200:
        want(get(f"/v1/buyers/41/orders/{id_of(one)}/private")["private"], "Ada, 1 Street", found)
    else:
        want((status, found["type"]), (422, "urn:crest:problem:no_keys"), "private")


async def example(client):
    """The page's own bytes, and the same order in the other way."""
    text = re.search(r"```text\n(.*?)```", PAGE.read_text(), re.S)[1]
    one = bytes.fromhex(" ".join(row.split("   ")[0] for row in text.splitlines()))
    want(one, place(42, [line(7, 2)], id=uuid.UUID("01890a5d-ac96-774b-bcce-b302099a8057")), "the page")
    first = await client.done(one, 2500, PAID)
    want(await client.done(one, 2500, PAID, ALREADY_DONE), first._replace(outcome=ALREADY_DONE), "again")
    body = order_json(42, id_of(one))
    body["lines"][0]["quantity"] = 2
    done = {"outcome": "already_done", "state": "paid", "total": 2500, "offset": first.offset}
    want(http_ask("POST", "/v1/orders", body), (200, done), "as JSON")
    body = order_json(42)
    status, found = http_ask("POST", "/v1/orders", body)
    want((status, found["outcome"]), (201, "ok"), found)
    same = await client.done(place(42, id=uuid.UUID(body["id"])), 1250, PAID, ALREADY_DONE)
    want(same.offset, found["offset"], "after JSON")


async def many(client):
    await asyncio.gather(*(client.done(account(n, 10_000_000), 10_000_000) for n in range(101, 141)))
    answers = await asyncio.gather(*(client.ask(place(101 + n % 40)) for n in range(300)))
    want({(status, *found[0][:4]) for status, found in answers}, {(200, OK, PAID, 0, 1250)}, "at once")
    await client.done(item(10, stock=2))
    batch = [place(101 + n % 40, [line(7, 1 + n % 3)]) for n in range(1000)]
    expected = [(OK, PAID, 0, 1250 * (1 + n % 3)) for n in range(1000)]
    batch[123], expected[123] = place(103, [line(7), line(999)]), (UNKNOWN_ITEM, REFUSED, 2, 0)
    batch[777], expected[777] = place(104, [line(10, 3)]), (SOLD_OUT, REFUSED, 1, 0)
    status, found = await client.ask(*batch)
    want((status, len(found)), (200, 1000), "a batch")
    for number, one in enumerate(found):
        want(one[:4], expected[number], f"the batch's {number}")
    before = get("/v1/items/7")["stocked"]
    status, found = await client.ask(*(restock(7) for _ in range(10_000)))
    want((status, collections.Counter(one.outcome for one in found)), (200, {OK: 10_000}), "10,000")
    await client.refused("commands", *(restock(7) for _ in range(10_001)))
    want(get("/v1/items/7")["stocked"], before + 10_000, "units")


async def refusals(client):
    """What isn't a command is named, and nothing beside it happens."""
    good, legs, late = place(41), [leg(AWAIT)], 1_900_000_000_000_001
    bad = [b"garbage!" * 20, good[:-8], good[:20], good[:3], put(good, 5, b"\1"), put(good, 16, bytes(16)),
           put(good, 8, bytes(8)), put(account(1), 16, b"\1"), account(0), update_item(8, 0),
           hold(41, 1, late), coupon(41, 9, 1, late), place(41, legs=[leg(AWAIT, term=late)]),
           item(9, opens=late), transfer((0, MAIN), (41, MAIN), 1), place(41, legs=[leg(BALANCE)] * 2),
           place(41, [line(7, 0)]), place(41, [line(7, price=5)]), place(41, []), place(41, legs=[]),
           place(41, [line(900, 1, 5, SHIPPING)]), place(41, flags=FORFEIT),
           place(41, legs=legs, flags=WITHDRAWN), place(41, extras=[extra(1, 901)])]
    bad += [put(good, 4, bytes([kind])) for kind in (0, 9, 10, 11, 12, 19, 20, 21, 255)]
    # Outcomes, in the header and bodies, and what is reserved.
    bad += [put(good, at, b"\1") for at in (6, 7, 32, 40, 48, 62, 66, 69, 74, 80, 88, 118)]
    bad += [put(cancel(41, good), 72, b"\1"), put(account(1), 59, b"\1"), put(hold(41, 1), 63, b"\1")]
    bad += [put(good, 0, struct.pack("<I", size)) for size in
            (0, 8, 48, 56, 116, 112, 124, 128, 1 << 31, (1 << 32) - 8, (1 << 32) - 1)]
    for number, one in enumerate(bad):
        beside = account(2000 + number, 5)
        await client.refused("commands[1]", beside, one)
        await client.refused("commands[0]", one, beside)
        want(http_ask("GET", f"/v1/accounts/{2000 + number}?currency=GBP")[0], 404, one.hex())
    await client.refused("commands", b"")
    want(http_ask("GET", f"/v1/buyers/41/orders/{id_of(good)}")[0], 404, "the good one")
    await client.done(account(2000, 5), 5)


async def too_much_and_too_little(client):
    large = account(3000) + place(41, [line(7)] * 2000) * 180
    assert len(large) > 8 << 20
    await client.refused(None, large, status=413)
    for part in (account(3001) + account(3002)[:40], account(3003)[:40], account(3004)):
        stream, future = client.open(part, rest=False)
        await client.done(place(41), 1250, PAID)
        client._quic.reset_stream(stream, 0)
        client.transmit()
        future.cancel()
        await client.done(place(41), 1250, PAID)
    await asyncio.sleep(0.2)
    found = {http_ask("GET", f"/v1/accounts/{party}?currency=GBP")[0] for party in range(3000, 3005)}
    want(found, {404}, "what wasn't whole")


def over_http():
    sent = {"Content_Type": BYTES}
    status, found = http_ask("POST", "/v1/commands", place(41) + restock(8, 1), **sent)
    want((status, [one[:4] for one in found]), (200, [(OK, PAID, 0, 1250), (OK, 0, 0, 0)]), "bytes")
    refused = place(41, [line(7), line(999)])
    status, found = http_ask("POST", "/v1/commands", place(41) + refused, **sent, Accept=JSON)
    found = [{key: one[key] for key in one if key != "offset"} for one in found["results"]]
    want((status, found[0]["outcome"], found[0]["state"]), (200, "ok", "paid"), found)
    want(found[1], {"outcome": "unknown_item", "state": "refused", "field": "lines[1]"}, found)
    status, found = http_ask("POST", "/v1/orders/batch", {"orders": [order_json(41)] * 2}, Accept=BYTES)
    want((status, [one.outcome for one in found]), (200, [OK, ALREADY_DONE]), found)
    for path, one, amount in (
            ("orders", place(41), 1250), ("accounts", account(3100, 5), 5), ("items", item(31), 0),
            ("transfers", transfer((41, MAIN), (42, MAIN), 3), 3), ("coupons", coupon(41, 31, 7), 7)):
        status, found = http_ask("POST", f"/v1/{path}/batch", one, **sent)
        want((status, found[0].outcome, found[0].amount), (200, OK, amount), path)
        status, found = http_ask("POST", f"/v1/{path}/batch", one + restock(8), **sent)
        want((status, found["field"]), (400, "commands[1]"), found)
    want(http_ask("POST", "/v1/commands", {"orders": [order_json(41)]})[0], 415, "commands as JSON")
    one = place(41)
    want(http_ask("POST", "/v1/orders", one, **sent)[0], 415, "one order as bytes")
    status, found = http_ask("POST", "/v1/orders/batch", one + account(3101), **sent)
    want((status, found["field"]), (400, "commands[1]"), found)
    want(http_ask("GET", f"/v1/buyers/41/orders/{id_of(one)}")[0], 404, "the order beside it")


async def early():
    """What comes with the first packet waits for the handshake, and is done."""
    tickets = []
    async with connected(tickets=tickets) as client:
        await client.done(place(41), 1250, PAID)
    async with connected(session_ticket=tickets[0], wait=False) as client:
        await client.done(place(41), 1250, PAID)
        assert client._quic.tls.early_data_accepted, "nothing was early"


async def until_stopped():
    async with connected() as client:
        await client.done(item(7))
        for buyer in range(1, 41):
            await client.done(account(buyer, 100_000_000), 100_000_000)

        async def order_on(buyer):
            placed = 0
            try:
                while True:
                    status, found = await client.ask(place(buyer))
                    if status == 503:  # Nobody knows whether it was placed.
                        break
                    want((status, found[0].outcome), (200, OK), found)
                    placed += 1
            except ConnectionResetError as reset:
                want(reset.args, (NOT_BEGUN,), "a reset")
            except ConnectionError:
                pass
            return placed

        print("orders", flush=True)
        placed = await asyncio.gather(*(order_on(1 + n) for n in range(40)))
        want(await client.ended, 0, "the end")
        print(sum(placed))


async def main():
    async with connected() as client:
        await trade(client)
        await example(client)
        await many(client)
        await refusals(client)
        await too_much_and_too_little(client)
        over_http()
        await client.done(place(41), 1250, PAID)
    await early()
    print("done")


asyncio.run(until_stopped() if sys.argv[4:] == ["until-stopped"] else main())
