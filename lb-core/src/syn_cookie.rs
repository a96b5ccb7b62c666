//! SYN cookies: a connection that is asked for is nothing but numbers in the answer, until its client has shown that it gets answers.
//!
//! The sequence number of the SYN with ACK says what the client's largest segment was, about, and when it was; what else of a SYN matters
//! stands in the low bits of our timestamp, which the client sends back (RFC 7323 §3.2). A keyed hash makes the number one that nobody else can find:
//!
//! ```text
//! 31 30 │ 29 28 27 │ 26 … 0
//! period│ segment  │ SipHash-2-4 of ends, client's number, period, segment
//! ```
//!
//! Nothing is kept, so that all workers know each other's cookies. A cookie is good in the period of 64 s in which it was made and in the
//! next one; a number that is guessed is one with probability 2⁻²⁷ for each of the two keys.
//!
//! Source of the idea: D. J. Bernstein, "SYN cookies"; RFC 4987 §3.6. Of the timestamp's bits: Linux, `nf_synproxy_core.c`.

use std::fmt;
use std::hash::Hasher as _;
use std::net::IpAddr;

use siphasher::sip::SipHasher24;

use crate::flow::Tuple;
use crate::time::Tick;
use crate::wire::tcp_options::TcpOptions;

/// Keys of the hash: the one in use, and the one before it, whose cookies are good until they are too old.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Secrets([Key; 2]);

/// 128 bits that nobody can guess.
pub type Key = [u64; 2];

impl Secrets {
    pub const fn new(key: Key) -> Secrets {
        Secrets([key; 2])
    }

    /// With another key. Not to be done twice in two periods.
    #[must_use]
    pub fn rotated(self, key: Key) -> Secrets {
        Secrets([key, self.0[0]])
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secrets")
    }
}

/// Ticks in which cookies are of one time.
const PERIOD: u32 = 64 * Tick::PER_SECOND;

/// What a client's largest segment is taken for: the next one below. The lengths are those of usual links, without headers.
const SEGMENTS: [u16; 8] = [64, 536, 1220, 1300, 1360, 1440, 1460, 8960];

const HASH_BITS: u32 = 27;
const SEGMENT_BITS: u32 = 3;

/// The number of our answer to a SYN from `client` on, whose first number was `seq`. `client` is as the SYN came.
pub fn make(secrets: &Secrets, client: &Tuple, seq: u32, mss: u16, now: Tick) -> u32 {
    let segment = SEGMENTS.iter().rposition(|&known| known <= mss).unwrap_or(0) as u32;
    cookie(&secrets.0[0], client, seq, now.0 / PERIOD, segment)
}

/// The largest segment of the client that acknowledges `cookie` and whose first number was `seq`; `None`: it is no cookie of ours, another
/// connection's, or too old.
pub fn check(secrets: &Secrets, client: &Tuple, seq: u32, cookie: u32, now: Tick) -> Option<u16> {
    let segment = cookie >> HASH_BITS & ((1 << SEGMENT_BITS) - 1);
    let mut periods = [now.0, now.0.wrapping_sub(PERIOD)].into_iter().map(|then| then / PERIOD);
    let is_ours =
        |period| secrets.0.iter().any(|key| self::cookie(key, client, seq, period, segment) == cookie);
    let is_good = periods.any(|period| period & 3 == cookie >> (HASH_BITS + SEGMENT_BITS) && is_ours(period));
    SEGMENTS.get(segment as usize).copied().filter(|_| is_good)
}

fn cookie(key: &Key, client: &Tuple, seq: u32, period: u32, segment: u32) -> u32 {
    let mut hash = SipHasher24::new_with_keys(key[0], key[1]);
    for address in [client.src, client.dst] {
        match address {
            IpAddr::V4(address) => hash.write_u32(address.into()),
            IpAddr::V6(address) => hash.write_u128(address.into()),
        }
    }
    hash.write_u32(u32::from(client.sport) << 16 | u32::from(client.dport));
    hash.write_u32(seq);
    hash.write_u32(period);
    hash.write_u32(segment);
    let hash = hash.finish() as u32 & ((1 << HASH_BITS) - 1);
    (period & 3) << (HASH_BITS + SEGMENT_BITS) | segment << HASH_BITS | hash
}

/// What a client that is answered with a cookie is offered for the server.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Offer {
    pub mss: Option<u16>,
    /// Shift of the server's windows.
    pub scale: Option<u8>,
    pub sack: bool,
    pub timestamps: bool,
    pub ecn: bool,
}

/// Bits of a timestamp that say what a SYN offered, as Linux's SYNPROXY has them.
const STAMP: u32 = 0x3f;
const STAMP_SCALE: u32 = 0xf;
const STAMP_SACK: u32 = 1 << 4;
const STAMP_ECN: u32 = 1 << 5;

/// Our timestamp of this moment, with what of a client's SYN is to be remembered. Milliseconds, as Linux's.
pub fn stamp(offered: &TcpOptions, is_ecn: bool, now: Tick) -> u32 {
    const MILLISECONDS: u32 = 1000 / Tick::PER_SECOND;
    let scale = offered.scale.map_or(STAMP_SCALE, |scale| u32::from(scale.min(TcpOptions::MAX_SCALE)));
    let sack = if offered.sack { STAMP_SACK } else { 0 };
    let ecn = if is_ecn { STAMP_ECN } else { 0 };
    now.0.wrapping_mul(MILLISECONDS) & !STAMP | scale | sack | ecn
}

/// What a [`stamp`] that came back remembers: options, and whether ECN was asked for.
pub fn recall(stamp: u32) -> (TcpOptions, bool) {
    let scale = (stamp & STAMP_SCALE) as u8;
    let offered = TcpOptions {
        scale: (u32::from(scale) != STAMP_SCALE).then_some(scale),
        sack: stamp & STAMP_SACK != 0,
        ..TcpOptions::default()
    };
    (offered, stamp & STAMP_ECN != 0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tables::Protocol;

    fn tuples() -> impl Strategy<Value = Tuple> {
        let ends = prop_oneof![
            any::<[[u8; 4]; 2]>().prop_map(|ends| ends.map(IpAddr::from)),
            any::<[[u8; 16]; 2]>().prop_map(|ends| ends.map(IpAddr::from)),
        ];
        (ends, any::<u16>(), any::<u16>()).prop_map(|([src, dst], sport, dport)| Tuple {
            src,
            dst,
            sport,
            dport,
            protocol: Protocol::TCP,
        })
    }

    proptest! {
        #[test]
        fn a_cookie_is_good_in_its_period_and_the_next_and_not_after(
            (key, client, seq, mss) in (any::<Key>(), tuples(), any::<u32>(), any::<u16>()),
            (made, later) in (0..u32::MAX / 2, 0..4 * PERIOD),
        ) {
            let secrets = Secrets::new(key);
            let number = make(&secrets, &client, seq, mss, Tick(made));
            let is_good = (made + later) / PERIOD - made / PERIOD <= 1;
            // By a search from the other end than the table's.
            let expected = SEGMENTS.iter().copied().filter(|&known| known <= mss).max().unwrap_or(64);
            let found = check(&secrets, &client, seq, number, Tick(made + later));
            prop_assert_eq!(found, is_good.then_some(expected));
        }

        #[test]
        fn a_cookie_is_of_its_ends_its_number_and_its_key_alone(
            (key, other) in any::<(Key, Key)>(),
            (client, another) in (tuples(), tuples()),
            (seq, flipped, now) in (any::<u32>(), 0..32_u32, any::<u32>()),
        ) {
            prop_assume!(key != other && client != another && client != client.reversed());
            let (secrets, now) = (Secrets::new(key), Tick(now));
            let number = make(&secrets, &client, seq, 1460, now);
            let check = |secrets, client, seq, number| check(&secrets, &client, seq, number, now);
            prop_assert_eq!(check(secrets, client, seq, number), Some(1460));
            prop_assert_eq!(check(Secrets::new(other), client, seq, number), None);
            prop_assert_eq!(check(secrets, another, seq, number), None);
            prop_assert_eq!(check(secrets, client.reversed(), seq, number), None);
            prop_assert_eq!(check(secrets, client, seq ^ 1 << flipped, number), None);
            prop_assert_eq!(check(secrets, client, seq, number ^ 1 << flipped), None);
        }

        #[test]
        fn a_key_that_was_exchanged_is_good_until_the_next_exchange(
            keys in any::<[Key; 3]>(), client in tuples(), seq in any::<u32>(),
        ) {
            prop_assume!(keys[0] != keys[1] && keys[0] != keys[2]);
            let now = Tick(1_000_000);
            let first = Secrets::new(keys[0]);
            let number = make(&first, &client, seq, 9000, now);
            let second = first.rotated(keys[1]);
            prop_assert_eq!(check(&second, &client, seq, number, now), Some(8960));
            prop_assert_eq!(check(&second.rotated(keys[2]), &client, seq, number, now), None);
        }

        #[test]
        fn a_timestamp_brings_back_what_was_offered(
            (scale, sack, is_ecn, now) in
                (prop::option::of(0..=14_u8), any::<bool>(), any::<bool>(), any::<u32>()),
        ) {
            let offered = TcpOptions { scale, sack, ..TcpOptions::default() };
            let at = |tick: u32| stamp(&offered, is_ecn, Tick(tick));
            prop_assert_eq!(recall(at(now)), (offered, is_ecn));
            prop_assert!(at(now.wrapping_add(7)).wrapping_sub(at(now)) <= 128, "it goes on with the clock");
        }
    }

    #[test]
    fn guessing_does_not_find_a_cookie() {
        let client = Tuple {
            src: [192, 0, 2, 100].into(),
            dst: [192, 0, 2, 10].into(),
            sport: 4000,
            dport: 80,
            protocol: Protocol::TCP,
        };
        let secrets = Secrets::new([1, 2]).rotated([3, 4]);
        let guesses = (0..200_000_u32).map(|n| n.wrapping_mul(0x9e37_79b9));
        let found = guesses.filter(|&guess| check(&secrets, &client, 77, guess, Tick(500_000)).is_some());
        assert!(found.count() <= 1, "one in 2²⁸ each of them");
    }
}
