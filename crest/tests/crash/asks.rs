//! What test clients ask for: as JSON for the front door, and as the bytes that the log must hold.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::TcpStream;

use loadgen::Target;
use loadgen::profile::Random;
use model::record::{Body, CommandBuffer, Kind, Record, RefundLine, Sale};
use model::{
    AccountKind, Amount, ChangeId, Currency, ItemId, OrderId, Party, PaymentMethod, Quantity,
};

/// A command, as a client means it.
#[derive(Clone, Debug)]
pub enum Ask {
    Account {
        party: u64,
        balance: u64,
    },
    Item {
        item: u64,
        price: u64,
        stock: u64,
    },
    Place(Order),
    Pay {
        buyer: u64,
        order: u128,
        id: u128,
        method: PaymentMethod,
    },
    Cancel {
        buyer: u64,
        order: u128,
        id: u128,
    },
    Refund {
        buyer: u64,
        order: u128,
        id: u128,
        restock: bool,
        lines: Vec<(u16, u32)>,
    },
    Restock {
        item: u64,
        id: u128,
        quantity: u64,
    },
    /// Without a debited party, money enters from outside.
    Transfer {
        id: u128,
        from: Option<u64>,
        to: u64,
        amount: u64,
    },
}

#[derive(Clone, Debug)]
pub struct Order {
    pub buyer: u64,
    pub id: u128,
    pub method: PaymentMethod,
    pub lines: Vec<OrderLine>,
}

#[derive(Clone, Copy, Debug)]
pub struct OrderLine {
    pub item: u64,
    pub quantity: u32,
    pub unit_price: Option<u64>,
}

/// What makes two commands the same one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Key {
    pub kind: u8,
    pub scope: u64,
    pub order: u128,
    pub id: u128,
}

impl Key {
    pub fn of(record: &Record<'_>) -> Key {
        let order = match record.body {
            Body::Place { .. } => None,
            _ => record.order(),
        };
        Key {
            kind: record.header.kind,
            scope: record.header.scope.get(),
            order: order.map_or(0, |order| order.0),
            id: record.header.id.get(),
        }
    }

    pub fn is_order(&self) -> bool {
        self.kind == Kind::Place as u8
    }
}

const SELLER: u64 = 1 << 40;
const GBP: Currency = Currency::GBP;

impl Ask {
    pub fn key(&self) -> Key {
        let commands = self.commands();
        Key::of(&commands.records().next().unwrap().unwrap())
    }

    /// The command as the log must hold it, but for what became of it.
    pub fn commands(&self) -> CommandBuffer {
        let mut commands = CommandBuffer::default();
        match self {
            Ask::Account { party, balance } => {
                commands.create_account(Party(*party), GBP, Amount(*balance));
            }
            Ask::Item { item, price, stock } => {
                let (item, price) = (ItemId(*item), Amount(*price));
                commands.create_item(item, Party(SELLER), GBP, price, *stock, Sale::default());
            }
            Ask::Place(order) => {
                let mut place = commands.place();
                for line in &order.lines {
                    let price = line.unit_price.map(Amount);
                    place.line(ItemId(line.item), Quantity(line.quantity), price);
                }
                place.finish(Party(order.buyer), OrderId(order.id), GBP, order.method);
            }
            Ask::Pay { buyer, order, id, method } => {
                commands.pay(ChangeId(*id), Party(*buyer), OrderId(*order), *method);
            }
            Ask::Cancel { buyer, order, id } => {
                commands.cancel(ChangeId(*id), Party(*buyer), OrderId(*order));
            }
            Ask::Refund { buyer, order, id, restock, lines } => {
                let line = |&(line, quantity): &(u16, u32)| RefundLine {
                    line: line.into(),
                    quantity: quantity.into(),
                    ..RefundLine::default()
                };
                let lines: Vec<_> = lines.iter().map(line).collect();
                commands.refund(ChangeId(*id), Party(*buyer), OrderId(*order), *restock, &lines);
            }
            Ask::Restock { item, id, quantity } => {
                commands.restock(ChangeId(*id), ItemId(*item), *quantity);
            }
            Ask::Transfer { id, from, to, amount } => {
                let debit = match from {
                    Some(party) => (Party(*party), AccountKind::Main),
                    None => (Party(0), AccountKind::Clearing),
                };
                let credit = (Party(*to), AccountKind::Main);
                commands.transfer(ChangeId(*id), debit, credit, GBP, Amount(*amount));
            }
        }
        commands
    }

    /// The path for this alone.
    pub fn path(&self) -> String {
        match self {
            Ask::Account { .. } => "/v1/accounts".to_string(),
            Ask::Item { .. } => "/v1/items".to_string(),
            Ask::Place(_) => "/v1/orders".to_string(),
            Ask::Pay { buyer, order, .. } => order_path(*buyer, *order) + "/pay",
            Ask::Cancel { buyer, order, .. } => order_path(*buyer, *order) + "/cancel",
            Ask::Refund { buyer, order, .. } => order_path(*buyer, *order) + "/refund",
            Ask::Restock { item, .. } => format!("/v1/items/{item}/restock"),
            Ask::Transfer { .. } => "/v1/transfers".to_string(),
        }
    }

    /// The name of a list of these, where several can go in one request.
    pub fn plural(&self) -> Option<&'static str> {
        match self {
            Ask::Account { .. } => Some("accounts"),
            Ask::Item { .. } => Some("items"),
            Ask::Place(_) => Some("orders"),
            Ask::Transfer { .. } => Some("transfers"),
            _ => None,
        }
    }

    pub fn json(&self) -> String {
        match self {
            Ask::Account { party, balance } => {
                format!(r#"{{"party":{party},"currency":"GBP","balance":{balance}}}"#)
            }
            Ask::Item { item, price, stock } => format!(
                r#"{{"item":{item},"seller":{SELLER},"currency":"GBP","price":{price},"stock":{stock}}}"#
            ),
            Ask::Place(order) => {
                let mut lines = String::new();
                for OrderLine { item, quantity, unit_price } in &order.lines {
                    let comma = if lines.is_empty() { "" } else { "," };
                    write!(lines, r#"{comma}{{"item":{item},"quantity":{quantity}"#).unwrap();
                    if let Some(price) = unit_price {
                        write!(lines, r#","unit_price":{price}"#).unwrap();
                    }
                    lines.push('}');
                }
                format!(
                    r#"{{"buyer":{},"id":"{}","currency":"GBP","payment":"{}","lines":[{lines}]}}"#,
                    order.buyer,
                    OrderId(order.id),
                    order.method.word()
                )
            }
            Ask::Pay { id, method, .. } => {
                format!(r#"{{"id":"{}","payment":"{}"}}"#, ChangeId(*id), method.word())
            }
            Ask::Cancel { id, .. } => format!(r#"{{"id":"{}"}}"#, ChangeId(*id)),
            Ask::Refund { id, restock, lines, .. } => {
                let line = |&(line, quantity): &(u16, u32)| {
                    format!(r#"{{"line":{line},"quantity":{quantity}}}"#)
                };
                let id = ChangeId(*id);
                match lines.iter().map(line).collect::<Vec<_>>().join(",") {
                    lines if lines.is_empty() => format!(r#"{{"id":"{id}","restock":{restock}}}"#),
                    lines => format!(r#"{{"id":"{id}","restock":{restock},"lines":[{lines}]}}"#),
                }
            }
            Ask::Restock { id, quantity, .. } => {
                format!(r#"{{"id":"{}","quantity":{quantity}}}"#, ChangeId(*id))
            }
            Ask::Transfer { id, from, to, amount } => {
                let from = match from {
                    Some(party) => format!(r#"{{"party":{party}}}"#),
                    None => r#"{"kind":"clearing"}"#.to_string(),
                };
                let id = ChangeId(*id);
                format!(
                    r#"{{"id":"{id}","from":{from},"to":{{"party":{to}}},"currency":"GBP","amount":{amount}}}"#
                )
            }
        }
    }
}

pub fn order_path(buyer: u64, order: u128) -> String {
    format!("/v1/buyers/{buyer}/orders/{}", OrderId(order))
}

/// What is at a path: status and body.
pub fn get(target: &Target, path: &str) -> (u16, String) {
    request(target, "GET", path, "")
}

/// What becomes of a command.
pub fn post(target: &Target, path: &str, json: &str) -> (u16, String) {
    request(target, "POST", path, json)
}

fn request(target: &Target, method: &str, path: &str, body: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(target.address).unwrap();
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: crest\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let status = head.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)).unwrap();
    (status.parse().unwrap(), body.to_string())
}

/// Buyers, few enough that the same accounts change in many requests at once.
pub const BUYERS: u64 = 40;
/// Items, the first of which are scarce.
pub const ITEMS: u64 = 18;
const SCARCE: u64 = 6;

/// What must be there before anything can be ordered.
pub fn world() -> Vec<Ask> {
    // Some buyers run out of money, some items out of units.
    let accounts =
        (1..=BUYERS).map(|party| Ask::Account { party, balance: 20_000 * (1 + party % 5) });
    let items = (1..=ITEMS).map(|item| {
        let stock = if item <= SCARCE { 30 } else { 1_000_000 };
        Ask::Item { item, price: 50 + 10 * item, stock }
    });
    items.chain(accounts).collect()
}

/// A new order with an id of its own.
pub fn order(random: &mut Random, id: u128) -> Order {
    let mut lines = Vec::new();
    for _ in 0..1 + random.below(4) {
        // One line in four asks for something scarce.
        let items = if random.below(4) == 0 { SCARCE } else { ITEMS };
        lines.push(OrderLine {
            item: 1 + random.below(items),
            quantity: 1 + random.below(3) as u32,
            unit_price: (random.below(4) == 0).then(|| random.below(300)),
        });
    }
    let method = match random.below(4) {
        0 | 1 => PaymentMethod::Balance,
        2 => PaymentMethod::External,
        _ => PaymentMethod::Awaited,
    };
    Order { buyer: 1 + random.below(BUYERS), id, method, lines }
}

/// A change of an order that was placed. It may come too late, or a second time, or ask for more
/// than is left: all of these have outcomes.
pub fn change(random: &mut Random, order: &Order, id: u128) -> Ask {
    let (buyer, order_id) = (order.buyer, order.id);
    let waits = order.method == PaymentMethod::Awaited;
    match random.below(if waits { 5 } else { 2 }) {
        0 | 1 => {
            let mut lines = Vec::new();
            if random.below(4) > 0 {
                for _ in 0..1 + random.below(2) {
                    let line = random.below(order.lines.len() as u64) as u16;
                    lines.push((line, 1 + random.below(2) as u32));
                }
            }
            Ask::Refund { buyer, order: order_id, id, restock: random.below(2) == 0, lines }
        }
        2 => Ask::Cancel { buyer, order: order_id, id },
        balance => {
            let method =
                if balance == 3 { PaymentMethod::Balance } else { PaymentMethod::External };
            Ask::Pay { buyer, order: order_id, id, method }
        }
    }
}

pub fn restock(random: &mut Random, id: u128) -> Ask {
    Ask::Restock { item: 1 + random.below(SCARCE), id, quantity: 1 + random.below(10) }
}

pub fn transfer(random: &mut Random, id: u128) -> Ask {
    let to = 1 + random.below(BUYERS);
    let from = match random.below(3) {
        0 => None,
        _ => Some(1 + (to + random.below(BUYERS - 1)) % BUYERS),
    };
    Ask::Transfer { id, from, to, amount: 1 + random.below(5_000) }
}
