//! Routes of the kernel, by table → [`Routes`].
//!
//! The kernel looks through the tables one after the other and takes the longest prefix *within* the first table that
//! has one; our [`Routes`] is a single longest-prefix match. So a prefix of a later table is left out where an earlier
//! table has a prefix that covers it, and a `throw` route stands for what the later tables say.
//!
//! What routes, and the rules that lead to their tables, say of realms is built beside it where any of them says something.
//!
//! Tables that packets of a mark alone are looked up in have a match each, of their local routes.

use std::net::{IpAddr, Ipv4Addr};

use hashbrown::{HashMap, HashSet};
use lb_core::tables::{InterfaceId, Marked, MarkedRoutes, Prefix, Realms, Route, Routes};
use netlink_packet_core::NLM_F_REPLACE;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteNextHop, RouteNextHopFlags,
    RouteType, RouteVia,
};

use super::links::{IfIndex, Indices, Links};
use super::nexthops::Nexthops;
use super::rules::{Lookup, Rules, realm_bits};

/// `RT_TABLE_LOCAL`: the kernel keeps the host's own addresses there.
const LOCAL_TABLE: u32 = 255;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Local,
    Broadcast,
    Anycast,
    Unicast,
    Forbidden,
    Throw,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Hop {
    /// 0: none.
    pub(super) index: IfIndex,
    pub(super) gateway: Option<IpAddr>,
    /// The kernel does not use it now.
    pub(super) is_dead: bool,
    /// MPLS, SRv6 and the like: Linux can send this, we cannot.
    pub(super) has_encapsulation: bool,
    /// `RTA_FLOW`; 0: none.
    pub(super) realms: u32,
}

/// Where a route leads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Leads {
    route: Route,
    /// Of [`Route::Via`].
    index: Option<IfIndex>,
    mtu: u16,
    realms: Realms,
}

impl Leads {
    fn nowhere(route: Route) -> Leads {
        Leads { route, index: None, mtu: 0, realms: Realms::NONE }
    }
}

/// What hops and ids of nexthop objects stand for.
#[derive(Clone, Copy)]
pub(super) struct Ways<'a> {
    pub(super) indices: &'a Indices,
    pub(super) nexthops: &'a Nexthops,
    pub(super) links: &'a Links,
}

impl Ways<'_> {
    /// Where the first of these hops leads that is one of ours.
    fn first<'h>(self, hops: impl Iterator<Item = &'h Hop>, mtu: u16) -> Leads {
        let mut usable = hops.filter(|hop| !hop.is_dead).peekable();
        let of_linux = usable.peek().copied();
        let ours = usable.filter(|hop| !hop.has_encapsulation).find_map(|hop| {
            let interface = self.indices.id(hop.index)?;
            let route = Route::Via { interface, gateway: hop.gateway };
            Some(Leads { route, index: Some(hop.index), mtu, realms: Realms::of_route(hop.realms) })
        });
        ours.unwrap_or_else(|| {
            // Of Linux's own interfaces nothing else is known.
            let link = of_linux.map_or(0, |hop| self.links.mtu(hop.index));
            let mtu = if mtu == 0 || link == 0 { mtu.max(link) } else { mtu.min(link) };
            let realms = Realms::of_route(of_linux.map_or(0, |hop| hop.realms));
            Leads { mtu, realms, ..Leads::nowhere(Route::Linux) }
        })
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Entry {
    metric: u32,
    kind: Kind,
    first: Hop,
    /// Further next hops of a multipath route.
    others: Box<[Hop]>,
    /// `src`: when that address goes, so does the route.
    source: Option<IpAddr>,
    /// A nexthop object of Linux; 0: none.
    nexthop: u32,
    /// Longest IP packet by what the route says, bytes; 0: it says nothing.
    mtu: u16,
}

impl Entry {
    fn hops(&self) -> impl Iterator<Item = &Hop> {
        std::iter::once(&self.first).chain(&self.others)
    }

    fn is_usable(&self) -> bool {
        self.kind != Kind::Unicast || self.hops().any(|hop| !hop.is_dead)
    }

    /// `None` for `throw`.
    fn route(&self, ways: Ways<'_>) -> Option<Leads> {
        if let Some(hops) = ways.nexthops.hops(self.nexthop) {
            if ways.nexthops.is_blackhole(self.nexthop) {
                return Some(Leads::nowhere(Route::Forbidden));
            }
            return Some(ways.first(hops, self.mtu));
        }
        match self.kind {
            Kind::Local | Kind::Broadcast | Kind::Anycast => {
                // The kernel gives broadcasts none.
                let said = if self.kind == Kind::Broadcast { 0 } else { self.first.realms };
                Some(Leads { realms: Realms::of_route(said), ..Leads::nowhere(Route::Local) })
            }
            Kind::Forbidden => Some(Leads::nowhere(Route::Forbidden)),
            Kind::Throw => None,
            Kind::Unicast => Some(ways.first(self.hops(), self.mtu)),
        }
    }
}

/// One routing table of the kernel.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
struct Table {
    /// In order of preference: the metric, then the kernel's order.
    entries: HashMap<Prefix, Vec<Entry>>,
    /// How many prefixes there are of each length, for the search of a covering one.
    lengths: [Lengths; 2],
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Lengths([u32; 129]);

impl Default for Lengths {
    fn default() -> Lengths {
        Lengths([0; 129])
    }
}

impl Table {
    fn lengths(&mut self, prefix: Prefix) -> &mut u32 {
        &mut self.lengths[usize::from(prefix.address.is_ipv6())].0[usize::from(prefix.len)]
    }

    fn best(&self, prefix: Prefix) -> Option<&Entry> {
        self.entries.get(&prefix)?.iter().find(|entry| entry.is_usable())
    }

    /// Whether there are routes of a family other than local ones.
    fn leads_elsewhere(&self, is_ipv6: bool) -> bool {
        let its = self.entries.iter().filter(|(prefix, _)| prefix.address.is_ipv6() == is_ipv6);
        its.flat_map(|(_, entries)| entries)
            .any(|entry| matches!(entry.kind, Kind::Unicast | Kind::Forbidden))
    }

    /// The longest usable prefix that holds all of `prefix`.
    fn covering(&self, prefix: Prefix) -> Option<&Entry> {
        let lengths = &self.lengths[usize::from(prefix.address.is_ipv6())].0;
        (0..=prefix.len)
            .rev()
            .filter(|&len| lengths[usize::from(len)] > 0)
            .find_map(|len| self.best(masked(prefix.address, len)))
    }
}

/// A table as a rule leads to it.
#[derive(Clone, Copy)]
struct Asked<'a> {
    table: &'a Table,
    /// What the rule says of realms.
    realms: u32,
}

impl Asked<'_> {
    /// Where an entry of the table leads; `None` for `throw`.
    fn route(self, entry: &Entry, ways: Ways<'_>) -> Option<Leads> {
        let leads = entry.route(ways)?;
        Some(Leads { realms: leads.realms.by_rule(self.realms), ..leads })
    }
}

/// What a message did to the mirror.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum RouteChange {
    None,
    Changed,
    /// Several routes share table, prefix and metric, and the message does not say enough to know which of them the
    /// kernel has now, in which order: ask it.
    Unclear,
}

#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(super) struct RouteTables {
    tables: HashMap<u32, Table>,
    len: usize,
}

/// What [`RouteTables::build`] made.
pub(super) struct Built {
    pub(super) routes: Routes,
    /// The gateways in use.
    pub(super) gateways: HashSet<(IfIndex, IpAddr)>,
    /// The MTUs that routes say, by interface; at most [`MTUS_MAX`].
    pub(super) mtus: Vec<(InterfaceId, u16)>,
    /// Rules by mark whose tables lead elsewhere than to this host, as a log line names them.
    pub(super) not_followed: Vec<String>,
}

/// Each costs another next hop for each neighbour of its interface: routes with still other MTUs have the link's.
const MTUS_MAX: usize = 64;

impl RouteTables {
    /// `RTM_NEWROUTE`; `flags` of the netlink header.
    pub(super) fn add(&mut self, message: &RouteMessage, flags: u16) -> RouteChange {
        let Some((table, prefix, new)) = parse(message) else { return RouteChange::None };
        let table = self.tables.entry(table).or_default();
        let list = table.entries.entry(prefix).or_default();
        let was_empty = list.is_empty();
        let same_metric = list.iter().filter(|old| old.metric == new.metric).count();
        let change = match list.iter_mut().find(|old| old.metric == new.metric) {
            Some(old) if *old == new => RouteChange::None,
            Some(old) if flags & NLM_F_REPLACE != 0 => {
                *old = new;
                if same_metric > 1 { RouteChange::Unclear } else { RouteChange::Changed }
            }
            _ => {
                let at = list.partition_point(|old| old.metric <= new.metric);
                list.insert(at, new);
                self.len += 1;
                if same_metric > 0 { RouteChange::Unclear } else { RouteChange::Changed }
            }
        };
        if was_empty {
            *table.lengths(prefix) += 1;
        }
        change
    }

    /// One route of a dump: the kernel gives them in its order.
    pub(super) fn add_dumped(&mut self, message: &RouteMessage) {
        self.add(message, 0);
    }

    /// `other` is of the other family.
    pub(super) fn absorb(&mut self, other: RouteTables) {
        self.len += other.len;
        for (number, theirs) in other.tables {
            let ours = self.tables.entry(number).or_default();
            if ours.entries.is_empty() {
                *ours = theirs;
                continue;
            }
            ours.entries.extend(theirs.entries);
            for (ours, theirs) in ours.lengths.iter_mut().zip(theirs.lengths) {
                ours.0.iter_mut().zip(theirs.0).for_each(|(ours, theirs)| *ours += theirs);
            }
        }
    }

    /// `RTM_DELROUTE`.
    pub(super) fn remove(&mut self, message: &RouteMessage) -> RouteChange {
        let Some((number, prefix, gone)) = parse(message) else { return RouteChange::None };
        let Some(table) = self.tables.get_mut(&number) else { return RouteChange::None };
        let Some(list) = table.entries.get_mut(&prefix) else { return RouteChange::None };
        let same_metric = list.iter().filter(|old| old.metric == gone.metric).count();
        // Flags such as `linkdown` may differ from what was heard at first.
        let found = list.iter().position(|old| {
            let path = |e: &Entry| e.hops().map(|hop| (hop.index, hop.gateway)).collect::<Vec<_>>();
            old.metric == gone.metric && (*old == gone || (old.kind == gone.kind && path(old) == path(&gone)))
        });
        match found {
            Some(at) => {
                list.remove(at);
                self.len -= 1;
                if list.is_empty() {
                    table.entries.remove(&prefix);
                    *table.lengths(prefix) -= 1;
                }
                RouteChange::Changed
            }
            None if same_metric > 0 => RouteChange::Unclear,
            None => RouteChange::None,
        }
    }

    /// Is this one of the host's own addresses?
    pub(super) fn has_local(&self, address: IpAddr) -> bool {
        let prefix = masked(address, if address.is_ipv6() { 128 } else { 32 });
        let entry = self.tables.get(&LOCAL_TABLE).and_then(|table| table.best(prefix));
        entry.is_some_and(|entry| matches!(entry.kind, Kind::Local | Kind::Broadcast | Kind::Anycast))
    }

    /// Does any route leave by this link?
    pub(super) fn uses_link(&self, index: IfIndex) -> bool {
        self.any(|entry| entry.hops().any(|hop| hop.index == index))
    }

    /// Does any route name this address as its `src`?
    pub(super) fn uses_source(&self, address: IpAddr) -> bool {
        self.any(|entry| entry.source == Some(address))
    }

    /// Does any route use a nexthop object?
    pub(super) fn uses_nexthops(&self) -> bool {
        self.any(|entry| entry.nexthop != 0)
    }

    fn any(&self, is_wanted: impl Fn(&Entry) -> bool) -> bool {
        self.tables.values().flat_map(|table| table.entries.values().flatten()).any(is_wanted)
    }

    pub(super) fn build(&self, rules: &Rules, ways: Ways<'_>) -> Built {
        let mut routes = Vec::with_capacity(self.len);
        let mut gateways = HashSet::new();
        let mut has_realms = false;
        for is_ipv6 in [false, true] {
            self.build_family(is_ipv6, rules, ways, |prefix, Leads { route, index, mtu, realms }| {
                if let (Route::Via { gateway: Some(gateway), .. }, Some(index)) = (route, index) {
                    gateways.insert((index, gateway));
                }
                has_realms |= realms != Realms::NONE;
                routes.push((prefix, route, mtu));
            });
        }
        let mut realms = Vec::new();
        if has_realms {
            self.build_family(false, rules, ways, |prefix, leads| realms.push((prefix, leads.realms)));
        }
        let said = routes.iter().filter_map(|&(_, route, mtu)| match route {
            Route::Via { interface, .. } if mtu != 0 => Some((interface, mtu)),
            _ => None,
        });
        let mut mtus: Vec<_> = said.collect::<HashSet<_>>().into_iter().collect();
        mtus.sort_by_key(|&(interface, mtu)| (mtu, interface.0));
        mtus.truncate(MTUS_MAX);
        let routes = Routes::with_mtus(routes).with_broadcasts(self.broadcasts());
        let routes = if has_realms { routes.with_realms(realms) } else { routes };
        let mut not_followed = Vec::new();
        let routes = routes.with_marked(self.by_mark(rules, ways, &mut not_followed));
        Built { routes: routes.with_anycasts(self.single(Kind::Anycast)), gateways, mtus, not_followed }
    }

    /// What each rule by mark says that leads to this host.
    fn by_mark(&self, rules: &Rules, ways: Ways<'_>, not_followed: &mut Vec<String>) -> Vec<MarkedRoutes> {
        let mut all = Vec::new();
        for is_ipv6 in [false, true] {
            let mut before = Vec::new();
            for lookup in rules.order(is_ipv6) {
                match lookup {
                    Lookup::Table { table, realms } => {
                        before.extend(self.tables.get(&table).map(|table| Asked { table, realms }));
                    }
                    Lookup::MarkedTable { mark, mask, table: number } => {
                        let Some(table) = self.tables.get(&number) else { continue };
                        if table.leads_elsewhere(is_ipv6) {
                            let family = if is_ipv6 { "IPv6" } else { "IPv4" };
                            not_followed.push(format!("{family} `fwmark {mark:#x} lookup {number}`"));
                        }
                        let said = marked(&before, table, is_ipv6, ways);
                        if said.iter().any(|&(_, said)| said == Marked::Local) {
                            all.push(MarkedRoutes::new(mark, mask, said));
                        }
                    }
                    Lookup::Forbidden => break,
                }
            }
        }
        all
    }

    /// Of the networks of the host's addresses.
    fn broadcasts(&self) -> impl Iterator<Item = Ipv4Addr> {
        self.single(Kind::Broadcast).filter_map(|address| match address {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        })
    }

    /// Single addresses that have a route of this kind.
    fn single(&self, kind: Kind) -> impl Iterator<Item = IpAddr> {
        let all = self.tables.values().flat_map(|table| &table.entries);
        all.filter_map(move |(prefix, entries)| {
            let is_single = prefix.len == Prefix::longest(prefix.address.is_ipv6());
            (is_single && entries.iter().any(|entry| entry.kind == kind)).then_some(prefix.address)
        })
    }

    fn build_family(
        &self,
        is_ipv6: bool,
        rules: &Rules,
        ways: Ways<'_>,
        mut push: impl FnMut(Prefix, Leads),
    ) {
        let mut tables: Vec<Asked<'_>> = Vec::new();
        let mut ends_forbidden = false;
        for lookup in rules.order(is_ipv6) {
            match lookup {
                Lookup::Table { table, realms } => {
                    tables.extend(self.tables.get(&table).map(|table| Asked { table, realms }));
                }
                Lookup::MarkedTable { .. } => {}
                Lookup::Forbidden => {
                    ends_forbidden = true;
                    break;
                }
            }
        }
        for (at, asked) in tables.iter().enumerate() {
            let (earlier, later) = (&tables[..at], &tables[at + 1..]);
            for (&prefix, entries) in &asked.table.entries {
                if prefix.address.is_ipv6() != is_ipv6 {
                    continue;
                }
                let Some(entry) = entries.iter().find(|entry| entry.is_usable()) else { continue };
                if answer(earlier, prefix, ways).is_some() {
                    continue;
                }
                match asked.route(entry, ways).or_else(|| answer(later, prefix, ways)) {
                    Some(leads) => push(prefix, leads),
                    // `throw`, and no later table knows more: no route, which a hole in a covering prefix cannot say.
                    None => push(prefix, Leads::nowhere(Route::Forbidden)),
                }
            }
        }
        if ends_forbidden {
            let any = if is_ipv6 { IpAddr::from([0u16; 8]) } else { IpAddr::from([0u8; 4]) };
            // Last, so that a default route of a table before it comes first.
            push(Prefix { address: any, len: 0 }, Leads::nowhere(Route::Forbidden));
        }
    }
}

/// What these tables, looked up one after the other, say of all of `prefix`.
fn answer(tables: &[Asked<'_>], prefix: Prefix, ways: Ways<'_>) -> Option<Leads> {
    tables.iter().find_map(|asked| asked.route(asked.table.covering(prefix)?, ways))
}

/// What the table of a rule by mark says behind the tables `before`, which all packets are looked up in.
fn marked(before: &[Asked<'_>], table: &Table, is_ipv6: bool, ways: Ways<'_>) -> Vec<(Prefix, Marked)> {
    let own = |prefix| {
        table.covering(prefix).map_or(Marked::Next, |entry| match entry.kind {
            Kind::Local | Kind::Broadcast | Kind::Anycast => Marked::Local,
            Kind::Throw => Marked::Next,
            Kind::Unicast | Kind::Forbidden => Marked::AsUnmarked,
        })
    };
    let say = |&prefix: &Prefix| match answer(before, prefix, ways) {
        Some(_) => Marked::AsUnmarked,
        None => own(prefix),
    };
    let is_of_family = |prefix: &&Prefix| prefix.address.is_ipv6() == is_ipv6;
    // Of those before, what lies in a local route alone makes a difference.
    let earlier = before.iter().flat_map(|asked| asked.table.entries.keys());
    let earlier = earlier.filter(|&&prefix| own(prefix) == Marked::Local);
    let prefixes = table.entries.keys().chain(earlier).filter(is_of_family);
    prefixes.map(|prefix| (*prefix, say(prefix))).collect()
}

fn masked(address: IpAddr, len: u8) -> Prefix {
    let address = match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(len.min(32))).unwrap_or(0);
            IpAddr::from((u32::from(v4) & mask).to_be_bytes())
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(len.min(128))).unwrap_or(0);
            IpAddr::from((u128::from(v6) & mask).to_be_bytes())
        }
    };
    Prefix { address, len }
}

/// `None` for what is not mirrored: multicast routes, cached clones, routes by TOS or by source.
fn parse(message: &RouteMessage) -> Option<(u32, Prefix, Entry)> {
    let header = &message.header;
    let unspecified: IpAddr = match header.address_family {
        AddressFamily::Inet => [0u8; 4].into(),
        AddressFamily::Inet6 => [0u16; 8].into(),
        _ => return None,
    };
    if header.tos != 0 || header.source_prefix_length != 0 || header.flags.contains(RouteFlags::Cloned) {
        return None;
    }
    let kind = match header.kind {
        RouteType::Unicast => Kind::Unicast,
        RouteType::Local => Kind::Local,
        RouteType::Anycast => Kind::Anycast,
        RouteType::Broadcast => Kind::Broadcast,
        RouteType::BlackHole | RouteType::Unreachable | RouteType::Prohibit => Kind::Forbidden,
        RouteType::Throw => Kind::Throw,
        _ => return None,
    };
    let mut table = u32::from(header.table);
    let mut destination = unspecified;
    let mut multipath: &[RouteNextHop] = &[];
    let mut entry = Entry {
        metric: 0,
        kind,
        first: Hop {
            index: 0,
            gateway: None,
            is_dead: header.flags.contains(RouteFlags::Dead),
            has_encapsulation: false,
            realms: 0,
        },
        others: Box::default(),
        source: None,
        nexthop: 0,
        mtu: 0,
    };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Table(number) => table = *number,
            RouteAttribute::Destination(address) => destination = ip(address)?,
            RouteAttribute::Priority(metric) => entry.metric = *metric,
            RouteAttribute::PrefSource(address) => entry.source = ip(address),
            RouteAttribute::NhId(id) => entry.nexthop = *id,
            RouteAttribute::Metrics(metrics) => entry.mtu = mtu(metrics, unspecified.is_ipv6()),
            RouteAttribute::Oif(index) => entry.first.index = *index,
            RouteAttribute::MultiPath(hops) => multipath = hops,
            other => of_hop(&mut entry.first, other),
        }
    }
    if let [first, others @ ..] = multipath {
        entry.first = parse_hop(first);
        entry.others = others.iter().map(parse_hop).collect();
    }
    Some((table, masked(destination, header.destination_prefix_length), entry))
}

/// `RTAX_MTU`; 0: there is none. No link of IP takes less than 68 bytes (RFC 791 §3.2), of IPv6 1280 (RFC 8200 §5).
fn mtu(metrics: &[RouteMetric], is_ipv6: bool) -> u16 {
    let said = metrics.iter().find_map(|metric| match metric {
        RouteMetric::Mtu(mtu @ 1..) => Some(u16::try_from(*mtu).unwrap_or(u16::MAX)),
        _ => None,
    });
    said.map_or(0, |mtu| mtu.max(if is_ipv6 { 1280 } else { 68 }))
}

fn parse_hop(message: &RouteNextHop) -> Hop {
    let mut hop = Hop {
        index: message.interface_index,
        gateway: None,
        is_dead: message.flags.contains(RouteNextHopFlags::Dead),
        has_encapsulation: false,
        realms: 0,
    };
    for attribute in &message.attributes {
        of_hop(&mut hop, attribute);
    }
    hop
}

fn of_hop(hop: &mut Hop, attribute: &RouteAttribute) {
    match attribute {
        RouteAttribute::Gateway(address) => hop.gateway = ip(address),
        RouteAttribute::Via(RouteVia::Inet(address)) => hop.gateway = Some((*address).into()),
        RouteAttribute::Via(RouteVia::Inet6(address)) => hop.gateway = Some((*address).into()),
        RouteAttribute::EncapType(_) | RouteAttribute::Encap(_) => hop.has_encapsulation = true,
        RouteAttribute::Realm(said) => hop.realms = realm_bits(*said),
        _ => {}
    }
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some((*v4).into()),
        RouteAddress::Inet6(v6) => Some((*v6).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
