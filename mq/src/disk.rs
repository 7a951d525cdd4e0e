//! The directory that a local log lives in, small enough to be played by a script of faults.
//!
//! [`DirDisk`] writes past the page cache where the file system lets it: what is appended is
//! read again only after a restart or by a consumer far behind, and a write that waits for
//! nothing but the device has a steadier latency. Files get their full length as written zeros
//! before they are used: an append then changes no metadata, and `fdatasync` has only the data
//! to wait for.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::aligned::{AlignedBuf, BLOCK_BYTES};

/// A directory of files. What it did to names is durable after `sync_dir`.
pub trait Disk: Send + Sync {
    /// A new file of `bytes` written zeros, not yet synced. One of that name is replaced.
    fn create(&self, name: &str, bytes: u64) -> io::Result<Box<dyn DiskFile>>;
    /// A file that is there, for reading and writing.
    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>>;
    /// The names of all files, in any order.
    fn list(&self) -> io::Result<Vec<String>>;
    /// Gives a file another name; one of that name is replaced.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Makes names durable.
    fn sync_dir(&self) -> io::Result<()>;
    /// Whether files are only appended to, keep the name that they got when they were whole, and
    /// show nothing that isn't durable. Such a file has the length of what was written to it,
    /// whatever it was created with.
    fn is_append_only(&self) -> bool {
        false
    }
    /// The most bytes of a write.
    fn write_bytes_max(&self) -> u64 {
        u64::MAX
    }
}

/// A file. Memory, positions and lengths are whole blocks, as in an [`AlignedBuf`].
pub trait DiskFile: Send + Sync {
    /// Writes all of it, or fails.
    fn write_at(&self, bytes: &[u8], position: u64) -> io::Result<()>;
    /// Reads what is there, up to the buffer's length; less only at the end of the file.
    fn read_at(&self, bytes: &mut [u8], position: u64) -> io::Result<usize>;
    /// Makes what was written durable, as `fdatasync` does.
    fn sync(&self) -> io::Result<()>;
    /// The length of the file in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Whether there is nothing in it.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Cuts the file to `bytes`.
    fn truncate(&self, bytes: u64) -> io::Result<()>;
}

/// A directory of the file system.
pub struct DirDisk {
    path: PathBuf,
    directory: File,
    writable: bool,
}

impl DirDisk {
    /// The directory at `path`, made if it isn't there, and locked: two logs in one directory
    /// would destroy each other. The lock ends with the process, however it ends.
    pub fn open(path: impl AsRef<Path>) -> io::Result<DirDisk> {
        fs::create_dir_all(path.as_ref())?;
        let directory = File::open(path.as_ref())?;
        // Its own name must be durable, too.
        File::open(path.as_ref().join(".."))?.sync_all()?;
        match directory.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let text = format!("{} is in use by another process", path.as_ref().display());
                return Err(io::Error::new(io::ErrorKind::ResourceBusy, text));
            }
            Err(TryLockError::Error(error)) => return Err(error),
        }
        Ok(DirDisk { path: path.as_ref().into(), directory, writable: true })
    }

    /// The directory at `path` to be looked at: not locked, and no file is opened for writing.
    pub fn read_only(path: impl AsRef<Path>) -> io::Result<DirDisk> {
        let directory = File::open(path.as_ref())?;
        Ok(DirDisk { path: path.as_ref().into(), directory, writable: false })
    }

    fn file(&self, name: &str, create: bool) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.read(true).write(self.writable).create(create).truncate(create);
        let path = self.path.join(name);
        match options.clone().custom_flags(DIRECT_FLAG).open(&path) {
            // The file system knows no direct I/O. The page cache is right, only less steady.
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::INVAL.raw_os_error()) => {
                options.open(&path)
            }
            opened => opened,
        }
    }
}

impl Disk for DirDisk {
    fn create(&self, name: &str, bytes: u64) -> io::Result<Box<dyn DiskFile>> {
        let file = self.file(name, true)?;
        let zeros = AlignedBuf::new(ZERO_BYTES.min(bytes as usize));
        let mut position = 0;
        while position < bytes {
            let piece = (bytes - position).min(zeros.bytes().len() as u64);
            DiskFile::write_at(&file, &zeros.bytes()[..piece as usize], position)?;
            position += piece;
        }
        Ok(Box::new(file))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(self.file(name, false)?))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let entries = fs::read_dir(&self.path)?;
        entries
            .filter_map(|entry| entry.map(|e| e.file_name().into_string().ok()).transpose())
            .collect()
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path.join(from), self.path.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path.join(name))
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.directory.sync_all()
    }
}

impl DiskFile for File {
    fn write_at(&self, bytes: &[u8], position: u64) -> io::Result<()> {
        // A short write is a failed one: its rest would be a second write, and what became of
        // the first is unknown by then.
        match FileExt::write_at(self, bytes, position)? {
            written if written == bytes.len() => Ok(()),
            written => {
                let text = format!("{written} of {} bytes were written", bytes.len());
                Err(io::Error::new(io::ErrorKind::WriteZero, text))
            }
        }
    }

    fn read_at(&self, bytes: &mut [u8], position: u64) -> io::Result<usize> {
        let mut read = 0;
        while read < bytes.len() {
            match FileExt::read_at(self, &mut bytes[read..], position + read as u64) {
                // Inside a block only a file ends; direct I/O refuses to be asked again there.
                Ok(more) if more % BLOCK_BYTES != 0 => return Ok(read + more),
                Ok(0) => break,
                Ok(more) => read += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(read)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn truncate(&self, bytes: u64) -> io::Result<()> {
        self.set_len(bytes)
    }
}

/// Bytes of zeros per write when a file is made: large enough to keep a disk busy, small enough
/// that an append beside it doesn't wait long.
const ZERO_BYTES: usize = 256 << 10;

/// Reads and writes pass the page cache by.
#[cfg(target_os = "linux")]
const DIRECT_FLAG: i32 = rustix::fs::OFlags::DIRECT.bits() as i32;
/// Other systems have no such flag.
#[cfg(not(target_os = "linux"))]
const DIRECT_FLAG: i32 = 0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_has_one_owner() {
        let directory = tempfile::tempdir().unwrap();
        let disk = DirDisk::open(directory.path()).unwrap();
        assert!(DirDisk::open(directory.path()).is_err());
        assert!(DirDisk::read_only(directory.path()).is_ok());
        drop(disk);
        assert!(DirDisk::open(directory.path()).is_ok());
    }

    #[test]
    fn files_are_zeros_until_written() {
        let directory = tempfile::tempdir().unwrap();
        let disk = DirDisk::open(directory.path()).unwrap();
        let file = disk.create("a", 3 * 4096).unwrap();
        let mut buffer = AlignedBuf::new(4096);
        buffer.bytes_mut().fill(9);
        file.write_at(buffer.bytes(), 4096).unwrap();
        file.sync().unwrap();
        let mut back = AlignedBuf::new(4 * 4096);
        assert_eq!(file.read_at(back.bytes_mut(), 0).unwrap(), 3 * 4096);
        assert_eq!(back.bytes()[4095..4097], [0, 9]);
        file.truncate(4096).unwrap();
        assert_eq!(file.len().unwrap(), 4096);
        disk.rename("a", "b").unwrap();
        assert_eq!(disk.list().unwrap(), ["b"]);
    }
}
