//! Routes: longest-prefix match.
//!
//! The prefixes are flattened, when the table is built, into disjoint ranges of addresses, so that a
//! lookup is one binary search: 20 steps for a full Internet table. It is asked for the first packet of a flow and
//! for packets without one, not for each packet.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::InterfaceId;
use super::marked::{Marked, MarkedRoutes};
use super::realm::Realms;

/// An address and the length of its network part, in bits: 0..=32 or 0..=128. Host bits are ignored.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Prefix {
    pub address: IpAddr,
    pub len: u8,
}

impl Prefix {
    /// Bits of an address.
    #[inline]
    pub const fn longest(is_ipv6: bool) -> u8 {
        if is_ipv6 { 128 } else { 32 }
    }

    /// Its address with all host bits 0.
    #[inline]
    pub fn network(&self) -> IpAddr {
        let len = self.len.into();
        match self.address {
            IpAddr::V4(address) => {
                let hosts = u32::MAX.checked_shr(len).unwrap_or(0);
                Ipv4Addr::from(u32::from(address) & !hosts).into()
            }
            IpAddr::V6(address) => {
                let hosts = u128::MAX.checked_shr(len).unwrap_or(0);
                Ipv6Addr::from(u128::from(address) & !hosts).into()
            }
        }
    }

    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                let differ = u32::from(network) ^ u32::from(address);
                differ.leading_zeros() >= self.len.into()
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                let differ = u128::from(network) ^ u128::from(address);
                differ.leading_zeros() >= self.len.into()
            }
            _ => false,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Route {
    /// An address of this host (or a broadcast address of its networks).
    Local,
    Via {
        interface: InterfaceId,
        /// `None`: the destination is a neighbour itself.
        gateway: Option<IpAddr>,
    },
    /// By an interface that is not one of ours.
    Linux,
    /// blackhole, prohibit, unreachable.
    Forbidden,
}

/// What a route says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Said {
    route: Route,
    /// Longest IP packet, bytes; 0: what the link takes.
    mtu: u16,
}

/// Disjoint ranges in ascending order: from `starts[i]` up to the next start, `routes[i]` holds. `A` is an address as a number, `S` what is said of it.
#[derive(Clone, Debug)]
pub(super) struct Ranges<A, S> {
    starts: Vec<A>,
    routes: Vec<Option<S>>,
}

impl<A, S> Default for Ranges<A, S> {
    fn default() -> Ranges<A, S> {
        Ranges { starts: Vec::new(), routes: Vec::new() }
    }
}

/// A prefix's first and last address, its length in bits, and what is said of it.
pub(super) type Stretch<S> = (u128, u128, u8, S);

impl<S: Copy> Ranges<u128, S> {
    pub(super) fn new(mut prefixes: Vec<Stretch<S>>) -> Ranges<u128, S> {
        // A parent sorts before its children, so that a stack of open prefixes names the longest at any point.
        prefixes.sort_by_key(|&(first, _, len, _)| (first, len));
        prefixes.dedup_by_key(|&mut (first, _, len, _)| (first, len));
        let mut table = Ranges::default();
        let mut open: Vec<(u128, S)> = Vec::new();
        for (first, last, _, route) in prefixes {
            table.close_before(&mut open, Some(first));
            table.push(first, Some(route));
            open.push((last, route));
        }
        table.close_before(&mut open, None);
        table
    }

    /// Ends the open prefixes that end before `next` (all, when there is no next).
    fn close_before(&mut self, open: &mut Vec<(u128, S)>, next: Option<u128>) {
        while let Some(&(last, _)) = open.last() {
            if next.is_some_and(|next| last >= next) {
                return;
            }
            open.pop();
            if let Some(after) = last.checked_add(1) {
                self.push(after, open.last().map(|&(_, route)| route));
            }
        }
    }

    fn push(&mut self, start: u128, route: Option<S>) {
        if self.starts.last() == Some(&start) {
            self.starts.pop();
            self.routes.pop();
        }
        self.starts.push(start);
        self.routes.push(route);
    }

    /// IPv4's: what begins behind the last address is nobody's.
    pub(super) fn narrow(self) -> Ranges<u32, S> {
        let starts: Vec<u32> = self.starts.iter().map_while(|&start| u32::try_from(start).ok()).collect();
        let mut routes = self.routes;
        routes.truncate(starts.len());
        Ranges { starts, routes }
    }
}

impl<A: Copy + Ord, S> Ranges<A, S> {
    #[inline]
    pub(super) fn lookup(&self, address: A) -> Option<&S> {
        let after = self.starts.partition_point(|&start| start <= address);
        self.routes.get(after.wrapping_sub(1))?.as_ref()
    }
}

#[derive(Clone, Debug, Default)]
pub struct Routes {
    ipv4: Ranges<u32, Said>,
    ipv6: Ranges<u128, Said>,
    len: usize,
    /// In ascending order.
    broadcasts: Box<[Ipv4Addr]>,
    anycasts: Box<[IpAddr]>,
    by_mark: Box<[MarkedRoutes]>,
    /// Of IPv4; empty where no route has one.
    realms: Ranges<u32, Realms>,
}

impl Routes {
    /// With the addresses by which all of a network are meant; each has a local route.
    pub fn with_broadcasts(self, broadcasts: impl IntoIterator<Item = Ipv4Addr>) -> Routes {
        let mut broadcasts: Vec<Ipv4Addr> = broadcasts.into_iter().collect();
        broadcasts.sort_unstable();
        Routes { broadcasts: broadcasts.into(), ..self }
    }

    /// With the addresses that several hosts have; each has a local route. Those of the routers of IPv6 networks whose members are neighbours (RFC 4291
    /// §2.6.1) are among them.
    #[must_use]
    pub fn with_anycasts(self, anycasts: impl IntoIterator<Item = IpAddr>) -> Routes {
        let mut all: Vec<IpAddr> = self.anycasts.iter().copied().chain(anycasts).collect();
        all.sort_unstable();
        Routes { anycasts: all.into(), ..self }
    }

    /// With those that packets of a mark have, in the order in which they are asked.
    #[must_use]
    pub fn with_marked(self, by_mark: impl IntoIterator<Item = MarkedRoutes>) -> Routes {
        Routes { by_mark: by_mark.into_iter().collect(), ..self }
    }

    /// With what all IPv4 routes say of realms, in the order of [`new`](Self::new).
    ///
    /// Nobody is reached by a route to all hosts of a link, nor by one to all multicast groups and more; what has no address yet comes from no realm (Linux, `__mkroute_output` and
    /// `ip_route_input_slow` in `net/ipv4/route.c`).
    #[must_use]
    pub fn with_realms(self, realms: impl IntoIterator<Item = (Prefix, Realms)>) -> Routes {
        let none = |first: [u8; 4], len| stretch(Prefix { address: first.into(), len }, Realms::NONE);
        let mut all = vec![none([255; 4], 32)];
        all.extend(realms.into_iter().map(|(prefix, realms)| stretch(prefix, realms)));
        all.extend([none([0; 4], 8), none([224, 0, 0, 0], 4)]);
        Routes { realms: Ranges::new(all).narrow(), ..self }
    }

    /// What the way to an address says of realms.
    pub fn realms(&self, to: IpAddr) -> Realms {
        match to {
            IpAddr::V4(to) => self.realms.lookup(to.into()).copied().unwrap_or_default(),
            IpAddr::V6(_) => Realms::NONE,
        }
    }

    #[inline]
    pub fn have_marked(&self) -> bool {
        !self.by_mark.is_empty()
    }

    /// Whether a packet to this address is for this host because it has this mark.
    pub fn is_local_by_mark(&self, to: IpAddr, mark: u32) -> bool {
        let of_mark = self.by_mark.iter().filter(|routes| routes.are_for(mark));
        let said = of_mark.map(|routes| routes.say(to)).find(|&said| said != Marked::Next);
        said == Some(Marked::Local)
    }

    /// The same of any mark.
    pub fn may_be_local_by_mark(&self, to: IpAddr) -> bool {
        self.by_mark.iter().any(|routes| routes.say(to) == Marked::Local)
    }

    pub fn is_anycast(&self, address: IpAddr) -> bool {
        self.anycasts.binary_search(&address).is_ok()
            && !matches!(self.lookup(address), Some(Route::Via { gateway: Some(_), .. } | Route::Forbidden))
    }

    pub fn is_broadcast(&self, address: Ipv4Addr) -> bool {
        address.is_broadcast() || self.broadcasts.binary_search(&address).is_ok()
    }

    /// Of two routes with the same prefix the first one is taken: give them in order of preference.
    pub fn new(routes: impl IntoIterator<Item = (Prefix, Route)>) -> Routes {
        Routes::with_mtus(routes.into_iter().map(|(prefix, route)| (prefix, route, 0)))
    }

    /// The same of routes that may say how long an IP packet may be (`ip route … mtu`), in bytes; 0: as long as the link takes.
    /// [`Neighbours`](super::Neighbours) must know these lengths too.
    pub fn with_mtus(routes: impl IntoIterator<Item = (Prefix, Route, u16)>) -> Routes {
        let (mut ipv4, mut ipv6, mut anycasts) = (Vec::new(), Vec::new(), Vec::new());
        for (prefix, route, mtu) in routes {
            let list = if prefix.address.is_ipv6() { &mut ipv6 } else { &mut ipv4 };
            let is_on_link = matches!(route, Route::Via { gateway: None, .. });
            if prefix.address.is_ipv6() && is_on_link && prefix.len < 127 {
                anycasts.push(prefix.network());
            }
            list.push(stretch(prefix, Said { route, mtu }));
        }
        let len = ipv4.len() + ipv6.len();
        let (ipv4, ipv6) = (Ranges::new(ipv4).narrow(), Ranges::new(ipv6));
        anycasts.sort_unstable();
        Routes { ipv4, ipv6, len, anycasts: anycasts.into(), ..Routes::default() }
    }

    #[inline]
    pub fn lookup(&self, to: IpAddr) -> Option<Route> {
        self.find(to).map(|said| said.route)
    }

    /// The same, and how long a packet may be by what the route says; 0: it says nothing.
    #[inline]
    pub fn lookup_with_mtu(&self, to: IpAddr) -> Option<(Route, u16)> {
        self.find(to).map(|said| (said.route, said.mtu))
    }

    #[inline]
    pub fn is_local(&self, address: IpAddr) -> bool {
        matches!(self.find(address), Some(Said { route: Route::Local, .. }))
    }

    /// The same, of an IPv4 address.
    #[inline]
    pub fn is_local_ipv4(&self, address: u32) -> bool {
        matches!(self.ipv4.lookup(address), Some(Said { route: Route::Local, .. }))
    }

    fn find(&self, to: IpAddr) -> Option<&Said> {
        match to {
            IpAddr::V4(to) => self.ipv4.lookup(to.into()),
            IpAddr::V6(to) => self.ipv6.lookup(to.into()),
        }
    }

    /// Prefixes given.
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// All addresses of a prefix.
pub(super) fn stretch<S>(prefix: Prefix, said: S) -> Stretch<S> {
    let bits = u32::from(Prefix::longest(prefix.address.is_ipv6()));
    let host_bits = bits - u32::from(prefix.len).min(bits);
    let host_mask = 1u128.checked_shl(host_bits).map_or(u128::MAX, |size| size - 1);
    let first = number(prefix.address) & !host_mask;
    (first, first | host_mask, prefix.len, said)
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(a) => u128::from(u32::from(a)),
        IpAddr::V6(a) => u128::from(a),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    use super::*;

    fn via(n: u16) -> Route {
        Route::Via { interface: InterfaceId(n), gateway: None }
    }

    /// The slow obvious twin: of the prefixes that hold the address, the longest, of those the first.
    fn linear(routes: &[(Prefix, Route)], to: IpAddr) -> Option<Route> {
        let mut best: Option<(u8, Route)> = None;
        for &(prefix, route) in routes {
            let bits = if to.is_ipv4() { 32 } else { 128 };
            let shift = bits - u32::from(prefix.len);
            let net = |a: IpAddr| number(a).checked_shr(shift).unwrap_or(0);
            if prefix.address.is_ipv4() == to.is_ipv4()
                && net(prefix.address) == net(to)
                && best.is_none_or(|(len, _)| prefix.len > len)
            {
                best = Some((prefix.len, route));
            }
        }
        best.map(|(_, route)| route)
    }

    #[test]
    fn the_default_route_covers_the_last_address() {
        let all = |address| Prefix { address, len: 0 };
        let routes = Routes::new([
            (all(Ipv4Addr::UNSPECIFIED.into()), via(4)),
            (all(Ipv6Addr::UNSPECIFIED.into()), via(6)),
        ]);
        assert_eq!(routes.lookup(Ipv4Addr::BROADCAST.into()), Some(via(4)));
        assert_eq!(routes.lookup(Ipv6Addr::from(u128::MAX).into()), Some(via(6)));
    }

    #[test]
    fn a_length_is_of_its_prefix_alone() {
        let prefix = |text: &str, len| Prefix { address: text.parse().expect(text), len };
        let routes = Routes::with_mtus([
            (prefix("10.0.0.0", 24), via(1), 0),
            (prefix("10.0.0.11", 32), via(1), 1400),
            (prefix("2001:db8::", 32), via(1), 1300),
        ]);
        let of = |to: &str| routes.lookup_with_mtu(to.parse().expect(to));
        assert_eq!(of("10.0.0.10"), Some((via(1), 0)));
        assert_eq!(of("10.0.0.11"), Some((via(1), 1400)));
        assert_eq!(of("10.0.0.12"), Some((via(1), 0)));
        assert_eq!(of("2001:db8::9"), Some((via(1), 1300)));
        assert_eq!(of("10.0.1.0"), None);
    }

    #[test]
    fn realms_are_those_of_the_longest_prefix_and_nobody_is_of_those_of_all() {
        let route = |text: &str, len, said| {
            (Prefix { address: text.parse().expect(text), len }, Realms::of_route(said))
        };
        let default = route("0.0.0.0", 0, 9);
        let of = |routes: &Routes, to: &str| routes.realms(to.parse().expect(to)).of_sent();
        let routes =
            Routes::default().with_realms([default, route("10.0.0.0", 8, 0), route("10.1.0.0", 16, 7)]);
        for (to, realm) in [
            ("192.0.2.1", 9),
            ("10.0.0.1", 0),
            ("10.1.2.3", 7),
            ("0.0.0.0", 0),
            ("224.0.0.1", 0),
            ("239.1.2.3", 0),
            ("240.0.0.1", 9),
            ("255.255.255.254", 9),
            ("255.255.255.255", 0),
            ("2001:db8::1", 0),
        ] {
            assert_eq!(of(&routes, to), realm, "{to}");
        }
        let routes = Routes::default().with_realms([default, route("224.0.0.0", 4, 6)]);
        assert_eq!(of(&routes, "224.0.0.1"), 6);
        assert_eq!(of(&Routes::default(), "192.0.2.1"), 0);
    }

    proptest! {
        #[test]
        fn lookup_agrees_with_a_linear_search(
            prefixes in prop::collection::vec((0u32..64, 0u8..=32, 0u16..9, any::<bool>()), 0..40),
            probes in prop::collection::vec(0u32..64, 40),
        ) {
            let address = |small: u32, v6: bool| -> IpAddr {
                // Few distinct bits, at the top and the bottom, so that prefixes nest and meet.
                let bits = (small >> 3) << 29 | small & 7;
                if v6 { Ipv6Addr::from(u128::from(bits) << 96).into() } else { Ipv4Addr::from(bits).into() }
            };
            let routes: Vec<_> = prefixes
                .into_iter()
                .map(|(small, len, n, v6)| (Prefix { address: address(small, v6), len }, via(n)))
                .collect();
            let table = Routes::new(routes.clone());
            for small in probes {
                for v6 in [false, true] {
                    let to = address(small, v6);
                    prop_assert_eq!(table.lookup(to), linear(&routes, to));
                }
            }
        }
    }
}
