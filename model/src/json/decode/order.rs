//! Orders: each goes straight into the buffer, its lines as they come.

use super::*;

/// `{"orders": […]}`, each order straight into the buffer.
pub(super) struct OrdersSeed<'b>(pub(super) &'b mut CommandBuffer);

impl<'de> DeserializeSeed<'de> for OrdersSeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for OrdersSeed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with `orders`")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        #[derive(Deserialize)]
        #[serde(field_identifier, rename_all = "snake_case")]
        enum Field {
            Orders,
        }
        let mut seen = false;
        while let Some(Field::Orders) = map.next_key()? {
            once("orders", &mut seen)?;
            map.next_value_seed(Each { commands: &mut *self.0 })?;
        }
        if seen { Ok(()) } else { Err(A::Error::missing_field("orders")) }
    }
}

/// An array of orders.
struct Each<'b> {
    commands: &'b mut CommandBuffer,
}

impl<'de> DeserializeSeed<'de> for Each<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Each<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of orders")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let mut count = 0;
        while seq.next_element_seed(OrderSeed(self.commands))?.is_some() {
            count += 1;
            within_batch(count)?;
        }
        not_empty(count)
    }
}

/// One order: its lines go into the buffer as they come, its fixed part when it ends.
pub(super) struct OrderSeed<'b>(pub(super) &'b mut CommandBuffer);

impl<'de> DeserializeSeed<'de> for OrderSeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for OrderSeed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an order")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        #[derive(Deserialize)]
        #[serde(field_identifier, rename_all = "snake_case")]
        enum Field {
            Buyer,
            Id,
            Currency,
            Payment,
            Payments,
            Lines,
            DeadlineMs,
            Forfeit,
            Private,
        }
        let mut place = self.0.place();
        let (mut buyer, mut id, mut currency, mut payment) = (None, None, None, None);
        let (mut deadline, mut payments, mut forfeit, mut private) = (None, None, None, None);
        let mut lines = false;
        while let Some(field) = map.next_key()? {
            match field {
                Field::Buyer => set::<PartyId, _>("buyer", &mut buyer, &mut map)?,
                Field::Id => set::<Id, _>("id", &mut id, &mut map)?,
                Field::Currency => set::<CurrencyCode, _>("currency", &mut currency, &mut map)?,
                Field::Payment => set::<Payment, _>("payment", &mut payment, &mut map)?,
                Field::Payments => set::<Legs, _>("payments", &mut payments, &mut map)?,
                Field::Forfeit => set::<Flag, _>("forfeit", &mut forfeit, &mut map)?,
                Field::Private => set::<PrivateText, _>("private", &mut private, &mut map)?,
                Field::DeadlineMs => set::<TimeMs, _>("deadline_ms", &mut deadline, &mut map)?,
                Field::Lines => {
                    once("lines", &mut lines)?;
                    map.next_value_seed(LinesSeed(&mut place))?;
                }
            }
        }
        let buyer = buyer.ok_or_else(|| A::Error::missing_field("buyer"))?;
        let id = id.ok_or_else(|| A::Error::missing_field("id"))?;
        let currency = currency.ok_or_else(|| A::Error::missing_field("currency"))?;
        if !lines {
            return Err(A::Error::missing_field("lines"));
        }
        let (buyer, id, currency) = (Party(buyer.0), OrderId(id.0), currency.0);
        let awaits = match (&payment, &payments) {
            (Some(Payment(method)), None) => *method == PaymentMethod::Awaited,
            (None, Some(Legs(legs))) => {
                legs.iter().any(|leg| matches!(leg, NewLeg::Awaited(..))) && deadline.is_none()
            }
            (None, None) => return Err(A::Error::missing_field("payment")),
            (Some(_), Some(_)) => {
                return Err(A::Error::custom("`payment` and `payments` exclude each other"));
            }
        };
        if let Some(deadline) = deadline {
            if !awaits {
                let text = "`deadline_ms` is for orders that wait for payment; among `payments`, \
                            each that is awaited has its own";
                return Err(A::Error::custom(text));
            }
            place.expires(deadline.time());
        }
        if let Some(Flag(true)) = forfeit {
            if !awaits {
                return Err(A::Error::custom("`forfeit` is for orders that wait for payment"));
            }
            place.forfeits();
        }
        if let Some(PrivateText(text)) = private {
            place.private(&text);
        }
        match (payment, payments) {
            (_, Some(Legs(legs))) => place.finish_legs(buyer, id, currency, &legs),
            (Some(Payment(method)), _) => place.finish(buyer, id, currency, method),
            (None, None) => unreachable!("one of them was found"),
        }
        Ok(())
    }
}

/// The lines of an order.
struct LinesSeed<'a, 'b>(&'a mut PlaceWriter<'b>);

impl<'de> DeserializeSeed<'de> for LinesSeed<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for LinesSeed<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of lines")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while let Some(LineBody(line)) = seq.next_element()? {
            if self.0.lines() == LINES_MAX {
                let most = format_args!("more than {LINES_MAX} lines");
                return Err(A::Error::custom(most));
            }
            self.0.add(&line);
        }
        not_empty(self.0.lines())
    }
}

/// A line that was looked at whole while it was read, so that an error names its place.
struct LineBody(NewLine);

impl<'de> Deserialize<'de> for LineBody {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<LineBody, D::Error> {
        json.deserialize_any(LineVisitor)
    }
}

struct LineVisitor;

impl<'de> Visitor<'de> for LineVisitor {
    type Value = LineBody;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<LineBody, A::Error> {
        #[derive(Deserialize)]
        #[serde(field_identifier, rename_all = "snake_case")]
        enum Field {
            Item,
            Quantity,
            UnitPrice,
            ListPrice,
            Payee,
            Discount,
            Kind,
        }
        let (mut item, mut quantity, mut kind) = (None, None, None);
        let (mut agreed, mut listed, mut payee, mut discount) = (None, None, None, None);
        while let Some(field) = map.next_key()? {
            match field {
                Field::Item => set::<Word, _>("item", &mut item, &mut map)?,
                Field::Quantity => set::<Units, _>("quantity", &mut quantity, &mut map)?,
                Field::UnitPrice => set::<Option<Money>, _>("unit_price", &mut agreed, &mut map)?,
                Field::ListPrice => set::<Option<Money>, _>("list_price", &mut listed, &mut map)?,
                Field::Payee => set::<Option<PartyId>, _>("payee", &mut payee, &mut map)?,
                Field::Discount => set::<Option<Money>, _>("discount", &mut discount, &mut map)?,
                Field::Kind => set::<Option<ChargeKind>, _>("kind", &mut kind, &mut map)?,
            }
        }
        // What may be left out may also be `null`.
        let (agreed, listed, payee) = (agreed.flatten(), listed.flatten(), payee.flatten());
        let price = match (&agreed, &listed) {
            (None, None) => Price::List,
            (Some(agreed), None) => Price::Agreed(Amount(agreed.0)),
            (None, Some(listed)) => Price::Checked(Amount(listed.0)),
            _ => {
                let text = "`unit_price` and `list_price` exclude each other";
                return Err(A::Error::custom(text));
            }
        };
        let kind = kind.flatten().map_or(LineKind::Goods, |kind| kind.0);
        let payee = payee.map(|payee| Party(payee.0));
        let quantity = quantity.map(|units| Quantity(units.0 as u32));
        let (item, payee, quantity) = match (kind, item, payee) {
            (LineKind::Goods, Some(Word(item)), payee) => {
                (item, payee, quantity.ok_or_else(|| A::Error::missing_field("quantity"))?)
            }
            (LineKind::Goods, None, _) => return Err(A::Error::missing_field("item")),
            (_, Some(_), _) => return Err(A::Error::custom("`item` is for goods")),
            (_, None, None) => return Err(A::Error::missing_field("payee")),
            (_, None, Some(_)) if agreed.is_none() => {
                return Err(A::Error::missing_field("unit_price"));
            }
            (_, None, Some(payee)) => (payee.0, None, quantity.unwrap_or(Quantity(1))),
        };
        let discount = Amount(discount.flatten().map_or(0, |discount| discount.0));
        Ok(LineBody(NewLine { kind, item, quantity, price, payee, discount }))
    }
}

/// The payment legs of an order.
struct Legs(Vec<NewLeg>);

impl<'de> Deserialize<'de> for Legs {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Legs, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Body {
            method: LegMethod,
            #[serde(default)]
            amount: Option<Money>,
            #[serde(default)]
            deadline_ms: TimeMs,
            #[serde(default)]
            coupon: Option<Word>,
        }
        let bodies = Some1::<Body>::deserialize(json)?.0;
        if bodies.len() > LEGS_MAX {
            return Err(D::Error::custom(format_args!("more than {LEGS_MAX} payments")));
        }
        let mut legs = Vec::with_capacity(bodies.len());
        let mut rests = 0;
        for body in bodies {
            let amount = body.amount.map(|amount| Amount(amount.0));
            let is_coupon = body.method.0 == PaymentMethod::Coupon;
            rests += u32::from(amount.is_none() && !is_coupon);
            let text = match () {
                () if is_coupon != body.coupon.is_some() => "`coupon` goes with the method coupon",
                () if is_coupon && amount.is_some() => "a coupon has an amount of its own",
                () if body.deadline_ms.0 != 0 && body.method.0 != PaymentMethod::Awaited => {
                    "`deadline_ms` is for what is awaited"
                }
                () if rests > 1 => "one of the payments at most may be without an `amount`",
                () => "",
            };
            if !text.is_empty() {
                return Err(D::Error::custom(text));
            }
            legs.push(match body.method.0 {
                PaymentMethod::Balance => NewLeg::Balance(amount),
                PaymentMethod::External => NewLeg::External(amount),
                PaymentMethod::Awaited => NewLeg::Awaited(amount, body.deadline_ms.time()),
                PaymentMethod::Coupon => NewLeg::Coupon(body.coupon.map_or(0, |it| it.0)),
            });
        }
        Ok(Legs(legs))
    }
}
