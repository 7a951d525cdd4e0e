//! Sampling by perf: start it on a process, stop it, read its stacks.
//!
//! perf interrupts every thread that runs 999 times a second of its time on a core, and keeps the
//! stack it finds. (Not 1,000 times, so that it doesn't fall into step with anything that
//! happens every millisecond.) A thread that sleeps is not sampled: what it waits for is told by
//! [`super::threads`].
//!
//! perf is started with its events off and switched on through a pipe, which it answers: so
//! sampling has really begun when [`Sampler::start`] returns, and what perf has to say against
//! it is known.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::fold::{Row, Stacks, rows};
use super::svg;
use super::symbols::{Location, Symbols, demangled};
use super::threads::{ThreadStates, ThreadTimes};
use crate::Failure;

/// Samples a second of a thread's time on a core.
pub(crate) const SAMPLES_PER_S: u32 = 999;
/// Within this time perf must have attached itself to every thread.
const ANSWER_MAX: Duration = Duration::from_secs(20);
/// For a stack of which no frame has line tables.
const NO_LINE: &str = "(no line known)";
/// Rows of each table.
pub(crate) const TOP: usize = 10;

/// Why nothing can be sampled.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SampleError {
    /// perf isn't there.
    #[error(
        "profiling needs perf, and there is none on the PATH; install it \
         (Debian: apt install linux-perf; Ubuntu: linux-tools-generic; Fedora: dnf install perf)"
    )]
    Missing,
    /// perf is there and doesn't want to.
    #[error(
        "perf refused: {words}\n\
         kernel.perf_event_paranoid is {paranoid}; a user's own processes can be sampled at 2 or \
         below (sysctl kernel.perf_event_paranoid=1), others by root or with CAP_PERFMON"
    )]
    Refused { words: String, paranoid: String },
    /// It was started and gave no samples.
    #[error("perf took no samples: the process did nothing, or ended; perf says: {words}")]
    Empty { words: String },
    #[error("{doing}: {source}")]
    Io { doing: &'static str, source: std::io::Error },
}

fn io(doing: &'static str) -> impl FnOnce(std::io::Error) -> SampleError {
    move |source| SampleError::Io { doing, source }
}

/// A process that is being sampled. Dropped without [`Sampler::finish`], it stops.
pub(crate) struct Sampler {
    pid: u32,
    perf: Child,
    control: ChildStdin,
    answers: Receiver<()>,
    folder: tempfile::TempDir,
    began: Instant,
    threads: ThreadTimes,
}

/// What was sampled.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ProfileSummary {
    pub(crate) seconds: f64,
    pub(crate) samples: u64,
    /// Samples that perf had no room for.
    pub(crate) lost: u64,
    /// Functions by samples of their own.
    pub(crate) own: Vec<Row>,
    /// Functions by samples in which they were on the stack.
    pub(crate) inclusive: Vec<Row>,
    /// Source lines by samples: of each stack the innermost line outside the standard library.
    pub(crate) lines: Vec<Row>,
    /// Samples by thread.
    pub(crate) thread_samples: Vec<Row>,
    /// What the threads did with the interval.
    pub(crate) threads: Vec<ThreadStates>,
    #[serde(skip)]
    pub(crate) stacks: Stacks,
}

impl ProfileSummary {
    /// Writes its flame graph.
    pub(crate) fn draw(&self, svg: &Path) -> Result<(), Failure> {
        let title = format!("{} samples in {:.1} s", self.samples, self.seconds);
        std::fs::write(svg, svg::flame_graph(&title, &self.stacks))
            .map_err(|error| format!("{}: {error}", svg.display()).into())
    }
}

impl Sampler {
    /// Samples a process from now on.
    pub(crate) fn start(pid: u32) -> Result<Sampler, Failure> {
        let mut sampler = Sampler::ready(pid, SAMPLES_PER_S)?;
        sampler.resume()?;
        Ok(sampler)
    }

    /// Attaches to a process, and samples it from [`Sampler::resume`] on.
    pub(crate) fn ready(pid: u32, samples_per_s: u32) -> Result<Sampler, SampleError> {
        let folder = tempfile::Builder::new().prefix("crest-profile-").tempdir();
        let folder = folder.map_err(io("a temporary directory"))?;
        let words = File::create(folder.path().join("words")).map_err(io("a temporary file"))?;
        let started = Command::new("perf")
            .args(["record", "-g", "--call-graph", "fp", "-D", "-1", "--control", "fd:0,1"])
            .args(["-F", &samples_per_s.to_string(), "-p", &pid.to_string(), "-o"])
            .arg(folder.path().join("perf.data"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(words)
            .spawn();
        let mut perf = match started {
            Ok(perf) => perf,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(SampleError::Missing);
            }
            Err(error) => return Err(io("perf")(error)),
        };
        let control = perf.stdin.take().expect("it was piped");
        let mut said = BufReader::new(perf.stdout.take().expect("it was piped"));
        let (answer, answers) = channel();
        // Ends with perf, or with the sampler that listens.
        std::thread::spawn(move || {
            let mut line = Vec::new();
            while said.read_until(b'\n', &mut line).is_ok_and(|bytes| bytes > 0) {
                if answer.send(()).is_err() {
                    return;
                }
                line.clear();
            }
        });
        let (threads, began) = (ThreadTimes::read(pid), Instant::now());
        let mut sampler = Sampler { pid, perf, control, answers, folder, began, threads };
        sampler.tell("disable")?;
        Ok(sampler)
    }

    /// Samples from here on.
    pub(crate) fn resume(&mut self) -> Result<(), SampleError> {
        self.tell("enable")?;
        self.threads = ThreadTimes::read(self.pid);
        self.began = Instant::now();
        Ok(())
    }

    /// Whether perf is gone, because what it sampled is.
    pub(crate) fn has_ended(&mut self) -> bool {
        !matches!(self.perf.try_wait(), Ok(None))
    }

    /// Samples nothing until [`Sampler::resume`].
    pub(crate) fn pause(&mut self) -> Result<(), SampleError> {
        self.tell("disable")
    }

    fn tell(&mut self, command: &str) -> Result<(), SampleError> {
        let told = writeln!(self.control, "{command}").and_then(|()| self.control.flush());
        match told.is_ok() && self.answers.recv_timeout(ANSWER_MAX).is_ok() {
            true => Ok(()),
            false => Err(self.refused()),
        }
    }

    fn refused(&mut self) -> SampleError {
        // It may have ended already; either way it has said what it had to say.
        let _ = self.perf.kill();
        let _ = self.perf.wait();
        let paranoid = std::fs::read_to_string("/proc/sys/kernel/perf_event_paranoid");
        let paranoid = paranoid.unwrap_or_else(|_| "unknown".to_string()).trim().to_string();
        SampleError::Refused { words: self.words(), paranoid }
    }

    /// What perf said, without its empty lines.
    fn words(&self) -> String {
        let words = std::fs::read(self.folder.path().join("words")).unwrap_or_default();
        let words = String::from_utf8_lossy(&words);
        let lines: Vec<&str> =
            words.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
        lines.join("\n")
    }

    /// Stops, and writes the flame graph to `svg`.
    pub(crate) fn finish(self, svg: &Path) -> Result<ProfileSummary, Failure> {
        let summary = self.stop(|_| true)?;
        summary.draw(svg)?;
        Ok(summary)
    }

    /// Stops, and keeps what ran below a function that `below` accepts.
    pub(crate) fn stop(
        mut self,
        below: impl Fn(&str) -> bool,
    ) -> Result<ProfileSummary, SampleError> {
        let seconds = self.began.elapsed().as_secs_f64();
        let threads = self.threads.until_now();
        let ended = self.has_ended();
        let perf = rustix::process::Pid::from_raw(self.perf.id() as i32);
        if let Some(pid) = perf.filter(|_| !ended) {
            // It may end just now, with the process that it sampled; that is fine.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::INT);
        }
        self.perf.wait().map_err(io("waiting for perf"))?;
        let said = self.script()?;
        let mut symbols = Symbols::of(self.pid);
        let found = Samples::read(&said, &mut symbols, below);
        if found.stacks.samples() == 0 {
            return Err(SampleError::Empty { words: self.words() });
        }
        let (own, inclusive) = found.stacks.top(TOP);
        let mut lines = rows(found.lines.into_iter(), found.stacks.samples());
        lines.truncate(TOP);
        Ok(ProfileSummary {
            seconds,
            samples: found.stacks.samples(),
            lost: found.lost,
            own,
            inclusive,
            lines,
            thread_samples: found.stacks.threads(),
            threads,
            stacks: found.stacks,
        })
    }

    /// The recorded stacks as perf prints them, names as the linker has them.
    fn script(&self) -> Result<String, SampleError> {
        let words = File::options().append(true).open(self.folder.path().join("words"));
        let output = Command::new("perf")
            .args(["script", "--show-mmap-events", "--show-lost-events", "--no-inline"])
            .args(["--no-demangle", "-F", "comm,tid,ip,sym,dso", "-i"])
            .arg(self.folder.path().join("perf.data"))
            .stdin(Stdio::null())
            .stderr(words.map_or_else(|_| Stdio::null(), Stdio::from))
            .output()
            .map_err(io("perf script"))?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        // Ended processes can't be killed; that is fine.
        let _ = self.perf.kill();
        let _ = self.perf.wait();
    }
}

/// What `perf script` printed, folded.
#[derive(Default)]
struct Samples {
    stacks: Stacks,
    lines: BTreeMap<String, u64>,
    lost: u64,
}

/// Where a file is mapped: first address, bytes, offset in the file.
type Mapped = HashMap<PathBuf, Vec<(u64, u64, u64)>>;

impl Samples {
    /// Reads samples: a line with the thread, then a line a frame from the innermost outwards,
    /// then an empty one. Lines of events stand between them.
    fn read(text: &str, symbols: &mut Symbols, below: impl Fn(&str) -> bool) -> Samples {
        let mut samples = Samples::default();
        let mut mapped = Mapped::new();
        let mut lines = text.lines();
        while let Some(head) = lines.next() {
            if let Some((_, event)) = head.split_once("PERF_RECORD_MMAP") {
                note_mapping(event, &mut mapped);
                continue;
            }
            if let Some((_, event)) = head.split_once("PERF_RECORD_LOST") {
                let lost = event.rsplit(' ').next().and_then(|n| n.parse::<u64>().ok());
                samples.lost += lost.unwrap_or(0);
                continue;
            }
            let Some((thread, _)) = head.trim().rsplit_once(' ') else { continue };
            let mut stack: Vec<String> = Vec::new();
            let mut line = None;
            let printed = lines.by_ref().take_while(|line| !line.is_empty());
            for (depth, frame) in printed.filter_map(PrintedFrame::parse).enumerate() {
                let found = frame.locate(depth > 0, &mapped, symbols);
                stack.extend(found.functions.into_iter().rev());
                line = line.or(found.line);
            }
            stack.reverse();
            let Some(from) = stack.iter().position(|function| below(function)) else { continue };
            let functions = stack[from..].iter().map(String::as_str);
            samples.stacks.add([thread.trim()].into_iter().chain(functions), 1);
            *samples.lines.entry(line.unwrap_or_else(|| NO_LINE.to_string())).or_default() += 1;
        }
        samples
    }
}

/// Reads ` 4778/4778: [0x5619(0x433000) @ 0xf2000 fe:00 88 0]: r-xp /usr/bin/x` of a mapping.
fn note_mapping(event: &str, mapped: &mut Mapped) {
    let hex = |text: &str| u64::from_str_radix(text.trim().trim_start_matches("0x"), 16).ok();
    let parse = || {
        let (_, place) = event.split_once('[')?;
        let (place, file) = place.split_once("]: ")?;
        let (start, rest) = place.split_once('(')?;
        let (bytes, rest) = rest.split_once(") @ ")?;
        let offset = rest.split(' ').next()?;
        let (_, path) = file.split_once(' ')?;
        Some((PathBuf::from(path), (hex(start)?, hex(bytes)?, hex(offset)?)))
    };
    if let Some((path, place)) = parse() {
        mapped.entry(path).or_default().push(place);
    }
}

/// A frame as perf prints it: address, symbol, file.
struct PrintedFrame<'a> {
    address: u64,
    symbol: &'a str,
    file: &'a str,
}

impl<'a> PrintedFrame<'a> {
    /// Reads `\t  5033b7 _ZN4core (/usr/bin/crest)`.
    fn parse(line: &'a str) -> Option<PrintedFrame<'a>> {
        let (address, rest) = line.trim().split_once(' ')?;
        let (symbol, file) = rest.rsplit_once(" (")?;
        let address = u64::from_str_radix(address, 16).ok()?;
        Some(PrintedFrame { address, symbol, file: file.strip_suffix(')')? })
    }

    /// What it is. `call` says that the address is one to which a call returns.
    fn locate(&self, call: bool, mapped: &Mapped, symbols: &mut Symbols) -> Location {
        let named = |name: String| Location { functions: vec![name], line: None };
        if self.file.starts_with("[kernel") || self.file.starts_with("[guest") {
            return named(format!("{}_[k]", self.symbol.replace("[unknown]", "kernel")));
        }
        if self.file == "[unknown]" {
            return Location::default(); // Where a function without a frame pointer left junk.
        }
        let path = Path::new(self.file);
        // perf 5.8 and later print offsets in the file, others addresses in the process.
        let mapping = mapped.get(path).into_iter().flatten();
        let inside = |(start, bytes, _): &&(u64, u64, u64)| {
            (*start..start.saturating_add(*bytes)).contains(&self.address)
        };
        let offset = mapping.clone().find(inside).map(|(start, _, at)| self.address - start + at);
        if let Some(found) = symbols.find(path, offset.unwrap_or(self.address), call) {
            return found;
        }
        match self.symbol {
            "[unknown]" => named(format!("[{}]", self.file.rsplit('/').next().unwrap_or_default())),
            symbol => named(demangled(symbol)),
        }
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    /// Two threads; events; a kernel frame; a file without symbols; junk at the end of a stack.
    const PRINTED: &str = "\
swapper     0 PERF_RECORD_MMAP -1/0: [0xffffffff81000000(0x120bb08) @ 0xffffffff81000000]: x [kernel.kallsyms]_text
   app 0 PERF_RECORD_MMAP2 9/9: [0x5000(0x1000) @ 0x200 fe:00 1 0]: r-xp /nowhere/app
app worker  10 
\tffffffff8101 clear_page ([kernel.kallsyms])
\t         5010 _ZN3std3sys9backtrace28__rust_begin_short_backtrace17h8366f443d3e3fa29E (/nowhere/app)

app     9 PERF_RECORD_LOST lost 7
app     9 
\t          300 [unknown] (/nowhere/lib.so)
\t          310 main (/nowhere/app)
\t   7ffd31cee [unknown] ([unknown])

";

    fn read(below: impl Fn(&str) -> bool) -> Samples {
        Samples::read(PRINTED, &mut Symbols::of(0), below)
    }

    #[test]
    fn what_perf_prints_becomes_folded_stacks() {
        let samples = read(|_| true);
        expect![[r#"
            app worker;std::sys::backtrace::__rust_begin_short_backtrace;clear_page_[k] 1
            app;main;[lib.so] 1
        "#]]
        .assert_eq(&samples.stacks.folded());
        assert_eq!(samples.lost, 7);
        let below = read(|function| function.starts_with("std::sys"));
        assert_eq!(below.stacks.samples(), 1);
    }

    #[test]
    fn mappings_are_read() {
        let mut mapped = Mapped::new();
        for line in PRINTED.lines() {
            if let Some((_, event)) = line.split_once("PERF_RECORD_MMAP") {
                note_mapping(event, &mut mapped);
            }
        }
        assert_eq!(mapped[Path::new("/nowhere/app")], [(0x5000, 0x1000, 0x200)]);
    }
}
