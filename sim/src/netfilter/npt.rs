//! Prefixes that become others (RFC 6296): the inner network is also reached by the addresses of a network outside, each host of it by one of its own,
//! so that no checksum changes.

/// Both are 64 bits long.
pub(super) const INNER: u128 = 0xfd00 << 112;
pub(super) const OUTER: u128 = 0x2001_0db8_0099 << 80;

/// Whether an address is of one of them.
pub(super) fn is_of(prefix: u128, address: u128) -> bool {
    address >> 64 == prefix >> 64
}

/// The word behind the prefix takes up what changes (§3.5): the sum of all words stays what it was, modulo 2^16 - 1.
pub(super) fn map(address: u128, to: u128) -> u128 {
    const ALL: u128 = 0xffff;
    let words = |address: u128| (0..8).map(move |word| address >> (16 * word) & ALL);
    let moved = to | address & u128::from(u64::MAX) & !(ALL << 48);
    let lacks = words(address).sum::<u128>() + 8 * ALL - words(moved).sum::<u128>();
    moved | (lacks % ALL) << 48
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_there_comes_back_with_the_same_sum() {
        for host in [1, 100, 0xffff] {
            let there = map(INNER | host, OUTER);
            assert!(is_of(OUTER, there) && !is_of(INNER, there), "{there:x}");
            assert_eq!(map(there, INNER), INNER | host);
        }
        // As the kernel has it.
        assert_eq!(map(INNER | 0x11, OUTER), 0x2001_0db8_0099_0000_ceae_0000_0000_0011);
    }
}
