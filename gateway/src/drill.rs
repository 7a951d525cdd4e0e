//! Rehearsal at the front door: which requests are a drill's, and whether any are taken.
//!
//! A request of a drill says so with a header, `crest-drill: <expiry>.<signature>`: Unix seconds,
//! and the HMAC-SHA256 of their digits under the drill key, in hexadecimal. What has a good mark
//! happens and is read in the drill realm. What has none is trade. A mark that isn't good is
//! refused and nothing is done: rehearsal that passes for trade would sell real goods.
//!
//! The signature covers the expiry alone, so a mark is good for any request until then, like a
//! password with an end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hmac::{Hmac, KeyInit as _, Mac as _};
use hyper::header::{HeaderMap, HeaderName};
use model::Realm;
use sha2::Sha256;

use crate::answer::Problem;

/// The header that marks a request as a drill's.
pub const DRILL_HEADER: &str = "crest-drill";
const HEADER: HeaderName = HeaderName::from_static(DRILL_HEADER);
/// Bytes of an HMAC-SHA256.
const SIGNATURE_BYTES: usize = 32;

/// Signs marks, and checks them.
#[derive(Clone)]
pub struct DrillKey {
    /// Keyed, and nothing signed yet.
    hmac: Hmac<Sha256>,
}

/// A drill key has too few bytes, or too many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a drill key has {} to {} bytes, and this one has {found}", DrillKey::MIN, DrillKey::MAX)]
pub struct KeyLength {
    /// Bytes of the key.
    pub found: usize,
}

impl DrillKey {
    /// Fewer bytes could be guessed.
    pub const MIN: usize = 16;
    /// More bytes are something else, given by mistake.
    pub const MAX: usize = 1_024;

    /// From a secret. White space around it doesn't count: it comes from files and editors.
    pub fn new(secret: &[u8]) -> Result<DrillKey, KeyLength> {
        let secret = secret.trim_ascii();
        if !(DrillKey::MIN..=DrillKey::MAX).contains(&secret.len()) {
            return Err(KeyLength { found: secret.len() });
        }
        let hmac = Hmac::new_from_slice(secret).expect("an HMAC takes keys of any length");
        Ok(DrillKey { hmac })
    }

    /// A mark that is good until `expiry`, in Unix seconds: the header's value.
    pub fn mark(&self, expiry: u64) -> String {
        use std::fmt::Write as _;
        let digits = expiry.to_string();
        let mut hmac = self.hmac.clone();
        hmac.update(digits.as_bytes());
        let mut mark = digits + ".";
        for byte in hmac.finalize().into_bytes() {
            let _ = write!(mark, "{byte:02x}"); // A string takes everything.
        }
        mark
    }

    /// Whether a mark's signature is one of this key; in a time that tells nothing of it.
    fn has_signed(&self, mark: &Mark<'_>) -> bool {
        let mut hmac = self.hmac.clone();
        hmac.update(mark.digits.as_bytes());
        hmac.verify_slice(&mark.signature).is_ok()
    }
}

/// What a header says, before anything of it is believed.
struct Mark<'a> {
    digits: &'a str,
    expiry: u64,
    signature: [u8; SIGNATURE_BYTES],
}

impl<'a> Mark<'a> {
    fn parse(text: &'a str) -> Option<Mark<'a>> {
        let (digits, hex) = text.split_once('.')?;
        if !digits.bytes().all(|byte| byte.is_ascii_digit()) || hex.len() != 2 * SIGNATURE_BYTES {
            return None;
        }
        let mut signature = [0; SIGNATURE_BYTES];
        for (byte, pair) in signature.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
            let digit = |at: usize| char::from(pair[at]).to_digit(16);
            *byte = (digit(0)? << 4 | digit(1)?) as u8;
        }
        Some(Mark { digits, expiry: digits.parse().ok()?, signature })
    }
}

/// Whose marks a gateway takes, and whether it does now. Clones share the switch.
#[derive(Clone, Default)]
pub struct DrillDoor {
    key: Option<DrillKey>,
    stopped: Arc<AtomicBool>,
}

impl DrillDoor {
    /// Takes marks of this key; of none without.
    pub fn new(key: Option<DrillKey>) -> DrillDoor {
        DrillDoor { key, stopped: Arc::default() }
    }

    /// Whether there is a key.
    pub fn has_key(&self) -> bool {
        self.key.is_some()
    }

    /// Refuses what is marked from here on, or takes it again.
    pub fn stop(&self, stopped: bool) {
        self.stopped.store(stopped, Relaxed);
    }

    /// Whether what is marked is refused.
    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Relaxed)
    }

    /// Where a request with these headers happens.
    pub(crate) fn realm(&self, headers: &HeaderMap) -> Result<Realm, Problem> {
        let mut marks = headers.get_all(HEADER).iter();
        let Some(mark) = marks.next() else { return Ok(Realm::Live) };
        let only = marks.next().is_none();
        let mark = mark.to_str().ok().filter(|_| only).and_then(Mark::parse);
        let mark = mark.ok_or_else(Problem::malformed_mark)?;
        let Some(key) = &self.key else {
            return Err(Problem::bad_mark("no drills are taken here: there is no drill key"));
        };
        if !key.has_signed(&mark) {
            return Err(Problem::bad_mark("it isn't signed with the drill key"));
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        if now >= Duration::from_secs(mark.expiry) {
            return Err(Problem::bad_mark("it has expired"));
        }
        match self.is_stopped() {
            false => Ok(Realm::Drill),
            true => Err(Problem::drill_stopped()),
        }
    }
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    const FAR: u64 = 4_102_444_800;

    fn key() -> DrillKey {
        DrillKey::new(b"0123456789abcdef\n").unwrap()
    }

    fn found(door: &DrillDoor, marks: &[&str]) -> Result<Realm, u16> {
        let mut headers = HeaderMap::new();
        for mark in marks {
            headers.append(HEADER, HeaderValue::from_str(mark).unwrap());
        }
        door.realm(&headers).map_err(|problem| problem.status().as_u16())
    }

    #[test]
    fn a_mark_is_the_hmac_of_its_expiry() {
        // printf 4102444800 | openssl dgst -sha256 -hmac 0123456789abcdef
        let signature = "b602b35f6af5a7024cdbf179d142e30b7ce9e387730040767a221f3095f61bf7";
        assert_eq!(key().mark(FAR), format!("4102444800.{signature}"));
    }

    #[test]
    fn good_marks_lead_to_the_drill_realm_and_no_mark_to_trade() {
        let door = DrillDoor::new(Some(key()));
        assert_eq!(found(&door, &[]), Ok(Realm::Live));
        let mark = key().mark(FAR);
        assert_eq!(found(&door, &[&mark]), Ok(Realm::Drill));
        door.stop(true);
        assert_eq!((found(&door, &[&mark]), found(&door, &[])), (Err(503), Ok(Realm::Live)));
        door.clone().stop(false);
        assert_eq!(found(&door, &[&mark]), Ok(Realm::Drill));
    }

    #[test]
    fn marks_that_are_not_good_are_refused() {
        let door = DrillDoor::new(Some(key()));
        let mark = key().mark(FAR);
        let later = mark.replacen("41", "42", 1);
        let other = DrillKey::new(b"another key, as long").unwrap().mark(FAR);
        for mark in [later, other, key().mark(1), format!("{FAR}.{}", "0".repeat(64))] {
            assert_eq!(found(&door, &[&mark]), Err(403), "{mark}");
        }
        assert_eq!(found(&DrillDoor::new(None), &[&mark]), Err(403));
    }

    #[test]
    fn what_is_no_mark_is_malformed() {
        let (door, good) = (DrillDoor::new(Some(key())), key().mark(FAR));
        let (digits, hex) = good.split_once('.').unwrap();
        for mark in [
            "",
            "yes",
            digits,
            hex,
            &format!(".{hex}"),
            &format!("{digits}."),
            &format!("+{good}"),
            &format!("{digits}.{}", &hex[1..]),
            &format!("{good}0"),
            &format!("{digits}.{}g", &hex[1..]),
            &format!("99999999999999999999.{hex}"),
        ] {
            assert_eq!(found(&door, &[mark]), Err(400), "{mark:?}");
        }
        assert_eq!(found(&door, &[&good, &good]), Err(400));
        // Also where no drills are taken.
        assert_eq!(found(&DrillDoor::default(), &["yes"]), Err(400));
    }

    #[test]
    fn keys_have_a_length() {
        let length = |secret: &[u8]| DrillKey::new(secret).map(drop).map_err(|error| error.found);
        assert_eq!(length(b" fifteen bytes! \n"), Err(14));
        assert_eq!(length(&[b'x'; 16]), Ok(()));
        assert_eq!(length(&[b'x'; 1_025]), Err(1_025));
    }
}
