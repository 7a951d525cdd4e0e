//! Bugs that are planted on purpose, to see whether the simulator finds them.
//!
//! They exist only in a build with `--cfg planted`, and there only the one that was switched on.

/// A bug that can be planted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Bug {
    /// A grant that arrives again is counted again.
    GrantTwice = 1,
    /// After a restart a shard has forgotten the number of the last entry that it took.
    ForgottenNumber = 2,
    /// Answers go out before what they say is durable.
    EarlyRelease = 3,
    /// Timers fire in any order.
    TimersOutOfOrder = 4,
    /// Units that were refunded are refunded again.
    RefundOfRefund = 5,
    /// A recall is taken before a grant that was sent before it.
    RecallOvertakes = 6,
    /// An order that is a while old isn't recognised when it is asked for again.
    RepeatSlips = 7,
    /// When a rehearsed order expires, its units are freed in trade, too.
    DrillTimer = 8,
    /// That there may be units again is not heard.
    DeafToUnmark = 9,
    /// Who has waited too long is told that it is sold out.
    BusyIsSoldOut = 10,
    /// While a snapshot is taken, a page that changes isn't saved first.
    PageNotKept = 11,
    /// A snapshot is used before the log is durable up to where it stands.
    SnapshotAhead = 12,
    /// Ids of what has left memory are taken for new ones.
    FreshForEver = 13,
    /// What was looked for too early is taken for true.
    StaleLoad = 14,
    /// A message whose answer didn't come is taken for durable.
    UnclearIsDurable = 15,
    /// Who takes a stream over doesn't end the writer before.
    Unfenced = 16,
    /// Who has slept is believed when it says what a stream holds.
    StaleReads = 17,
}

impl Bug {
    /// All of them.
    pub const ALL: [Bug; 17] = [
        Bug::GrantTwice,
        Bug::ForgottenNumber,
        Bug::EarlyRelease,
        Bug::TimersOutOfOrder,
        Bug::RefundOfRefund,
        Bug::RecallOvertakes,
        Bug::RepeatSlips,
        Bug::DrillTimer,
        Bug::DeafToUnmark,
        Bug::BusyIsSoldOut,
        Bug::PageNotKept,
        Bug::SnapshotAhead,
        Bug::FreshForEver,
        Bug::StaleLoad,
        Bug::UnclearIsDurable,
        Bug::Unfenced,
        Bug::StaleReads,
    ];
}

#[cfg(planted)]
static PLANTED: std::sync::atomic::AtomicU8 = std::sync::atomic::AtomicU8::new(0);

/// Switches a bug on, and every other one off.
#[cfg(planted)]
pub fn plant(bug: Option<Bug>) {
    PLANTED.store(bug.map_or(0, |bug| bug as u8), std::sync::atomic::Ordering::Relaxed);
}

/// Whether a bug is on. Without `--cfg planted` none ever is.
#[inline(always)]
pub fn is_planted(bug: Bug) -> bool {
    #[cfg(planted)]
    return PLANTED.load(std::sync::atomic::Ordering::Relaxed) == bug as u8;
    #[cfg(not(planted))]
    {
        let _ = bug;
        false
    }
}
