//! How a data directory is encrypted: its own key, wrapped under its owner's, in what the
//! directory says of itself.

use std::io;

use mq::{DataKey, DirectoryKey};
use serde::{Deserialize, Serialize};

/// What a directory says of its key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Encryption {
    cipher: Cipher,
    /// The directory's key, encrypted, in hexadecimal.
    wrapped_key: String,
}

/// Which algorithms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Cipher {
    /// Files with XTS-AES-256, archived objects and the key with AES-256-GCM.
    #[serde(rename = "aes-256")]
    Aes256,
}

impl Encryption {
    /// Keeps a key; `about` is what else is said of the directory and never changes.
    pub(crate) fn wrap(key: &DirectoryKey, under: &DataKey, about: &str) -> io::Result<Encryption> {
        let wrapped = under.wrap(key, about.as_bytes())?;
        let wrapped_key = wrapped.iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Encryption { cipher: Cipher::Aes256, wrapped_key })
    }

    /// The key, if this is the one that it is wrapped under.
    pub(crate) fn unwrap(&self, under: &DataKey, about: &str) -> Option<DirectoryKey> {
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
        let wrapped: Option<Vec<u8>> = self.wrapped_key.as_bytes().chunks(2).map(byte).collect();
        under.unwrap(&wrapped?, about.as_bytes())
    }
}
