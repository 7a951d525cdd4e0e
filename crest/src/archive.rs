//! `crest archive`: the old segments of a log.

use std::process::ExitCode;

use node::DataDir;

use crate::Failure;
use crate::args::{self, ArchiveCommand, ArchiveVerify};

pub(crate) fn archive(args: &args::Archive) -> Result<ExitCode, Failure> {
    match &args.command {
        ArchiveCommand::Verify(args) => verify(args),
    }
}

fn verify(args: &ArchiveVerify) -> Result<ExitCode, Failure> {
    let (location, data_key) = (args.archive.location(), args.data_key.read()?);
    let archive = DataDir::archive_of(&args.data, &location, data_key.as_ref())?;
    let Some(archive) = archive else {
        return Err("nothing is kept where everything is discarded".into());
    };
    let found = node::verify_archive(archive)?;
    tell!(
        "{} segments, {} frames, {} records: {} bytes of log in {} bytes\n",
        found.segments,
        found.frames,
        found.records,
        found.bytes,
        found.stored_bytes
    );
    let Some(problem) = found.problem else {
        tell!("nothing is wrong\n");
        return Ok(ExitCode::SUCCESS);
    };
    tell!("{problem}\n");
    Ok(ExitCode::from(1))
}
