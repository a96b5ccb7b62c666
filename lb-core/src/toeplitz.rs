//! Toeplitz's hash: the one by which network cards spread packets over their receive queues (RSS).
//!
//! Each bit that is set in the input adds, by exclusive or, the 32 bits of the key that begin at its place. So it is linear: what a part of
//! the input adds depends on that part alone, which is what [`Rss`](crate::rss::Rss) makes use of.
//!
//! Source: Microsoft, "RSS hashing types" and "Verifying the RSS hash calculation"; DPDK's `rte_softrss` computes the same.

/// The hash of `input`: source address, destination address, source port, destination port, as they are on the wire and as far as they are
/// hashed. A key that is shorter than four bytes more than the input goes on with zeros.
pub fn hash(key: &[u8], input: &[u8]) -> u32 {
    let mut hash = 0;
    for (at, byte) in input.iter().enumerate() {
        // All that the bits of this byte may choose.
        let window =
            (at..at + 5).fold(0u64, |window, at| window << 8 | u64::from(key.get(at).copied().unwrap_or(0)));
        for bit in 0..8 {
            if byte << bit & 0x80 != 0 {
                hash ^= (window >> (8 - bit)) as u32;
            }
        }
    }
    hash
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// That of Microsoft's examples.
    const KEY: [u8; 40] = [
        0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0, 0xd0,
        0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42,
        0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa,
    ];

    #[test]
    fn the_published_examples_have_their_published_hashes() {
        // From, to, the hash of the addresses, and of the ports too.
        let examples = [
            ("66.9.149.187:2794", "161.142.100.80:1766", 0x323e_8fc2, 0x51cc_c178),
            ("199.92.111.2:14230", "65.69.140.83:4739", 0xd718_262a, 0xc626_b0ea),
            ("24.19.198.95:12898", "12.22.207.184:38024", 0xd2d0_a5de, 0x5c2b_394a),
            ("38.27.205.30:48228", "209.142.163.6:2217", 0x8298_9176, 0xafc7_327f),
            ("153.39.163.191:44251", "202.188.127.2:1303", 0x5d18_09c5, 0x10e8_28a2),
            ("[3ffe:2501:200:1fff::7]:2794", "[3ffe:2501:200:3::1]:1766", 0x2cc1_8cd5, 0x4020_7d3d),
            ("[3ffe:501:8::260:97ff:fe40:efab]:14230", "[ff02::1]:4739", 0x0f0c_461c, 0xdde5_1bbf),
            (
                "[3ffe:1900:4545:3:200:f8ff:fe21:67cf]:44251",
                "[fe80::200:f8ff:fe21:67cf]:38024",
                0x4b61_e985,
                0x02d1_feef,
            ),
        ];
        for (from, to, addresses, whole) in examples {
            let ends: [SocketAddr; 2] = [from, to].map(|end| end.parse().unwrap());
            let mut input = Vec::new();
            for end in ends {
                match end {
                    SocketAddr::V4(end) => input.extend(end.ip().octets()),
                    SocketAddr::V6(end) => input.extend(end.ip().octets()),
                }
            }
            assert_eq!(hash(&KEY, &input), addresses, "{from} to {to}");
            ends.iter().for_each(|end| input.extend(end.port().to_be_bytes()));
            assert_eq!(hash(&KEY, &input), whole, "{from} to {to}, with ports");
        }
    }

    /// As it is specified: the key moves to the left by one bit for each bit of the input.
    fn slow(key: &[u8], input: &[u8]) -> u32 {
        let bits = |bytes: &[u8]| -> Vec<bool> {
            bytes.iter().flat_map(|byte| (0..8).map(move |bit| byte >> (7 - bit) & 1 == 1)).collect()
        };
        let mut key = bits(key);
        let mut hash = 0;
        for is_set in bits(input) {
            key.resize(key.len().max(32), false);
            if is_set {
                hash ^= key[..32].iter().fold(0u32, |word, &bit| word << 1 | u32::from(bit));
            }
            key.remove(0);
        }
        hash
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn the_hash_is_the_one_that_moves_the_key_bit_by_bit(
            key in vec(any::<u8>(), 0..53),
            input in vec(any::<u8>(), 0..40),
        ) {
            prop_assert_eq!(hash(&key, &input), slow(&key, &input));
        }
    }
}
