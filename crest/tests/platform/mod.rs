//! A platform that a test starts.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Killed when dropped.
pub struct Platform {
    pub child: Child,
    pub url: String,
}

impl Platform {
    /// On ports of its own, without an admin port.
    #[allow(dead_code)] // Each test that has this module uses a part of it.
    pub fn start(data: &Path) -> Platform {
        Platform::start_with(data, &[])
    }

    /// With more options.
    pub fn start_with(data: &Path, options: &[&str]) -> Platform {
        let mut child = Command::new(env!("CARGO_BIN_EXE_crest"))
            .args(["serve", "--http", "127.0.0.1:0", "--admin", "off", "--data"])
            .arg(data)
            .args(options)
            .env("CREST_LOG", "warn")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let url = line.trim().rsplit(' ').next().unwrap().to_string();
        Platform { child, url }
    }
}

impl Drop for Platform {
    fn drop(&mut self) {
        // One that has ended can't be killed; that is fine.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
