//! XTS-AES-256 (IEEE 1619): each block of a disk is encrypted by itself and keeps its length.
//!
//! A mode for disks has no room for a nonce or a tag. What it hides is content: somebody who sees
//! two versions of a file sees which 16 bytes of which block changed. Somebody who can write may
//! put an old block back; checksums above find damage, not that.
//!
//! All 256 tweaks of a block come first, then all of its AES: the processor runs eight and more of
//! them at a time, where a loop of one after the other would wait for each.

use aes::cipher::consts::U16;
use aes::cipher::{Array, BlockCipherDecrypt, BlockCipherEncrypt, KeyInit};
use aes::{Aes256Dec, Aes256Enc};

use crate::aligned::BLOCK_BYTES;

/// Bytes of the two keys.
pub(crate) const XTS_KEY_BYTES: usize = 64;

type Unit = Array<u8, U16>;

const UNITS: usize = BLOCK_BYTES / size_of::<Unit>();

/// The keys of a file.
pub(crate) struct Xts {
    encrypts: Aes256Enc,
    decrypts: Aes256Dec,
    tweaks: Aes256Enc,
}

impl Xts {
    pub fn new(key: &[u8; XTS_KEY_BYTES]) -> Xts {
        let (content, tweaks) = key.split_at(XTS_KEY_BYTES / 2);
        let of_length = "half of the keys is a key";
        Xts {
            encrypts: Aes256Enc::new_from_slice(content).expect(of_length),
            decrypts: Aes256Dec::new_from_slice(content).expect(of_length),
            tweaks: Aes256Enc::new_from_slice(tweaks).expect(of_length),
        }
    }

    /// Encrypts block `number`, or as much of it as there is, in place. Less than 16 bytes at its
    /// end stay as they are.
    pub fn encrypt(&self, number: u64, block: &mut [u8]) {
        let (tweaks, units) = (self.tweaks_of(number), units(block));
        xor(units, &tweaks);
        self.encrypts.encrypt_blocks(units);
        xor(units, &tweaks);
    }

    /// The reverse.
    pub fn decrypt(&self, number: u64, block: &mut [u8]) {
        let (tweaks, units) = (self.tweaks_of(number), units(block));
        xor(units, &tweaks);
        self.decrypts.decrypt_blocks(units);
        xor(units, &tweaks);
    }

    /// The first is the number, encrypted; each following one is the one before times x, modulo
    /// x^128 + x^7 + x^2 + x + 1.
    fn tweaks_of(&self, number: u64) -> [u128; UNITS] {
        let mut first = Unit::from(u128::from(number).to_le_bytes());
        self.tweaks.encrypt_block(&mut first);
        let mut tweak = u128::from_le_bytes(first.into());
        let mut all = [0; UNITS];
        for each in &mut all {
            *each = tweak;
            tweak = (tweak << 1) ^ (0x87 * (tweak >> 127));
        }
        all
    }
}

fn units(block: &mut [u8]) -> &mut [Unit] {
    assert!(block.len() <= BLOCK_BYTES, "it is one block");
    Unit::slice_as_chunks_mut(block).0
}

fn xor(units: &mut [Unit], tweaks: &[u128; UNITS]) {
    for (unit, tweak) in units.iter_mut().zip(tweaks) {
        *unit = (u128::from_le_bytes((*unit).into()) ^ tweak).to_le_bytes().into();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        let digit = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
        (0..hex.len()).step_by(2).map(digit).collect()
    }

    /// The keys of the standard's vectors of XTS-AES-256: digits of e, and of pi.
    fn keys() -> [u8; 64] {
        let e = "2718281828459045235360287471352662497757247093699959574966967627";
        let pi = "3141592653589793238462643383279502884197169399375105820974944592";
        bytes(&[e, pi].concat()).try_into().unwrap()
    }

    /// IEEE 1619, annex B, vector 10.
    const VECTOR_10: &str = "\
        1c3b3a102f770386e4836c99e370cf9bea00803f5e482357a4ae12d414a3e63b\
        5d31e276f8fe4a8d66b317f9ac683f44680a86ac35adfc3345befecb4bb188fd\
        5776926c49a3095eb108fd1098baec70aaa66999a72a82f27d848b21d4a741b0\
        c5cd4d5fff9dac89aeba122961d03a757123e9870f8acf1000020887891429ca\
        2a3e7a7d7df7b10355165c8b9a6d0a7de8b062c4500dc4cd120c0f7418dae3d0\
        b5781c34803fa75421c790dfe1de1834f280d7667b327f6c8cd7557e12ac3a0f\
        93ec05c52e0493ef31a12d3d9260f79a289d6a379bc70c50841473d1a8cc81ec\
        583e9645e07b8d9670655ba5bbcfecc6dc3966380ad8fecb17b6ba02469a020a\
        84e18e8f84252070c13e9f1f289be54fbc481457778f616015e1327a02b140f1\
        505eb309326d68378f8374595c849d84f4c333ec4423885143cb47bd71c5edae\
        9be69a2ffeceb1bec9de244fbe15992b11b77c040f12bd8f6a975a44a0f90c29\
        a9abc3d4d893927284c58754cce294529f8614dcd2aba991925fedc4ae74ffac\
        6e333b93eb4aff0479da9a410e4450e0dd7ae4c6e2910900575da401fc07059f\
        645e8b7e9bfdef33943054ff84011493c27b3429eaedb4ed5376441a77ed4385\
        1ad77f16f541dfd269d50d6a5f14fb0aab1cbb4c1550be97f7ab4066193c4caa\
        773dad38014bd2092fa755c824bb5e54c4f36ffda9fcea70b9c6e693e148c151";

    #[test]
    fn it_is_the_mode_of_the_standard() {
        let plain: Vec<u8> = (0..512).map(|n| n as u8).collect();
        let mut block = plain.clone();
        let xts = Xts::new(&keys());
        xts.encrypt(0xff, &mut block);
        assert_eq!(block, bytes(VECTOR_10));
        xts.decrypt(0xff, &mut block);
        assert_eq!(block, plain);
        // Another number is another block.
        xts.encrypt(0xffff, &mut block);
        assert_eq!(block[..8], bytes("77a31251618a15e6"));
        // The end of a whole block, as OpenSSL has it.
        let plain: Vec<u8> = (0..BLOCK_BYTES).map(|n| (n % 251) as u8).collect();
        let mut block = plain.clone();
        xts.encrypt(7, &mut block);
        assert_eq!(block[BLOCK_BYTES - 16..], bytes("086919abf9d3af61804d2b9fbb4ff792"));
        xts.decrypt(7, &mut block);
        assert_eq!(block, plain);
    }
}
