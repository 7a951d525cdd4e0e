//! `crest/1`: requests on plain streams of a QUIC connection, for backends that want the least
//! between them and the core.
//!
//! A stream of two directions that the client opens is a request: commands as bytes, one behind
//! the other, up to its end. The answer comes on the same stream: an [`AnswerHead`], and results,
//! or a problem as JSON, up to its end. docs/binary.md has the bytes.
//!
//! Small requests that are there together are one batch for the shards, and cost one task: what is
//! gathered is what has come since the connection was last looked at, so nobody waits for it.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use hyper::StatusCode;
use model::json::decode::BATCH_MAX;
use model::record::{AnswerHead, CommandResult};
use model::{Realm, Reply};
use node::stages::Ticks;
use quinn::{RecvStream, SendStream, VarInt};

use crate::answer::{self, Problem};
use crate::buffers::Buffers;
use crate::connections::Activity;
use crate::quic::{Exchanges, Speaks, goodbye};
use crate::{Gateway, Wanted};

/// What it is called in a handshake.
pub(crate) const ALPN: &[u8] = b"crest/1";
/// What a connection that did its work is closed with.
pub(crate) const NO_ERROR: u32 = 0;
/// A stream that is reset with this was not begun: nothing happened.
const NOT_BEGUN: VarInt = VarInt::from_u32(1);

/// The most bytes of a request that waits for nothing else, and is submitted with others.
const GATHERED_BYTES_MAX: usize = 4 << 10;

/// Answers requests until the client is done, or it was told to end and open ones are answered.
pub(crate) async fn serve(
    gateway: &Rc<Gateway>,
    quic: quinn::Connection,
    speaks: Speaks,
) -> Result<(), quinn::ConnectionError> {
    let Speaks { told, mut confirmed, activity } = speaks;
    // Almost all that is asked for here writes.
    let is_confirmed = tokio::select! {
        () = told.to_end() => false,
        is_confirmed = confirmed.wait() => is_confirmed,
    };
    if !is_confirmed {
        return Ok(());
    }
    let exchanges = Rc::<Exchanges>::default();
    let mut is_ending = false;
    loop {
        let (mut send, mut recv) = tokio::select! {
            () = told.to_end(), if !is_ending => {
                is_ending = true;
                continue;
            }
            () = exchanges.none(), if is_ending => break,
            accepted = quic.accept_bi() => accepted?,
        };
        if is_ending {
            // Neither fails but for a stream that is over.
            let _ = (send.reset(NOT_BEGUN), recv.stop(NOT_BEGUN));
            continue;
        }
        // What came together is submitted together.
        let mut gathered = Gathered::new(gateway);
        let mut next = Some((send, recv));
        while let Some((send, recv)) = next {
            if let Err(single) = gathered.take(send, recv).await {
                let (gateway, activity) = (gateway.clone(), activity.clone());
                let open = exchanges.begin();
                tokio::task::spawn_local(async move {
                    single.exchange(&gateway, &activity).await;
                    drop(open);
                });
            }
            // If there is an error, it comes again.
            next = at_once(quic.accept_bi()).await.and_then(Result::ok);
        }
        if !gathered.streams.is_empty() {
            let (gateway, activity) = (gateway.clone(), activity.clone());
            let open = exchanges.begin();
            tokio::task::spawn_local(async move {
                gathered.exchange(&gateway, &activity).await;
                drop(open);
            });
        }
    }
    goodbye(&quic).await;
    Ok(())
}

/// A request that is alone, and what of it was read.
struct Single {
    send: SendStream,
    recv: RecvStream,
    begun: Ticks,
    read: Vec<u8>,
}

impl Single {
    async fn exchange(mut self, gateway: &Gateway, activity: &Rc<Activity>) {
        let open = activity.request();
        gateway.recorder.count_write();
        let limits = &gateway.limits;
        let mut buffers = gateway.pool.take();
        let mut done = None;
        let answered = async {
            buffers.take(&self.read, limits.body_bytes)?;
            buffers.read_stream(&mut self.recv, limits.body_bytes, limits.body).await?;
            let arrived = (self.begun, gateway.recorder.now());
            answer::decode_binary(Wanted::Any, &mut buffers)?;
            gateway.submit(Wanted::Any, Realm::Live, &mut buffers, arrived, &mut done).await
        };
        let answered = answered.await;
        // Whoever doesn't take his answer is quiet.
        drop(open);
        // The body was read, and its memory is of use again.
        buffers.body.clear();
        match answered {
            Ok(answer) => {
                write_results(&answer.replies, &mut buffers.body);
                buffers.return_lent(answer.commands, answer.replies);
            }
            Err(problem) => write_problem(&problem, &mut buffers.body),
        }
        send(&mut self.send, &buffers.body).await;
        activity.written();
        gateway.pool.give_back(buffers);
        if let Some(done) = done {
            gateway.recorder.record(&done, gateway.recorder.now());
        }
    }
}

/// Small requests that came together.
struct Gathered {
    buffers: Buffers,
    /// Where each is answered, and how many commands it has.
    streams: Vec<(SendStream, usize)>,
    begun: Ticks,
}

impl Gathered {
    fn new(gateway: &Gateway) -> Gathered {
        let (buffers, begun) = (gateway.pool.take(), gateway.recorder.now());
        Gathered { buffers, streams: Vec::new(), begun }
    }

    /// Takes a request if it is small and there as a whole.
    async fn take(&mut self, send: SendStream, mut recv: RecvStream) -> Result<(), Single> {
        self.buffers.body.clear();
        let is_whole = loop {
            let room = GATHERED_BYTES_MAX - self.buffers.body.len();
            match at_once(recv.read_chunk(room, true)).await {
                Some(Ok(Some(piece))) if piece.bytes.len() < room => {
                    self.buffers.body.extend_from_slice(&piece.bytes);
                }
                Some(Ok(Some(piece))) => {
                    self.buffers.body.extend_from_slice(&piece.bytes);
                    break false;
                }
                Some(Ok(None)) => break true,
                // What failed, fails again.
                Some(Err(_)) | None => break false,
            }
        };
        let taken = if is_whole { self.take_whole() } else { None };
        match taken {
            Some(count) => {
                self.streams.push((send, count));
                Ok(())
            }
            None => Err(Single { send, recv, begun: self.begun, read: self.buffers.body.clone() }),
        }
    }

    /// Takes the commands in `body`, if they may be decided with others.
    fn take_whole(&mut self) -> Option<usize> {
        let Buffers { body, commands, .. } = &mut self.buffers;
        let (before, mark) = (commands.count(), commands.mark());
        commands.push_asked(body, None).ok()?;
        let count = commands.count() - before;
        // An order's key may be gone: that is no failure of the others.
        let may_be = !commands.is_unsealed() && commands.count() as usize <= BATCH_MAX;
        let bytes = body.len();
        if !may_be || self.buffers.enter(bytes).is_err() {
            self.buffers.commands.rewind(mark);
            return None;
        }
        Some(count as usize)
    }

    async fn exchange(mut self, gateway: &Gateway, activity: &Rc<Activity>) {
        let open = activity.request();
        self.streams.iter().for_each(|_| gateway.recorder.count_write());
        let (buffers, mut done) = (&mut self.buffers, None);
        let arrived = (self.begun, gateway.recorder.now());
        let submitted = gateway.submit(Wanted::Any, Realm::Live, buffers, arrived, &mut done);
        let answered = submitted.await;
        drop(open);
        let mut from = 0;
        for (stream, count) in &mut self.streams {
            self.buffers.body.clear();
            match &answered {
                Ok(answer) => {
                    write_results(&answer.replies[from..from + *count], &mut self.buffers.body);
                    from += *count;
                }
                Err(problem) => write_problem(problem, &mut self.buffers.body),
            }
            send(stream, &self.buffers.body).await;
            activity.written();
        }
        if let Ok(answer) = answered {
            self.buffers.return_lent(answer.commands, answer.replies);
        }
        gateway.pool.give_back(self.buffers);
        if let Some(done) = done {
            gateway.recorder.record(&done, gateway.recorder.now());
        }
    }
}

fn write_results(replies: &[Reply], answer: &mut Vec<u8>) {
    AnswerHead::new(StatusCode::OK.as_u16()).write(answer);
    CommandResult::write_all(replies, answer);
}

fn write_problem(problem: &Problem, answer: &mut Vec<u8>) {
    AnswerHead::new(problem.status().as_u16()).write(answer);
    answer.extend_from_slice(&answer::problem_json(problem));
}

/// It fails for a client that doesn't want its answer any more.
async fn send(stream: &mut SendStream, answer: &[u8]) {
    if stream.write_all(answer).await.is_ok() {
        let _ = stream.finish();
    }
}

/// What a future comes to if that is there already.
async fn at_once<F: Future>(future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}
