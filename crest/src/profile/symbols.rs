//! From an address in a program to the functions and the line it belongs to.
//!
//! Most of a release build's functions are inlined into others and have no symbol of their own.
//! The line tables know them, so one address becomes several frames: the function whose code it
//! is, and inside it those that were inlined there. perf can look this up too, but starts
//! another program for it and takes minutes; here it is the `addr2line` crate, and a cache.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use addr2line::Loader;
use object::{Object as _, ObjectSegment as _};

/// Functions and lines of the files that are mapped into a process.
pub(crate) struct Symbols {
    /// Where the running program can be read even if its file was replaced since.
    program: Option<(PathBuf, PathBuf)>,
    modules: HashMap<PathBuf, Option<Module>>,
    found: HashMap<(PathBuf, u64), Location>,
}

/// Where an address is.
#[derive(Clone, Debug, Default)]
pub(crate) struct Location {
    /// From the outermost function to the one that was inlined innermost.
    pub(crate) functions: Vec<String>,
    /// File and line of the innermost that isn't of the standard library.
    pub(crate) line: Option<String>,
}

struct Module {
    loader: Loader,
    /// File offset, bytes, and address of each loaded segment.
    segments: Vec<(u64, u64, u64)>,
}

impl Symbols {
    /// For a process that still runs, or just did.
    pub(crate) fn of(pid: u32) -> Symbols {
        let running = PathBuf::from(format!("/proc/{pid}/exe"));
        let named = std::fs::read_link(&running).ok();
        let program = named.map(|named| (named, running));
        Symbols { program, modules: HashMap::new(), found: HashMap::new() }
    }

    /// The functions at an offset into a mapped file; `None` where it has no line tables.
    ///
    /// `call` says that the offset is where a call returns to, so that the line is the one
    /// before.
    pub(crate) fn find(&mut self, file: &Path, offset: u64, call: bool) -> Option<Location> {
        let offset = offset.checked_sub(u64::from(call))?;
        let key = (file.to_path_buf(), offset);
        if let Some(location) = self.found.get(&key) {
            return Some(location.clone());
        }
        let program = &self.program;
        let module = self.modules.entry(key.0.clone()).or_insert_with(|| {
            let running = program.as_ref().filter(|(named, _)| named == file);
            running.and_then(|(_, running)| Module::open(running)).or_else(|| Module::open(file))
        });
        let location = module.as_ref()?.find(offset)?;
        self.found.insert(key, location.clone());
        Some(location)
    }
}

impl Module {
    fn open(path: &Path) -> Option<Module> {
        let bytes = std::fs::read(path).ok()?;
        let file = object::File::parse(&*bytes).ok()?;
        let segments = file.segments().map(|segment| {
            let (offset, bytes) = segment.file_range();
            (offset, bytes, segment.address())
        });
        let segments = segments.collect();
        Some(Module { loader: Loader::new(path).ok()?, segments })
    }

    fn find(&self, offset: u64) -> Option<Location> {
        let &(start, _, address) = self
            .segments
            .iter()
            .find(|(start, bytes, _)| (*start..start.saturating_add(*bytes)).contains(&offset))?;
        let address = offset - start + address;
        let mut location = Location::default();
        let mut frames = self.loader.find_frames(address).ok()?;
        while let Ok(Some(frame)) = frames.next() {
            let file = frame.location.as_ref().and_then(|at| at.file);
            let line = frame.location.as_ref().and_then(|at| at.line);
            let place = file.filter(|file| !is_standard(file)).zip(line);
            let place = place.map(|(file, line)| format!("{}:{line}", short(file)));
            location.line = location.line.or(place);
            let name = frame.function.and_then(|name| Some(name.demangle().ok()?.into_owned()));
            location.functions.push(qualified(name.as_deref().unwrap_or_default(), file));
        }
        // The outermost is the function that the linker knows, by its whole name.
        if let (Some(name), Some(outermost)) =
            (self.loader.find_symbol(address), location.functions.last_mut())
        {
            *outermost = demangled(name);
        }
        location.functions.retain(|name| !name.is_empty());
        location.functions.reverse();
        (!location.functions.is_empty()).then_some(location)
    }
}

/// A linker's name as people write it, without the hash.
pub(crate) fn demangled(name: &str) -> String {
    format!("{:#}", rustc_demangle::demangle(name))
}

/// The name of an inlined function with the module that its file is. Line tables keep the bare
/// name (`decide_order`), without types; the file says the rest (`txn_core::place::decide_order`).
fn qualified(name: &str, file: Option<&str>) -> String {
    let bare = name.split('<').next().unwrap_or_default();
    let bare = if bare.is_empty() { name } else { bare };
    let Some(file) = file.filter(|_| !bare.is_empty() && !bare.contains("::")) else {
        return bare.to_string();
    };
    let Some((folder, module)) = short(file).split_once("/src/") else {
        return bare.to_string();
    };
    let Some(module) = module.strip_suffix(".rs") else {
        return bare.to_string(); // C has one space of names.
    };
    let folder = folder.rsplit('/').next().unwrap_or(folder);
    // A dependency's folder ends with its version.
    let package = match folder.rsplit_once('-') {
        Some((package, version)) if version.starts_with(|c: char| c.is_ascii_digit()) => package,
        _ => folder,
    };
    let mut path = package.replace('-', "_");
    for part in module.split('/').filter(|part| !matches!(*part, "lib" | "main" | "mod")) {
        path.push_str("::");
        path.push_str(part);
    }
    format!("{path}::{bare}")
}

/// Whether a source file is one of Rust's own.
fn is_standard(path: &str) -> bool {
    path.starts_with("/rustc/") || path.contains("/lib/rustlib/src/rust/library/")
}

/// The end of a source file's path that says which it is: `txn-core/src/place.rs`, and for
/// dependencies the crate with its version.
fn short(path: &str) -> &str {
    // cargo's registry, below a folder for each host; Rust's own, below its commit.
    for (above, below) in [("/registry/src/", 1), ("/rustc/", 2)] {
        if let Some((_, rest)) = path.rsplit_once(above) {
            let rest = rest.splitn(below + 1, '/').last().unwrap_or(rest);
            return rest.rsplit("/../").next().unwrap_or(rest);
        }
    }
    let parts: Vec<(usize, &str)> = path
        .split('/')
        .scan(0, |at, part| {
            let start = *at;
            *at += part.len() + 1;
            Some((start, part))
        })
        .collect();
    let src = parts.iter().rposition(|(_, part)| *part == "src");
    let from = src.map_or(parts.len().saturating_sub(2), |src| src.saturating_sub(1));
    parts.get(from).map_or(path, |(start, _)| &path[*start..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_keep_the_part_that_tells() {
        assert_eq!(short("/home/x/crest/txn-core/src/place.rs"), "txn-core/src/place.rs");
        assert_eq!(short("/c/registry/src/host/mi-0.1/c_src/a/b.c"), "mi-0.1/c_src/a/b.c");
        assert_eq!(short("/rustc/59807616/library/core/src/ptr/mod.rs"), "core/src/ptr/mod.rs");
        assert_eq!(short("model/src/json/scan.rs"), "model/src/json/scan.rs");
        assert_eq!(short("main.c"), "main.c");
    }

    #[test]
    fn an_inlined_function_is_named_after_its_file() {
        let check = |name, file, expected| assert_eq!(qualified(name, file), expected);
        check("decide_order", Some("/x/txn-core/src/place.rs"), "txn_core::place::decide_order");
        check("get<u64, &str>", Some("/x/serde-1.0.2/src/de/mod.rs"), "serde::de::get");
        let intrinsic =
            "/rustc/5980/library/core/src/../../stdarch/crates/core_arch/src/x86/sse.rs";
        check("_mm_prefetch<3>", Some(intrinsic), "core_arch::x86::sse::_mm_prefetch");
        check("{closure#0}", Some("crest/src/main.rs"), "crest::{closure#0}");
        check("memcpy", None, "memcpy");
        check("a::b<c>", Some("/x/y/src/z.rs"), "a::b");
    }

    #[test]
    fn this_program_has_line_tables() {
        let mut symbols = Symbols::of(std::process::id());
        let program = std::env::current_exe().unwrap();
        let text = std::fs::read(&program).unwrap();
        let file = object::File::parse(&*text).unwrap();
        use object::ObjectSymbol as _;
        let wanted = file
            .symbols()
            .find(|symbol| symbol.name().is_ok_and(|name| demangled(name).ends_with("crest::main")))
            .unwrap();
        let segment = file
            .segments()
            .find(|s| (s.address()..s.address() + s.size()).contains(&wanted.address()))
            .unwrap();
        let offset = wanted.address() - segment.address() + segment.file_range().0;
        let location = symbols.find(&program, offset, false).unwrap();
        assert!(location.functions[0].ends_with("crest::main"), "{location:?}");
        assert!(location.line.unwrap().starts_with("crest/src/main.rs:"));
    }
}
