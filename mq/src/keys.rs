//! Keys of what is encrypted at rest, and what is derived from them.
//!
//! The [`DataKey`] is its owner's, and encrypts nothing but the [`DirectoryKey`]. That is random,
//! made with the directory and kept in it, wrapped under the data key: so the data key can be
//! changed and nothing has to be written again. Each file and each archived object has keys of its
//! own, derived from the directory's and a random salt that it begins or ends with (HKDF-SHA256,
//! RFC 5869).

use std::fmt;

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, KeyType, Salt};
use zeroize::Zeroizing;

/// Bytes of a salt. Two that are drawn are never the same.
pub(crate) const SALT_BYTES: usize = 16;
/// Bytes that an AEAD adds.
pub(crate) const TAG_BYTES: usize = 16;
/// Bytes of a wrapped directory key: salt, key, tag.
const WRAPPED_BYTES: usize = SALT_BYTES + 32 + TAG_BYTES;

/// Draws random bytes.
pub(crate) fn draw<const N: usize>() -> std::io::Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(std::io::Error::other)?;
    Ok(bytes)
}

/// Derives keys of so many bytes.
fn derive<const N: usize>(secret: &[u8], salt: &[u8], purpose: &[u8]) -> Zeroizing<[u8; N]> {
    struct Bytes(usize);
    impl KeyType for Bytes {
        fn len(&self) -> usize {
            self.0
        }
    }
    let mut key = Zeroizing::new([0; N]);
    let extracted = Salt::new(HKDF_SHA256, salt).extract(secret);
    let filled =
        extracted.expand(&[purpose], Bytes(N)).and_then(|expanded| expanded.fill(&mut key[..]));
    filled.expect("HKDF yields that many bytes");
    key
}

/// The key under which a data directory's own is kept.
#[derive(Clone)]
pub struct DataKey {
    secret: Zeroizing<Vec<u8>>,
}

/// What is shown of it says nothing.
impl std::fmt::Debug for DataKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a data key")
    }
}

/// A data key has too few bytes, or too many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a data key has {} to {} bytes, and this one has {found}", DataKey::MIN, DataKey::MAX)]
pub struct DataKeyLength {
    /// Bytes of the key.
    pub found: usize,
}

impl DataKey {
    /// Fewer bytes can't be random enough.
    pub const MIN: usize = 32;
    /// More bytes are something else, given by mistake.
    pub const MAX: usize = 1_024;

    /// From a secret. White space around it doesn't count: it comes from files and editors. It has
    /// to be random: nothing here slows down who guesses.
    pub fn new(secret: &[u8]) -> Result<DataKey, DataKeyLength> {
        let secret = secret.trim_ascii();
        if !(DataKey::MIN..=DataKey::MAX).contains(&secret.len()) {
            return Err(DataKeyLength { found: secret.len() });
        }
        Ok(DataKey { secret: Zeroizing::new(secret.to_vec()) })
    }

    /// The directory's key, encrypted and bound to what is known of the directory.
    pub fn wrap(&self, key: &DirectoryKey, about: &[u8]) -> std::io::Result<Vec<u8>> {
        let salt: [u8; SALT_BYTES] = draw()?;
        // What grows would leave a copy.
        let mut wrapped = Zeroizing::new(Vec::with_capacity(key.0.len() + TAG_BYTES));
        wrapped.extend_from_slice(&key.0[..]);
        self.wrapping(&salt).seal(0, about, &mut wrapped);
        Ok([&salt[..], &wrapped[..]].concat())
    }

    /// The reverse; `None` if it was wrapped under another key, or isn't what was wrapped.
    pub fn unwrap(&self, wrapped: &[u8], about: &[u8]) -> Option<DirectoryKey> {
        let (salt, sealed) = wrapped.split_at_checked(SALT_BYTES)?;
        if wrapped.len() != WRAPPED_BYTES {
            return None;
        }
        let mut sealed = Zeroizing::new(sealed.to_vec());
        let key = self.wrapping(salt).open(0, about, &mut sealed)?;
        Some(DirectoryKey(Zeroizing::new(key.try_into().ok()?)))
    }

    fn wrapping(&self, salt: &[u8]) -> Sealer {
        Sealer::new(&derive(&self.secret, salt, b"crest directory key"))
    }
}

/// The key from which those of a directory's files and archived objects are derived.
#[derive(Clone)]
pub struct DirectoryKey(Zeroizing<[u8; 32]>);

impl fmt::Debug for DirectoryKey {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DirectoryKey")
    }
}

impl DirectoryKey {
    /// A new one.
    pub fn draw() -> std::io::Result<DirectoryKey> {
        Ok(DirectoryKey(Zeroizing::new(draw()?)))
    }

    /// Encrypts something small, about which something is known, so that a change is found.
    pub fn seal(&self, about: &[u8], plain: &[u8]) -> std::io::Result<Vec<u8>> {
        let salt: [u8; SALT_BYTES] = draw()?;
        let mut sealed = Zeroizing::new(Vec::with_capacity(plain.len() + TAG_BYTES));
        sealed.extend_from_slice(plain);
        self.sealing(&salt).seal(0, about, &mut sealed);
        Ok([&salt[..], &sealed[..]].concat())
    }

    /// The reverse; `None` if it isn't what was encrypted.
    pub fn open(&self, about: &[u8], sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let (salt, sealed) = sealed.split_first_chunk::<SALT_BYTES>()?;
        let mut sealed = Zeroizing::new(sealed.to_vec());
        let length = self.sealing(salt).open(0, about, &mut sealed)?.len();
        sealed.truncate(length);
        Some(sealed)
    }

    fn sealing(&self, salt: &[u8; SALT_BYTES]) -> Sealer {
        Sealer::new(&derive(&self.0[..], salt, b"crest sealed"))
    }

    /// The keys of a file, and a value by which they are known.
    pub(crate) fn of_file<const N: usize>(&self, salt: &[u8; SALT_BYTES]) -> Zeroizing<[u8; N]> {
        derive(&self.0[..], salt, b"crest file")
    }

    /// The key of an archived object.
    pub(crate) fn of_object(&self, salt: &[u8; SALT_BYTES]) -> Sealer {
        Sealer::new(&derive(&self.0[..], salt, b"crest archive object"))
    }
}

/// Encrypts parts of one thing, each with a number of its own, so that a change is found
/// (AES-256-GCM).
pub(crate) struct Sealer(LessSafeKey);

impl Sealer {
    fn new(key: &[u8; 32]) -> Sealer {
        let key = UnboundKey::new(&AES_256_GCM, key).expect("it has 32 bytes");
        Sealer(LessSafeKey::new(key))
    }

    /// Encrypts part `number` in place. No number may come twice.
    pub fn seal(&self, number: u32, about: &[u8], part: &mut Vec<u8>) {
        let sealed = self.0.seal_in_place_append_tag(nonce(number), Aad::from(about), part);
        sealed.expect("a part is shorter than 64 GiB");
    }

    /// Decrypts it in place; `None` if it isn't what was encrypted.
    pub fn open<'a>(&self, number: u32, about: &[u8], part: &'a mut [u8]) -> Option<&'a [u8]> {
        let opened = self.0.open_in_place(nonce(number), Aad::from(about), part);
        opened.ok().map(|plain| &*plain)
    }
}

fn nonce(number: u32) -> Nonce {
    let mut nonce = [0; NONCE_LEN];
    nonce[..4].copy_from_slice(&number.to_le_bytes());
    Nonce::assume_unique_for_key(nonce)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_derived_as_in_rfc_5869() {
        // Test case 1 of its appendix.
        let salt: Vec<u8> = (0..=0x0c).collect();
        let purpose: Vec<u8> = (0xf0..=0xf9).collect();
        let key = derive::<42>(&[0x0b; 22], &salt, &purpose);
        let hex: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(
            hex,
            "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865"
        );
    }

    #[test]
    fn a_wrapped_key_opens_with_its_own_key_alone() {
        let (ours, other) = (DataKey::new(&[b'x'; 64]), DataKey::new(&[b'y'; 64]));
        let (ours, other) = (ours.unwrap(), other.unwrap());
        let key = DirectoryKey::draw().unwrap();
        let wrapped = ours.wrap(&key, b"seed").unwrap();
        assert_eq!(ours.unwrap(&wrapped, b"seed").unwrap().0, key.0);
        assert!(other.unwrap(&wrapped, b"seed").is_none());
        assert!(ours.unwrap(&wrapped, b"another").is_none());
        for at in 0..wrapped.len() {
            let mut changed = wrapped.clone();
            changed[at] ^= 1;
            assert!(ours.unwrap(&changed, b"seed").is_none(), "byte {at}");
            assert!(ours.unwrap(&wrapped[..at], b"seed").is_none());
        }
        assert_ne!(ours.wrap(&key, b"seed").unwrap(), wrapped);
    }

    #[test]
    fn a_secret_is_neither_short_nor_something_else() {
        let found = |secret: &[u8]| DataKey::new(secret).map(drop).unwrap_err().found;
        assert_eq!(found(&[b'x'; 31]), 31);
        assert_eq!(found(&[b'x'; 1_025]), 1_025);
        let spaced = [&b" \n"[..], &[b'x'; 32], b"\r\n"].concat();
        assert_eq!(DataKey::new(&spaced).unwrap().secret[..], [b'x'; 32]);
    }
}
