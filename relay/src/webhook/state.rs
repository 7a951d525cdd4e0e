//! What a sender keeps in its directory.
//!
//! `state.ndjson` says how far the feed was read, in its first line, and, a line each, which events
//! up to there weren't taken yet. It is written anew, whole, under another name, synced and put in
//! its place. `dead.ndjson` has what was set aside, a line each, synced before it is forgotten
//! elsewhere. `again-*.ndjson` are such lines that are to be tried again.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::Serialize;
use sonic_rs::{JsonValueTrait, LazyValue};

use super::queue::Undone;
use crate::feed::Event;

const STATE: &str = "state.ndjson";
const DEAD: &str = "dead.ndjson";
const LOCK: &str = "lock";
const DEAD_LOCK: &str = "dead.lock";
const AGAIN: &str = "again-";
const SUFFIX: &str = ".ndjson";

/// A directory in which one sender keeps what it has to know.
pub struct State {
    directory: PathBuf,
    /// What was taken up of what is to be tried again, and isn't noted elsewhere yet.
    taken_up: Vec<PathBuf>,
    _lock: File,
}

/// Why a directory can't be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The file system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another process sends from it.
    #[error("{} is in use by another process", path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// A line of it isn't what was written.
    #[error("{}, line {line}, isn't what was written there", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// Which line, from 1.
        line: usize,
    },
}

/// What was noted last.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Saved {
    pub(super) place: Place,
    pub(super) undone: Vec<Undone>,
}

/// How far the feed was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    /// The last event.
    pub(super) cursor: Option<String>,
    /// Where it begins as long as there is none, once that is known.
    pub(super) from: Option<String>,
}

/// An event that was set aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dead {
    /// The event.
    pub event: Event,
    /// How often it was tried.
    pub attempts: u32,
    /// Why it wasn't taken last.
    pub why: String,
    /// When it was set aside, ms since 1970.
    pub at_ms: u64,
}

impl Dead {
    pub(super) fn of(undone: &Undone, attempts: u32, why: String, at_ms: u64) -> Dead {
        Dead { event: undone.event.clone(), attempts, why, at_ms }
    }

    fn line(&self) -> String {
        line(&self.event, self.attempts, self.at_ms, &self.why)
    }
}

/// A line with an event. Its JSON stays as it came: it is what is signed.
fn line(event: &Event, attempts: u32, at_ms: u64, why: &str) -> String {
    let why = sonic_rs::to_string(why).unwrap_or_else(|_| "\"\"".to_string());
    let json = &event.json;
    format!("{{\"attempts\":{attempts},\"at_ms\":{at_ms},\"why\":{why},\"event\":{json}}}\n")
}

fn parse(text: &str) -> Option<Dead> {
    let field = |name: &str| -> Option<LazyValue<'_>> { sonic_rs::get_from_str(text, [name]).ok() };
    Some(Dead {
        attempts: u32::try_from(field("attempts")?.as_u64()?).ok()?,
        at_ms: field("at_ms")?.as_u64()?,
        why: field("why")?.as_str()?.to_string(),
        event: Event::parse(field("event")?.as_raw_str())?,
    })
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> StateError {
    let path = path.to_path_buf();
    move |source| StateError::Io { path, source }
}

/// The lines of a file, nothing if it isn't there.
fn read(path: &Path) -> Result<String, StateError> {
    match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        read => read.map_err(at(path)),
    }
}

fn events(path: &Path, text: &str, skipped: usize) -> Result<Vec<Dead>, StateError> {
    let parsed = text.lines().enumerate().skip(skipped).map(|(number, line)| {
        let damaged = || StateError::Damaged { path: path.to_path_buf(), line: number + 1 };
        parse(line).ok_or_else(damaged)
    });
    parsed.collect()
}

#[derive(Serialize)]
struct Head<'a> {
    version: u32,
    cursor: Option<&'a str>,
    from: Option<&'a str>,
}

impl State {
    /// The directory, which is made if it isn't there.
    pub(super) fn open(directory: &Path) -> Result<(State, Saved), StateError> {
        fs::create_dir_all(directory).map_err(at(directory))?;
        let path = directory.join(LOCK);
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        let lock = lock.map_err(at(&path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(StateError::InUse { path: directory.to_path_buf() });
            }
            Err(TryLockError::Error(error)) => return Err(at(&path)(error)),
        }
        let path = directory.join(STATE);
        let text = read(&path)?;
        let mut saved = Saved::default();
        if let Some(head) = text.lines().next() {
            let damaged = || StateError::Damaged { path: path.clone(), line: 1 };
            let version = sonic_rs::get_from_str(head, ["version"]).ok();
            let field = |name| sonic_rs::get_from_str(head, [name]).map_err(|_| damaged());
            let (cursor, from) = (field("cursor")?, field("from")?);
            if version.and_then(|version| version.as_u64()) != Some(1) {
                return Err(damaged());
            }
            let word = |value: LazyValue<'_>| value.as_str().map(str::to_string);
            saved.place = Place { cursor: word(cursor), from: word(from) };
            let undone = events(&path, &text, 1)?.into_iter().map(|dead| Undone {
                event: dead.event,
                attempts: dead.attempts,
                due_ms: dead.at_ms,
                why: dead.why,
            });
            saved.undone = undone.collect();
        }
        let directory = directory.to_path_buf();
        Ok((State { directory, taken_up: Vec::new(), _lock: lock }, saved))
    }

    /// Notes how far the feed was read, and what of that wasn't taken.
    pub(super) fn save<'a>(
        &self,
        place: &Place,
        undone: impl Iterator<Item = &'a Undone>,
    ) -> Result<(), StateError> {
        let (cursor, from) = (place.cursor.as_deref(), place.from.as_deref());
        let head = Head { version: 1, cursor, from };
        let mut text = sonic_rs::to_string(&head).unwrap_or_default() + "\n";
        for Undone { event, attempts, due_ms, why } in undone {
            text.push_str(&line(event, *attempts, *due_ms, why));
        }
        replace(&self.directory, STATE, &text).map_err(at(&self.directory.join(STATE)))
    }

    /// Sets an event aside, durably.
    pub(super) fn set_aside(&self, dead: &Dead) -> Result<(), StateError> {
        let path = self.directory.join(DEAD);
        let write = || {
            let _alone = lock(&self.directory)?;
            let mut file = OpenOptions::new().create(true).append(true).open(&path)?;
            // Half a line is what a crash left of one that is noted elsewhere still.
            let whole = fs::read(&path)?.iter().rposition(|byte| *byte == b'\n');
            file.set_len(whole.map_or(0, |end| end as u64 + 1))?;
            file.write_all(dead.line().as_bytes())?;
            file.sync_all()?;
            File::open(&self.directory)?.sync_all()
        };
        write().map_err(at(&path))
    }

    /// What is to be tried again.
    pub(super) fn take_again(&mut self) -> Result<Vec<Undone>, StateError> {
        let mut found = Vec::new();
        for path in files_again(&self.directory)? {
            let dead = events(&path, &read(&path)?, 0)?;
            found.extend(dead.into_iter().map(|dead| Undone::new(dead.event)));
            self.taken_up.push(path);
        }
        Ok(found)
    }

    /// It is noted elsewhere now.
    pub(super) fn forget_again(&mut self) -> Result<(), StateError> {
        for path in self.taken_up.drain(..) {
            fs::remove_file(&path).map_err(at(&path))?;
        }
        Ok(())
    }

    /// What was set aside in a directory, the oldest first.
    pub fn dead(directory: &Path) -> Result<Vec<Dead>, StateError> {
        let path = directory.join(DEAD);
        if !path.exists() {
            return Ok(Vec::new());
        }
        let _alone = lock(directory).map_err(at(directory))?;
        dead_of(&path)
    }

    /// Has what was set aside tried again: all of it, or the events with these ids. A sender that
    /// runs sees it within a second, one that doesn't when it is started. How many there are.
    pub fn redrive(directory: &Path, ids: &[String]) -> Result<usize, StateError> {
        let path = directory.join(DEAD);
        if !path.exists() {
            return Ok(0);
        }
        let _alone = lock(directory).map_err(at(directory))?;
        let is_wanted = |dead: &Dead| ids.is_empty() || ids.contains(&dead.event.id);
        let (again, left): (Vec<Dead>, Vec<Dead>) =
            dead_of(&path)?.into_iter().partition(is_wanted);
        if again.is_empty() {
            return Ok(0);
        }
        let text = |dead: &[Dead]| dead.iter().map(Dead::line).collect::<String>();
        let nanos = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let name = format!("{AGAIN}{}{SUFFIX}", nanos.unwrap_or_default().as_nanos());
        // First there, then gone here: after a crash in between an event is in both.
        replace(directory, &name, &text(&again)).map_err(at(directory))?;
        replace(directory, DEAD, &text(&left)).map_err(at(&path))?;
        Ok(again.len())
    }
}

/// What was set aside; half a line at the end wasn't.
fn dead_of(path: &Path) -> Result<Vec<Dead>, StateError> {
    let text = read(path)?;
    events(path, &text[..text.rfind('\n').map_or(0, |end| end + 1)], 0)
}

/// What is set aside is changed by one at a time, until this is dropped.
fn lock(directory: &Path) -> io::Result<File> {
    let path = directory.join(DEAD_LOCK);
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
    file.lock()?;
    Ok(file)
}

/// Writes a file anew, whole or not at all.
fn replace(directory: &Path, name: &str, text: &str) -> io::Result<()> {
    let new = directory.join(format!("{name}.new"));
    let mut file = File::create(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&new, directory.join(name))?;
    File::open(directory)?.sync_all()
}

fn files_again(directory: &Path) -> Result<Vec<PathBuf>, StateError> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).map_err(at(directory))? {
        let path = entry.map_err(at(directory))?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.starts_with(AGAIN) && name.ends_with(SUFFIX) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn undone(id: &str, attempts: u32, why: &str) -> Undone {
        let json = format!(
            r#"{{"id":"{id}","partitionkey":"7","data":{{"text":"\"quoted\" \n", "n":  1}}}}"#
        );
        let event = Event::parse(&json).unwrap();
        Undone { event, attempts, due_ms: 5, why: why.to_string() }
    }

    #[test]
    fn what_is_saved_comes_back_as_it_was() {
        let directory = tempfile::tempdir().unwrap();
        let (state, saved) = State::open(directory.path()).unwrap();
        assert_eq!(saved, Saved::default());
        assert!(matches!(State::open(directory.path()), Err(StateError::InUse { .. })));
        let kept = vec![undone("0-1", 0, ""), undone("3-4-1", 7, "503: \"busy\"\n")];
        let place = Place { cursor: Some("3-9".to_string()), from: None };
        state.save(&place, kept.iter()).unwrap();
        drop(state);
        let (state, saved) = State::open(directory.path()).unwrap();
        assert_eq!(saved, Saved { place, undone: kept });
        drop(state);
        let path = directory.path().join(STATE);
        let damaged =
            fs::read_to_string(&path).unwrap().replace("\"attempts\":7", "\"attempts\":x");
        fs::write(&path, damaged).unwrap();
        assert!(matches!(State::open(directory.path()), Err(StateError::Damaged { line: 3, .. })));
    }

    #[test]
    fn what_was_set_aside_is_tried_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        let (mut state, _) = State::open(path).unwrap();
        assert_eq!(State::redrive(path, &[]).unwrap(), 0);
        for id in ["0-1", "0-2", "0-3"] {
            state.set_aside(&Dead::of(&undone(id, 3, "no"), 4, "404".to_string(), 9)).unwrap();
            // What a crash may leave of the next one.
            let mut file = OpenOptions::new().append(true).open(path.join(DEAD)).unwrap();
            file.write_all(b"{\"attempts\":4,\"at_").unwrap();
        }
        let ids = |dead: &[Dead]| dead.iter().map(|dead| dead.event.id.clone()).collect::<Vec<_>>();
        assert_eq!(ids(&State::dead(path).unwrap()), ["0-1", "0-2", "0-3"]);
        assert_eq!(State::redrive(path, &["0-2".to_string()]).unwrap(), 1);
        assert_eq!(ids(&State::dead(path).unwrap()), ["0-1", "0-3"]);
        let again = state.take_again().unwrap();
        assert_eq!(again.len(), 1);
        assert_eq!((again[0].event.id.as_str(), again[0].attempts), ("0-2", 0));
        state.forget_again().unwrap();
        assert_eq!(state.take_again().unwrap(), []);
        assert_eq!(State::redrive(path, &[]).unwrap(), 2);
        assert_eq!(State::dead(path).unwrap(), []);
        assert_eq!(state.take_again().unwrap().len(), 2);
    }
}
