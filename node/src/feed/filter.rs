//! Which events a reader wants.

use model::event::{Event, EventType, Subject};
use model::{ItemId, OrderId, Party, Realm};

use super::FeedEvent;

/// Which events a reader wants. An event has to meet all that is said; an empty list says nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventFilter {
    /// Of trade or of rehearsal.
    pub realm: Realm,
    /// One of these types, as bits; 0: all.
    pub types: u64,
    /// Of one of these buyers, or parties.
    pub buyers: Vec<Party>,
    /// About one of these items.
    pub items: Vec<ItemId>,
    /// About lines that one of these sellers is paid for, items that it sells, its settlements or
    /// coupons that it funds or that are good for it.
    pub sellers: Vec<Party>,
}

/// Whether an event is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Matches {
    /// It is, or isn't.
    Known(bool),
    /// That depends on what is ordered, and its record doesn't say that.
    AskOrder(Party, OrderId),
    /// That depends on who sells what is ordered, or the item that it is about.
    AskSellers,
}

impl EventFilter {
    /// All events of trade.
    pub fn all() -> EventFilter {
        let (buyers, items, sellers) = Default::default();
        EventFilter { realm: Realm::Live, types: 0, buyers, items, sellers }
    }

    /// Whether it wants every event of its realm.
    pub fn is_all(&self) -> bool {
        let EventFilter { realm: _, types, buyers, items, sellers } = self;
        *types == 0 && buyers.is_empty() && items.is_empty() && sellers.is_empty()
    }

    /// Whether it can be, by what every event says at once.
    pub(super) fn may_want(&self, realm: Realm, event: &Event<'_>) -> bool {
        self.wants(realm, event.event_type, (event.subject, event.credited()))
    }

    fn wants(
        &self,
        realm: Realm,
        event_type: EventType,
        (subject, credited): (Subject, Option<Party>),
    ) -> bool {
        let is_buyer =
            |party: &Party| subject == Subject::Party(*party) || credited == Some(*party);
        realm == self.realm
            && (self.types == 0 || self.types & event_type.bit() != 0)
            && (self.buyers.is_empty() || self.buyers.iter().any(is_buyer))
    }

    /// Whether it wants an event. `items` and `sellers` are those that its record names.
    pub fn matches(&self, event: &FeedEvent, items: &[ItemId], sellers: &[Party]) -> Matches {
        if !self.wants(event.realm, event.event_type, (event.subject, event.credited)) {
            return Matches::Known(false);
        }
        if self.items.is_empty() && self.sellers.is_empty() {
            return Matches::Known(true);
        }
        if let (Some(order), Subject::Party(buyer)) = (event.changed_order, event.subject) {
            return Matches::AskOrder(buyer, order);
        }
        self.concerns(items, sellers)
    }

    /// Whether it wants what is about these.
    pub fn concerns(&self, items: &[ItemId], sellers: &[Party]) -> Matches {
        let meets_items =
            self.items.is_empty() || items.iter().any(|item| self.items.contains(item));
        let meets_sellers =
            self.sellers.is_empty() || sellers.iter().any(|seller| self.sellers.contains(seller));
        match (meets_items, meets_sellers) {
            (true, false) if !items.is_empty() => Matches::AskSellers,
            (items, sellers) => Matches::Known(items && sellers),
        }
    }
}
