//! Network address translation: which address and port a connection gets instead of its own.
//!
//! Asked once a connection, by its worker. A mapping keeps the port where it can (RFC 4787 REQ-3, RFC 5382 REQ-7), keeps its side of
//! 1024 (RFC 4787 REQ-3), and gives one source the same outside address and port towards all destinations as long as nobody else has them there:
//! mapping is by endpoint (RFC 4787 REQ-1) but for collisions. A source that is within the range already stays as it is.
//!
//! Source of the facts: Linux, `net/netfilter/nf_nat_core.c`, `nf_nat_masquerade.c`, `nf_nat_redirect.c`, and the RFCs named.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::flow::Tuple;
use crate::tables::Protocol;

/// Ports that are tried for one connection: as many as the kernel's NAT tries before it halves its hope.
const TRIES: u32 = 128;

/// Which end of a connection is exchanged.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Manip {
    /// SNAT, MASQUERADE.
    Source,
    /// DNAT, REDIRECT.
    Destination,
}

/// How the port is chosen where the one that a connection has cannot stay.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum PortChoice {
    /// The next free one.
    #[default]
    Near,
    /// Any, also where the own one could stay (`--random`, `--random-fully`).
    Random,
}

/// What an end may become.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Range {
    /// First and last, of one family; `None`: the address stays.
    pub addresses: Option<(IpAddr, IpAddr)>,
    /// First and last; of ICMP echo the identifier. `None`: any of the own one's class for a source, the own one for a destination.
    pub ports: Option<(u16, u16)>,
    /// The port that the first of `ports` stands for (`--to-destination …:first-last/base`): the own one is moved by as much.
    pub base_port: Option<u16>,
    pub choice: PortChoice,
    /// The address goes by the source alone, not by both ends (`--persistent`).
    pub is_persistent: bool,
    /// The network part is exchanged and the host part stays (NETMAP); `addresses` are a network's first and last.
    pub is_netmap: bool,
}

impl Range {
    /// To one address; the port stays where it can.
    pub const fn to(address: IpAddr) -> Range {
        Range {
            addresses: Some((address, address)),
            ports: None,
            base_port: None,
            choice: PortChoice::Near,
            is_persistent: false,
            is_netmap: false,
        }
    }

    /// The address is kept: of a connection that no rule translates, but whose tuple another one's translation took.
    pub const KEEP: Range = Range {
        addresses: None,
        ports: None,
        base_port: None,
        choice: PortChoice::Near,
        is_persistent: false,
        is_netmap: false,
    };
}

/// What a connection whose packets are `as_it_comes` becomes by `range`: one whose answers are nobody else's, as `is_taken` says of
/// the tuple that packets leave with. `random` is any number, another one for each connection. `None`: all ports that were tried are taken.
pub fn translate(
    as_it_comes: &Tuple,
    manip: Manip,
    range: &Range,
    random: u64,
    is_taken: impl Fn(&Tuple) -> bool,
) -> Option<Tuple> {
    if stays(as_it_comes, manip, range) && !is_taken(as_it_comes) {
        return Some(*as_it_comes);
    }
    let become_one = |by, tries| {
        let mut tuple = *as_it_comes;
        *address_mut(&mut tuple, manip) = choose_address(as_it_comes, manip, range, by);
        choose_port(tuple, manip, range, random, tries, &is_taken)
    };
    // One endpoint is one outside, as long as that is nobody else's there.
    let is_by_endpoint = manip == Manip::Source && range.choice == PortChoice::Near && !range.is_persistent;
    let by_endpoint = if is_by_endpoint { become_one(By::Endpoint, 1) } else { None };
    by_endpoint.or_else(|| become_one(if range.is_persistent { By::Source } else { By::BothEnds }, TRIES))
}

/// Whether a source is within the range as it is.
fn stays(tuple: &Tuple, manip: Manip, range: &Range) -> bool {
    let has_address = range.addresses.is_none_or(|(first, last)| (first..=last).contains(&tuple.src));
    let has_port = range.ports.is_none_or(|(first, last)| (first..=last).contains(&tuple.sport));
    manip == Manip::Source
        && range.choice == PortChoice::Near
        && !range.is_netmap
        && has_address
        && (has_port || !has_ports(tuple.protocol))
}

/// The port for a connection whose address is chosen; `tries`: how many are looked at from the first on.
fn choose_port(
    mut tuple: Tuple,
    manip: Manip,
    range: &Range,
    random: u64,
    tries: u32,
    is_taken: &impl Fn(&Tuple) -> bool,
) -> Option<Tuple> {
    let own_port = port(&tuple, manip);
    if !has_ports(tuple.protocol) {
        return (!is_taken(&tuple)).then_some(tuple);
    }
    let is_icmp = matches!(tuple.protocol, Protocol::ICMP | Protocol::ICMPV6);
    let (first, last) = match (range.ports, manip) {
        // The identifier is the asking end's.
        (_, Manip::Destination) if is_icmp => return (!is_taken(&tuple)).then_some(tuple),
        (Some((first, last)), _) => (first, last.max(first)),
        (None, Manip::Destination) => return (!is_taken(&tuple)).then_some(tuple),
        (None, Manip::Source) => class(tuple.protocol, own_port),
    };
    let is_within = (first..=last).contains(&own_port);
    if range.choice == PortChoice::Near && range.base_port.is_none() && is_within && !is_taken(&tuple) {
        return Some(tuple);
    }
    let count = u32::from(last - first) + 1;
    let start = match (range.choice, range.base_port) {
        (PortChoice::Random, _) => scale(random as u32, count),
        // A packet for the base goes to the first one, the next to the second, and so on round.
        (PortChoice::Near, Some(base)) => wrap(u32::from(own_port.wrapping_sub(base)), count),
        (PortChoice::Near, None) if is_within => u32::from(own_port - first),
        (PortChoice::Near, None) => wrap(u32::from(own_port), count),
    };
    for step in 0..count.min(tries) {
        // Below twice `count`.
        let at = start + step;
        let at = if at >= count { at - count } else { at };
        set_port(&mut tuple, manip, first + at as u16);
        if !is_taken(&tuple) {
            return Some(tuple);
        }
    }
    // The neighbourhood is full: anywhere.
    let mut random = random;
    for _ in 0..if tries > 1 { TRIES } else { 0 } {
        random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        set_port(&mut tuple, manip, first + scale((random >> 32) as u32, count) as u16);
        if !is_taken(&tuple) {
            return Some(tuple);
        }
    }
    None
}

/// Ports a source without a range may get: those of its own class. ICMP identifiers have none.
fn class(protocol: Protocol, own: u16) -> (u16, u16) {
    match own {
        _ if matches!(protocol, Protocol::ICMP | Protocol::ICMPV6) => (0, u16::MAX),
        0..512 => (1, 511),
        512..1024 => (600, 1023),
        _ => (1024, u16::MAX),
    }
}

/// What an address of a range is chosen by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum By {
    /// The source's address and port.
    Endpoint,
    /// The source's address.
    Source,
    /// Both ends' addresses.
    BothEnds,
}

fn choose_address(tuple: &Tuple, manip: Manip, range: &Range, by: By) -> IpAddr {
    let own = match manip {
        Manip::Source => tuple.src,
        Manip::Destination => tuple.dst,
    };
    let Some((first, last)) = range.addresses else { return own };
    if first == last && !range.is_netmap {
        return first;
    }
    match (first, last, own) {
        (IpAddr::V4(first), IpAddr::V4(last), IpAddr::V4(own)) => {
            let (first, last) = (u32::from(first), u32::from(last));
            let picked = if range.is_netmap {
                let host = first ^ last;
                first | u32::from(own) & host
            } else {
                first + scale_u64(hash(tuple, by), u64::from(last - first) + 1) as u32
            };
            Ipv4Addr::from(picked).into()
        }
        (IpAddr::V6(first), IpAddr::V6(last), IpAddr::V6(own)) => {
            let (first, last) = (u128::from(first), u128::from(last));
            let picked = if range.is_netmap {
                first | u128::from(own) & (first ^ last)
            } else {
                let span = u64::try_from(last.wrapping_sub(first)).unwrap_or(u64::MAX - 1);
                first + u128::from(scale_u64(hash(tuple, by), span + 1))
            };
            Ipv6Addr::from(picked).into()
        }
        // A range of the other family: the control plane makes none.
        _ => own,
    }
}

/// Not secret: whoever knows a client's addresses may know which of ours it gets.
fn hash(tuple: &Tuple, by: By) -> u64 {
    let number = |address| match address {
        IpAddr::V4(a) => u128::from(u32::from(a)),
        IpAddr::V6(a) => u128::from(a),
    };
    let src = number(tuple.src);
    let dst = match by {
        By::Endpoint => tuple.sport.into(),
        By::Source => 0,
        By::BothEnds => number(tuple.dst),
    };
    let mut hash = 0x9e37_79b9_7f4a_7c15_u64;
    for word in [src as u64, (src >> 64) as u64, dst as u64, (dst >> 64) as u64] {
        let product = u128::from(hash ^ word) * 0xd6e8_feb8_6659_fd93_u128;
        hash = (product >> 64) as u64 ^ product as u64;
    }
    hash
}

fn has_ports(protocol: Protocol) -> bool {
    protocol.has_ports() || matches!(protocol, Protocol::ICMP | Protocol::ICMPV6)
}

/// Of ICMP echo it is the identifier, which a request has as its source and an answer as its destination ([`crate::path`]).
fn port(tuple: &Tuple, manip: Manip) -> u16 {
    match manip {
        Manip::Source => tuple.sport,
        Manip::Destination => tuple.dport,
    }
}

fn set_port(tuple: &mut Tuple, manip: Manip, port: u16) {
    match manip {
        Manip::Source => tuple.sport = port,
        Manip::Destination => tuple.dport = port,
    }
}

fn address_mut(tuple: &mut Tuple, manip: Manip) -> &mut IpAddr {
    match manip {
        Manip::Source => &mut tuple.src,
        Manip::Destination => &mut tuple.dst,
    }
}

/// `n` below `count`, without a division.
fn wrap(n: u32, count: u32) -> u32 {
    if n < count { n } else { scale(n.wrapping_mul(0x9e37_79b9), count) }
}

fn scale(n: u32, count: u32) -> u32 {
    ((u64::from(n) * u64::from(count)) >> 32) as u32
}

fn scale_u64(n: u64, count: u64) -> u64 {
    ((u128::from(n) * u128::from(count)) >> 64) as u64
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn tuple(src: &str, sport: u16, dst: &str, dport: u16) -> Tuple {
        Tuple { src: ip(src), dst: ip(dst), sport, dport, protocol: Protocol::TCP }
    }

    #[test]
    fn a_source_keeps_its_port_where_nobody_else_has_it() {
        let range = Range::to(ip("203.0.113.1"));
        let ours = tuple("10.0.0.5", 40_000, "192.0.2.1", 80);
        let got = translate(&ours, Manip::Source, &range, 1, |_| false).unwrap();
        assert_eq!(got, tuple("203.0.113.1", 40_000, "192.0.2.1", 80));
        let got = translate(&ours, Manip::Source, &range, 1, |tuple| tuple.sport == 40_000).unwrap();
        assert_eq!(got.sport, 40_001);
    }

    #[test]
    fn a_port_stays_in_its_class() {
        let range = Range::to(ip("203.0.113.1"));
        for (own, class) in [(7, 1..=511), (513, 600..=1023), (700, 600..=1023), (1024, 1024..=65_535)] {
            let ours = tuple("10.0.0.5", own, "192.0.2.1", 80);
            let got = translate(&ours, Manip::Source, &range, 9, |tuple| tuple.sport == own).unwrap();
            assert!(class.contains(&got.sport), "{own} became {}", got.sport);
        }
    }

    #[test]
    fn a_destination_without_ports_keeps_its_own_or_is_refused() {
        let range = Range::to(ip("10.0.0.9"));
        let ours = tuple("192.0.2.1", 40_000, "203.0.113.1", 80);
        assert_eq!(
            translate(&ours, Manip::Destination, &range, 1, |_| false),
            Some(tuple("192.0.2.1", 40_000, "10.0.0.9", 80))
        );
        assert_eq!(translate(&ours, Manip::Destination, &range, 1, |_| true), None);
    }

    #[test]
    fn ports_are_moved_by_as_much_as_the_own_one_is_above_the_base() {
        let range = Range { ports: Some((8000, 8010)), base_port: Some(5000), ..Range::to(ip("10.0.0.9")) };
        for (own, becomes) in [(5000, 8000), (5003, 8003), (5010, 8010)] {
            let ours = tuple("192.0.2.1", 40_000, "203.0.113.1", own);
            let got = translate(&ours, Manip::Destination, &range, 1, |_| false).unwrap();
            assert_eq!(got.dport, becomes);
        }
    }

    #[test]
    fn a_network_is_exchanged_and_the_host_stays() {
        let range = Range {
            addresses: Some((ip("192.168.7.0"), ip("192.168.7.255"))),
            is_netmap: true,
            ..Range::KEEP
        };
        let ours = tuple("192.0.2.1", 4, "203.0.113.77", 80);
        let got = translate(&ours, Manip::Destination, &range, 1, |_| false).unwrap();
        assert_eq!(got, tuple("192.0.2.1", 4, "192.168.7.77", 80));
    }

    fn pool(is_persistent: bool) -> Range {
        let addresses = Some((ip("203.0.113.1"), ip("203.0.113.16")));
        Range { addresses, is_persistent, ..Range::KEEP }
    }

    /// The sources of connections to 64 destinations, of which the ports follow one another, or stay.
    fn sources(range: &Range, step: u16, is_taken: impl Fn(&Tuple) -> bool) -> HashSet<(IpAddr, u16)> {
        (0..64)
            .map(|n| tuple("10.0.0.5", 4000 + n * step, &format!("192.0.2.{n}"), 80))
            .map(|ours| translate(&ours, Manip::Source, range, 1, &is_taken).unwrap())
            .map(|tuple| (tuple.src, tuple.sport))
            .collect()
    }

    #[test]
    fn an_endpoint_has_one_address_of_a_pool_for_all_destinations_and_others_spread() {
        let addresses =
            |ends: HashSet<(IpAddr, u16)>| ends.iter().map(|end| end.0).collect::<HashSet<_>>().len();
        let free = |_: &Tuple| false;
        for is_persistent in [false, true] {
            assert_eq!(sources(&pool(is_persistent), 0, free).len(), 1);
        }
        assert_eq!(addresses(sources(&pool(true), 1, free)), 1, "of a persistent source whatever its port");
        assert!(addresses(sources(&pool(false), 1, free)) > 8);
        let ported = Range { ports: Some((100, 5000)), ..pool(false) };
        assert_eq!(sources(&ported, 0, free).len(), 1);
        // Where its own is another's it has one by both ends.
        let own = sources(&pool(false), 0, free).into_iter().next().unwrap();
        let spread = sources(&pool(false), 0, |tuple| (tuple.src, tuple.sport) == own);
        assert!(addresses(spread.clone()) > 8 && !spread.contains(&own));
        let random = Range { choice: PortChoice::Random, ..pool(false) };
        assert!(addresses(sources(&random, 0, free)) > 8);
    }

    #[test]
    fn a_source_that_is_in_the_range_stays_unless_it_is_another_ones() {
        let ours = tuple("203.0.113.9", 4000, "192.0.2.1", 80);
        let got = |range: &Range| translate(&ours, Manip::Source, range, 1, |_| false).unwrap();
        assert_eq!([got(&pool(false)), got(&pool(true))], [ours; 2]);
        let ported = Range { ports: Some((5000, 5001)), ..pool(false) };
        assert!((5000..=5001).contains(&got(&ported).sport));
        assert_ne!(translate(&ours, Manip::Source, &pool(false), 1, |tuple| *tuple == ours), Some(ours));
        // A destination is balanced, whatever it was.
        let all = |n| tuple(&format!("192.0.2.{n}"), 4000, "203.0.113.9", 80);
        let to = |n| translate(&all(n), Manip::Destination, &pool(false), 1, |_| false).unwrap().dst;
        assert!((0..64).map(to).collect::<HashSet<_>>().len() > 8);
    }

    proptest! {
        /// Whatever is taken: what is given is free and within the range, and `None` comes only when much is taken.
        #[test]
        fn what_is_given_is_free_and_allowed(
            own: u16,
            first in 1u16..60_000,
            span in 0u16..200,
            taken in prop::collection::hash_set(any::<u16>(), 0..200),
            random: u64,
            is_random: bool,
            manip in prop_oneof![Just(Manip::Source), Just(Manip::Destination)],
        ) {
            let last = first + span;
            let choice = if is_random { PortChoice::Random } else { PortChoice::Near };
            let range = Range { ports: Some((first, last)), choice, ..Range::to(ip("203.0.113.1")) };
            let ours = Tuple { sport: own, dport: own, ..tuple("10.0.0.5", 0, "192.0.2.1", 0) };
            let is_taken = |tuple: &Tuple| taken.contains(&port(tuple, manip));
            match translate(&ours, manip, &range, random, is_taken) {
                Some(got) => {
                    let port = port(&got, manip);
                    prop_assert!((first..=last).contains(&port) && !taken.contains(&port));
                    if !is_random && (first..=last).contains(&own) && !taken.contains(&own) {
                        prop_assert_eq!(port, own);
                    }
                }
                None => prop_assert!((first..=last).take(128).all(|port| taken.contains(&port)) || span >= 128),
            }
        }
    }
}
