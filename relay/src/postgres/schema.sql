CREATE TABLE sink (
    part integer PRIMARY KEY,
    parts integer NOT NULL,
    version integer NOT NULL,
    platform text NOT NULL,
    next bigint[] NOT NULL,
    last_event_id text,
    event_time timestamptz,
    written_at timestamptz,
    orders bigint NOT NULL DEFAULT 0,
    ledger_entries bigint NOT NULL DEFAULT 0
);
COMMENT ON TABLE sink IS 'How far the log was written here: a row for those shards whose numbers are, modulo parts, part. It changes with their rows, in one transaction';
COMMENT ON COLUMN sink.next IS 'For each shard the offset of the next record';
COMMENT ON COLUMN sink.event_time IS 'When the last of what is here was decided';

CREATE TABLE orders (
    number bigint PRIMARY KEY,
    buyer bigint NOT NULL,
    id uuid NOT NULL,
    placed_at timestamptz NOT NULL,
    changed_at timestamptz NOT NULL,
    outcome text NOT NULL,
    state text NOT NULL,
    currency text NOT NULL,
    total bigint NOT NULL,
    refunded bigint NOT NULL,
    forfeit boolean NOT NULL,
    received boolean NOT NULL
);
CREATE UNIQUE INDEX orders_id ON orders (id, buyer);
COMMENT ON COLUMN orders.number IS 'The place of its record: shard × 2^48 + offset. It has no other meaning';
COMMENT ON COLUMN orders.outcome IS '''ok'', or why it was refused';

CREATE TABLE order_lines (
    order_number bigint NOT NULL,
    line integer NOT NULL,
    kind text NOT NULL,
    item bigint,
    payee bigint,
    quantity bigint NOT NULL,
    unit_price bigint,
    discount bigint NOT NULL,
    refunded bigint NOT NULL,
    PRIMARY KEY (order_number, line)
);
COMMENT ON COLUMN order_lines.payee IS 'Who is paid for it; of a refused order, as far as it says so';
COMMENT ON COLUMN order_lines.refunded IS 'Units';

CREATE TABLE order_payments (
    order_number bigint NOT NULL,
    payment integer NOT NULL,
    method text NOT NULL,
    state text NOT NULL,
    amount bigint NOT NULL,
    paid bigint NOT NULL,
    refunded bigint NOT NULL,
    suspended bigint NOT NULL,
    coupon bigint,
    funder bigint,
    deadline timestamptz,
    PRIMARY KEY (order_number, payment)
);
COMMENT ON TABLE order_payments IS 'The payment legs of orders that were not refused';

CREATE TABLE ledger_entries (
    record bigint NOT NULL,
    entry integer NOT NULL,
    at timestamptz NOT NULL,
    kind text NOT NULL,
    party bigint NOT NULL,
    currency text NOT NULL,
    amount bigint NOT NULL,
    order_number bigint
);
COMMENT ON TABLE ledger_entries IS 'Every movement of money. Rows are added, and never changed';
COMMENT ON COLUMN ledger_entries.record IS 'The place of the record that moved the money: shard × 2^48 + offset';
COMMENT ON COLUMN ledger_entries.amount IS 'What the account got; below zero, what it gave. Those of a record come to 0';

CREATE TABLE items (
    item bigint PRIMARY KEY,
    seller bigint NOT NULL,
    currency text NOT NULL,
    created_at timestamptz NOT NULL
);

CREATE TABLE accounts (
    party bigint NOT NULL,
    kind text NOT NULL,
    currency text NOT NULL,
    overdraft bigint,
    opened_at timestamptz,
    closed_at timestamptz,
    PRIMARY KEY (party, kind, currency)
);
COMMENT ON TABLE accounts IS 'Accounts that somebody opened or closed. Others come into being with their first entry';

CREATE TABLE coupons (
    buyer bigint NOT NULL,
    coupon bigint NOT NULL,
    funder bigint NOT NULL,
    seller bigint,
    currency text NOT NULL,
    amount bigint NOT NULL,
    minimum bigint NOT NULL,
    issued_at timestamptz NOT NULL,
    expires_at timestamptz,
    PRIMARY KEY (buyer, coupon)
);

CREATE TABLE holds (
    party bigint NOT NULL,
    id uuid NOT NULL,
    kind text NOT NULL,
    currency text NOT NULL,
    amount bigint NOT NULL,
    held bigint NOT NULL,
    placed_at timestamptz NOT NULL,
    deadline timestamptz,
    PRIMARY KEY (party, id)
);
COMMENT ON COLUMN holds.held IS 'What is still held';
