//! Request buffers, used again: a request allocates nothing that the one before left behind.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Body;
use model::Reply;
use model::record::CommandBuffer;
use quinn::RecvStream;

use crate::answer::Problem;

/// Buffers kept for later. More requests than this at once allocate.
const KEPT_MAX: usize = 64;
/// A buffer larger than this is not kept: one giant request must not hold memory for ever.
const KEPT_BYTES_MAX: usize = 4 << 20;

pub(crate) struct Buffers {
    pub(crate) body: Vec<u8>,
    pub(crate) commands: CommandBuffer,
    replies: Vec<Reply>,
    room: Rc<Room>,
    /// Bytes taken of the room.
    taken: usize,
}

/// Bytes of bodies that a reactor may hold at once.
#[derive(Default)]
struct Room {
    left: Cell<usize>,
}

impl Drop for Buffers {
    fn drop(&mut self) {
        self.leave();
    }
}

impl Buffers {
    fn new(room: Rc<Room>) -> Buffers {
        Buffers {
            body: Vec::new(),
            commands: CommandBuffer::default(),
            replies: Vec::new(),
            room,
            taken: 0,
        }
    }

    /// Takes so many bytes of the room that bodies have.
    pub(crate) fn enter(&mut self, bytes: usize) -> Result<(), Problem> {
        let left = self.room.left.get().checked_sub(bytes).ok_or_else(Problem::bodies_full)?;
        self.room.left.set(left);
        self.taken += bytes;
        Ok(())
    }

    fn leave(&mut self) {
        self.room.left.set(self.room.left.get() + std::mem::take(&mut self.taken));
    }

    /// Reads a body whole, within its bounds.
    pub(crate) async fn read(
        &mut self,
        body: impl Body<Data = Bytes, Error: std::fmt::Display> + Unpin,
        limit: usize,
        time: Duration,
    ) -> Result<(), Problem> {
        // What says that it is too large needs not be read.
        if body.size_hint().lower() > limit as u64 {
            return Err(Problem::too_large(limit));
        }
        in_time(time, self.read_frames(body, limit)).await
    }

    /// Reads what comes on a stream, up to its end, within its bounds.
    pub(crate) async fn read_stream(
        &mut self,
        stream: &mut RecvStream,
        limit: usize,
        time: Duration,
    ) -> Result<(), Problem> {
        in_time(time, async {
            loop {
                let piece = stream.read_chunk(limit, true).await;
                let Some(piece) = piece.map_err(|error| Problem::broken_body(&error))? else {
                    return Ok(());
                };
                self.take(&piece.bytes, limit)?;
            }
        })
        .await
    }

    /// Takes a piece of a body.
    pub(crate) fn take(&mut self, piece: &[u8], limit: usize) -> Result<(), Problem> {
        if self.body.len() + piece.len() > limit {
            return Err(Problem::too_large(limit));
        }
        self.enter(piece.len())?;
        self.body.extend_from_slice(piece);
        Ok(())
    }

    async fn read_frames(
        &mut self,
        mut body: impl Body<Data = Bytes, Error: std::fmt::Display> + Unpin,
        limit: usize,
    ) -> Result<(), Problem> {
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| Problem::broken_body(&error))?;
            let Some(piece) = frame.data_ref() else { continue };
            self.take(piece, limit)?;
            if body.is_end_stream() {
                break;
            }
        }
        Ok(())
    }

    /// The buffers that travel to the shard.
    pub(crate) fn lend(&mut self) -> (CommandBuffer, Vec<Reply>) {
        (std::mem::take(&mut self.commands), std::mem::take(&mut self.replies))
    }

    pub(crate) fn return_lent(&mut self, commands: CommandBuffer, replies: Vec<Reply>) {
        self.commands = commands;
        self.replies = replies;
    }
}

/// What reading a body comes to, within a time.
async fn in_time(
    time: Duration,
    read: impl Future<Output = Result<(), Problem>>,
) -> Result<(), Problem> {
    let mut read = pin!(read);
    // Most bodies come with their head. They need no timer.
    if let Some(read) = soon(read.as_mut()).await {
        return read;
    }
    tokio::time::timeout(time, read).await.unwrap_or_else(|_| Err(Problem::slow_body()))
}

/// What a future comes to when it is polled twice. When a body is first asked for, `hyper` hands
/// over what it has of it with the next poll of the connection.
async fn soon<F: Future>(mut future: Pin<&mut F>) -> Option<F::Output> {
    let mut is_asked = false;
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending if is_asked => Poll::Ready(None),
        Poll::Pending => {
            is_asked = true;
            cx.waker().wake_by_ref();
            Poll::Pending
        }
    })
    .await
}

/// Buffers of one reactor.
pub(crate) struct Pool {
    kept: RefCell<Vec<Buffers>>,
    room: Rc<Room>,
}

impl Pool {
    /// For requests whose bodies take at most so many bytes together.
    pub(crate) fn new(bodies_bytes: usize) -> Pool {
        let room = Rc::new(Room { left: Cell::new(bodies_bytes) });
        Pool { kept: RefCell::default(), room }
    }

    pub(crate) fn take(&self) -> Buffers {
        let kept = self.kept.borrow_mut().pop();
        kept.unwrap_or_else(|| Buffers::new(self.room.clone()))
    }

    pub(crate) fn give_back(&self, mut buffers: Buffers) {
        buffers.leave();
        buffers.body.clear();
        buffers.commands.clear();
        let mut kept = self.kept.borrow_mut();
        let small = buffers.body.capacity() + buffers.commands.capacity() <= KEPT_BYTES_MAX;
        if kept.len() < KEPT_MAX && small {
            kept.push(buffers);
        }
    }
}
