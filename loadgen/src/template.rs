//! Text that differs from request to request: paths, headers and bodies of `crest load URL`.
//!
//! A template is text with generators in it: `{"id":"{{uuid}}","buyer":{{int:1:1000}}}`. It is
//! parsed once into pieces. Rendering appends them to a buffer and takes no memory of its own, so
//! that a generator of load can do it for every request.
//!
//! | generator | gives |
//! |---|---|
//! | `{{n}}` | the request's number, from 0 |
//! | `{{uuid}}` | the request's UUID of version 7: the same wherever it stands in the request, and another for every number below 2⁴⁰ |
//! | `{{int:LOW:HIGH}}` | a whole number, each as often, both ends included |
//! | `{{zipf:N}}` | 1 to N, the number *k* with a weight of 1/*k* |
//! | `{{float:LOW:HIGH}}` | a decimal number, both ends included, with as many decimals as the longer of the two is written with, at least 2 |
//! | `{{choice:a\|b\|c}}` | one of the options, each as often |
//! | `{{hex:BYTES}}` | so many random bytes, two digits each |
//! | `{{string:LEN}}` | so many random letters and digits |
//! | `{{now_ms}}`, `{{now_iso}}` | the request's time: milliseconds since 1970, or as `2026-01-31T12:00:00.000Z` |
//! | `{{csv:COLUMN}}` | a field of the data file: request *n* has row *n*, and begins again after the last |
//! | `{{csv:COLUMN:json}}` | the same, as a JSON string with its quotes |
//! | `{{csv:COLUMN:url}}` | the same, percent-encoded for a path or a query |
//!
//! `{{{{` stands for `{{`; everything else, `}}` too, is itself. An option can't contain `|` or
//! `}}`, a column's name can't contain `}}`.
//!
//! What is rendered is a function of the seed and the request's number, but for the time (and a
//! UUID's time, its first 48 bits). Templates whose texts differ draw independently, so that a
//! path and a body don't get the same numbers; the same text draws the same.

mod parse;
mod table;
#[cfg(test)]
mod tests;

use std::io::Write;
use std::ops::Range;
use std::sync::Arc;

use jiff::Timestamp;

use crate::alias::Alias;
use crate::profile::{Random, RunId, mix};

pub use parse::{Position, RENDERED_BYTES_MAX, TEXT_BYTES_MAX, TemplateError};
pub use table::{CsvTable, TableError};

/// A parsed template.
#[derive(Clone, Debug)]
pub struct Template {
    /// All text that isn't generated, options too.
    text: String,
    pieces: Vec<Piece>,
    /// Of the template's source, so that different templates draw differently.
    salt: u64,
    rendered_bytes_max: usize,
}

/// What a rendering depends on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RenderContext {
    /// The run's seed.
    pub seed: u64,
    /// The request's number.
    pub n: u64,
    /// The request's time, in milliseconds since 1970.
    pub unix_ms: u64,
}

/// Where a rendered text goes, which decides what may be in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// Path and query: visible ASCII only.
    Target,
    /// A header's value: no control characters but the tab.
    Header,
    /// A body: anything.
    Body,
}

#[derive(Clone, Debug)]
enum Piece {
    Literal(Range<usize>),
    Number,
    Uuid,
    /// `low` and up to `span` more.
    Int {
        low: i64,
        span: u64,
    },
    Zipf(Arc<Alias>),
    /// As `Int`, in units of 10⁻ᵈᵉᶜⁱᵐᵃˡˢ.
    Float {
        low: i64,
        span: u64,
        decimals: u32,
    },
    Choice(Vec<Range<usize>>),
    /// Bytes, each two digits.
    Hex(usize),
    Alphanumeric(usize),
    NowMs,
    NowIso,
    Csv {
        table: Arc<CsvTable>,
        column: usize,
        filter: Filter,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Filter {
    Plain,
    Json,
    Url,
}

impl Template {
    /// Whether every request has the same text.
    pub fn is_constant(&self) -> bool {
        self.pieces.iter().all(|piece| matches!(piece, Piece::Literal(_)))
    }

    /// The most bytes that a rendering takes.
    pub fn rendered_bytes_max(&self) -> usize {
        self.rendered_bytes_max
    }

    /// Appends request `context.n`'s text to `out`.
    pub fn render(&self, context: &RenderContext, out: &mut Vec<u8>) {
        let RenderContext { seed, n, unix_ms } = *context;
        let mut random = Random(mix(seed ^ mix(n ^ self.salt)));
        for piece in &self.pieces {
            match piece {
                Piece::Literal(range) => out.extend_from_slice(self.text[range.clone()].as_bytes()),
                Piece::Number => push_int(out, n),
                Piece::Uuid => {
                    let id = uuid::Uuid::from_u128(RunId::new(seed).order_id(unix_ms, n).0);
                    let mut buffer = uuid::Uuid::encode_buffer();
                    out.extend_from_slice(id.hyphenated().encode_lower(&mut buffer).as_bytes());
                }
                Piece::Int { low, span } => push_int(out, draw(&mut random, *low, *span)),
                Piece::Zipf(ranks) => push_int(out, ranks.sample(&mut random) as u64 + 1),
                Piece::Float { low, span, decimals } => {
                    push_decimal(out, draw(&mut random, *low, *span), *decimals);
                }
                Piece::Choice(options) => {
                    let option = &options[random.below(options.len() as u64) as usize];
                    out.extend_from_slice(self.text[option.clone()].as_bytes());
                }
                Piece::Hex(bytes) => push_hex(out, &mut random, *bytes),
                Piece::Alphanumeric(length) => push_alphanumeric(out, &mut random, *length),
                Piece::NowMs => push_int(out, unix_ms),
                Piece::NowIso => push_iso(out, unix_ms),
                Piece::Csv { table, column, filter } => {
                    let value = table.field(n, *column);
                    match filter {
                        Filter::Plain => out.extend_from_slice(value.as_bytes()),
                        Filter::Json => push_json(out, value),
                        Filter::Url => push_url(out, value),
                    }
                }
            }
        }
    }

    /// Whether every rendering may stand in `place`. A line break in a header's value would let a
    /// row of the data file write headers of its own, so all rows are looked at.
    pub fn check(&self, place: Place) -> Result<(), TemplateError> {
        let wrong = |c: char| match place {
            Place::Target => !c.is_ascii_graphic(),
            Place::Header => c.is_ascii_control() && c != '\t',
            Place::Body => false,
        };
        let refuse = |text: &str, of: &dyn Fn() -> String| match text.chars().find(|&c| wrong(c)) {
            Some(character) => Err(TemplateError::Character { character, of: of(), place }),
            None => Ok(()),
        };
        for piece in &self.pieces {
            match piece {
                Piece::Literal(range) => {
                    refuse(&self.text[range.clone()], &|| "the template's text".into())?;
                }
                Piece::Choice(options) => {
                    for option in options {
                        refuse(&self.text[option.clone()], &|| "an option of a choice".into())?;
                    }
                }
                Piece::Csv { filter: Filter::Url, .. } => {}
                Piece::Csv { table, column, filter } if place != Place::Body => {
                    for row in 0..table.rows() {
                        let of =
                            || format!("column `{}`, record {}", table.columns()[*column], row + 1);
                        let field = table.field(row, *column);
                        // JSON escapes the control characters, but for the one that deletes.
                        let escaped = *filter == Filter::Json && place == Place::Header;
                        if !escaped || field.contains('\x7f') {
                            refuse(field, &of)?;
                        }
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// `low` and up to `span` more, each as often.
fn draw(random: &mut Random, low: i64, span: u64) -> i64 {
    let more = match span.checked_add(1) {
        Some(bound) => random.below(bound),
        None => random.next_u64(),
    };
    low.wrapping_add_unsigned(more)
}

fn push_int(out: &mut Vec<u8>, value: impl itoa::Integer) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// `value` in units of 10⁻ᵈᵉᶜⁱᵐᵃˡˢ.
fn push_decimal(out: &mut Vec<u8>, value: i64, decimals: u32) {
    let one = 10u64.pow(decimals);
    if value < 0 {
        out.push(b'-');
    }
    push_int(out, value.unsigned_abs() / one);
    out.push(b'.');
    let mut rest = value.unsigned_abs() % one;
    let mut unit = one / 10;
    while unit > 0 {
        out.push(b'0' + (rest / unit) as u8);
        rest %= unit;
        unit /= 10;
    }
}

fn push_hex(out: &mut Vec<u8>, random: &mut Random, bytes: usize) {
    let mut left = 2 * bytes;
    while left > 0 {
        let mut bits = random.next_u64();
        for _ in 0..left.min(16) {
            out.push(b"0123456789abcdef"[(bits & 0xf) as usize]);
            bits >>= 4;
        }
        left -= left.min(16);
    }
}

fn push_alphanumeric(out: &mut Vec<u8>, random: &mut Random, length: usize) {
    const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    /// 62¹⁰ fit in 60 bits.
    const AT_ONCE: usize = 10;
    let mut left = length;
    while left > 0 {
        let mut digits = random.below(62u64.pow(AT_ONCE as u32));
        for _ in 0..left.min(AT_ONCE) {
            out.push(ALPHABET[(digits % 62) as usize]);
            digits /= 62;
        }
        left -= left.min(AT_ONCE);
    }
}

/// In UTC, with milliseconds. Times past the year 9999 are its end.
fn push_iso(out: &mut Vec<u8>, unix_ms: u64) {
    let ms = i64::try_from(unix_ms).unwrap_or(i64::MAX);
    let time = Timestamp::from_millisecond(ms).unwrap_or(Timestamp::MAX);
    write!(out, "{time:.3}").expect("a Vec takes every byte");
}

fn push_json(out: &mut Vec<u8>, value: &str) {
    sonic_rs::to_writer(out, value).expect("a Vec takes every string");
}

/// All but the unreserved characters (RFC 3986, 2.3) as `%XX`.
fn push_url(out: &mut Vec<u8>, value: &str) {
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(byte);
        } else {
            let digit = |half: u8| b"0123456789ABCDEF"[usize::from(half)];
            out.extend_from_slice(&[b'%', digit(byte >> 4), digit(byte & 0xf)]);
        }
    }
}
