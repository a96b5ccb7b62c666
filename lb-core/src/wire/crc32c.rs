//! CRC32c (RFC 9260 appendix A), brought up to date by a difference: what SCTP has for a checksum.
//!
//! A CRC is linear: what changing some bytes does to it depends on the change and on how many bytes follow, not on what these are. So
//! a rewrite of the ports need not look at the packet behind them, wherever it is, and a wrong checksum stays wrong by as much.
//!
//! Numbers are polynomials over GF(2), bit-reversed: the lowest bit is the coefficient of x³¹, as the bytes of a packet are
//! fed in and as the field stands in it, little-endian.

/// The generator, without x³².
const GENERATOR: u32 = 0x82f6_3b78;
/// 1.
const ONE: u32 = 1 << 31;

/// x⁸ⁿ for each n that a byte can hold, and for each multiple of 256.
static BY_LOW_BYTE: [u32; 256] = powers(1);
static BY_HIGH_BYTE: [u32; 256] = powers(256);

/// What exchanging four bytes does to the checksum of `len` bytes that begin with them. `change` is the difference (exclusive or)
/// of the old bytes and the new ones, read as a little-endian number; the result is that of the field.
#[inline]
pub fn change_at_start(change: u32, len: u16) -> u32 {
    let [low, high] = len.to_le_bytes();
    multiply(multiply(change, BY_LOW_BYTE[usize::from(low)]), BY_HIGH_BYTE[usize::from(high)])
}

/// The product modulo the generator.
const fn multiply(a: u32, mut b: u32) -> u32 {
    let mut product = 0;
    let mut bit = 32;
    while bit > 0 {
        bit -= 1;
        product ^= b & (a >> bit & 1).wrapping_neg();
        b = b >> 1 ^ GENERATOR & (b & 1).wrapping_neg();
    }
    product
}

/// x to the power of 8 · `step` · n, for each n.
const fn powers(step: usize) -> [u32; 256] {
    // x⁸.
    let mut factor = ONE >> 8;
    let mut doubled = 1;
    while doubled < step {
        factor = multiply(factor, factor);
        doubled *= 2;
    }
    let mut powers = [ONE; 256];
    let mut n = 1;
    while n < powers.len() {
        powers[n] = multiply(powers[n - 1], factor);
        n += 1;
    }
    powers
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Bit by bit, over all.
    pub(crate) fn slow(bytes: &[u8]) -> u32 {
        let mut crc = u32::MAX;
        for byte in bytes {
            crc ^= u32::from(*byte);
            for _ in 0..8 {
                crc = if crc & 1 == 1 { crc >> 1 ^ GENERATOR } else { crc >> 1 };
            }
        }
        !crc
    }

    #[test]
    fn slow_twin_gives_what_rfc_3720_says() {
        // RFC 3720 appendix B.4: zeros, ones, counting up, counting down.
        assert_eq!(slow(&[0; 32]), 0x8a91_36aa);
        assert_eq!(slow(&[0xff; 32]), 0x62a8_ab43);
        let up: Vec<u8> = (0..32).collect();
        assert_eq!(slow(&up), 0x46dd_794e);
        let down: Vec<u8> = (0..32).rev().collect();
        assert_eq!(slow(&down), 0x113f_db5c);
    }

    proptest! {
        #[test]
        fn difference_equals_a_computation_over_all(
            mut bytes in proptest::collection::vec(any::<u8>(), 4..3000),
            new: [u8; 4],
        ) {
            let before = slow(&bytes);
            let old = [bytes[0], bytes[1], bytes[2], bytes[3]];
            bytes[..4].copy_from_slice(&new);
            let change = u32::from_le_bytes(old) ^ u32::from_le_bytes(new);
            prop_assert_eq!(before ^ change_at_start(change, bytes.len() as u16), slow(&bytes));
        }
    }

    #[test]
    fn the_longest_packet_there_is() {
        let mut bytes = vec![0x5a; 65_535];
        let before = slow(&bytes);
        bytes[..4].copy_from_slice(&[1, 2, 3, 4]);
        let change = 0x5a5a_5a5a ^ u32::from_le_bytes([1, 2, 3, 4]);
        assert_eq!(before ^ change_at_start(change, 65_535), slow(&bytes));
    }
}
