//! What encryption at rest costs: the cipher alone, and appends beside those that aren't encrypted.

use std::hint::black_box;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use mq::{
    AlignedBuf, BLOCK_BYTES, DirDisk, DirectoryKey, Disk, DiskFile, EncryptedDisk, LocalConfig,
    LocalLog, Log,
};

use super::parts::{ROUNDS, next_frame};
use super::table::{Row, histogram, quantiles};
use crate::run::{Failure, root};

/// Both.
pub(super) fn measure() -> Result<Vec<Row>, Failure> {
    let mut rows = cipher()?;
    rows.append(&mut append()?);
    Ok(rows)
}

/// A disk of one file, which forgets all of it but the first block, and reads as sevens.
#[derive(Clone, Default)]
struct Nowhere(Arc<Mutex<AlignedBuf>>);

impl Disk for Nowhere {
    fn create(&self, _: &str, _: u64) -> io::Result<Box<dyn DiskFile>> {
        self.open("")
    }

    fn open(&self, _: &str) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(self.clone()))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(Vec::new())
    }

    fn rename(&self, _: &str, _: &str) -> io::Result<()> {
        Ok(())
    }

    fn remove(&self, _: &str) -> io::Result<()> {
        Ok(())
    }

    fn sync_dir(&self) -> io::Result<()> {
        Ok(())
    }
}

impl DiskFile for Nowhere {
    fn write_at(&self, bytes: &[u8], position: u64) -> io::Result<()> {
        if position == 0 {
            let mut first = self.0.lock().expect("nothing panics while it holds the lock");
            first.grow(BLOCK_BYTES);
            first.bytes_mut().copy_from_slice(&bytes[..BLOCK_BYTES]);
        }
        black_box(bytes);
        Ok(())
    }

    fn read_at(&self, bytes: &mut [u8], position: u64) -> io::Result<usize> {
        match position {
            0 => {
                let first = self.0.lock().expect("nothing panics while it holds the lock");
                bytes[..BLOCK_BYTES].copy_from_slice(first.bytes());
            }
            _ => bytes.fill(7),
        }
        Ok(bytes.len())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(u64::MAX / 2)
    }

    fn truncate(&self, _: u64) -> io::Result<()> {
        Ok(())
    }
}

/// Encrypting and decrypting on one core, with what a file does around it.
fn cipher() -> Result<Vec<Row>, Failure> {
    const BYTES: usize = 64 << 10;
    const TIMES: usize = 10_000;
    let file = EncryptedDisk::new(Arc::new(Nowhere::default()), DirectoryKey::draw()?);
    let file = file.create("", 0)?;
    let mut rows = Vec::new();
    for what in ["encrypt", "decrypt"] {
        let mut row = Row::new(format!("{what}: 64 KiB at a time, one thread"), "MB/s", "a copy");
        let (mut buffer, mut copy) = (AlignedBuf::new(BYTES), AlignedBuf::new(BYTES));
        buffer.bytes_mut().fill(7);
        let rate = |began: Instant| (TIMES * BYTES) as f64 / began.elapsed().as_secs_f64() / 1e6;
        for _ in 0..ROUNDS {
            let began = Instant::now();
            for _ in 0..TIMES {
                match what {
                    "encrypt" => file.write_at(buffer.bytes(), 1 << 20)?,
                    _ => file.read_at(buffer.bytes_mut(), 1 << 20).map(drop)?,
                }
            }
            row.ours.push(rate(began));
            let began = Instant::now();
            for _ in 0..TIMES {
                copy.bytes_mut().copy_from_slice(black_box(buffer.bytes()));
                black_box(copy.bytes());
            }
            row.peer.push(rate(began));
        }
        rows.push(row);
    }
    Ok(rows)
}

/// Appends in turn to a log that is encrypted and one that isn't.
fn append() -> Result<Vec<Row>, Failure> {
    const APPENDS: usize = 400;
    let dir = tempfile::tempdir_in(root().join("target"))?;
    let open = |path: &Path, key: Option<DirectoryKey>| -> Result<LocalLog, Failure> {
        let disk: Arc<dyn Disk> = Arc::new(DirDisk::open(path)?);
        let disk = match key {
            Some(key) => Arc::new(EncryptedDisk::new(disk, key)),
            None => disk,
        };
        Ok(LocalLog::open(disk, LocalConfig::default())?.0)
    };
    let mut rows = Vec::new();
    for frame_bytes in [4 << 10, 64 << 10, 256 << 10] {
        let kib = frame_bytes >> 10;
        let name = format!("append, encrypted: {kib} KiB frames, each synced");
        let mut row = Row::new(name, "MB/s", "the same without encryption");
        let at = |name: &str| dir.path().join(format!("{name}-{kib}"));
        let mut logs =
            [open(&at("encrypted"), Some(DirectoryKey::draw()?))?, open(&at("plain"), None)?];
        let mut latency = [histogram(), histogram()];
        for _ in 0..ROUNDS {
            let mut took = [Duration::ZERO; 2];
            for append in 0..APPENDS {
                // Whoever is second finds the disk busier with what the first left behind.
                for side in [append % 2, 1 - append % 2] {
                    let frame = next_frame(&logs[side], frame_bytes);
                    let began = Instant::now();
                    logs[side].append(&[&frame])?;
                    let time = began.elapsed();
                    took[side] += time;
                    latency[side].saturating_record(time.as_micros() as u64);
                }
            }
            let [ours, peer] =
                took.map(|took| (APPENDS * frame_bytes) as f64 / took.as_secs_f64() / 1e6);
            row.ours.push(ours);
            row.peer.push(peer);
        }
        for log in logs {
            log.close()?;
        }
        row.latency = Some(latency.map(|latency| quantiles(&latency)));
        rows.push(row);
    }
    Ok(rows)
}
