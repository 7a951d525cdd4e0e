//! `crest audit`: proves a data directory from its log alone.

use std::process::ExitCode;

use node::AuditFrom;

use crate::report::{Report, Verdict};
use crate::{Failure, args};

pub(crate) fn audit(args: &args::Audit) -> Result<ExitCode, Failure> {
    let from = match args.from {
        args::AuditFrom::Beginning => AuditFrom::Beginning,
        args::AuditFrom::Oldest => AuditFrom::Oldest,
        args::AuditFrom::Newest => AuditFrom::Newest,
    };
    let access = args.open.access()?;
    let archive = args.archive.location();
    let audit = node::audit(&args.data, &access, &archive, from, |_, _, _| {})?;
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
