//! What can become of a command, and the small closed sets that commands are made of.

/// Declares an enum that travels as one byte and as a JSON word.
macro_rules! byte_enum {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $byte:literal $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[repr(u8)]
        pub enum $name { $($(#[$vdoc])* $variant = $byte,)* }

        impl $name {
            /// Every value, in the order of its byte.
            pub const ALL: &[$name] = &[$($name::$variant),*];

            /// The value that travels as `byte`.
            pub fn from_byte(byte: u8) -> Option<$name> {
                match byte { $($byte => Some($name::$variant),)* _ => None }
            }

            /// The value that JSON calls `word`.
            pub fn from_word(word: &str) -> Option<$name> {
                match word { $($word => Some($name::$variant),)* _ => None }
            }

            /// The word for it in JSON.
            pub fn word(self) -> &'static str {
                match self { $($name::$variant => $word,)* }
            }
        }
    };
}
pub(crate) use byte_enum;

byte_enum! {
    /// What became of a command. Only a caller whose command got no outcome needs to try again.
    Outcome {
        /// Done as asked.
        Ok = 1 "ok",
        /// Done before, under the same id and with the same content; nothing changed now.
        AlreadyDone = 2 "already_done",
        /// The id was used before with other content; nothing changed.
        IdReused = 3 "id_reused",
        /// Fewer units were left than the order asks for. Final for this id.
        SoldOut = 4 "sold_out",
        /// The account that pays lacks the money. Final for this id.
        InsufficientFunds = 5 "insufficient_funds",
        /// The buyer's limit for an item would be passed. Final for this id.
        OverLimit = 6 "over_limit",
        /// The item's sale window isn't open. Final for this id.
        SaleNotOpen = 7 "sale_not_open",
        /// No such account. Final for this id.
        UnknownAccount = 8 "unknown_account",
        /// No such item. Final for this id.
        UnknownItem = 9 "unknown_item",
        /// No such order. Final for this id.
        UnknownOrder = 10 "unknown_order",
        /// An item or account is kept in another currency. Final for this id.
        CurrencyMismatch = 11 "currency_mismatch",
        /// The order's state, or what is left of it, does not allow the change. Final for this id.
        WrongState = 12 "wrong_state",
        /// A number passes its bound. Neither logged nor remembered.
        Invalid = 13 "invalid",
        /// Not decided: a shard that may hold the units did not answer in time, too many wait, or
        /// what it is about has left memory and can't be read now.
        /// Neither logged nor remembered: repeat it with the same id.
        Busy = 14 "busy",
        /// A list price, or what the payment legs come to, isn't what the order states. Final for
        /// this id.
        PriceMismatch = 15 "price_mismatch",
        /// Money came from outside for an order that can't take it. It is booked to the buyer's
        /// suspense account, and can be given back from there. Final for this id.
        Suspended = 16 "suspended",
    }
}

impl Outcome {
    /// Whether the command changed, or had changed, what it asked for.
    pub fn is_done(self) -> bool {
        matches!(self, Outcome::Ok | Outcome::AlreadyDone | Outcome::Suspended)
    }

    /// Whether a command with this outcome is in the log: it is then final for its id.
    pub fn is_logged(self) -> bool {
        !matches!(self, Outcome::AlreadyDone | Outcome::IdReused | Outcome::Invalid | Outcome::Busy)
    }
}

byte_enum! {
    /// Where an order is in its life.
    OrderState {
        /// Refused when it was placed; it holds nothing.
        Refused = 1 "refused",
        /// Its units are set aside; it waits for payment.
        Reserved = 2 "reserved",
        /// Paid in full.
        Paid = 3 "paid",
        /// Paid, and some of its units refunded.
        PartlyRefunded = 4 "partly_refunded",
        /// Paid, and all of its units refunded.
        Refunded = 5 "refunded",
        /// Cancelled before it was paid; its units went back.
        Cancelled = 6 "cancelled",
        /// Not paid in time; its units went back.
        Expired = 7 "expired",
    }
}

byte_enum! {
    /// How an order is paid.
    PaymentMethod {
        /// Not said yet: the order is reserved and waits for a payment.
        Awaited = 0 "await",
        /// From the buyer's main account, at once.
        Balance = 1 "balance",
        /// Outside, by a provider that has confirmed; booked against the clearing account.
        External = 2 "external",
        /// With a coupon of the buyer's, at once; who funds it is charged.
        Coupon = 3 "coupon",
    }
}

byte_enum! {
    /// Where a payment leg is.
    LegState {
        /// Nobody has paid it yet.
        Awaited = 1 "awaited",
        /// A provider has promised it; the order doesn't expire by this leg.
        Authorised = 2 "authorised",
        /// Paid in full.
        Captured = 3 "captured",
        /// The promise was withdrawn, or the order ended before it was paid.
        Voided = 4 "voided",
        /// All of it was given back.
        Refunded = 5 "refunded",
        /// Paid when the order could no longer take it; the money is in suspense.
        Late = 6 "late",
    }
}

byte_enum! {
    /// What is done about a payment leg.
    PayStep {
        /// Pays it from the buyer's main account, all at once: a leg of which a part came from
        /// outside is paid from there.
        Balance = 1 "balance",
        /// Money came from outside for it, all or a part.
        External = 2 "external",
        /// A provider has promised it.
        Authorise = 3 "authorise",
        /// The provider's promise is over.
        Void = 4 "void",
    }
}

byte_enum! {
    /// What a line of an order is for.
    LineKind {
        /// Units of an item.
        Goods = 0 "goods",
        /// Bringing them.
        Shipping = 1 "shipping",
        /// A tax.
        Tax = 2 "tax",
        /// A fee.
        Fee = 3 "fee",
    }
}

byte_enum! {
    /// What an account is for. Together with party and currency it names the account.
    AccountKind {
        /// A buyer's money. Never negative.
        Main = 1 "main",
        /// What a seller has earned on a shard, until it is swept to its home. Refunds may drive it
        /// negative.
        Payable = 2 "payable",
        /// The other side of all money that enters or leaves. Its party is 0, and every shard has
        /// a part of it; together, its balance is minus what is inside.
        Clearing = 3 "clearing",
        /// What was swept to a seller's home and can be paid out. Refunds may drive it negative.
        Settlement = 4 "settlement",
        /// Money that came for somebody who can't take it, until a person decides.
        Suspense = 5 "suspense",
        /// What a buyer has paid towards orders that aren't paid in full.
        Deposit = 6 "deposit",
        /// What a party's coupons have paid on a shard, until it is swept to its home.
        Funding = 7 "funding",
    }
}

impl AccountKind {
    /// Whether its party disposes of it: transfers and holds may name it.
    pub fn is_own(self) -> bool {
        matches!(self, AccountKind::Main | AccountKind::Settlement | AccountKind::Suspense)
    }

    /// Whether every shard has a part of it.
    pub fn is_sharded(self) -> bool {
        matches!(self, AccountKind::Payable | AccountKind::Clearing | AccountKind::Funding)
    }
}

byte_enum! {
    /// Whether a command is trade or rehearsal.
    Realm {
        /// Trade.
        Live = 0 "live",
        /// Rehearsal, with accounts and stock of its own.
        Drill = 1 "drill",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_and_words_lead_back() {
        for &outcome in Outcome::ALL {
            assert_eq!(Outcome::from_byte(outcome as u8), Some(outcome));
            assert_eq!(Outcome::from_word(outcome.word()), Some(outcome));
        }
        assert_eq!(Outcome::from_byte(0), None);
        assert_eq!(OrderState::from_byte(99), None);
    }
}
