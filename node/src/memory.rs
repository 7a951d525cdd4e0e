//! Keeps memory ready for shards that grow.
//!
//! The first touch of a page makes the kernel find and clear it. Done by the shard's own thread
//! this took a fifth of its time under full load; done here it takes none of it.

use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

use txn_core::SpareRegions;

/// Regions of 2 MiB that are ready ahead, for all shards together: some tenths of a second of
/// full load.
const AHEAD: usize = 64;

/// A thread that makes regions ready. It ends when all of these are dropped.
#[derive(Clone)]
pub(crate) struct MemoryThread {
    spare: SpareRegions,
    wake: SyncSender<()>,
}

impl MemoryThread {
    /// Makes the first regions ready, then starts the thread.
    pub(crate) fn spawn(spare: SpareRegions) -> std::io::Result<MemoryThread> {
        fill(&spare);
        let (wake, woken) = sync_channel(1);
        let own = spare.clone();
        std::thread::Builder::new()
            .name("crest-memory".to_string())
            .spawn(move || run(&own, &woken))?;
        Ok(MemoryThread { spare, wake })
    }

    /// Where regions are that are ready.
    pub(crate) fn spare(&self) -> &SpareRegions {
        &self.spare
    }

    /// Wakes the thread if a region was taken. Cheap enough for every group of frames.
    pub(crate) fn look(&self) {
        if self.spare.count() < AHEAD {
            match self.wake.try_send(()) {
                // Full: it is awake already.
                Ok(()) | Err(TrySendError::Full(())) => {}
                Err(TrySendError::Disconnected(())) => unreachable!("the thread waits for us"),
            }
        }
    }
}

fn run(spare: &SpareRegions, woken: &Receiver<()>) {
    while woken.recv().is_ok() {
        fill(spare);
    }
}

/// Makes regions ready until there are enough ahead.
pub(crate) fn fill(spare: &SpareRegions) {
    while spare.count() < AHEAD {
        spare.add();
    }
}
