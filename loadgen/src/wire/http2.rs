//! HTTP/2 (RFC 9113), many requests at once.
//!
//! What makes it cheap: header fields that requests share are put into the peer's table once and
//! named by a byte from then on (RFC 7541), and the peer is told to keep no table for answers,
//! so that the first byte of an answer's fields says the status and the rest can be skipped.
//! Windows for what is received are as large as they may be; those for what is sent are the
//! peer's, and a body that doesn't fit waits.

use std::collections::VecDeque;

use foldhash::{HashMap, HashMapExt};
use http::Method;

use super::{Answer, BODY_KEPT_MAX, OnAnswer, Request, protocol};
use crate::client::ClientError;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const FRAME_HEAD: usize = 9;
/// The largest frame that is taken: what every peer may send unasked (RFC 9113, 4.2).
const FRAME_MAX: usize = 16_384;
/// The largest window (RFC 9113, 6.9.1).
const WINDOW_MAX: i64 = (1 << 31) - 1;
const WINDOW_DEFAULT: i64 = 65_535;
/// Stream ids end here (RFC 9113, 5.1.1).
const STREAM_MAX: u32 = (1 << 31) - 1;
/// Fields kept in the peer's table, and their bytes (RFC 7541, 4.1 and 4.2).
const TABLE_FIELDS: usize = 16;
const TABLE_BYTES: usize = 4_096;

mod kind {
    pub(super) const DATA: u8 = 0;
    pub(super) const HEADERS: u8 = 1;
    pub(super) const RST_STREAM: u8 = 3;
    pub(super) const SETTINGS: u8 = 4;
    pub(super) const PING: u8 = 6;
    pub(super) const GOAWAY: u8 = 7;
    pub(super) const WINDOW_UPDATE: u8 = 8;
    pub(super) const CONTINUATION: u8 = 9;
}

mod flag {
    pub(super) const ACK: u8 = 0x1;
    pub(super) const END_STREAM: u8 = 0x1;
    pub(super) const END_HEADERS: u8 = 0x4;
    pub(super) const PADDED: u8 = 0x8;
    pub(super) const PRIORITY: u8 = 0x20;
}

/// A request under way.
#[derive(Default)]
struct Stream {
    id: u32,
    status: u16,
    body: Vec<u8>,
    body_bytes: u64,
    /// What of the request's body the peer's windows don't take yet.
    unsent: Vec<u8>,
    window: i64,
}

/// One connection's state.
pub(crate) struct Http2 {
    authority: Vec<u8>,
    secure: bool,
    keep_bodies: bool,
    /// By slot; an id of 0 is a free one.
    streams: Vec<Stream>,
    slots: HashMap<u32, u32>,
    next_id: u32,
    most: usize,
    /// Fields in the peer's table, oldest first.
    table: Vec<(Vec<u8>, Vec<u8>)>,
    table_bytes: usize,
    /// `None` while the table may be used; else whether the peer was told that it isn't.
    table_off: Option<bool>,
    /// The peer's: the connection's window, that of a new stream, its largest frame.
    window: i64,
    stream_window: i64,
    frame_max: usize,
    /// Slots whose bodies wait for a window.
    blocked: VecDeque<u32>,
    /// Bytes received since the connection's window was last widened.
    received: i64,
    rest: Vec<u8>,
    /// The stream whose header block goes on in the next frame.
    continued: Option<(u32, Vec<u8>, bool)>,
    broken: Vec<u32>,
    greeted: bool,
    over: bool,
}

impl Http2 {
    /// With so many streams at once, at most.
    pub(crate) fn new(authority: &str, secure: bool, streams: usize, keep_bodies: bool) -> Http2 {
        Http2 {
            authority: authority.as_bytes().to_vec(),
            secure,
            keep_bodies,
            streams: Vec::new(),
            slots: HashMap::new(),
            next_id: 1,
            most: streams.max(1),
            table: Vec::new(),
            table_bytes: 0,
            table_off: None,
            window: WINDOW_DEFAULT,
            stream_window: WINDOW_DEFAULT,
            frame_max: FRAME_MAX,
            blocked: VecDeque::new(),
            received: 0,
            rest: Vec::new(),
            continued: None,
            broken: Vec::new(),
            greeted: false,
            over: false,
        }
    }

    pub(crate) fn room(&self) -> usize {
        if self.over { 0 } else { self.most.saturating_sub(self.slots.len()) }
    }

    pub(crate) fn is_over(&self) -> bool {
        self.over
    }

    /// Slots whose streams the peer ended without an answer, since the last call.
    pub(crate) fn take_broken(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.broken)
    }

    pub(crate) fn send(&mut self, slot: u32, request: &Request, out: &mut Vec<u8>) {
        if !self.greeted {
            self.greet(out);
        }
        let id = self.next_id;
        self.next_id += 2;
        self.over |= self.next_id > STREAM_MAX;
        if self.streams.len() <= slot as usize {
            self.streams.resize_with(slot as usize + 1, Stream::default);
        }
        self.slots.insert(id, slot);
        let stream = &mut self.streams[slot as usize];
        (stream.id, stream.status, stream.body_bytes) = (id, 0, 0);
        stream.window = self.stream_window;
        stream.body.clear();

        let head = out.len();
        out.extend_from_slice(&[0; FRAME_HEAD]);
        self.fields(request, out);
        self.frame_headers(head, id, request.body.is_empty(), out);
        if !request.body.is_empty() {
            let sent = self.send_data(slot, &request.body, out);
            if sent < request.body.len() {
                self.streams[slot as usize].unsent.extend_from_slice(&request.body[sent..]);
                self.blocked.push_back(slot);
            }
        }
    }

    fn greet(&mut self, out: &mut Vec<u8>) {
        self.greeted = true;
        out.extend_from_slice(PREFACE);
        // No table for answers, no pushes, the widest windows.
        let settings: [(u16, u32); 3] = [(1, 0), (2, 0), (4, WINDOW_MAX as u32)];
        frame_head(settings.len() * 6, kind::SETTINGS, 0, 0, out);
        for (name, value) in settings {
            out.extend_from_slice(&name.to_be_bytes());
            out.extend_from_slice(&value.to_be_bytes());
        }
        widen((WINDOW_MAX - WINDOW_DEFAULT) as u32, out);
    }

    /// The header block of a request.
    fn fields(&mut self, request: &Request, out: &mut Vec<u8>) {
        if self.table_off == Some(false) {
            self.table_off = Some(true);
            out.push(0x20); // The table has a size of 0 from here on.
        }
        match request.method {
            Method::GET => out.push(0x82),
            Method::POST => out.push(0x83),
            ref method => self.field(b":method", method.as_str().as_bytes(), out),
        }
        out.push(if self.secure { 0x87 } else { 0x86 });
        self.field(b":path", &request.path, out);
        let authority = std::mem::take(&mut self.authority);
        self.field(b":authority", &authority, out);
        self.authority = authority;
        for (name, value) in request.header_lines() {
            self.field(name, value, out);
        }
        if !request.body.is_empty() {
            let mut digits = itoa::Buffer::new();
            let length = digits.format(request.body.len()).as_bytes();
            out.extend_from_slice(&[0x0f, 28 - 15]); // Not for the table: it changes.
            string(length, out);
        }
    }

    /// A field: named by its place in the table where it is there, put there if there is room.
    fn field(&mut self, name: &[u8], value: &[u8], out: &mut Vec<u8>) {
        let same = |(n, v): &(Vec<u8>, Vec<u8>)| n == name && v == value;
        if let Some(at) = self.table.iter().position(same) {
            // The static table has 61 fields; the newest of ours comes first.
            integer(0x80, 7, 62 + (self.table.len() - 1 - at), out);
            return;
        }
        let bytes = name.len() + value.len() + 32;
        let keep = self.table_off.is_none()
            && self.table.len() < TABLE_FIELDS
            && self.table_bytes + bytes <= TABLE_BYTES;
        let known = match name {
            b":authority" => 1,
            b":method" => 2,
            b":path" => 4,
            _ => 0,
        };
        match keep {
            true => integer(0x40, 6, known, out),
            false => integer(0x00, 4, known, out),
        }
        if known == 0 {
            string(name, out);
        }
        string(value, out);
        if keep {
            self.table_bytes += bytes;
            self.table.push((name.to_vec(), value.to_vec()));
        }
    }

    /// Makes frames of the header block behind the room for a frame's head at `head`.
    fn frame_headers(&self, head: usize, id: u32, ends: bool, out: &mut Vec<u8>) {
        let block = out.len() - head - FRAME_HEAD;
        let end_stream = if ends { flag::END_STREAM } else { 0 };
        if block <= self.frame_max {
            let flags = flag::END_HEADERS | end_stream;
            write_head(&mut out[head..], block, kind::HEADERS, flags, id);
            return;
        }
        let block = out.split_off(head + FRAME_HEAD);
        out.truncate(head);
        let pieces = block.len().div_ceil(self.frame_max);
        for (number, piece) in block.chunks(self.frame_max).enumerate() {
            let last = if number + 1 == pieces { flag::END_HEADERS } else { 0 };
            match number {
                0 => frame_head(piece.len(), kind::HEADERS, last | end_stream, id, out),
                _ => frame_head(piece.len(), kind::CONTINUATION, last, id, out),
            }
            out.extend_from_slice(piece);
        }
    }

    /// Sends as much of a body as the windows take; how much.
    fn send_data(&mut self, slot: u32, body: &[u8], out: &mut Vec<u8>) -> usize {
        let stream = &mut self.streams[slot as usize];
        let mut sent = 0;
        while sent < body.len() {
            let room = self.window.min(stream.window).min(self.frame_max as i64);
            if room <= 0 {
                break;
            }
            let piece = &body[sent..body.len().min(sent + room as usize)];
            sent += piece.len();
            self.window -= piece.len() as i64;
            stream.window -= piece.len() as i64;
            let flags = if sent == body.len() { flag::END_STREAM } else { 0 };
            frame_head(piece.len(), kind::DATA, flags, stream.id, out);
            out.extend_from_slice(piece);
        }
        sent
    }

    /// Sends what waited for a window.
    fn unblock(&mut self, out: &mut Vec<u8>) {
        for _ in 0..self.blocked.len() {
            let Some(slot) = self.blocked.pop_front() else { return };
            let mut unsent = std::mem::take(&mut self.streams[slot as usize].unsent);
            let sent = self.send_data(slot, &unsent, out);
            unsent.drain(..sent);
            if !unsent.is_empty() {
                self.blocked.push_back(slot);
            }
            self.streams[slot as usize].unsent = unsent;
        }
    }

    pub(crate) fn cancel(&mut self, slot: u32, out: &mut Vec<u8>) -> bool {
        const CANCEL: u32 = 8;
        let id = self.end(slot);
        frame_head(4, kind::RST_STREAM, 0, id, out);
        out.extend_from_slice(&CANCEL.to_be_bytes());
        true
    }

    /// Frees a slot; the id of the stream that was there.
    fn end(&mut self, slot: u32) -> u32 {
        let stream = &mut self.streams[slot as usize];
        let id = std::mem::take(&mut stream.id);
        if !stream.unsent.is_empty() {
            stream.unsent.clear();
            self.blocked.retain(|&blocked| blocked != slot);
        }
        self.slots.remove(&id);
        id
    }

    pub(crate) fn receive(
        &mut self,
        input: &[u8],
        out: &mut Vec<u8>,
        answered: &mut OnAnswer<'_>,
    ) -> Result<(), ClientError> {
        // With TLS a server may speak first. It must not be answered before it is greeted.
        if !self.greeted {
            self.greet(out);
        }
        if self.rest.is_empty() {
            let taken = self.frames(input, out, answered)?;
            self.rest.extend_from_slice(&input[taken..]);
        } else {
            let mut rest = std::mem::take(&mut self.rest);
            rest.extend_from_slice(input);
            let taken = self.frames(&rest, out, answered)?;
            rest.drain(..taken);
            self.rest = rest;
        }
        if self.received > WINDOW_MAX / 2 {
            widen(self.received as u32, out);
            self.received = 0;
        }
        Ok(())
    }

    /// Takes whole frames; how many bytes.
    fn frames(
        &mut self,
        input: &[u8],
        out: &mut Vec<u8>,
        answered: &mut OnAnswer<'_>,
    ) -> Result<usize, ClientError> {
        let mut at = 0;
        while let Some(head) = input[at..].first_chunk::<FRAME_HEAD>() {
            let bytes = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            if bytes > FRAME_MAX {
                return Err(protocol(format!("a frame of {bytes} bytes; is this HTTP/2?")));
            }
            let Some(payload) = input.get(at + FRAME_HEAD..at + FRAME_HEAD + bytes) else { break };
            let id = u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & STREAM_MAX;
            self.frame(head[3], head[4], id, payload, out, answered)?;
            at += FRAME_HEAD + bytes;
        }
        Ok(at)
    }

    fn frame(
        &mut self,
        kind: u8,
        flags: u8,
        id: u32,
        payload: &[u8],
        out: &mut Vec<u8>,
        answered: &mut OnAnswer<'_>,
    ) -> Result<(), ClientError> {
        let ends = flags & flag::END_STREAM != 0;
        match kind {
            kind::DATA => {
                self.received += payload.len() as i64;
                let piece = unpadded(flags, payload)?;
                let Some(&slot) = self.slots.get(&id) else { return Ok(()) };
                let stream = &mut self.streams[slot as usize];
                stream.body_bytes += piece.len() as u64;
                if ends && stream.body.is_empty() {
                    // Whole in what was read: nothing needs to be copied.
                    self.finish(slot, Some(piece), answered);
                    return Ok(());
                }
                if self.keep_bodies && stream.body.len() + piece.len() <= BODY_KEPT_MAX {
                    stream.body.extend_from_slice(piece);
                }
                if ends {
                    self.finish(slot, None, answered);
                }
            }
            kind::HEADERS => {
                let mut block = unpadded(flags, payload)?;
                if flags & flag::PRIORITY != 0 {
                    block = block.get(5..).ok_or_else(|| protocol("a short frame"))?;
                }
                if flags & flag::END_HEADERS == 0 {
                    self.continued = Some((id, block.to_vec(), ends));
                    return Ok(());
                }
                self.answer_head(id, block, ends, answered)?;
            }
            kind::CONTINUATION => {
                let Some((of, mut block, ends)) = self.continued.take() else {
                    return Err(protocol("a continuation of nothing"));
                };
                block.extend_from_slice(payload);
                if of != id || block.len() > 16 * FRAME_MAX {
                    return Err(protocol("endless header fields"));
                }
                match flags & flag::END_HEADERS {
                    0 => self.continued = Some((id, block, ends)),
                    _ => self.answer_head(id, &block, ends, answered)?,
                }
            }
            kind::SETTINGS if flags & flag::ACK == 0 => {
                self.settings(payload)?;
                frame_head(0, kind::SETTINGS, flag::ACK, 0, out);
                self.unblock(out);
            }
            kind::PING if flags & flag::ACK == 0 => {
                frame_head(payload.len(), kind::PING, flag::ACK, 0, out);
                out.extend_from_slice(payload);
            }
            kind::WINDOW_UPDATE => {
                let step = payload.first_chunk().ok_or_else(|| protocol("a short frame"))?;
                let step = i64::from(u32::from_be_bytes(*step) & STREAM_MAX);
                match self.slots.get(&id) {
                    _ if id == 0 => self.window += step,
                    Some(&slot) => self.streams[slot as usize].window += step,
                    None => {}
                }
                self.unblock(out);
            }
            kind::RST_STREAM => {
                if let Some(&slot) = self.slots.get(&id) {
                    self.end(slot);
                    self.broken.push(slot);
                }
            }
            // What is under way is answered; nothing new is taken.
            kind::GOAWAY => self.over = true,
            // Extensions are to be skipped (RFC 9113, 4.1); pushes were refused.
            _ => {}
        }
        Ok(())
    }

    fn settings(&mut self, payload: &[u8]) -> Result<(), ClientError> {
        for setting in payload.chunks_exact(6) {
            let value = u32::from_be_bytes([setting[2], setting[3], setting[4], setting[5]]);
            match u16::from_be_bytes([setting[0], setting[1]]) {
                1 if (value as usize) < TABLE_BYTES && self.table_off.is_none() => {
                    self.table.clear();
                    self.table_off = Some(false);
                }
                3 => self.most = self.most.min(value.max(1) as usize),
                4 => {
                    let step = i64::from(value) - self.stream_window;
                    self.stream_window += step;
                    for stream in &mut self.streams {
                        stream.window += step;
                    }
                }
                5 => self.frame_max = (value as usize).clamp(FRAME_MAX, 4 * FRAME_MAX),
                _ => {}
            }
        }
        Ok(())
    }

    /// The fields of an answer, or those behind its body.
    fn answer_head(
        &mut self,
        id: u32,
        block: &[u8],
        ends: bool,
        answered: &mut OnAnswer<'_>,
    ) -> Result<(), ClientError> {
        let Some(&slot) = self.slots.get(&id) else { return Ok(()) };
        let stream = &mut self.streams[slot as usize];
        if stream.status == 0 {
            let status = status(block).ok_or_else(|| protocol("an answer without a status"))?;
            if !(100..200).contains(&status) {
                stream.status = status;
            }
        }
        if ends {
            self.finish(slot, None, answered);
        }
        Ok(())
    }

    fn finish(&mut self, slot: u32, whole: Option<&[u8]>, answered: &mut OnAnswer<'_>) {
        self.end(slot);
        let stream = &self.streams[slot as usize];
        let body = whole.unwrap_or(&stream.body);
        answered(slot, Answer { status: stream.status, body, body_bytes: stream.body_bytes });
    }
}

/// The status, which comes first in an answer's fields (RFC 9113, 8.3; RFC 7541, 6). There is
/// no table that it could be kept in.
fn status(mut block: &[u8]) -> Option<u16> {
    const STATIC: [u16; 7] = [200, 204, 206, 304, 400, 404, 500];
    while let [first, rest @ ..] = block
        && first & 0xe0 == 0x20
        && first & 0x1f < 0x1f
    {
        block = rest; // The table's new size.
    }
    let (&first, rest) = block.split_first()?;
    if (0x88..=0x8e).contains(&first) {
        return Some(STATIC[usize::from(first - 0x88)]);
    }
    // A literal that the table names "status": kept, not kept, or never kept.
    let name = match first {
        0x40..=0x7f => first & 0x3f,
        0x00..=0x1f => first & 0x0f,
        _ => return None,
    };
    if !(8..=14).contains(&name) {
        return None;
    }
    let (&length, text) = rest.split_first()?;
    let text = text.get(..usize::from(length & 0x7f))?;
    if length & 0x80 == 0 {
        return std::str::from_utf8(text).ok()?.parse().ok();
    }
    // Digits in the Huffman code (RFC 7541, appendix B): 0 to 2 have five bits, the others six.
    let mut bits = text.iter().fold(0u32, |bits, &byte| bits << 8 | u32::from(byte));
    bits <<= 32 - 8 * text.len().min(4);
    let mut status = 0;
    for _ in 0..3 {
        let (digit, width) = match bits >> 27 {
            five @ 0..=2 => (five, 5),
            _ => ((bits >> 26).checked_sub(0x19).filter(|six| *six < 7)? + 3, 6),
        };
        status = status * 10 + digit as u16;
        bits <<= width;
    }
    Some(status)
}

fn unpadded(flags: u8, payload: &[u8]) -> Result<&[u8], ClientError> {
    if flags & flag::PADDED == 0 {
        return Ok(payload);
    }
    let short = || protocol("more padding than frame");
    let (&padding, rest) = payload.split_first().ok_or_else(short)?;
    let end = rest.len().checked_sub(usize::from(padding)).ok_or_else(short)?;
    Ok(&rest[..end])
}

fn frame_head(bytes: usize, kind: u8, flags: u8, id: u32, out: &mut Vec<u8>) {
    let at = out.len();
    out.extend_from_slice(&[0; FRAME_HEAD]);
    write_head(&mut out[at..], bytes, kind, flags, id);
}

fn write_head(out: &mut [u8], bytes: usize, kind: u8, flags: u8, id: u32) {
    out[..3].copy_from_slice(&(bytes as u32).to_be_bytes()[1..]);
    out[3] = kind;
    out[4] = flags;
    out[5..FRAME_HEAD].copy_from_slice(&id.to_be_bytes());
}

/// Lets the peer send so many bytes more on the connection.
fn widen(bytes: u32, out: &mut Vec<u8>) {
    frame_head(4, kind::WINDOW_UPDATE, 0, 0, out);
    out.extend_from_slice(&bytes.to_be_bytes());
}

/// An integer whose first byte has `prefix` bits for it (RFC 7541, 5.1).
fn integer(first: u8, prefix: u32, value: usize, out: &mut Vec<u8>) {
    let most = (1 << prefix) - 1;
    if value < most {
        out.push(first | value as u8);
        return;
    }
    out.push(first | most as u8);
    let mut rest = value - most;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

/// A string as it is (RFC 7541, 5.2).
fn string(text: &[u8], out: &mut Vec<u8>) {
    integer(0, 7, text.len(), out);
    out.extend_from_slice(text);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_read_in_every_form() {
        assert_eq!(status(&[0x88]), Some(200));
        assert_eq!(status(&[0x20, 0x8d]), Some(404));
        assert_eq!(status(&[0x08, 3, b'4', b'0', b'9']), Some(409));
        assert_eq!(status(&[0x48, 3, b'5', b'0', b'3']), Some(503));
        // RFC 7541, C.6.1 and C.6.2: "302" and "307".
        assert_eq!(status(&[0x48, 0x82, 0x64, 0x02]), Some(302));
        assert_eq!(status(&[0x48, 0x83, 0x64, 0x0e, 0xff]), Some(307));
        assert_eq!(status(&[]), None);
        assert_eq!(status(&[0x82]), None);
    }

    #[test]
    fn integers_are_those_of_the_rfc() {
        let written = |prefix, value| {
            let mut out = Vec::new();
            integer(0, prefix, value, &mut out);
            out
        };
        // RFC 7541, C.1.
        assert_eq!(written(5, 10), [10]);
        assert_eq!(written(5, 1337), [31, 154, 10]);
        assert_eq!(written(8, 42), [42]);
    }

    #[test]
    fn a_body_waits_for_the_peers_windows() {
        let mut wire = Http2::new("x", false, 10, true);
        let body = vec![7; 100_000];
        let request = Request { method: Method::POST, body, ..Request::default() };
        let mut out = Vec::new();
        wire.send(0, &request, &mut out);
        let sent =
            |out: &[u8]| -> usize { frames_of(out).iter().filter(|f| f.0 == 0).map(|f| f.1).sum() };
        let start = PREFACE.len();
        assert_eq!(sent(&out[start..]), 65_535);
        out.clear();
        let mut update = Vec::new();
        for id in [0, 1] {
            frame_head(4, kind::WINDOW_UPDATE, 0, id, &mut update);
            update.extend_from_slice(&50_000u32.to_be_bytes());
        }
        wire.receive(&update, &mut out, &mut |_, _| {}).unwrap();
        assert_eq!(sent(&out), 100_000 - 65_535);
    }

    #[test]
    fn a_server_that_speaks_first_is_greeted_before_it_is_answered() {
        let mut wire = Http2::new("x", true, 10, true);
        let (mut settings, mut out) = (Vec::new(), Vec::new());
        frame_head(0, kind::SETTINGS, 0, 0, &mut settings);
        wire.receive(&settings, &mut out, &mut |_, _| {}).unwrap();
        wire.send(0, &Request::default(), &mut out);
        let frames = out.strip_prefix(PREFACE).expect("the preface comes first, and once");
        let kinds: Vec<u8> = frames_of(frames).into_iter().map(|frame| frame.0).collect();
        assert_eq!(kinds, [kind::SETTINGS, kind::WINDOW_UPDATE, kind::SETTINGS, kind::HEADERS]);
    }

    fn frames_of(mut bytes: &[u8]) -> Vec<(u8, usize)> {
        let mut frames = Vec::new();
        while bytes.len() >= FRAME_HEAD {
            let length = u32::from_be_bytes([0, bytes[0], bytes[1], bytes[2]]) as usize;
            frames.push((bytes[3], length));
            bytes = &bytes[FRAME_HEAD + length..];
        }
        frames
    }
}
