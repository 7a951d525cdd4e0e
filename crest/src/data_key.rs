//! What it takes to open a data directory: the key of one that is encrypted, the servers of one
//! whose log is a stream. And `crest rekey`.

use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::process::ExitCode;

use node::{Access, DataDir, DataKey, NatsConfig};

use crate::Failure;
use crate::args::{DataKeyAt, LogAt, OpenWith, Rekey};

/// Holds the data key where no file does.
const VARIABLE: &str = "CREST_DATA_KEY";
/// Has the URL of NATS servers where no option does,
pub(crate) const NATS_VARIABLE: &str = "CREST_NATS";
/// and that with a user of the system account.
pub(crate) const NATS_SYSTEM_VARIABLE: &str = "CREST_NATS_SYSTEM";

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

impl OpenWith {
    /// What was given, and the environment's for what wasn't.
    pub(crate) fn access(&self) -> Result<Access, Failure> {
        self.access_with(None)
    }

    /// The same to make a directory with.
    pub(crate) fn access_with(&self, log: Option<&LogAt>) -> Result<Access, Failure> {
        let or = |given: &Option<String>, name| given.clone().or_else(|| std::env::var(name).ok());
        let nats = or(&self.nats, NATS_VARIABLE).map(|url| NatsConfig {
            url,
            system_url: or(&self.nats_system, NATS_SYSTEM_VARIABLE),
            stream: log.and_then(|log| log.nats_stream.clone()).unwrap_or("crest".to_string()),
            replicas: log.and_then(|log| log.nats_replicas).unwrap_or(3),
        });
        Ok(Access { data_key: self.data_key.read()?, nats })
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
