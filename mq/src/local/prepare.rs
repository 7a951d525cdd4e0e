//! Makes segments ahead of their use.
//!
//! A segment of 64 MiB takes tens of milliseconds to write and sync. An append must not wait for
//! that, so a thread makes the next segment while the current one fills; the log waits only if
//! it fills faster. A simulation has no threads and makes the segment when it is needed.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use zerocopy::IntoBytes;

use crate::LogError;
use crate::aligned::AlignedBuf;
use crate::disk::{Disk, DiskFile};
use crate::local::layout::{BLOCK, SegmentHeader, SegmentId, new_name, segment_name};

/// Who makes the next segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Prepare {
    /// A thread, ahead of time.
    #[default]
    Background,
    /// The append that needs it. The order of what happens on the disk is then the same each
    /// time.
    Inline,
}

/// A segment to be made.
pub(super) struct Order {
    pub id: SegmentId,
    pub counter: u64,
    /// The file to make it of; without one, a new file.
    pub spare: Option<String>,
}

/// A segment that is there, empty and durable.
pub(super) struct Made {
    pub id: SegmentId,
    pub file: Box<dyn DiskFile>,
}

/// Makes one segment at a time.
pub(super) struct Preparer {
    disk: Arc<dyn Disk>,
    ordered: Option<Order>,
    thread: Option<Worker>,
}

struct Worker {
    orders: Option<Sender<Order>>,
    made: Receiver<io::Result<Made>>,
    handle: Option<JoinHandle<()>>,
}

impl Preparer {
    pub fn new(disk: Arc<dyn Disk>, prepare: Prepare) -> Result<Preparer, LogError> {
        let thread = match prepare {
            Prepare::Inline => None,
            Prepare::Background => Some(
                Worker::start(disk.clone()).map_err(LogError::io("starting the segment maker"))?,
            ),
        };
        Ok(Preparer { disk, ordered: None, thread })
    }

    /// Orders the next segment. The one before was taken.
    pub fn order(&mut self, order: Order) {
        match &self.thread {
            // A thread that is gone is noticed when its segment is to be taken.
            Some(Worker { orders: Some(orders), .. }) => drop(orders.send(order)),
            _ => self.ordered = Some(order),
        }
    }

    /// The segment that was ordered; waits for it if need be.
    pub fn take(&mut self) -> io::Result<Made> {
        match (&self.thread, self.ordered.take()) {
            (Some(worker), _) => worker
                .made
                .recv()
                .unwrap_or_else(|_| Err(io::Error::other("the segment maker is gone"))),
            (None, Some(order)) => make(&*self.disk, order),
            (None, None) => Err(io::Error::other("no segment was ordered")),
        }
    }
}

impl Worker {
    fn start(disk: Arc<dyn Disk>) -> io::Result<Worker> {
        let (orders, ordered) = channel::<Order>();
        let (made, results) = channel();
        let run = move || {
            for order in ordered {
                if made.send(make(&*disk, order)).is_err() {
                    break;
                }
            }
        };
        let handle = std::thread::Builder::new().name("segment-maker".into()).spawn(run)?;
        Ok(Worker { orders: Some(orders), made: results, handle: Some(handle) })
    }
}

impl Drop for Worker {
    /// The directory may be opened again at once, and must not have another writer then.
    fn drop(&mut self) {
        self.orders = None;
        if let Some(handle) = self.handle.take() {
            // It may have panicked; there is nobody left to tell.
            drop(handle.join());
        }
    }
}

/// Makes a segment. It gets its name when it is durable, and the name is durable at the end.
pub(super) fn make(disk: &dyn Disk, order: Order) -> io::Result<Made> {
    let Order { id, counter, spare } = order;
    let mut block = AlignedBuf::new(BLOCK as usize);
    let header = SegmentHeader::new(id, counter);
    block.bytes_mut()[..size_of::<SegmentHeader>()].copy_from_slice(header.as_bytes());
    let (from, file) = match spare {
        // What is in it is of another generation and other positions, and need not be erased.
        Some(spare) => (spare.clone(), disk.open(&spare)?),
        None => {
            let name = new_name(id.index);
            let file = disk.create(&name, id.segment_bytes)?;
            (name, file)
        }
    };
    file.write_at(block.bytes(), 0)?;
    file.sync()?;
    disk.rename(&from, &segment_name(id.index))?;
    disk.sync_dir()?;
    Ok(Made { id, file })
}
