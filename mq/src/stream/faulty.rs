//! A stream in memory that is as bad as a real one can be.
//!
//! Answers get lost, messages arrive late or not at all, a leader that has slept doesn't know the
//! newest messages, and what was acknowledged may be gone. All of it is deterministic: the only
//! randomness is in the seed that the caller gives.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::fault::SplitMix;
use crate::stream::{Message, PublishError, Stored, Stream};

/// Tries of what is unclear before it is given up.
const TRIES: u32 = 40;

/// What may happen to a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StreamFault {
    /// It is taken, and the answer is lost.
    Unanswered,
    /// It never arrives.
    Dropped,
    /// It arrives later, if it is still the next one then.
    Late,
    /// A leader that has slept says that it isn't the next one.
    Stale,
}

/// A stream in memory. Clones are handles to the same stream.
#[derive(Clone, Default)]
pub struct FaultyStream {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    messages: BTreeMap<u64, Message>,
    last: u64,
    /// Messages on their way, and what each goes on behind.
    late: Vec<(u64, Message)>,
    /// The next message has this fault.
    next: Option<StreamFault>,
    /// Of so many calls one goes wrong; 0: none.
    one_in: u64,
    random: SplitMix,
    impatient: bool,
}

impl FaultyStream {
    /// An empty stream without faults.
    pub fn new() -> FaultyStream {
        FaultyStream::default()
    }

    /// From now on one of so many calls goes wrong, as the seed says; 0: none.
    pub fn misbehave(&self, seed: u64, one_in: u64) {
        let mut state = self.state();
        (state.random, state.one_in) = (SplitMix(seed), one_in);
    }

    /// The next message has this fault.
    pub fn fail(&self, fault: StreamFault) {
        self.state().next = Some(fault);
    }

    /// Whether who writes gives up what is unclear at once, as a process does that ends then.
    pub fn impatient(&self, is_impatient: bool) {
        self.state().impatient = is_impatient;
    }

    /// What is on its way arrives now, in the order in which it was sent.
    pub fn deliver(&self) {
        self.state().deliver();
    }

    /// Forgets the newest messages, though they were acknowledged: so many.
    pub fn lose(&self, count: usize) {
        let mut state = self.state();
        for _ in 0..count {
            state.messages.pop_last();
        }
        state.last = state.messages.last_key_value().map_or(0, |(sequence, _)| *sequence);
        state.late.clear();
    }

    /// Flips a bit of the message with a sequence; false if there is none.
    pub fn flip(&self, sequence: u64, at: usize, bit: u8) -> bool {
        let mut state = self.state();
        let Some(message) = state.messages.get_mut(&sequence) else { return false };
        let mut bytes = message.bytes.to_vec();
        let length = bytes.len();
        bytes[at % length] ^= 1 << bit;
        message.bytes = bytes.into();
        true
    }

    /// Removes a message, as nobody should; false if there is none.
    pub fn remove(&self, sequence: u64) -> bool {
        self.state().messages.remove(&sequence).is_some()
    }

    /// The sequences of the messages that are there.
    pub fn sequences(&self) -> Vec<u64> {
        self.state().messages.keys().copied().collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds the lock")
    }
}

impl State {
    fn deliver(&mut self) {
        for (after, message) in std::mem::take(&mut self.late) {
            if after == self.last {
                self.last += 1;
                self.messages.insert(self.last, message);
            }
        }
    }

    /// The newest sequence that whoever is asked knows of: at least `seen`, or there is no answer.
    fn known(&mut self, seen: u64) -> io::Result<u64> {
        let behind = if self.goes_wrong() { self.random.below(4) } else { 0 };
        let known = self.last.saturating_sub(behind);
        if known < seen { Err(unanswered()) } else { Ok(known) }
    }

    fn goes_wrong(&mut self) -> bool {
        self.one_in > 0 && self.random.below(self.one_in) == 0
    }

    fn fault(&mut self) -> Option<StreamFault> {
        if let Some(fault) = self.next.take() {
            return Some(fault);
        }
        let faults =
            [StreamFault::Unanswered, StreamFault::Dropped, StreamFault::Late, StreamFault::Stale];
        self.goes_wrong().then(|| faults[self.random.below(4) as usize])
    }
}

fn unanswered() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "no answer")
}

impl Stream for FaultyStream {
    fn publish(&self, after: u64, message: &Message) -> Result<(), PublishError> {
        let mut state = self.state();
        let fault = state.fault();
        if !state.late.is_empty() && state.random.below(2) == 0 {
            state.deliver();
        }
        let unclear = || Err(PublishError::Unclear(unanswered()));
        match fault {
            Some(StreamFault::Dropped) => return unclear(),
            Some(StreamFault::Stale) => return Err(PublishError::NotNext),
            Some(StreamFault::Late) => {
                state.late.push((after, message.clone()));
                return unclear();
            }
            Some(StreamFault::Unanswered) | None => {}
        }
        if after != state.last {
            return if fault.is_some() { unclear() } else { Err(PublishError::NotNext) };
        }
        state.last += 1;
        let sequence = state.last;
        state.messages.insert(sequence, message.clone());
        if fault.is_some() { unclear() } else { Ok(()) }
    }

    fn last(&self) -> io::Result<u64> {
        let mut state = self.state();
        // A leader that has slept knows less.
        let behind = if state.goes_wrong() { state.random.below(3) } else { 0 };
        Ok(state.last.saturating_sub(behind))
    }

    fn get(&self, sequence: u64) -> io::Result<Option<Message>> {
        let mut state = self.state();
        if state.goes_wrong() {
            return if state.random.below(2) == 0 { Err(unanswered()) } else { Ok(None) };
        }
        Ok(state.messages.get(&sequence).cloned())
    }

    fn files(&self, seen: u64) -> io::Result<Vec<String>> {
        let mut state = self.state();
        let known = state.known(seen)?;
        let names: BTreeSet<&String> =
            state.messages.range(..=known).map(|(_, m)| &m.file).collect();
        Ok(names.into_iter().cloned().collect())
    }

    fn end(&self, file: &str, seen: u64) -> io::Result<Option<(u64, u64)>> {
        let mut state = self.state();
        let known = state.known(seen)?;
        let newest = state.messages.range(..=known).rfind(|(_, message)| message.file == file);
        Ok(newest.map(|(sequence, message)| (*sequence, message.end())))
    }

    fn read(&self, file: &str, from: u64, bytes: usize) -> io::Result<Vec<Stored>> {
        let mut state = self.state();
        let known = state.known(0)?;
        let mut found = Vec::new();
        let mut length = 0;
        for (&sequence, message) in state.messages.range(from..known.max(from) + 1) {
            if message.file == file && length < bytes.max(1) {
                length += message.bytes.len();
                found.push(Stored { sequence, message: message.clone() });
            }
        }
        Ok(found)
    }

    fn purge(&self, file: &str) -> io::Result<()> {
        self.state().messages.retain(|_, message| message.file != file);
        Ok(())
    }

    fn message_bytes_max(&self) -> usize {
        1 << 20
    }

    fn wait(&self, tried: u32) -> bool {
        tried < TRIES && !self.state().impatient
    }
}
