//! The least that could be done for a part's job: what the parts are measured against.

use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use foldhash::HashSet;
use model::record::{Body, CommandBuffer};
use mq::AlignedBuf;
use serde::de::IgnoredAny;

use crate::run::Failure;

/// The least that an order is: an id that is new, money taken here, units taken there.
pub(super) struct Bare {
    ids: HashSet<(u64, u128)>,
    balances: Vec<u64>,
    stock: Vec<u64>,
}

impl Bare {
    pub(super) fn new(buyers: u64, items: u64, orders: u64) -> Bare {
        Bare {
            ids: HashSet::with_capacity_and_hasher(orders as usize, Default::default()),
            balances: vec![1 << 40; buyers as usize + 1],
            stock: vec![1 << 40; items as usize + 1],
        }
    }

    pub(super) fn apply(&mut self, commands: &CommandBuffer) {
        for record in commands.records().flatten() {
            let Body::Place { lines, .. } = record.body else { continue };
            if !self.ids.insert((record.header.scope.get(), record.header.id.get())) {
                continue;
            }
            for line in lines {
                self.stock[line.item.get() as usize] -= u64::from(line.quantity.get());
                self.balances[record.header.scope.get() as usize] -= 1;
            }
        }
    }
}

/// A file that has its length, written over from the start.
pub(super) struct BareFile {
    file: File,
    position: u64,
    buffer: AlignedBuf,
}

const FILE_BYTES: u64 = 512 << 20;

impl BareFile {
    /// Takes appends of up to `append_bytes`, a multiple of 4 KiB.
    pub(super) fn create(path: &Path, append_bytes: usize) -> Result<BareFile, Failure> {
        let direct = rustix::fs::OFlags::DIRECT.bits() as i32;
        let file = File::options().create_new(true).write(true).custom_flags(direct).open(path)?;
        let mut buffer = AlignedBuf::new(append_bytes.max(1 << 20));
        buffer.bytes_mut().fill(0);
        for position in (0..FILE_BYTES).step_by(1 << 20) {
            file.write_all_at(&buffer.bytes()[..1 << 20], position)?;
        }
        file.sync_all()?;
        buffer.bytes_mut().fill(7);
        Ok(BareFile { file, position: 0, buffer })
    }

    pub(super) fn append(&mut self, bytes: usize) -> Result<(), Failure> {
        if self.position + bytes as u64 > FILE_BYTES {
            self.position = 0;
        }
        self.file.write_all_at(&self.buffer.bytes()[..bytes], self.position)?;
        self.file.sync_data()?;
        self.position += bytes as u64;
        Ok(())
    }
}

/// Walks over a JSON text and keeps nothing.
pub(super) fn skip(body: &[u8]) -> Result<(), Failure> {
    let IgnoredAny = sonic_rs::from_slice(body)?;
    Ok(())
}
