//! The key of an encrypted data directory: where it comes from, and `crest rekey`.

use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::process::ExitCode;

use node::{DataDir, DataKey};

use crate::Failure;
use crate::args::{DataKeyAt, Rekey};

/// Holds the data key where no file does.
const VARIABLE: &str = "CREST_DATA_KEY";

impl DataKeyAt {
    /// The key, if there is one.
    pub(crate) fn read(&self) -> Result<Option<DataKey>, Failure> {
        if let Some(file) = &self.data_key {
            return read(file).map(Some);
        }
        let Some(secret) = std::env::var_os(VARIABLE) else { return Ok(None) };
        let key = DataKey::new(secret.as_bytes());
        Ok(Some(key.map_err(|error| format!("{VARIABLE}: {error}"))?))
    }
}

fn read(file: &Path) -> Result<DataKey, Failure> {
    let wrong = |error: &dyn std::fmt::Display| format!("{}: {error}", file.display());
    let secret = std::fs::read(file).map_err(|error| wrong(&error))?;
    Ok(DataKey::new(&secret).map_err(|error| wrong(&error))?)
}

/// Replaces a directory's data key.
pub(crate) fn rekey(args: &Rekey) -> Result<ExitCode, Failure> {
    let old = args.data_key.read()?;
    let old = old.ok_or_else(|| format!("the data key is needed: --data-key, or {VARIABLE}"))?;
    DataDir::rekey(&args.data, &old, &read(&args.new_data_key)?)?;
    tell!("{} opens with the new data key alone\n", args.data.display());
    Ok(ExitCode::SUCCESS)
}
