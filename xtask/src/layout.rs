//! `docs/layout.md`: the bytes of frames and records, written from the structs that they are.

use std::fmt::Write as _;

const HEAD: &str = "\
# The bytes of frames and records

Written from the program's own structs, and checked against them by its tests. Integers are \
little-endian and packed without gaps; times are µs since 1970; amounts are in minor units. What \
is *outcome* is zero in a command, and filled in when it is decided. [The log](log.md) says where \
frames are, and how records follow each other; [Commands as bytes](binary.md) what callers send \
and are told.
";

/// A struct, or an enum of bytes.
struct Table {
    name: String,
    doc: String,
    columns: &'static str,
    rows: Vec<String>,
}

/// The whole page.
fn page() -> String {
    let source = |name: &str| std::fs::read_to_string(crate::run::root().join(name)).unwrap();
    let (frame, record) = (source("model/src/frame.rs"), source("model/src/record.rs"));
    let (entry, outcome) = (source("model/src/record/entry.rs"), source("model/src/outcome.rs"));
    let mut text = HEAD.to_string();
    let mut part = |title: &str, tables: Vec<Table>| {
        write!(text, "\n## {title}\n").unwrap();
        for Table { name, doc, columns, rows } in tables {
            write!(text, "\n### {name}\n\n{doc}\n\n{columns}\n{}\n", rows.join("\n")).unwrap();
        }
    };
    part("Frames", tables(&frame, &["FrameHeader"]));
    let (kinds, records) =
        tables(&record, &["Kind"]).into_iter().partition(|table| table.name == "Kind");
    part("Kinds of records", kinds);
    part("Records", records);
    part("Flags", vec![flags(&record)]);
    part("Answers", tables(&source("model/src/record/asked.rs"), &[]));
    part("Entries of streams between shards", tables(&entry, &["EntryKind", "StockOpKind"]));
    part("What bytes mean", tables(&outcome, &[]));
    text
}

/// The constants that are bits or marks of a field, which their comments name.
fn flags(source: &str) -> Table {
    let mut rows = Vec::new();
    let mut doc = String::new();
    for line in source.lines() {
        if let Some(more) = line.strip_prefix("///") {
            doc.push_str(if doc.is_empty() { more.trim() } else { more });
            continue;
        }
        if let Some(constant) = line.strip_prefix("pub const ")
            && doc.contains("`]: ")
            && let Some((name, rest)) = constant.split_once(": u")
            && let Some((_, value)) = rest.trim_end_matches(';').split_once(" = ")
        {
            let value = value.replace("u16::MAX", "65535");
            rows.push(format!("| `{name}` | {value} | {} |", plain(&doc)));
        }
        doc.clear();
    }
    let columns = "| name | value | |\n|---|---|---|";
    Table { columns, rows, ..named_table("Names of values", "Those that fields are said to have.") }
}

/// The tables of a file: those of `layout!` and `byte_enum!` and the types that are named.
fn tables(source: &str, named: &[&str]) -> Vec<Table> {
    let mut tables = Vec::new();
    let (mut doc, mut open) = (String::new(), None::<(Table, usize)>);
    let (mut is_all, mut in_attribute) = (false, false);
    for line in source.lines() {
        let text = line.trim();
        if in_attribute || text.starts_with("#[") {
            in_attribute = !text.ends_with(']');
            continue;
        }
        if line.starts_with("layout! {") || line.starts_with("byte_enum! {") {
            is_all = true;
        } else if line == "}" {
            is_all = false;
        }
        if let Some(more) = text.strip_prefix("///") {
            if !doc.is_empty() {
                doc.push(' ');
            }
            doc.push_str(more.trim());
            continue;
        }
        if let Some((table, end)) = &mut open {
            if text == "}" {
                tables.extend(open.take().map(|(table, _)| table));
            } else if let Some(row) = row(text, &doc, end) {
                table.rows.push(row);
            }
        } else if let Some(name) = begins(text, is_all, named) {
            open = Some((Table { columns: columns(source, text), ..named_table(name, &doc) }, 0));
        }
        doc.clear();
    }
    tables
}

fn named_table(name: &str, doc: &str) -> Table {
    Table { name: name.to_string(), doc: plain(doc), columns: "", rows: Vec::new() }
}

/// The name of a type that begins in this line, if its table is wanted.
fn begins<'a>(text: &'a str, is_all: bool, named: &[&str]) -> Option<&'a str> {
    let head = text.strip_suffix(" {")?;
    let declared = head.strip_prefix("pub struct ").or(head.strip_prefix("pub enum "));
    if let Some(name) = declared {
        return named.contains(&name).then_some(name);
    }
    let name = head.split('[').next()?;
    let is_name = name.chars().all(char::is_alphanumeric) && name.starts_with(char::is_uppercase);
    (is_all && is_name).then_some(name)
}

fn columns(source: &str, head: &str) -> &'static str {
    let is_struct = head.contains('[') || head.contains("pub struct");
    match (is_struct, source.contains("byte_enum! {")) {
        (true, _) => "| at | bytes | field | |\n|---|---|---|---|",
        (false, true) => "| byte | in JSON | |\n|---|---|---|",
        (false, false) => "| byte | name | |\n|---|---|---|",
    }
}

/// A field, which begins at `end`, or a variant.
fn row(text: &str, doc: &str, end: &mut usize) -> Option<String> {
    let text = text.strip_suffix(',')?;
    if let Some((name, value)) = text.split_once(" = ") {
        let (byte, word) = value.split_once(' ').unwrap_or((value, name));
        return Some(format!("| {byte} | `{}` | {} |", word.trim_matches('"'), plain(doc)));
    }
    let (name, kind) = text.trim_start_matches("pub ").split_once(": ")?;
    let bytes = match kind {
        "u8" => 1,
        "U16" => 2,
        "U32" => 4,
        "U64" => 8,
        "U128" => 16,
        "Wanted" => 32,
        array => array.strip_prefix("[u8; ")?.strip_suffix(']')?.parse().ok()?,
    };
    let at = std::mem::replace(end, *end + bytes);
    Some(format!("| {at} | {bytes} | `{name}` | {} |", plain(doc)))
}

/// A comment without its links.
fn plain(doc: &str) -> String {
    doc.replace("[`", "`").replace("`]", "`").replace("crate::", "").replace('|', "\\|")
}

#[test]
fn the_page_is_what_the_structs_are() {
    let page = page();
    // Every byte of every struct is there: the sizes that the source states are where rows end.
    for (name, bytes) in [("Header", 56), ("PlaceBody", 16), ("StockOp", 40), ("FrameHeader", 64)] {
        let table = page.split(&format!("### {name}\n")).nth(1).unwrap();
        let table = table.split("\n#").next().unwrap();
        let last = table.lines().rfind(|line| line.starts_with("| ")).unwrap();
        let mut cells = last.split('|').map(str::trim).skip(1);
        let mut number = || cells.next().unwrap().parse::<usize>().unwrap();
        assert_eq!(number() + number(), bytes, "{name}: {last}");
    }
    let path = crate::run::root().join("docs/layout.md");
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    let there = std::fs::read_to_string(path).unwrap_or_default();
    assert!(there == page, "UPDATE_EXPECT=1 cargo test -p xtask layout writes docs/layout.md");
}
