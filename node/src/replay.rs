//! Executing a log again.
//!
//! Recovery and audit do the same: clear the outcomes from a frame's records, have the core
//! decide the commands once more, and compare what it writes with what is in the log, byte by
//! byte. Anything else than equality is a bug or a forged log, and stops the reader.

use model::frame::{Frame, FrameBuilder};
use model::record::{Kind, RULE_VERSION, Record, Records, clear_outcome};
use model::{Offset, Outcome, ShardId, Time};
use txn_core::Shard;

/// Executes frames again. Keeps its buffers from frame to frame.
#[derive(Default)]
pub struct Replay {
    commands: Vec<u8>,
    decided: FrameBuilder,
    replies: Vec<model::Reply>,
    applied: bool,
}

/// Where a log and its execution part.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("shard {shard}, offset {offset}: {detail}")]
pub struct Difference {
    /// The shard whose log it is.
    pub shard: ShardId,
    /// The first record that differs.
    pub offset: Offset,
    /// How.
    pub detail: String,
    /// Whether the core says that this record's command was already in the log.
    pub repeated: bool,
}

impl Difference {
    /// A frame of a shard that there isn't.
    pub(crate) fn foreign(frame: &Frame<'_>) -> Difference {
        let Frame { header, .. } = frame;
        Difference {
            shard: ShardId(header.shard.get()),
            offset: Offset(header.first_offset.get()),
            detail: "the data directory has no such shard".to_string(),
            repeated: false,
        }
    }
}

impl Replay {
    /// Executes the frame's commands on `shard`, which must stand before its first record.
    pub fn apply(&mut self, shard: &mut Shard, frame: Frame<'_>) -> Result<(), Difference> {
        self.prepare(shard, frame)?;
        self.execute(shard, frame.place().time);
        self.compare(frame)
    }

    /// The first step of [`Replay::apply`]: makes the frame's commands undecided again.
    pub(crate) fn prepare(&mut self, shard: &Shard, frame: Frame<'_>) -> Result<(), Difference> {
        let offset = Offset(frame.header.first_offset.get());
        let difference = |offset, detail: String| {
            let shard = frame.place().shard;
            Difference { shard, offset, detail, repeated: false }
        };
        if frame.header.rules.get() != RULE_VERSION {
            let detail = format!(
                "decided by rules of version {}; this program has version {RULE_VERSION}",
                frame.header.rules
            );
            return Err(difference(offset, detail));
        }
        if offset != shard.next_offset() {
            let detail = format!("the shard stands before offset {}", shard.next_offset());
            return Err(difference(offset, detail));
        }

        self.commands.clear();
        self.commands.extend_from_slice(frame.records);
        let mut rest = &mut self.commands[..];
        let mut count = 0;
        while !rest.is_empty() {
            let length = match Record::split(rest) {
                Ok((record, _)) => record.bytes.len(),
                Err(error) => return Err(difference(Offset(offset.0 + count), error.to_string())),
            };
            let (record, after) = rest.split_at_mut(length);
            clear_outcome(record);
            rest = after;
            count += 1;
        }
        if count != u64::from(frame.header.count.get()) {
            let detail = format!("{count} records in a frame of {}", frame.header.count);
            return Err(difference(offset, detail));
        }

        Ok(())
    }

    /// The second step: the core decides. Nothing else is in here, and it is never inlined, so
    /// that it can be timed and found in a profile by its name.
    #[inline(never)]
    pub(crate) fn execute(&mut self, shard: &mut Shard, now: Time) {
        self.replies.clear();
        self.decided = FrameBuilder::reuse(std::mem::take(&mut self.decided).into_bytes());
        let mut commands = Records::new(&self.commands);
        self.applied =
            shard.apply(now, &mut commands, &mut self.decided, &mut self.replies).is_ok();
        // What shells learn was done long ago: it is in the log.
        drop(shard.signals());
    }

    /// The third: what was decided must be what the frame says.
    pub(crate) fn compare(&mut self, frame: Frame<'_>) -> Result<(), Difference> {
        let decided = self.decided.records();
        let same = self.applied && decided == frame.records;
        if !same {
            let mut offset = Offset(frame.header.first_offset.get());
            let shard = frame.place().shard;
            let difference = |offset, detail| Difference { shard, offset, detail, repeated: false };
            for (number, record) in frame.records().enumerate() {
                let Ok(record) = record else { break };
                let start = record.bytes.as_ptr() as usize - frame.records.as_ptr() as usize;
                let again = decided.get(start..start + record.bytes.len());
                if again != Some(record.bytes) {
                    offset.0 += number as u64;
                    let reply = self.replies.get(number);
                    let repeated = reply.is_some_and(|reply| reply.offset != Some(offset));
                    let detail = match reply {
                        Some(reply) => parting(&record, again, reply.outcome),
                        None => "executing it again stops before it".to_string(),
                    };
                    return Err(Difference { shard, offset, detail, repeated });
                }
            }
            return Err(difference(offset, "executed again, the frame differs".to_string()));
        }
        Ok(())
    }
}

/// In what a record, and what its command was decided to again, part.
fn parting(record: &Record<'_>, again: Option<&[u8]>, outcome: Outcome) -> String {
    let kind =
        Kind::from_byte(record.header.kind).map_or(String::new(), |kind| format!("{kind:?} "));
    let first = record.outcome().map_or("nothing", Outcome::word);
    if record.outcome() != Some(outcome) {
        return format!("{kind}logged as {first}, executed again as {}", outcome.word());
    }
    let Some(Ok((again, _))) = again.map(Record::split) else {
        return format!("{kind}logged as {first}, executed again it has another length");
    };
    let fields = |record: &Record<'_>| {
        let header = *record.header;
        [
            ("state", header.state.into()),
            ("amount", header.amount.get()),
            ("previous", header.previous.get()),
            ("statement", header.statement.get()),
        ]
    };
    let mut pairs = fields(record).into_iter().zip(fields(&again));
    if let Some(((name, logged), (_, now))) = pairs.find(|(logged, now)| logged != now) {
        return format!("{kind}logged with {name} {logged}, executed again with {now}");
    }
    let at = record.bytes.iter().zip(again.bytes).position(|(logged, now)| logged != now);
    format!("{kind}logged otherwise than executed again, from byte {} on", at.unwrap_or_default())
}
