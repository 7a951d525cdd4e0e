//! A log on a stream of messages that other machines keep, such as JetStream's.
//!
//! To the log a stream is a disk: [`StreamDisk`]. A file is a subject, and a write is one message,
//! with its position in a header. So what lies in the stream is what lies in a directory, and
//! everything that reads, checks, indexes and archives a log works on both.
//!
//! Three things differ from a directory, and [`Disk`] says so. Files are only ever appended to, so
//! none becomes another; a write has an upper bound; and reads show nothing that isn't durable, so
//! opening a log writes nothing again.
//!
//! **One writer.** Each message names the sequence of the message before it, and the stream takes
//! no other. A new writer begins with a message of its own ([`StreamDisk::own`]). Once that is
//! taken, the writer before is over: its next message names a sequence that isn't the last one any
//! more, and it is told that it was superseded. What it had sent and comes late is refused, too. So
//! what is read behind that message is all there will ever be of earlier writers, and what a
//! leader that had slept said of the stream's end doesn't matter. Who is asked for files and their
//! lengths later has to know of the newest message that this process knows of; where what a file
//! has by its length is missing, others are asked.
//!
//! **What is unclear** (no answer, a lost connection, another leader) is settled by looking at
//! what has the sequence that the message should have got: itself, and then it is durable;
//! another one, and then somebody else writes; or nothing, and then it is sent again. It can't be
//! in the stream twice, however often and late its copies arrive, because only one message gets a
//! sequence.
//!
//! **What is lost**: a stream that ends before what it has acknowledged is refused for good. As
//! long as this process runs, it knows; after its end, snapshots and the index do, if they are
//! ahead.

mod faulty;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use model::planted::{Bug, is_planted};

use crate::disk::{Disk, DiskFile};

pub use faulty::{FaultyStream, StreamFault};

/// Files that are kept in mind before those that nobody uses are forgotten.
const FILES_MAX: usize = 64;
/// How often messages are asked for where some are missing, each time of any of the servers.
const READS: u32 = 8;
/// The file of the messages with which writers begin.
pub(crate) const OWNER: &str = "owner";

/// A stream of messages, each with a subject. Calls wait until they are answered.
pub trait Stream: Send + Sync {
    /// Adds a message behind the one with sequence `after`: it gets the next one. Durable when
    /// this returns `Ok`.
    fn publish(&self, after: u64, message: &Message) -> Result<(), PublishError>;
    /// The newest sequence that was given, 0 before the first.
    fn last(&self) -> io::Result<u64>;
    /// The message with a sequence, as the stream's leader has it.
    fn get(&self, sequence: u64) -> io::Result<Option<Message>>;
    /// The files of which there are messages. Whoever doesn't know of the sequence `seen` yet doesn't
    /// answer.
    fn files(&self, seen: u64) -> io::Result<Vec<String>>;
    /// The newest message of a file: its sequence, and where it ends in the file. Likewise.
    fn end(&self, file: &str, seen: u64) -> io::Result<Option<(u64, u64)>>;
    /// Messages of a file from a sequence on, in their order, of about `bytes` bytes together; of
    /// whoever answers, who may lack some.
    fn read(&self, file: &str, from: u64, bytes: usize) -> io::Result<Vec<Stored>>;
    /// Removes all messages of a file.
    fn purge(&self, file: &str) -> io::Result<()>;
    /// The most bytes of a message.
    fn message_bytes_max(&self) -> usize;
    /// Waits before what was tried so many times is tried again; false if that is enough.
    fn wait(&self, tried: u32) -> bool;
}

/// A write.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Message {
    /// The file that is written to.
    pub file: String,
    /// Where in it.
    pub position: u64,
    /// With what.
    pub bytes: Bytes,
}

impl Message {
    pub(crate) fn end(&self) -> u64 {
        self.position + self.bytes.len() as u64
    }

    fn holds(&self, position: u64) -> bool {
        (self.position..self.end()).contains(&position)
    }
}

/// A message and its sequence.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stored {
    /// The sequence.
    pub sequence: u64,
    /// The message.
    pub message: Message,
}

/// Why a message wasn't acknowledged.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The stream's last message is another one. Or it is this message, sent before.
    #[error("the stream doesn't end where this message goes on")]
    NotNext,
    /// No answer, or none that says whether it was taken.
    #[error("whether a message was taken is unclear: {0}")]
    Unclear(io::Error),
    /// It was not taken, and never will be.
    #[error("the stream refused a message: {0}")]
    Refused(io::Error),
}

/// Why nothing can be written to a stream any more, by this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StreamEnd {
    /// Another process opened the log.
    #[error("another process writes to this log now: the message after {after} is not ours")]
    Superseded {
        /// The sequence of the last message that was this process's.
        after: u64,
    },
    /// What was acknowledged is gone.
    #[error(
        "the stream has lost what it acknowledged: it ends at sequence {last}, and {acknowledged} \
         was durable"
    )]
    Lost {
        /// Where it ends.
        last: u64,
        /// Where it ended.
        acknowledged: u64,
    },
}

impl StreamEnd {
    /// Whether this is why a stream's disk failed.
    pub fn of(error: &io::Error) -> Option<StreamEnd> {
        error.get_ref()?.downcast_ref().copied()
    }
}

/// A stream as the directory of a log. Clones are handles to the same.
#[derive(Clone)]
pub struct StreamDisk {
    end: Arc<End>,
    /// Others write, and files that are known may have grown.
    is_read_only: bool,
    /// What others were seen to have written: who doesn't know of it isn't believed.
    listed: Arc<Mutex<BTreeSet<String>>>,
    files: Arc<Mutex<BTreeMap<String, Arc<Mutex<File>>>>>,
}

/// The end of a stream, behind which it is written.
struct End {
    stream: Arc<dyn Stream>,
    state: Mutex<EndState>,
}

struct EndState {
    /// The newest sequence that this process knows to be durable.
    last: u64,
    /// Why nothing more is written.
    ended: Option<StreamEnd>,
}

#[derive(Default)]
struct File {
    /// None as long as it isn't in the stream: it gets its messages with its name.
    name: Option<String>,
    length: u64,
    /// The messages that are known, in the order of their positions.
    known: Vec<Known>,
    /// Writes that weren't published yet.
    unsent: Vec<(u64, Bytes)>,
}

/// Where a message stands in its file.
struct Known {
    start: u64,
    end: u64,
    sequence: u64,
}

impl File {
    fn known_length(&self) -> u64 {
        self.known.last().map_or(0, |known| known.end)
    }
}

impl StreamDisk {
    /// The stream, of which this process is the writer from now on. `salt` is a number that no
    /// other start of any process has drawn.
    pub fn own(stream: Arc<dyn Stream>, salt: u64) -> io::Result<StreamDisk> {
        let bytes = Bytes::copy_from_slice(&salt.to_le_bytes());
        let message = Message { file: OWNER.to_string(), position: 0, bytes };
        let mut tried = 0;
        loop {
            tried += 1;
            let last = match stream.last() {
                Ok(last) => last,
                // They may be agreeing on who leads.
                Err(_) if stream.wait(tried) => continue,
                Err(error) => return Err(error),
            };
            if is_planted(Bug::Unfenced) {
                return StreamDisk::read_only(stream);
            }
            let state = Mutex::new(EndState { last: last + 1, ended: None });
            let end = Arc::new(End { stream: stream.clone(), state });
            match end.publish(last, &message) {
                Ok(()) => {
                    return Ok(StreamDisk::new(end, false));
                }
                // Others write, too, or the end was an old one.
                Err(error) if StreamEnd::of(&error).is_some() => {}
                Err(error) => return Err(error),
            }
            if !stream.wait(tried) {
                let text = "others write to this stream all the time";
                return Err(io::Error::new(io::ErrorKind::ResourceBusy, text));
            }
        }
    }

    /// The stream as it is now, to be read.
    pub fn read_only(stream: Arc<dyn Stream>) -> io::Result<StreamDisk> {
        let mut tried = 0;
        let last = loop {
            let last = stream.last()?;
            // The newest message is never removed.
            if last == 0 || stream.get(last).is_ok_and(|message| message.is_some()) {
                break last;
            }
            tried += 1;
            if !stream.wait(tried) {
                let text = format!("message {last} is the stream's last one, and isn't there");
                return Err(io::Error::new(io::ErrorKind::InvalidData, text));
            }
        };
        let state = Mutex::new(EndState { last, ended: None });
        let end = Arc::new(End { stream, state });
        Ok(StreamDisk::new(end, true))
    }

    fn new(end: Arc<End>, is_read_only: bool) -> StreamDisk {
        StreamDisk { end, is_read_only, listed: Arc::default(), files: Arc::default() }
    }

    fn files(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Mutex<File>>>> {
        lock(&self.files)
    }

    fn handle(&self, file: Arc<Mutex<File>>) -> Box<dyn DiskFile> {
        Box::new(StreamFile { end: self.end.clone(), file, read: Mutex::default() })
    }
}

impl Disk for StreamDisk {
    /// A file that is in the stream once it gets another name.
    fn create(&self, name: &str, _: u64) -> io::Result<Box<dyn DiskFile>> {
        let file = Arc::<Mutex<File>>::default();
        self.files().insert(name.to_string(), file.clone());
        Ok(self.handle(file))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let known = self.files().get(name).cloned();
        if let Some(file) = known.clone().filter(|_| !self.is_read_only) {
            return Ok(self.handle(file));
        }
        let seen = self.end.seen();
        let is_listed = lock(&self.listed).contains(name);
        let newest = self.end.retried(|stream| match stream.end(name, seen)? {
            None if is_listed => {
                let text = format!("{name} was listed, and isn't there");
                Err(io::Error::new(io::ErrorKind::NotFound, text))
            }
            newest => Ok(newest),
        })?;
        let (sequence, length) = newest.ok_or(io::ErrorKind::NotFound)?;
        if self.is_read_only {
            let mut state = lock(&self.end.state);
            state.last = state.last.max(sequence);
        }
        if let Some(file) = known {
            let mut growing = lock(&file);
            growing.length = growing.length.max(length);
            drop(growing);
            return Ok(self.handle(file));
        }
        let file = File { name: Some(name.to_string()), length, ..File::default() };
        let file = Arc::new(Mutex::new(file));
        let mut files = self.files();
        if files.len() >= FILES_MAX {
            // What is in use, or is only here, stays.
            files.retain(|_, file| Arc::strong_count(file) > 1 || lock(file).name.is_none());
        }
        files.insert(name.to_string(), file.clone());
        drop(files);
        Ok(self.handle(file))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let seen = self.end.seen();
        let mut files = self.end.retried(|stream| stream.files(seen))?;
        files.retain(|file| file != OWNER);
        if self.is_read_only {
            lock(&self.listed).extend(files.iter().cloned());
        }
        Ok(files)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let file = self.files().remove(from).ok_or(io::ErrorKind::NotFound)?;
        let mut writing = lock(&file);
        if writing.name.is_some() {
            let text = "a stream's files keep their names";
            return Err(io::Error::new(io::ErrorKind::Unsupported, text));
        }
        writing.name = Some(to.to_string());
        self.end.send(&mut writing)?;
        self.files().insert(to.to_string(), file.clone());
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let file = self.files().remove(name);
        if file.is_some_and(|file| lock(&file).name.is_none()) {
            return Ok(());
        }
        self.end.stream.purge(name)
    }

    fn sync_dir(&self) -> io::Result<()> {
        Ok(())
    }

    fn is_append_only(&self) -> bool {
        true
    }

    fn write_bytes_max(&self) -> u64 {
        self.end.stream.message_bytes_max() as u64
    }
}

impl End {
    /// The newest sequence that is known to be durable: who doesn't know of it has slept.
    fn seen(&self) -> u64 {
        if is_planted(Bug::StaleReads) { 0 } else { lock(&self.state).last }
    }

    /// Asks again while there is no answer: what is asked changes nothing that isn't to be gone.
    fn retried<T>(&self, ask: impl Fn(&dyn Stream) -> io::Result<T>) -> io::Result<T> {
        let mut tried = 0;
        loop {
            match ask(&*self.stream) {
                Err(error) if error.kind() == io::ErrorKind::InvalidData => return Err(error),
                Err(error) => {
                    tried += 1;
                    if !self.stream.wait(tried) {
                        return Err(error);
                    }
                }
                answered => return answered,
            }
        }
    }

    /// Publishes what was written to a file that has a name.
    fn send(&self, file: &mut File) -> io::Result<()> {
        let Some(name) = &file.name else { return Ok(()) };
        let mut state = lock(&self.state);
        for (position, bytes) in std::mem::take(&mut file.unsent) {
            if let Some(ended) = state.ended {
                return Err(io::Error::other(ended));
            }
            let message = Message { file: name.clone(), position, bytes };
            if let Err(error) = self.publish(state.last, &message) {
                state.ended = StreamEnd::of(&error);
                return Err(error);
            }
            state.last += 1;
            // Behind what isn't known nothing can be noted; who reads finds it.
            if file.known_length() == position {
                let (end, sequence) = (message.end(), state.last);
                file.known.push(Known { start: position, end, sequence });
            }
        }
        Ok(())
    }

    /// Publishes a message, and finds out what became of it.
    fn publish(&self, after: u64, message: &Message) -> io::Result<()> {
        let mut tried = 0;
        loop {
            let failed = match self.stream.publish(after, message) {
                Ok(()) => return Ok(()),
                Err(PublishError::Unclear(_)) if is_planted(Bug::UnclearIsDurable) => return Ok(()),
                Err(PublishError::Refused(error)) => return Err(error),
                Err(failed) => failed,
            };
            match self.stream.get(after + 1) {
                Ok(Some(there)) if there == *message => return Ok(()),
                Ok(Some(_)) => return Err(io::Error::other(StreamEnd::Superseded { after })),
                Ok(None) | Err(_) => {}
            }
            tried += 1;
            if self.stream.wait(tried) {
                continue;
            }
            return Err(match failed {
                PublishError::Unclear(error) => error,
                // A leader that was asleep may say so for a while, but not for so long.
                PublishError::NotNext if tried > 2 => match self.stream.last() {
                    Ok(last) if last < after => {
                        io::Error::other(StreamEnd::Lost { last, acknowledged: after })
                    }
                    _ => io::Error::other(failed),
                },
                failed => io::Error::other(failed),
            });
        }
    }
}

struct StreamFile {
    end: Arc<End>,
    file: Arc<Mutex<File>>,
    /// What was read last, in the order of positions and without a gap.
    read: Mutex<VecDeque<Stored>>,
}

impl DiskFile for StreamFile {
    fn write_at(&self, bytes: &[u8], position: u64) -> io::Result<()> {
        let mut file = lock(&self.file);
        if position != file.length {
            let text = "a stream's files are only appended to";
            return Err(io::Error::new(io::ErrorKind::Unsupported, text));
        }
        file.unsent.push((position, Bytes::copy_from_slice(bytes)));
        file.length += bytes.len() as u64;
        Ok(())
    }

    fn read_at(&self, bytes: &mut [u8], position: u64) -> io::Result<usize> {
        let mut read = lock(&self.read);
        let mut done = 0;
        while done < bytes.len() {
            let at = position + done as u64;
            if let Some(Stored { message, .. }) = read.iter().find(|s| s.message.holds(at)) {
                let there = &message.bytes[(at - message.position) as usize..];
                let length = there.len().min(bytes.len() - done);
                bytes[done..done + length].copy_from_slice(&there[..length]);
                done += length;
                continue;
            }
            if !self.fetch(&mut read, at, bytes.len() - done)? {
                break;
            }
            // Where messages are missing there are zeros: what stands behind them must be seen.
            let behind =
                read.iter().map(|stored| stored.message.position).find(|start| *start > at);
            if let Some(behind) = behind
                && !read.iter().any(|stored| stored.message.holds(at))
            {
                let length = (behind - at).min((bytes.len() - done) as u64) as usize;
                bytes[done..done + length].fill(0);
                done += length;
            }
        }
        Ok(done)
    }

    fn sync(&self) -> io::Result<()> {
        self.end.send(&mut lock(&self.file))
    }

    fn len(&self) -> io::Result<u64> {
        Ok(lock(&self.file).length)
    }

    fn truncate(&self, _: u64) -> io::Result<()> {
        let text = "a stream's files are only appended to";
        Err(io::Error::new(io::ErrorKind::Unsupported, text))
    }
}

impl StreamFile {
    /// Fetches messages that hold `position`, or lead there; false if there are none.
    fn fetch(&self, read: &mut VecDeque<Stored>, position: u64, wanted: usize) -> io::Result<bool> {
        let mut file = lock(&self.file);
        let Some(name) = file.name.clone() else { return Ok(false) };
        if position >= file.length {
            return Ok(false);
        }
        let behind = file.known.partition_point(|known| known.start <= position);
        let before = file.known[..behind].last();
        let from = match before {
            Some(known) if position < known.end => known.sequence,
            // There are messages missing, or this was never looked at.
            _ => match (file.known.get(behind), file.known.last()) {
                (Some(next), _) => next.sequence,
                (None, Some(last)) => last.sequence + 1,
                (None, None) => 1,
            },
        };
        // One server may have lost, or not yet have, what another one has.
        let mut tried = 0;
        let found = loop {
            let found = self.end.retried(|stream| stream.read(&name, from, wanted))?;
            let whole = |before: u64, stored: &Stored| {
                (stored.message.position <= before).then(|| before.max(stored.message.end()))
            };
            let start = found.first().map_or(u64::MAX, |first| first.message.position);
            let is_whole = found.iter().try_fold(start, whole).is_some();
            tried += 1;
            if start <= position && is_whole || tried >= READS || !self.end.stream.wait(tried) {
                break found;
            }
        };
        let known_before = file.known_length();
        for Stored { sequence, message } in &found {
            let (start, end) = (message.position, message.end());
            if start >= file.known_length() {
                file.known.push(Known { start, end, sequence: *sequence });
            }
        }
        read.clear();
        read.extend(found);
        let leads = read.iter().any(|stored| stored.message.end() > position);
        Ok(leads || file.known_length() > known_before)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("nothing panics while it holds the lock")
}
