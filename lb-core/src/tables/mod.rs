//! What the control plane compiled: one immutable snapshot of everything that the workers look up.
//!
//! The control plane builds a [`Tables`] for each change and publishes it to the workers, which adopt it
//! between two bursts. Parts that did not change are shared with the snapshot before. What outlives a snapshot
//! (scheduler cursors, connection counts, statistics) is kept outside, by [`ServiceId`](crate::ids::ServiceId)
//! and [`ServerId`](crate::ids::ServerId).

mod interface;
mod limits;
mod mark;
mod marked;
mod neighbour;
mod options;
mod own;
mod realm;
mod route;
mod service;
mod services;
mod shared;
mod sysctl;
mod zone;

use std::net::IpAddr;
use std::sync::Arc;

pub use interface::{Interface, InterfaceId, Interfaces};
pub use limits::{ConnLimits, ConnRate};
pub use mark::{MarkRule, Marks};
pub use marked::{Marked, MarkedRoutes};
pub use neighbour::{HopId, Mac, Neighbours, NextHop, Reachability};
pub use options::{ClientMask, Engine, Helper, Persistence, ServiceOptions, SynCookies};
pub use own::{OwnAddress, OwnAddresses};
pub use realm::Realms;
pub use route::{Prefix, Route, Routes};
pub use service::{Forward, GueChecksum, Protocol, Server, Service, ServiceKey, Tunnel};
pub use services::Services;
pub use sysctl::{Fixed, Sysctl, Sysctls};
pub use zone::Zone;

pub use crate::wire::proxy::Version as ProxyVersion;

use crate::flow::Tuple;
use crate::ids::ServerId;
use crate::path::FlowEvents;
use crate::rule::Rules;
use crate::rule::fingerprint::Fingerprints;
use crate::set::Sets;
use crate::syn_cookie::Secrets;
use crate::time::{Tick, Timeout};
use crate::trace::Trace;

/// FullNAT connections come from this port at least.
pub const FIRST_LOCAL_PORT: u16 = 1024;

/// One snapshot. Two snapshots with the same `generation` are the same; a flow that was looked up under another
/// generation is looked up again at its next packet.
#[derive(Clone, Debug, Default)]
pub struct Tables {
    pub generation: u32,
    pub interfaces: Arc<Interfaces>,
    pub routes: Arc<Routes>,
    pub neighbours: Arc<Neighbours>,
    pub services: Arc<Services>,
    pub marks: Arc<Marks>,
    pub rules: Arc<Rules>,
    pub sets: Arc<Sets>,
    /// What operating systems' SYNs look like.
    pub fingerprints: Arc<Fingerprints>,
    pub settings: Settings,
    /// That of the host.
    pub zone: Arc<Zone>,
    /// Keys of SYN cookies.
    pub cookies: Secrets,
    /// Packets that somebody wants to see the road of.
    pub trace: Option<Arc<Trace>>,
    /// Where workers tell of connections: the same in all snapshots of a process.
    pub events: Arc<FlowEvents>,
}

/// Single values.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// `ipvsadm --set`: established TCP, TCP after the server's FIN, UDP.
    pub tcp: Timeout,
    pub tcp_fin: Timeout,
    pub udp: Timeout,
    /// Packets that no service takes are routed (Linux: `net.ipv4.ip_forward`).
    pub forwarding: bool,
    /// The director is about to stop: virtual services take no new connections.
    pub draining: bool,
    /// Other directors are told of connections: workers note whose state changes.
    pub is_sharing: bool,
    /// Another director serves what comes: this one is its backup, and no more (sysctl `backup_only`).
    pub is_standby: bool,
    pub sysctls: Sysctls,
    /// Seconds from 1970 (UTC) to the moment from which ticks count: for rules that ask what time it is.
    pub booted: u64,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            tcp: Timeout::from_secs(900),
            tcp_fin: Timeout::from_secs(120),
            udp: Timeout::from_secs(300),
            forwarding: true,
            draining: false,
            is_sharing: false,
            is_standby: false,
            sysctls: Sysctls::default(),
            booted: 0,
        }
    }
}

impl Settings {
    /// The shortest of the timeouts.
    pub fn shortest(&self) -> Timeout {
        self.tcp.min(self.tcp_fin).min(self.udp)
    }
}

/// Where a packet to some address goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// To this host: a virtual service, or up the twin.
    Local,
    /// To a neighbour that is known, be it reachable or not.
    Hop(HopId),
    /// To a neighbour that nobody has asked for yet.
    Unresolved(InterfaceId, IpAddr),
    /// Out of an interface that is Linux's alone: up the twin, Linux routes it.
    Linux,
    /// A route says no.
    Forbidden,
    NoRoute,
}

impl Tables {
    /// Whether packets of known connections are looked at one by one: rules do so, and counting them.
    #[inline]
    pub fn looks_at_each(&self) -> bool {
        self.rules.are_active() || self.settings.sysctls.conntrack.acct != 0
    }

    /// Whether a client's SYN or INIT leaves this real server's connection for another one: it has weight 0, and `expire_nodest_conn` is 1
    /// (Linux, `net/netfilter/ipvs/ip_vs_core.c`, `ip_vs_in`).
    #[inline]
    pub fn is_left_by_syn(&self, server: ServerId) -> bool {
        self.settings.sysctls.expire_nodest_conn == 1
            && self.services.server(server).is_some_and(|server| server.weight == 0)
    }

    /// Whether packets and bytes of each connection are counted.
    #[inline]
    pub fn counts_connections(&self) -> bool {
        self.settings.sysctls.conntrack.acct != 0 || self.rules.count_connections()
    }

    /// The virtual service that takes a connection which begins with such a packet: one by its mark before one by its destination, as
    /// in the kernel (`ip_vs_service_find`).
    #[inline]
    pub fn service_for(&self, packet: &Tuple, now: Tick) -> Option<&Arc<Service>> {
        let by_mark = self.services.has_marks().then(|| self.marks.mark(packet, &self.sets, now)).flatten();
        self.service_with(packet, by_mark.unwrap_or(0))
    }

    /// The same for a packet that has this mark already, or none (0).
    #[inline]
    pub fn service_with(&self, packet: &Tuple, mark: u32) -> Option<&Arc<Service>> {
        let by_mark = (mark != 0).then(|| ServiceKey::of_mark(mark, packet.dst.is_ipv6()));
        by_mark
            .and_then(|key| self.services.find(&key))
            .or_else(|| self.services.taking(&ServiceKey::of(packet)))
    }

    /// Whether a packet for another host is for this one because of the mark that the config gives its connection.
    #[cold]
    pub fn comes_by_mark(&self, packet: &Tuple, now: Tick) -> bool {
        let mark = || self.marks.mark(packet, &self.sets, now).unwrap_or(0);
        self.routes.have_marked() && self.routes.is_local_by_mark(packet.dst, mark())
    }

    /// Whether a packet to an address of this host may be a real server's answer to a connection that came to it from there: by FullNAT or
    /// source NAT.
    #[inline]
    pub fn may_be_for_local_endpoint(&self, packet: &Tuple) -> bool {
        packet.dport >= FIRST_LOCAL_PORT
            && self.may_be_of_server(packet)
            // All workers must say the same, whatever time it is for each.
            && self.service_for(packet, Tick::default()).is_none()
    }

    /// Whether a packet comes from a real server that may know clients by other ends than their own.
    pub fn may_be_of_server(&self, packet: &Tuple) -> bool {
        self.have_local_endpoints() && self.services.is_server(packet.src)
    }

    /// Whether connections may have come to real servers from addresses of this host.
    #[inline]
    pub fn have_local_endpoints(&self) -> bool {
        self.services.have_full_nat() || self.settings.sysctls.source_nat == 1
    }

    /// The interface and neighbour by which packets to `to` leave.
    pub fn neighbour_towards(&self, to: IpAddr) -> Option<(InterfaceId, IpAddr)> {
        match self.routes.lookup(to)? {
            Route::Via { interface, gateway } => Some((interface, gateway.unwrap_or(to))),
            _ => None,
        }
    }

    /// The address of this host that is the source of what leaves by this interface for `to`, where the sender names none.
    pub fn source_towards(&self, output: InterfaceId, to: IpAddr) -> Option<IpAddr> {
        let next_hop = match self.neighbour_towards(to) {
            Some((interface, next_hop)) if interface == output && next_hop.is_ipv4() == to.is_ipv4() => {
                next_hop
            }
            _ => to,
        };
        self.interfaces.own().source(output, to, next_hop)
    }

    /// Longest IP packet, in bytes, that the route and its link take by which packets to `to` leave.
    pub fn mtu_towards(&self, to: IpAddr) -> Option<u16> {
        match self.way(to) {
            // Linux's own interface: what is longer Linux splits, or says so.
            Way::Linux => self.routes.lookup_with_mtu(to).map(|(_, mtu)| mtu).filter(|&mtu| mtu > 0),
            way => self.mtu_of(way, to),
        }
    }

    /// The same where the way to `to` is known, of our own interfaces alone.
    pub fn mtu_of(&self, way: Way, to: IpAddr) -> Option<u16> {
        match way {
            Way::Hop(hop) => self.neighbours.get(hop).map(|hop| hop.mtu),
            Way::Unresolved(interface, _) => {
                let link = self.interfaces.get(interface)?.mtu;
                let said = self.routes.lookup_with_mtu(to).map_or(0, |(_, mtu)| mtu);
                Some(if said == 0 { link } else { link.min(said) })
            }
            _ => None,
        }
    }

    /// Whether virtual services of this family are looked at. Where they are not, connections that are left over are not translated any more.
    #[inline]
    pub fn serves(&self, is_ipv6: bool) -> bool {
        self.services.is_active(is_ipv6) && !self.settings.is_standby
    }

    /// Looks up the route to `to` and its next hop.
    pub fn way(&self, to: IpAddr) -> Way {
        let Some((route, mtu)) = self.routes.lookup_with_mtu(to) else { return Way::NoRoute };
        match route {
            Route::Local => Way::Local,
            Route::Linux => Way::Linux,
            Route::Forbidden => Way::Forbidden,
            Route::Via { interface, gateway } => {
                let neighbour = gateway.unwrap_or(to);
                match self.neighbours.find(interface, neighbour) {
                    Some(hop) => Way::Hop(self.neighbours.narrowed(hop, mtu)),
                    None => Way::Unresolved(interface, neighbour),
                }
            }
        }
    }
}
