//! Content codings: bodies that come packed, and answers that go so where it is asked for
//! (RFC 9110, 8.4 and 12.5.3; gzip is RFC 1952, zstd RFC 8878).
//!
//! A body is whole before it is unpacked, and then in one go: so a reactor holds one decoder's
//! memory at most, whatever is sent to it. What comes out counts towards the same limits as a
//! body that was never packed, piece by piece, so a bomb is a 413 as soon as it is larger than a
//! body may be.

use std::io::{self, Read, Write};

use bytes::Bytes;
use flate2::Compression;
use flate2::bufread::MultiGzDecoder;
use flate2::write::GzEncoder;
use http_body_util::Full;
use hyper::Response;
use hyper::body::Body as _;
use hyper::header::{ACCEPT_ENCODING, CONTENT_ENCODING, HeaderMap, HeaderValue, VARY};
use zstd::stream::{read, write};

use crate::answer::{Body, Problem};
use crate::buffers::Buffers;

/// What is unpacked at once.
const PIECE_BYTES: usize = 32 << 10;
/// The largest window that a zstd frame over HTTP may ask for: 8 MiB (RFC 9659).
const WINDOW_LOG_MAX: u32 = 23;
/// Smaller answers go as they are: packing would save less than a packet.
const WORTH_BYTES: u64 = 1 << 10;
/// The fastest levels: an answer is packed once and read once.
const ZSTD_LEVEL: i32 = 1;

/// How a body is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Coding {
    Gzip,
    Zstd,
}

impl Coding {
    /// How a request's body is packed, if it is.
    pub(crate) fn of_body(headers: &HeaderMap) -> Result<Option<Coding>, Problem> {
        let mut found = None;
        for value in headers.get_all(CONTENT_ENCODING) {
            let value = value.to_str().unwrap_or("?").trim();
            if value.eq_ignore_ascii_case("identity") {
                continue;
            }
            match Coding::named(value) {
                Some(coding) if found.is_none() => found = Some(coding),
                _ => return Err(Problem::unsupported_coding(value)),
            }
        }
        Ok(found)
    }

    /// How its answer may be packed: as weighs most in what it accepts, and zstd where two weigh
    /// the same.
    pub(crate) fn of_answer(headers: &HeaderMap) -> Option<Coding> {
        if !headers.contains_key(ACCEPT_ENCODING) {
            return None;
        }
        let accepted = headers.get_all(ACCEPT_ENCODING).iter();
        let accepted = accepted.filter_map(|value| value.to_str().ok());
        let mut best = (0.0, None);
        for range in accepted.flat_map(|value| value.split(',')) {
            let (name, rest) = range.split_once(';').unwrap_or((range, ""));
            let weight = rest.trim().strip_prefix("q=");
            let weight = weight.map_or(1.0, |text| text.trim().parse().unwrap_or(0.0));
            let Some(coding) = Coding::named(name.trim()) else { continue };
            if weight > best.0 || weight == best.0 && weight > 0.0 && coding == Coding::Zstd {
                best = (weight, Some(coding));
            }
        }
        best.1
    }

    fn named(name: &str) -> Option<Coding> {
        match () {
            () if name.eq_ignore_ascii_case("gzip") => Some(Coding::Gzip),
            () if name.eq_ignore_ascii_case("x-gzip") => Some(Coding::Gzip),
            () if name.eq_ignore_ascii_case("zstd") => Some(Coding::Zstd),
            () => None,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Coding::Gzip => "gzip",
            Coding::Zstd => "zstd",
        }
    }

    /// Unpacks the body that is in `buffers`.
    pub(crate) fn unpack(self, buffers: &mut Buffers, limit: usize) -> Result<(), Problem> {
        let packed = std::mem::take(&mut buffers.body);
        let broken = |error: io::Error| Problem::not_packed(self.word(), &error);
        if packed.is_empty() {
            return Err(broken(io::ErrorKind::UnexpectedEof.into()));
        }
        match self {
            Coding::Gzip => unpacked(MultiGzDecoder::new(&packed[..]), buffers, limit, broken),
            Coding::Zstd => {
                let mut decoder = read::Decoder::with_buffer(&packed[..]).map_err(broken)?;
                decoder.window_log_max(WINDOW_LOG_MAX).map_err(broken)?;
                unpacked(decoder, buffers, limit, broken)
            }
        }
    }

    fn pack(self, bytes: &[u8]) -> io::Result<Vec<u8>> {
        let packed = Vec::with_capacity(bytes.len() / 4);
        match self {
            Coding::Gzip => {
                let mut encoder = GzEncoder::new(packed, Compression::fast());
                encoder.write_all(bytes)?;
                encoder.finish()
            }
            Coding::Zstd => {
                let mut encoder = write::Encoder::new(packed, ZSTD_LEVEL)?;
                encoder.write_all(bytes)?;
                encoder.finish()
            }
        }
    }
}

fn unpacked(
    mut decoder: impl Read,
    buffers: &mut Buffers,
    limit: usize,
    broken: impl Fn(io::Error) -> Problem,
) -> Result<(), Problem> {
    let mut piece = [0; PIECE_BYTES];
    loop {
        match decoder.read(&mut piece).map_err(&broken)? {
            0 => return Ok(()),
            read => buffers.take(&piece[..read], limit)?,
        }
    }
}

/// An answer, packed where that is worth while. A feed isn't: it has no end.
pub(crate) fn packed(coding: Coding, response: Response<Body>) -> Response<Body> {
    let (mut head, body) = response.into_parts();
    let whole = match body {
        Body::Whole(whole) if whole.size_hint().lower() >= WORTH_BYTES => whole,
        other => return Response::from_parts(head, other),
    };
    let bytes = whole.into_inner().unwrap_or_default();
    // Memory takes everything.
    let Ok(text) = coding.pack(&bytes) else {
        return Response::from_parts(head, Body::Whole(Full::new(bytes)));
    };
    head.headers.insert(CONTENT_ENCODING, HeaderValue::from_static(coding.word()));
    head.headers.insert(VARY, HeaderValue::from_static("accept-encoding"));
    Response::from_parts(head, Body::Whole(Full::new(Bytes::from(text))))
}
