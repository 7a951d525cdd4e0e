//! A stream of NATS JetStream's.
//!
//! Messages are compressed: three servers write and send each byte, and a log takes a fifth of its
//! bytes then.
//!
//! Crest talks to the servers through a thread of its own: a log is written to by one that waits.
//!
//! What an acknowledgement means here depends on settings of the stream and of the servers, so both
//! are checked before anything is written: a stream must be kept in files, by three servers, and
//! discard nothing; the servers must write through (`sync_interval: always`). The second is shown
//! only to a user of the system account, who is therefore needed, for a moment.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use async_nats::jetstream::Context;
use async_nats::jetstream::context::{ContextBuilder, PublishErrorKind};
use async_nats::jetstream::message::{PublishMessage, StreamMessage};
use async_nats::jetstream::stream::{
    Config, DiscardPolicy, RawMessageErrorKind, RetentionPolicy, StorageType, Stream as JetStream,
};
use async_nats::{
    Client, ConnectError, ConnectErrorKind, ConnectOptions, HeaderMap, ServerAddr, StatusCode,
};
use futures_util::{StreamExt, TryStreamExt};
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use zstd::bulk::Compressor;

use crate::stream::{Message, PublishError, Stored, Stream};

/// Where in its file a message stands.
const POSITION: &str = "Crest-Position";
/// How a message's payload is to be read, if it isn't the bytes themselves.
const ENCODING: &str = "Content-Encoding";
const ZSTD: &str = "zstd";
/// A fifth of the bytes for 2 ns each; higher levels gain little.
const LEVEL: i32 = 1;
/// Under this a stream's metadata says whose it is.
const OWNER: &str = "crest-directory";
/// How long an answer is waited for.
const ANSWER: Duration = Duration::from_secs(5);
/// Between two questions whether the server is there.
const PING: Duration = Duration::from_secs(2);
/// How long it is tried to open a stream while its servers agree on who leads.
const OPENING: Duration = Duration::from_secs(20);
/// How long servers are given to say how they sync.
const SURVEY: Duration = Duration::from_secs(2);
/// Tries of what is unclear: half a minute when answers come, four minutes when none do.
const TRIES: u32 = 20;
/// Of a message, what its headers take at most.
const HEADERS_BYTES: usize = 1 << 10;
/// Servers take messages of so many bytes unless they are told otherwise, and a frame needs them.
const PAYLOAD_BYTES_MIN: usize = 1 << 20;
/// More bytes in a message gain nothing.
const MESSAGE_BYTES_MAX: usize = PAYLOAD_BYTES_MIN;
/// Messages that are asked for at once.
const BATCH: usize = 1000;

/// Which stream, and of whom.
#[derive(Clone, PartialEq, Eq)]
pub struct NatsConfig {
    /// Servers: `nats://user:password@host:port`, several with commas between.
    pub url: String,
    /// The same with a user of the system account.
    pub system_url: Option<String>,
    /// The stream, which is made if it isn't there. Its subjects begin with its name.
    pub stream: String,
    /// Servers that keep it: 3 or 5.
    pub replicas: usize,
}

/// What is shown of it says no password.
impl fmt::Debug for NatsConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "stream {} in {} copies", self.stream, self.replicas)
    }
}

/// Why a stream can't be used.
#[derive(Debug, thiserror::Error)]
pub enum NatsError {
    /// The name of a stream that none can have.
    #[error("{name:?} can't be a stream's name: letters, digits, - and _ can")]
    Name {
        /// The name.
        name: String,
    },
    /// The servers can't be reached, or don't do what they are asked for.
    #[error("{doing} failed: {source}")]
    Server {
        /// What was tried.
        doing: &'static str,
        /// What they said.
        source: async_nats::Error,
    },
    /// A setting with which what was acknowledged may be lost, or doesn't fit.
    #[error("{what}; {set}")]
    Setting {
        /// What it is.
        what: String,
        /// What it should be, and how it is set.
        set: String,
    },
    /// No thread to talk to the servers.
    #[error("no thread for NATS: {0}")]
    Runtime(#[from] io::Error),
}

impl NatsError {
    /// Whether it may be gone in a while: who isn't let in now isn't let in then.
    fn may_pass(&self) -> bool {
        let NatsError::Server { source, .. } = self else { return false };
        let refused = source.downcast_ref::<ConnectError>().map(|error| error.kind());
        !matches!(
            refused,
            Some(
                ConnectErrorKind::Authentication
                    | ConnectErrorKind::AuthorizationViolation
                    | ConnectErrorKind::ServerParse
            )
        )
    }
}

/// The first version with batches of direct reads.
const VERSION_MIN: [u32; 2] = [2, 11];
/// The status behind a batch of direct reads (NATS ADR-31).
const END_OF_BATCH: u16 = 204;
/// The header with which it says how far the stream goes, as the server knows it.
const UP_TO: &str = "Nats-UpTo-Sequence";

/// A thread that drives connections for others, until this is dropped.
struct Driver {
    runtime: Handle,
    _stop: oneshot::Sender<()>,
}

impl Driver {
    fn start() -> io::Result<Driver> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel();
        let driver = Driver { runtime: runtime.handle().clone(), _stop: stop };
        let drive = move || {
            // Nothing is ever sent: it ends when the other side is dropped.
            let _ = runtime.block_on(stopped);
        };
        std::thread::Builder::new().name("crest-nats".to_string()).spawn(drive)?;
        Ok(driver)
    }

    /// Waits here for what that thread drives. Who calls may wait inside another runtime, which
    /// forbids its own kind, and whose budget for a poll nobody would fill up again meanwhile.
    fn wait_for<F: Future>(&self, future: F) -> F::Output {
        let _entered = self.runtime.enter();
        futures_executor::block_on(tokio::task::unconstrained(future))
    }
}

/// A stream on NATS servers.
pub struct NatsStream {
    driver: Driver,
    client: Client,
    context: Context,
    stream: JetStream,
    name: String,
    message_bytes_max: usize,
    compressor: Mutex<Compressor<'static>>,
}

impl NatsStream {
    /// Connects, makes the stream if it isn't there, and checks the settings of which durability
    /// depends.
    pub fn connect(config: &NatsConfig) -> Result<NatsStream, NatsError> {
        NatsStream::open(config, true)
    }

    /// The same, only to be read: nothing is made, and what matters to who writes isn't checked.
    pub fn read_only(config: &NatsConfig) -> Result<NatsStream, NatsError> {
        NatsStream::open(config, false)
    }

    fn open(config: &NatsConfig, writes: bool) -> Result<NatsStream, NatsError> {
        let name = config.stream.clone();
        let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if name.is_empty() || name.len() > 64 || !name.chars().all(is_plain) {
            return Err(NatsError::Name { name });
        }
        let driver = Driver::start()?;
        let open = async || {
            let client = connect(&config.url).await?;
            let context = ContextBuilder::new().timeout(ANSWER).build(client.clone());
            let stream = if writes {
                let made = context.get_or_create_stream(wanted(config)).await;
                made.map_err(failed("making the stream"))?
            } else {
                context.get_stream(&name).await.map_err(failed("looking for the stream"))?
            };
            if writes {
                check_stream(&stream.cached_info().config, config)?;
                check_servers(&stream, config).await?;
            }
            Ok::<_, NatsError>((client, context, stream))
        };
        let began = Instant::now();
        let (client, context, stream) = loop {
            match driver.wait_for(open()) {
                Err(error) if error.may_pass() && began.elapsed() < OPENING => {
                    std::thread::sleep(Duration::from_millis(500));
                }
                opened => break opened?,
            }
        };
        let info = client.server_info();
        let version: Vec<u32> = info.version.split(['.', '-']).flat_map(str::parse).collect();
        if version < VERSION_MIN.to_vec() {
            return Err(NatsError::Setting {
                what: format!("the servers are of version {}", info.version),
                set: "take 2.11 or later".to_string(),
            });
        }
        let payload = info.max_payload;
        if payload < PAYLOAD_BYTES_MIN {
            return Err(NatsError::Setting {
                what: format!("the servers take messages of {payload} bytes"),
                set: format!("set max_payload to {PAYLOAD_BYTES_MIN} or more"),
            });
        }
        let message_bytes_max = payload.min(MESSAGE_BYTES_MAX) - HEADERS_BYTES;
        let compressor = Mutex::new(Compressor::new(LEVEL)?);
        Ok(NatsStream { driver, client, context, stream, name, message_bytes_max, compressor })
    }

    /// What was said of the stream's owner, when it had one.
    pub fn described(&self) -> Option<String> {
        self.stream.cached_info().config.metadata.get(OWNER).cloned()
    }

    /// The same, as it is now.
    pub fn described_now(&self) -> Result<Option<String>, NatsError> {
        let info = self.wait_for(self.stream.get_info()).map_err(failed("asking whose it is"))?;
        Ok(info.config.metadata.get(OWNER).cloned())
    }

    /// Says whose stream it is.
    pub fn describe(&self, owner: &str) -> Result<(), NatsError> {
        let mut config = self.stream.cached_info().config.clone();
        config.metadata.insert(OWNER.to_string(), owner.to_string());
        let updated = self.wait_for(self.context.update_stream(config));
        updated.map(drop).map_err(failed("describing the stream"))
    }

    fn wait_for<F: Future>(&self, future: F) -> F::Output {
        self.driver.wait_for(future)
    }

    fn subject(&self, file: &str) -> String {
        format!("{}.{file}", self.name)
    }

    fn message(
        &self,
        subject: &str,
        headers: &HeaderMap,
        bytes: bytes::Bytes,
    ) -> io::Result<Message> {
        let invalid = |text: String| io::Error::new(io::ErrorKind::InvalidData, text);
        let bytes = match headers.get(ENCODING).map(|value| value.as_str()) {
            None => bytes,
            // What can't be unpacked is no write either, and is found to be damaged as that.
            Some(ZSTD) => {
                let unpacked = zstd::bulk::decompress(&bytes, MESSAGE_BYTES_MAX);
                unpacked.map_or(bytes, |unpacked| bytes::Bytes::copy_from_slice(&unpacked))
            }
            Some(other) => return Err(invalid(format!("a message is encoded as {other}"))),
        };
        let file = subject.strip_prefix(&self.name).and_then(|rest| rest.strip_prefix('.'));
        let position = headers.get(POSITION).and_then(|value| value.as_str().parse().ok());
        match (file, position) {
            (Some(file), Some(position)) => Ok(Message { file: file.to_string(), position, bytes }),
            _ => Err(invalid(format!("a message on {subject} has no {POSITION}"))),
        }
    }

    fn stored(&self, found: StreamMessage) -> io::Result<Stored> {
        let message = self.message(&found.subject, &found.headers, found.payload)?;
        Ok(Stored { sequence: found.sequence, message })
    }

    /// Messages as any server has them (NATS ADR-31), and the newest sequence that it knows of, if
    /// it says so.
    async fn get_direct(&self, ask: String) -> io::Result<(Vec<Stored>, Option<u64>)> {
        let inbox = self.client.new_inbox();
        let mut answers = self.client.subscribe(inbox.clone()).await.map_err(io::Error::other)?;
        let subject = format!("$JS.API.DIRECT.GET.{}", self.name);
        let sent = self.client.publish_with_reply(subject, inbox, ask.into()).await;
        sent.map_err(io::Error::other)?;
        let mut found = Vec::new();
        loop {
            let answer = tokio::time::timeout(ANSWER, answers.next()).await;
            let Ok(Some(answer)) = answer else {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "no answer"));
            };
            match answer.status {
                None | Some(StatusCode::OK) => {}
                Some(StatusCode::NOT_FOUND) => return Ok((found, None)),
                Some(status) if status.as_u16() == END_OF_BATCH => {
                    let newest = answer.headers.as_ref().and_then(|headers| headers.get(UP_TO));
                    return Ok((found, newest.and_then(|newest| newest.as_str().parse().ok())));
                }
                Some(status) => {
                    let text = format!("{status}: {}", answer.description.unwrap_or_default());
                    return Err(io::Error::other(text));
                }
            }
            let stored = StreamMessage::try_from(answer).map_err(io::Error::other)?;
            found.push(self.stored(stored)?);
        }
    }
}

fn knows_less(known: u64, seen: u64) -> io::Error {
    io::Error::other(format!("a server that knows of message {known}, and not of {seen}"))
}

impl Stream for NatsStream {
    fn publish(&self, after: u64, message: &Message) -> Result<(), PublishError> {
        let mut compressor = self.compressor.lock().expect("nothing panics while it holds it");
        let packed = compressor.compress(&message.bytes);
        drop(compressor);
        let publish = match packed {
            Ok(packed) if packed.len() < message.bytes.len() => {
                PublishMessage::build().header(ENCODING, ZSTD).payload(packed.into())
            }
            _ => PublishMessage::build().payload(message.bytes.clone()),
        };
        let publish = publish
            .header(POSITION, message.position.to_string())
            .expected_stream(&self.name)
            .expected_last_sequence(after);
        let subject = self.subject(&message.file);
        let acknowledged =
            self.wait_for(async { self.context.send_publish(subject, publish).await?.await });
        match acknowledged {
            Ok(ack) if ack.sequence == after + 1 => Ok(()),
            Ok(ack) => {
                let text = format!("it got the sequence {}, and not {}", ack.sequence, after + 1);
                Err(PublishError::Unclear(io::Error::other(text)))
            }
            Err(error) => Err(match error.kind() {
                PublishErrorKind::WrongLastSequence => PublishError::NotNext,
                PublishErrorKind::MaxPayloadExceeded => {
                    PublishError::Refused(io::Error::other(error))
                }
                // No leader, no connection, no answer: what there is, is found out.
                _ => PublishError::Unclear(io::Error::other(error)),
            }),
        }
    }

    fn last(&self) -> io::Result<u64> {
        let info = self.wait_for(self.stream.get_info()).map_err(io::Error::other)?;
        Ok(info.state.last_sequence)
    }

    fn get(&self, sequence: u64) -> io::Result<Option<Message>> {
        match self.wait_for(self.stream.get_raw_message(sequence)) {
            Ok(found) => Ok(Some(self.stored(found)?.message)),
            Err(error) if matches!(error.kind(), RawMessageErrorKind::NoMessageFound) => Ok(None),
            Err(error) => Err(io::Error::other(error)),
        }
    }

    fn files(&self, seen: u64) -> io::Result<Vec<String>> {
        let list = async {
            let info = self.stream.info_with_subjects(format!("{}.>", self.name)).await;
            let subjects = info.map_err(io::Error::other)?;
            let last = subjects.info.state.last_sequence;
            if last < seen {
                return Err(io::Error::other(format!(
                    "a leader that knows {last}, and not {seen}"
                )));
            }
            subjects.map_ok(|(subject, _)| subject).map_err(io::Error::other).try_collect().await
        };
        let subjects: Vec<String> = self.wait_for(list)?;
        let prefix = format!("{}.", self.name);
        let files = subjects.iter().filter_map(|subject| subject.strip_prefix(&prefix));
        Ok(files.map(str::to_string).collect())
    }

    fn end(&self, file: &str, seen: u64) -> io::Result<Option<(u64, u64)>> {
        // With the owner's there is one in any case, and so an end that says what is known.
        let (subject, owner) = (self.subject(file), self.subject(crate::stream::OWNER));
        let ask = format!(r#"{{"multi_last":["{subject}","{owner}"]}}"#);
        let (found, known) = self.wait_for(self.get_direct(ask))?;
        let known = known.unwrap_or(0);
        if known < seen {
            return Err(knows_less(known, seen));
        }
        let newest = found.iter().find(|stored| stored.message.file == file);
        Ok(newest.map(|stored| (stored.sequence, stored.message.end())))
    }

    fn read(&self, file: &str, from: u64, bytes: usize) -> io::Result<Vec<Stored>> {
        let subject = self.subject(file);
        let ask = format!(
            r#"{{"seq":{from},"next_by_subj":"{subject}","batch":{BATCH},"max_bytes":{bytes}}}"#
        );
        let (mut found, _) = self.wait_for(self.get_direct(ask))?;
        if found.is_empty() {
            // The leader may have what others don't have yet.
            let next = self.stream.raw_message_builder().sequence(from).next_by_subject(subject);
            match self.wait_for(next.send()) {
                Ok(message) => found.push(self.stored(message)?),
                Err(error) if matches!(error.kind(), RawMessageErrorKind::NoMessageFound) => {}
                Err(error) => return Err(io::Error::other(error)),
            }
        }
        Ok(found)
    }

    fn purge(&self, file: &str) -> io::Result<()> {
        let purged = self.wait_for(async { self.stream.purge().filter(self.subject(file)).await });
        purged.map(drop).map_err(io::Error::other)
    }

    fn message_bytes_max(&self) -> usize {
        self.message_bytes_max
    }

    fn wait(&self, tried: u32) -> bool {
        std::thread::sleep(Duration::from_millis(50 << tried.min(5)));
        tried < TRIES
    }
}

async fn connect(url: &str) -> Result<Client, NatsError> {
    let connecting = "connecting to NATS";
    let servers: Result<Vec<ServerAddr>, _> =
        url.split(',').map(|url| url.trim().parse()).collect();
    let servers = servers.map_err(failed(connecting))?;
    let named = servers.iter().find(|server| server.has_user_pass());
    let user = named.map(|server| (server.username().unwrap_or_default(), server.password()));
    let plain = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
    let options = match user {
        Some((user, Some(password))) => {
            ConnectOptions::with_user_and_password(plain(user), plain(password))
        }
        Some((token, None)) => ConnectOptions::with_token(plain(token)),
        None => ConnectOptions::new(),
    };
    let options = options
        .name("crest")
        .connection_timeout(ANSWER)
        // A server that vanishes without a word is given up after two of them.
        .ping_interval(PING)
        .request_timeout(Some(ANSWER))
        .reconnect_delay_callback(|tries| Duration::from_millis(50 << tries.min(4)));
    options.connect(servers).await.map_err(failed(connecting))
}

fn failed<E: Into<async_nats::Error>>(doing: &'static str) -> impl FnOnce(E) -> NatsError {
    move |source| NatsError::Server { doing, source: source.into() }
}

/// The stream as it is made.
fn wanted(config: &NatsConfig) -> Config {
    Config {
        name: config.stream.clone(),
        subjects: vec![format!("{}.>", config.stream)],
        description: Some("The log of Crest".to_string()),
        storage: StorageType::File,
        num_replicas: config.replicas,
        retention: RetentionPolicy::Limits,
        discard: DiscardPolicy::New,
        max_bytes: -1,
        max_messages: -1,
        max_messages_per_subject: -1,
        max_consumers: -1,
        allow_direct: true,
        deny_delete: true,
        ..Config::default()
    }
}

/// Whether a stream keeps what it acknowledges.
fn check_stream(found: &Config, config: &NatsConfig) -> Result<(), NatsError> {
    let name = &config.stream;
    let edit = |with: &str| format!("set it right with `nats stream edit {name} {with}`");
    let rules = [
        (
            found.storage != StorageType::File,
            "is kept in memory",
            "make another one, with file storage".to_string(),
        ),
        (
            found.num_replicas < config.replicas,
            "is kept by too few servers",
            edit(&format!("--replicas {}", config.replicas)),
        ),
        (
            found.retention != RetentionPolicy::Limits,
            "drops what its consumers have seen",
            "make another one, with limits retention".to_string(),
        ),
        (
            found.discard != DiscardPolicy::New,
            "drops old messages when it is full",
            edit("--discard new"),
        ),
        (!found.max_age.is_zero(), "drops messages by age", edit("--max-age -1")),
        (
            found.max_messages_per_subject > 0,
            "drops messages of a subject",
            edit("--max-msgs-per-subject=-1"),
        ),
        (found.no_ack, "acknowledges nothing", edit("--ack")),
        (
            found.deny_purge,
            "forbids trimming",
            "make another one, without --deny-purge".to_string(),
        ),
        (!found.allow_direct, "answers no direct reads", edit("--allow-direct")),
        (
            found.mirror.is_some() || found.sources.is_some(),
            "gets messages from other streams",
            "make another one".to_string(),
        ),
        (found.max_message_size > 0, "takes no messages above a size", edit("--max-msg-size=-1")),
        (
            found.subject_transform.is_some() || found.republish.is_some(),
            "renames messages, or sends them on",
            "make another one".to_string(),
        ),
        (found.persist_mode.is_some(), "is written behind", "make another one".to_string()),
        (
            found.subjects != [format!("{name}.>")],
            "has other subjects",
            edit(&format!("--subjects '{name}.>'")),
        ),
    ];
    match rules.into_iter().find(|(is_wrong, ..)| *is_wrong) {
        Some((_, what, set)) => {
            Err(NatsError::Setting { what: format!("stream {name} {what}"), set })
        }
        None => Ok(()),
    }
}

/// What a server says of itself, as far as it is looked at.
#[derive(Deserialize)]
struct Varz {
    server: VarzServer,
    data: VarzData,
}

#[derive(Deserialize)]
struct VarzServer {
    name: String,
}

#[derive(Deserialize)]
struct VarzData {
    #[serde(default)]
    jetstream: VarzJetStream,
}

#[derive(Deserialize, Default)]
struct VarzJetStream {
    config: Option<VarzJetStreamConfig>,
}

#[derive(Deserialize)]
struct VarzJetStreamConfig {
    #[serde(default)]
    sync_always: bool,
}

/// Whether each server that keeps the stream syncs before it answers.
async fn check_servers(stream: &JetStream, config: &NatsConfig) -> Result<(), NatsError> {
    let Some(url) = &config.system_url else {
        return Err(NatsError::Setting {
            what: "how the servers sync can't be seen".to_string(),
            set: "give --nats-system, the URL with a user of the system account".to_string(),
        });
    };
    let system = connect(url).await?;
    let inbox = system.new_inbox();
    let asking = "asking the servers for their settings";
    let mut answers = system.subscribe(inbox.clone()).await.map_err(failed(asking))?;
    let subject = "$SYS.REQ.SERVER.PING.VARZ";
    system.publish_with_reply(subject, inbox, "".into()).await.map_err(failed(asking))?;
    let mut syncs = BTreeMap::new();
    let cluster = stream.cached_info().cluster.clone();
    let mut keepers: Vec<String> = Vec::new();
    if let Some(cluster) = cluster {
        keepers.extend(cluster.leader);
        keepers.extend(cluster.replicas.into_iter().map(|peer| peer.name));
    }
    let all = |syncs: &BTreeMap<String, bool>| keepers.iter().all(|name| syncs.contains_key(name));
    while keepers.is_empty() || !all(&syncs) {
        let Ok(Some(answer)) = tokio::time::timeout(SURVEY, answers.next()).await else { break };
        if answer.status == Some(StatusCode::NO_RESPONDERS) {
            return Err(NatsError::Setting {
                what: "the user of --nats-system is none of the system account".to_string(),
                set: "name one that is".to_string(),
            });
        }
        if let Ok(varz) = serde_json::from_slice::<Varz>(&answer.payload) {
            let always = varz.data.jetstream.config.is_some_and(|config| config.sync_always);
            syncs.insert(varz.server.name, always);
        }
    }
    // One that is away holds nobody up, as long as most are there: they decide.
    let unseen = keepers.iter().filter(|name| !syncs.contains_key(*name));
    let unseen: Vec<&str> = unseen.map(String::as_str).collect();
    if syncs.is_empty() || 2 * unseen.len() > keepers.len() {
        return Err(NatsError::Setting {
            what: format!("how the servers sync can't be seen: {} are silent", unseen.join(", ")),
            set: "most of them have to be there when the log is opened".to_string(),
        });
    }
    let kept = |name: &String| keepers.is_empty() || keepers.contains(name);
    match syncs.iter().find(|(name, always)| kept(name) && !**always) {
        Some((name, _)) => Err(NatsError::Setting {
            what: format!("server {name} acknowledges what it hasn't synced"),
            set: "set `jetstream { sync_interval: always }` in its configuration".to_string(),
        }),
        None => Ok(()),
    }
}
