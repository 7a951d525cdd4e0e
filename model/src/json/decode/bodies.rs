//! The bodies of all requests but orders.

use super::*;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AccountBody {
    pub(super) party: PartyId,
    pub(super) currency: CurrencyCode,
    #[serde(default)]
    pub(super) balance: Money,
    #[serde(default)]
    pub(super) overdraft: Money,
}

impl AccountBody {
    pub(super) fn push(&self, commands: &mut CommandBuffer) {
        let (balance, overdraft) = (Amount(self.balance.0), Amount(self.overdraft.0));
        commands.create_overdraft(Party(self.party.0), self.currency.0, balance, overdraft);
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct UpdateAccountBody {
    pub(super) id: Id,
    pub(super) currency: CurrencyCode,
    pub(super) overdraft: Money,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CloseAccountBody {
    pub(super) id: Id,
    pub(super) currency: CurrencyCode,
    #[serde(default)]
    pub(super) kind: Kind,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HoldBody {
    pub(super) id: Id,
    pub(super) account: AccountName,
    pub(super) currency: CurrencyCode,
    pub(super) amount: MoneyMoved,
    #[serde(default)]
    pub(super) deadline_ms: TimeMs,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CaptureHoldBody {
    pub(super) id: Id,
    pub(super) to: AccountName,
    #[serde(default)]
    pub(super) amount: Option<MoneyMoved>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CouponBody {
    pub(super) buyer: PartyId,
    pub(super) coupon: Word,
    pub(super) funder: PartyId,
    #[serde(default)]
    pub(super) seller: Option<PartyId>,
    pub(super) currency: CurrencyCode,
    pub(super) amount: MoneyMoved,
    #[serde(default)]
    pub(super) minimum: Money,
    #[serde(default)]
    pub(super) expires_ms: TimeMs,
}

impl CouponBody {
    pub(super) fn push(&self, commands: &mut CommandBuffer) {
        let coupon = Coupon {
            funder: Party(self.funder.0),
            seller: self.seller.as_ref().map(|seller| Party(seller.0)),
            currency: self.currency.0,
            amount: Amount(self.amount.0),
            minimum: Amount(self.minimum.0),
            expires: self.expires_ms.time(),
        };
        commands.issue_coupon(Party(self.buyer.0), self.coupon.0, &coupon);
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CouponsBody {
    pub(super) coupons: Some1<CouponBody>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AccountsBody {
    pub(super) accounts: Some1<AccountBody>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ItemBody {
    pub(super) item: Word,
    pub(super) seller: PartyId,
    pub(super) currency: CurrencyCode,
    pub(super) price: Money,
    #[serde(default)]
    pub(super) stock: Stock,
    #[serde(default)]
    pub(super) opens_ms: TimeMs,
    #[serde(default)]
    pub(super) closes_ms: TimeMs,
    #[serde(default)]
    pub(super) limit: Limit,
}

impl ItemBody {
    pub(super) fn push<E: de::Error>(&self, commands: &mut CommandBuffer) -> Result<(), E> {
        let (item, seller) = (ItemId(self.item.0), Party(self.seller.0));
        let (opens, closes) = window(&self.opens_ms, &self.closes_ms).map_err(E::custom)?;
        let sale = Sale { opens, closes, limit: self.limit.0 as u32 };
        let price = Amount(self.price.0);
        commands.create_item(item, seller, self.currency.0, price, self.stock.0, sale);
        Ok(())
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ItemsBody {
    pub(super) items: Some1<ItemBody>,
}

/// When a sale begins and ends.
fn window(opens: &TimeMs, closes: &TimeMs) -> Result<(Time, Time), &'static str> {
    match closes.0 == 0 || opens.0 < closes.0 {
        true => Ok((opens.time(), closes.time())),
        false => Err("`closes_ms` must be after `opens_ms`"),
    }
}

/// What isn't named stays as it is; of the window, both ends are named or none.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct UpdateItemBody {
    pub(super) id: Id,
    #[serde(default)]
    pub(super) price: Option<Money>,
    #[serde(default)]
    pub(super) opens_ms: Option<TimeMs>,
    #[serde(default)]
    pub(super) closes_ms: Option<TimeMs>,
    #[serde(default)]
    pub(super) limit: Option<Limit>,
}

impl UpdateItemBody {
    pub(super) fn update(&self) -> Result<ItemUpdate, &'static str> {
        let window = match (&self.opens_ms, &self.closes_ms) {
            (None, None) => None,
            (Some(opens), Some(closes)) => Some(window(opens, closes)?),
            _ => return Err("`opens_ms` and `closes_ms` go together; 0 is no bound"),
        };
        let update = ItemUpdate {
            price: self.price.as_ref().map(|price| Amount(price.0)),
            window,
            limit: self.limit.as_ref().map(|limit| limit.0 as u32),
        };
        match update == ItemUpdate::default() {
            true => {
                Err("nothing is to change: name `price`, `limit`, or `opens_ms` and `closes_ms`")
            }
            false => Ok(update),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RestockBody {
    pub(super) id: Id,
    pub(super) quantity: StockAdded,
}

pub(super) struct Transfer {
    pub(super) id: Id,
    pub(super) from: AccountName,
    pub(super) to: AccountName,
    pub(super) currency: CurrencyCode,
    pub(super) amount: MoneyMoved,
}

impl<'de> Deserialize<'de> for Transfer {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Transfer, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Body {
            id: Id,
            from: AccountName,
            to: AccountName,
            currency: CurrencyCode,
            amount: MoneyMoved,
        }
        let Body { id, from, to, currency, amount } = object::<_, Body>(json)?;
        if from == to {
            return Err(D::Error::custom("`from` and `to` name the same account"));
        }
        Ok(Transfer { id, from, to, currency, amount })
    }
}

impl Transfer {
    pub(super) fn push(&self, commands: &mut CommandBuffer) {
        let (id, amount) = (ChangeId(self.id.0), Amount(self.amount.0));
        commands.transfer(id, self.from.0, self.to.0, self.currency.0, amount);
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TransfersBody {
    pub(super) transfers: Some1<Transfer>,
}

#[derive(PartialEq)]
pub(super) struct AccountName(pub(super) (Party, AccountKind));

impl<'de> Deserialize<'de> for AccountName {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<AccountName, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Body {
            #[serde(default)]
            party: Option<PartyId>,
            #[serde(default)]
            kind: Kind,
        }
        let body = object::<_, Body>(json)?;
        match (body.kind.0, body.party) {
            (AccountKind::Clearing, None) => Ok(AccountName((Party(0), AccountKind::Clearing))),
            (AccountKind::Clearing, Some(_)) => {
                Err(D::Error::custom("the clearing account has no `party`"))
            }
            (kind, Some(party)) => Ok(AccountName((Party(party.0), kind))),
            (_, None) => Err(D::Error::missing_field("party")),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PayBody {
    pub(super) id: Id,
    pub(super) payment: PaymentNow,
    #[serde(default)]
    pub(super) leg: Option<LegNumber>,
    #[serde(default)]
    pub(super) amount: Option<MoneyMoved>,
}

/// What is done about a payment leg; without a number the first that is open, without an amount
/// what is open of it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LegBody {
    pub(super) id: Id,
    #[serde(default)]
    pub(super) leg: Option<LegNumber>,
    #[serde(default)]
    pub(super) amount: Option<MoneyMoved>,
}

impl LegBody {
    pub(super) fn push(
        &self,
        step: PayStep,
        buyer: Party,
        order: OrderId,
        commands: &mut CommandBuffer,
    ) {
        let leg = self.leg.as_ref().map(|leg| leg.0 as u16);
        let amount = self.amount.as_ref().map(|amount| Amount(amount.0));
        commands.pay_leg(ChangeId(self.id.0), buyer, order, step, leg, amount);
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct VoidBody {
    pub(super) id: Id,
    #[serde(default)]
    pub(super) leg: Option<LegNumber>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct IdBody {
    pub(super) id: Id,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RefundBody {
    pub(super) id: Id,
    #[serde(default)]
    pub(super) lines: Option<RefundLines>,
    #[serde(default)]
    pub(super) restock: Flag,
}

/// `true` or `false`.
#[derive(Default)]
pub(super) struct Flag(pub(super) bool);

impl<'de> Deserialize<'de> for Flag {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Flag, D::Error> {
        struct Value;
        impl Visitor<'_> for Value {
            type Value = Flag;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a boolean")
            }

            fn visit_bool<E: de::Error>(self, value: bool) -> Result<Flag, E> {
                Ok(Flag(value))
            }
        }
        json.deserialize_any(Value)
    }
}

pub(super) struct RefundLines(pub(super) Vec<RefundLine>);

impl<'de> Deserialize<'de> for RefundLines {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<RefundLines, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Body {
            line: LineNumber,
            quantity: Units,
        }
        let lines = Some1::<Body>::deserialize(json)?.0;
        if lines.len() > LINES_MAX {
            return Err(D::Error::custom(format_args!("more than {LINES_MAX} lines")));
        }
        let lines = lines.iter().map(|line| RefundLine {
            line: (line.line.0 as u16).into(),
            quantity: (line.quantity.0 as u32).into(),
            ..RefundLine::default()
        });
        Ok(RefundLines(lines.collect()))
    }
}
