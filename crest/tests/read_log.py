"""Reads Crest's log from a JetStream stream: written from docs/log.md and docs/layout.md alone.

usage: read_log.py URL STREAM

Prints one line of JSON: what was traded, and what each shard's log came to.
"""

import asyncio
import json
import struct
import sys

import nats
import xxhash
import zstandard
from nats.errors import TimeoutError
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from nats.js.errors import ServiceUnavailableError

# Kinds of records, outcomes.
CREATE_ITEM, PLACE = 3, 5
OK = 1


class Shard:
    def __init__(self):
        self.next = 1
        self.previous = 0


class Reader:
    def __init__(self):
        self.shards = {}
        self.orders = {}
        self.units = 0
        self.total = 0
        self.items = 0
        self.frames = 0
        self.records = 0

    def message(self, headers, payload):
        if headers.get("Content-Encoding") == "zstd":
            payload = zstandard.ZstdDecompressor().decompress(payload, max_output_size=1 << 20)
        if int(headers["Crest-Position"]) == 0:
            return
        magic, version, kind, length, frames = struct.unpack_from("<4sHHII", payload)
        assert (magic, version) == (b"CRWR", 1), (magic, version)
        generation, payload_hash = struct.unpack_from("<QQ", payload, 40)
        content = payload[64 : 64 + length]
        assert xxhash.xxh3_64_intdigest(content, seed=generation) == payload_hash
        if kind != 0:
            return
        at = 0
        for _ in range(frames):
            at += self.frame(content[at:])
        assert at == length, (at, length)

    def frame(self, content):
        magic, layout, _, length, count, number = struct.unpack_from("<4sHHIIH", content)
        assert (magic, layout) == (b"CRFR", 2), (magic, layout)
        _, first, _, previous, found = struct.unpack_from("<QQQQQ", content, 24)
        records = content[64 : 64 + length]
        computed = xxhash.xxh3_64_intdigest(content[:56] + bytes(8) + records)
        assert computed == found, "a frame isn't what was hashed"
        shard = self.shards.setdefault(number, Shard())
        assert (first, previous) == (shard.next, shard.previous), "a frame doesn't follow"
        shard.next, shard.previous = first + count, found
        self.frames += 1
        at = 0
        for _ in range(count):
            at += self.record(records[at:])
        assert at == length, (at, length)
        return 64 + length

    def record(self, bytes):
        length, kind, realm, outcome, state, scope = struct.unpack_from("<IBBBBQ", bytes)
        identity = int.from_bytes(bytes[16:32], "little")
        amount = struct.unpack_from("<Q", bytes, 40)[0]
        self.records += 1
        if kind == CREATE_ITEM and outcome == OK:
            self.items += 1
        if kind == PLACE:
            assert (scope, identity) not in self.orders, "an order was placed twice"
            self.orders[scope, identity] = outcome
            _, lines, _, _, legs = struct.unpack_from("<HHHHB", bytes, 56)
            if outcome == OK:
                self.total += amount
                for line in range(lines):
                    at = 56 + 16 + 24 * legs + 24 * line
                    quantity, line_kind = struct.unpack_from("<IB", bytes, at + 16)
                    self.units += quantity if line_kind == 0 else 0
        return length


async def subscribe(js, stream, first):
    config = ConsumerConfig(
        deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
        opt_start_seq=first,
        ack_policy=AckPolicy.NONE,
    )
    return await js.pull_subscribe(f"{stream}.>", stream=stream, config=config)


async def main(url, stream):
    client = await nats.connect(url.split(","))
    js = client.jetstream()
    last = (await js.stream_info(stream)).state.last_seq
    reader = Reader()
    sequence, subscription, tries = 0, None, 50
    while sequence < last:
        try:
            subscription = subscription or await subscribe(js, stream, sequence + 1)
            messages = await subscription.fetch(100, timeout=5)
        except (ServiceUnavailableError, TimeoutError):
            # No server leads a consumer that has just been made. Whatever it sent is sent again.
            subscription, tries = None, tries - 1
            if tries == 0:
                raise
            await asyncio.sleep(0.2)
            continue
        for message in messages:
            sequence = message.metadata.sequence.stream
            if message.subject != f"{stream}.owner":
                reader.message(message.headers, message.data)
    await client.close()
    accepted = sum(outcome == OK for outcome in reader.orders.values())
    print(
        json.dumps(
            {
                "orders": accepted,
                "units": reader.units,
                "total": reader.total,
                "items": reader.items,
                "frames": reader.frames,
                "records": reader.records,
                "shards": len(reader.shards),
            }
        )
    )


asyncio.run(main(sys.argv[1], sys.argv[2]))
