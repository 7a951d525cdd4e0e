//! From a template's text to its pieces.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use super::{CsvTable, Filter, Piece, Place, Template};
use crate::alias::Alias;
use crate::profile::mix;

/// The longest text of a template, in bytes.
pub const TEXT_BYTES_MAX: usize = 16 << 20;
/// The longest rendering that a template may come to, in bytes.
pub const RENDERED_BYTES_MAX: usize = 64 << 20;
/// The most numbers that a template's `zipf` generators have together: each takes 8 bytes.
const ZIPF_MAX: usize = 10_000_000;
/// The most random bytes or characters of one generator.
const RANDOM_BYTES_MAX: usize = 1 << 20;
/// The most decimals of a `float`: 9 of them leave 9 digits before the point.
const DECIMALS_MAX: usize = 9;
/// The fewest decimals of a `float`, as prices have.
const DECIMALS_MIN: usize = 2;

/// The generators as they are written, with what is asked of their arguments.
const GENERATORS: [(&str, &str, &str); 11] = [
    ("n", "{{n}}", "nothing after it"),
    ("uuid", "{{uuid}}", "nothing after it"),
    ("int", "{{int:LOW:HIGH}}", "two whole numbers of 64 bits, the lower first"),
    ("zipf", "{{zipf:N}}", "a whole number from 1 to 10000000"),
    (
        "float",
        "{{float:LOW:HIGH}}",
        "two decimal numbers, the lower first, of 18 digits at most, 9 of them decimals",
    ),
    ("choice", "{{choice:a|b|c}}", "options with | between them"),
    ("hex", "{{hex:BYTES}}", "a whole number from 1 to 1048576"),
    ("string", "{{string:LEN}}", "a whole number from 1 to 1048576"),
    ("now_ms", "{{now_ms}}", "nothing after it"),
    ("now_iso", "{{now_iso}}", "nothing after it"),
    ("csv", "{{csv:COLUMN}}", "the name of a column, and perhaps :json or :url"),
];

/// A place in a template's text.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Position {
    /// From 1.
    pub line: usize,
    /// From 1, in the line.
    pub character: usize,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "line {}, character {}", self.line, self.character)
    }
}

/// Why a text is no template, or one that doesn't fit its place. The same text fails again.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TemplateError {
    /// The text is too long.
    #[error("a template of {bytes} bytes is longer than the limit of {TEXT_BYTES_MAX}")]
    TextTooLong {
        /// Its length.
        bytes: usize,
    },
    /// What it renders may be too long.
    #[error("the template may come to {bytes} bytes; the limit is {RENDERED_BYTES_MAX}")]
    RenderedTooLong {
        /// The most bytes it may come to.
        bytes: usize,
    },
    /// A generator has no end.
    #[error("{at}: no }}}} follows this {{{{ (a literal {{{{ is written as {{{{{{{{)")]
    Unclosed {
        /// Where it begins.
        at: Position,
    },
    /// There is no such generator.
    #[error("{at}: there is no generator `{name}`; there are {}", usages())]
    NoGenerator {
        /// Where it stands.
        at: Position,
        /// What it was called.
        name: String,
    },
    /// A generator's arguments aren't what it takes.
    #[error("{at}: `{written}` is not {usage}: it takes {takes}")]
    Arguments {
        /// Where it stands.
        at: Position,
        /// The generator as it was written, without its braces.
        written: String,
        /// How it is written.
        usage: &'static str,
        /// What is asked of its arguments.
        takes: &'static str,
    },
    /// All `zipf` of a template have too many numbers.
    #[error(
        "{at}: the template's zipf generators have {numbers} numbers together; the limit is {ZIPF_MAX}"
    )]
    ZipfTooLarge {
        /// Where the limit was passed.
        at: Position,
        /// How many there are up to there.
        numbers: usize,
    },
    /// A column is asked for, but there is no data file.
    #[error("{at}: column `{column}` is of a data file, and none was given")]
    NoFile {
        /// Where it is asked for.
        at: Position,
        /// The column.
        column: String,
    },
    /// The data file doesn't have a column.
    #[error("{at}: there is no column `{column}`; the file has {}", listed(.columns))]
    NoColumn {
        /// Where it is asked for.
        at: Position,
        /// The column.
        column: String,
        /// Those that there are.
        columns: Vec<String>,
    },
    /// There is no such filter.
    #[error("{at}: there is no filter `{filter}`; there are `json` and `url`")]
    NoFilter {
        /// Where it stands.
        at: Position,
        /// What it was called.
        filter: String,
    },
    /// A rendering could hold a character that can't stand where it goes.
    #[error("{of} has the character {character:?}, which can't stand in {place}")]
    Character {
        /// The character.
        character: char,
        /// What has it.
        of: String,
        /// Where it can't stand.
        place: Place,
    },
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Place::Target => "a path or query (percent-encode it: `:url` does so for a column)",
            Place::Header => "a header",
            Place::Body => "a body",
        })
    }
}

fn usages() -> String {
    GENERATORS.map(|(_, usage, _)| usage).join(", ")
}

/// As many names as a message can bear.
fn listed(columns: &[String]) -> String {
    const SHOWN: usize = 20;
    let shown: Vec<String> =
        columns.iter().take(SHOWN).map(|column| format!("`{column}`")).collect();
    let more = match columns.len().saturating_sub(SHOWN) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    shown.join(", ") + &more
}

impl Template {
    /// Parses a template. `table` is the data file that `csv` generators read.
    pub fn parse(text: &str, table: Option<&Arc<CsvTable>>) -> Result<Template, TemplateError> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(TemplateError::TextTooLong { bytes: text.len() });
        }
        let mut parser =
            Parser { table, text: String::new(), pieces: Vec::new(), zipf: Vec::new() };
        let mut at = 0;
        while let Some(found) = text[at..].find("{{") {
            let open = at + found;
            parser.literal(&text[at..open]);
            if text[open..].starts_with("{{{{") {
                parser.literal("{{");
                at = open + 4;
                continue;
            }
            let position = || position(text, open);
            let inner = open + 2;
            let length = text[inner..]
                .find("}}")
                .ok_or_else(|| TemplateError::Unclosed { at: position() })?;
            let piece = parser.generator(&text[inner..inner + length], &position)?;
            parser.pieces.push(piece);
            at = inner + length + 2;
        }
        parser.literal(&text[at..]);

        let Parser { text: own, pieces, .. } = parser;
        let rendered_bytes_max =
            pieces.iter().fold(0usize, |sum, piece| sum.saturating_add(longest(piece)));
        if rendered_bytes_max > RENDERED_BYTES_MAX {
            return Err(TemplateError::RenderedTooLong { bytes: rendered_bytes_max });
        }
        let salt = text.bytes().fold(0, |salt, byte| mix(salt ^ u64::from(byte)));
        Ok(Template { text: own, pieces, salt, rendered_bytes_max })
    }
}

struct Parser<'a> {
    table: Option<&'a Arc<CsvTable>>,
    text: String,
    pieces: Vec<Piece>,
    /// One table for all `zipf` of the same size.
    zipf: Vec<(usize, Arc<Alias>)>,
}

impl Parser<'_> {
    fn literal(&mut self, text: &str) {
        if text.is_empty() {
            return;
        }
        let range = self.keep(text);
        match self.pieces.last_mut() {
            Some(Piece::Literal(last)) if last.end == range.start => last.end = range.end,
            _ => self.pieces.push(Piece::Literal(range)),
        }
    }

    fn keep(&mut self, text: &str) -> Range<usize> {
        let start = self.text.len();
        self.text.push_str(text);
        start..self.text.len()
    }

    /// `written` is what stands between the braces.
    fn generator(
        &mut self,
        written: &str,
        at: &dyn Fn() -> Position,
    ) -> Result<Piece, TemplateError> {
        let (name, arguments) = match written.split_once(':') {
            Some((name, arguments)) => (name.trim(), Some(arguments)),
            None => (written.trim(), None),
        };
        let Some(&(_, usage, takes)) = GENERATORS.iter().find(|generator| generator.0 == name)
        else {
            return Err(TemplateError::NoGenerator { at: at(), name: name.into() });
        };
        let wrong = || TemplateError::Arguments { at: at(), written: written.into(), usage, takes };

        let piece = match (name, arguments) {
            ("n", None) => Piece::Number,
            ("uuid", None) => Piece::Uuid,
            ("now_ms", None) => Piece::NowMs,
            ("now_iso", None) => Piece::NowIso,
            ("int", Some(arguments)) => int(arguments).ok_or_else(wrong)?,
            ("float", Some(arguments)) => float(arguments).ok_or_else(wrong)?,
            ("zipf", Some(arguments)) => {
                let numbers = count(arguments, ZIPF_MAX).ok_or_else(wrong)?;
                Piece::Zipf(self.zipf(numbers, at)?)
            }
            ("hex", Some(arguments)) => {
                Piece::Hex(count(arguments, RANDOM_BYTES_MAX).ok_or_else(wrong)?)
            }
            ("string", Some(arguments)) => {
                Piece::Alphanumeric(count(arguments, RANDOM_BYTES_MAX).ok_or_else(wrong)?)
            }
            ("choice", Some(options)) if !options.is_empty() => {
                Piece::Choice(options.split('|').map(|option| self.keep(option)).collect())
            }
            ("csv", Some(column)) if !column.trim().is_empty() => self.csv(column.trim(), at)?,
            _ => return Err(wrong()),
        };
        Ok(piece)
    }

    fn zipf(
        &mut self,
        numbers: usize,
        at: &dyn Fn() -> Position,
    ) -> Result<Arc<Alias>, TemplateError> {
        if let Some((_, ranks)) = self.zipf.iter().find(|(known, _)| *known == numbers) {
            return Ok(ranks.clone());
        }
        let together = numbers + self.zipf.iter().map(|(known, _)| known).sum::<usize>();
        if together > ZIPF_MAX {
            return Err(TemplateError::ZipfTooLarge { at: at(), numbers: together });
        }
        let weights: Vec<f64> = (1..=numbers).map(|rank| 1.0 / rank as f64).collect();
        let ranks =
            Arc::new(Alias::new(&weights).expect("there is a rank, and all weigh more than 0"));
        self.zipf.push((numbers, ranks.clone()));
        Ok(ranks)
    }

    fn csv(&self, written: &str, at: &dyn Fn() -> Position) -> Result<Piece, TemplateError> {
        // A column may have a colon in its name: the whole text comes first.
        let (name, filter) = written.rsplit_once(':').unwrap_or((written, ""));
        let Some(table) = self.table else {
            let column = if matches!(filter, "json" | "url") { name } else { written };
            return Err(TemplateError::NoFile { at: at(), column: column.into() });
        };
        let piece = |column, filter| Piece::Csv { table: table.clone(), column, filter };
        if let Some(column) = table.column(written) {
            return Ok(piece(column, Filter::Plain));
        }
        let missing = |column: &str| TemplateError::NoColumn {
            at: at(),
            column: column.into(),
            columns: table.columns().to_vec(),
        };
        match (table.column(name), filter) {
            (Some(column), "json") => Ok(piece(column, Filter::Json)),
            (Some(column), "url") => Ok(piece(column, Filter::Url)),
            (Some(_), _) => Err(TemplateError::NoFilter { at: at(), filter: filter.into() }),
            (None, "json" | "url") => Err(missing(name)),
            (None, _) => Err(missing(written)),
        }
    }
}

/// The most bytes that a piece renders.
fn longest(piece: &Piece) -> usize {
    /// Of 64 bits in decimal, with a sign.
    const NUMBER: usize = 20;
    match piece {
        Piece::Literal(range) => range.len(),
        Piece::Number | Piece::Int { .. } | Piece::Zipf(_) | Piece::NowMs => NUMBER,
        // A sign, a point, and a 0 before it.
        Piece::Float { .. } => NUMBER + 2,
        Piece::Uuid => 36,
        Piece::NowIso => "9999-12-31T23:59:59.999Z".len(),
        Piece::Choice(options) => options.iter().map(|option| option.len()).max().unwrap_or(0),
        Piece::Hex(bytes) => 2 * bytes,
        Piece::Alphanumeric(length) => *length,
        Piece::Csv { table, column, filter } => match filter {
            Filter::Plain => table.longest(*column),
            // `\u001f`, and quotes.
            Filter::Json => 6 * table.longest(*column) + 2,
            Filter::Url => 3 * table.longest(*column),
        },
    }
}

fn position(text: &str, at: usize) -> Position {
    let before = &text[..at];
    let line_at = before.rfind('\n').map_or(0, |newline| newline + 1);
    Position {
        line: 1 + before.bytes().filter(|byte| *byte == b'\n').count(),
        character: 1 + before[line_at..].chars().count(),
    }
}

fn count(text: &str, max: usize) -> Option<usize> {
    text.trim().parse().ok().filter(|count| (1..=max).contains(count))
}

fn int(arguments: &str) -> Option<Piece> {
    let (low, high) = arguments.split_once(':')?;
    let (low, high) = (low.trim().parse::<i64>().ok()?, high.trim().parse::<i64>().ok()?);
    (low <= high).then(|| Piece::Int { low, span: high.abs_diff(low) })
}

fn float(arguments: &str) -> Option<Piece> {
    let (low, high) = arguments.split_once(':')?;
    let (low, high) = (low.trim(), high.trim());
    let decimals = decimals(low).max(decimals(high)).max(DECIMALS_MIN);
    if decimals > DECIMALS_MAX {
        return None;
    }
    let (low, high) = (scaled(low, decimals)?, scaled(high, decimals)?);
    let decimals = decimals as u32;
    (low <= high).then(|| Piece::Float { low, span: high.abs_diff(low), decimals })
}

fn decimals(text: &str) -> usize {
    text.split_once('.').map_or(0, |(_, fraction)| fraction.len())
}

/// A decimal number in units of 10⁻ᵈᵉᶜⁱᵐᵃˡˢ. It has no more decimals than that.
fn scaled(text: &str, decimals: usize) -> Option<i64> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, text),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if !is_number(whole) || !is_number(fraction) {
        return None;
    }
    let fraction = format!("{fraction:0<decimals$}").parse::<i64>().ok()?;
    let whole = whole.parse::<i64>().ok()?.checked_mul(10i64.pow(decimals as u32))?;
    Some(sign * whole.checked_add(fraction)?)
}
