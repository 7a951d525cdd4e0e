//! `crest audit`: proves a data directory from its log alone.

use std::process::ExitCode;

use crate::report::{Report, Verdict};
use crate::{Failure, args};

pub(crate) fn audit(args: &args::Audit) -> Result<ExitCode, Failure> {
    let audit = node::audit(&args.data, |_, _, _| {})?;
    let mut report = Report::new();
    report.add_audit(&audit, None);
    report.add_disk(&args.data);
    tell!("crest audit of {}\n", args.data.display());
    tell!("{report}");
    if let Some(path) = &args.json {
        report.write(path)?;
    }
    Ok(if report.verdict == Verdict::Pass { ExitCode::SUCCESS } else { ExitCode::from(1) })
}
