//! What the shell has to know beside replies.
//!
//! Nothing in here is state: it is told once, as commands are executed, and executing a log again
//! tells it to nobody.

use model::{ItemId, Realm};

/// An order can't be decided yet: units of an item are missing here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shortage {
    /// Which item; where several are missing, the one with the lowest id.
    pub item: ItemId,
    /// What is missing of it; 0 where others wait for it and this order has to stand behind.
    pub lacking: u64,
    /// What the order asks for of it, over all its lines.
    pub whole: u64,
}

/// What was learned while commands were executed.
#[derive(Clone, Debug, Default)]
pub struct Signals {
    /// Orders that were not decided: which of the replies, and what they lack.
    pub waits: Vec<(usize, Shortage)>,
    /// Items of which orders that wait may try again.
    pub woken: Vec<(Realm, ItemId)>,
    /// Items that their homes recall. Each has to be answered.
    pub recalled: Vec<(Realm, ItemId)>,
}

impl Signals {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.waits.is_empty() && self.woken.is_empty() && self.recalled.is_empty()
    }
}
