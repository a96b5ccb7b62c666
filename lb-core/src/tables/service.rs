//! Virtual services and their real servers, compiled.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use hashbrown::HashMap;

use super::{Prefix, ServiceOptions};
use crate::flow::{Method, Tuple};
use crate::ids::{ServerId, ServiceId};
use crate::ipvs::SchedulerKind;
use crate::ipvs::limiter::Limiter;
use crate::ipvs::quic_lb::QuicLb;
use crate::ipvs::scheduler::{self, Scheduler, SchedulerFlags};
use crate::wire::{ipv4, ipv6};

/// An IP protocol number.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Protocol(pub u8);

impl Protocol {
    /// Of no protocol (the kernel's IPPROTO_IP): services by firewall mark.
    pub const ANY: Protocol = Protocol(0);
    pub const ICMP: Protocol = Protocol(1);
    /// IPv4 in IP.
    pub const IPIP: Protocol = Protocol(4);
    pub const TCP: Protocol = Protocol(6);
    pub const UDP: Protocol = Protocol(17);
    /// IPv6 in IP.
    pub const IPV6: Protocol = Protocol(41);
    pub const GRE: Protocol = Protocol(47);
    pub const ESP: Protocol = Protocol(50);
    pub const AH: Protocol = Protocol(51);
    pub const ICMPV6: Protocol = Protocol(58);
    pub const SCTP: Protocol = Protocol(132);

    /// Whether its packets have ports, and are connections'.
    #[inline]
    pub const fn has_ports(self) -> bool {
        matches!(self, Protocol::TCP | Protocol::UDP | Protocol::SCTP)
    }
}

impl fmt::Debug for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Protocol::ICMP => f.write_str("ICMP"),
            Protocol::TCP => f.write_str("TCP"),
            Protocol::UDP => f.write_str("UDP"),
            Protocol::ICMPV6 => f.write_str("ICMPv6"),
            Protocol::SCTP => f.write_str("SCTP"),
            Protocol(other) => write!(f, "protocol {other}"),
        }
    }
}

/// How a packet gets to the real server.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Forward {
    /// Masquerading: destination and, on the way back, source are rewritten.
    Masq,
    /// Direct routing: as it is, to the real server's MAC address. The real server has the virtual service's address
    /// too, and answers the client itself.
    Direct,
    /// Within a packet to the real server, which unpacks it, has the virtual service's address too, and answers the
    /// client itself.
    Tunnel(Tunnel),
    /// As masquerading, and the source is rewritten too, to an address and port of the director: the answers come back to them
    /// whatever the real server's routes are.
    FullNat,
}

impl Forward {
    /// What a connection that begins now remembers of it.
    pub fn method(self) -> Method {
        match self {
            Forward::Masq | Forward::FullNat => Method::Masq,
            Forward::Direct => Method::Direct,
            Forward::Tunnel(_) => Method::Tunnel,
        }
    }
}

/// What is put before a packet that goes through a tunnel, behind the outer IP header.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Tunnel {
    /// Nothing: IP in IP (RFC 2003, RFC 2473, RFC 4213).
    Ipip,
    /// UDP and generic UDP encapsulation (draft-ietf-intarea-gue, version 0).
    Gue { port: u16, checksum: GueChecksum },
    /// Generic routing encapsulation (RFC 2784).
    Gre { checksum: bool },
}

/// Whether GUE's UDP header has a checksum.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum GueChecksum {
    No,
    Yes,
    /// It has. Remote checksum offload is for packets whose own checksum is still to be written, which one that was
    /// received never is: the kernel's IPVS sends its packets without the option too.
    Remote,
}

impl GueChecksum {
    pub const ALL: [GueChecksum; 3] = [GueChecksum::No, GueChecksum::Yes, GueChecksum::Remote];

    /// As commands and the file write it.
    pub const fn name(self) -> &'static str {
        match self {
            GueChecksum::No => "none",
            GueChecksum::Yes => "checksum",
            GueChecksum::Remote => "remote",
        }
    }

    pub fn named(name: &str) -> Option<GueChecksum> {
        GueChecksum::ALL.into_iter().find(|checksum| checksum.name() == name)
    }
}

impl Tunnel {
    /// One of each kind, the parts of which are not said.
    pub const ALL: [Tunnel; 3] =
        [Tunnel::Ipip, Tunnel::Gue { port: 0, checksum: GueChecksum::No }, Tunnel::Gre { checksum: false }];

    /// What its kind is called.
    pub const fn name(self) -> &'static str {
        self.parts().0
    }

    /// One of this kind, the parts of which are not said.
    pub fn named(name: &str) -> Option<Tunnel> {
        Tunnel::ALL.into_iter().find(|tunnel| tunnel.name() == name)
    }

    /// Kind, port, checksum; 0 and `None` where the kind has none.
    pub const fn parts(self) -> (&'static str, u16, Option<GueChecksum>) {
        match self {
            Tunnel::Ipip => ("ipip", 0, None),
            Tunnel::Gue { port, checksum } => ("gue", port, Some(checksum)),
            Tunnel::Gre { checksum: false } => ("gre", 0, Some(GueChecksum::No)),
            Tunnel::Gre { checksum: true } => ("gre", 0, Some(GueChecksum::Yes)),
        }
    }

    /// The opposite of [`parts`](Self::parts), by names; no checksum is [`GueChecksum::No`].
    ///
    /// # Errors
    /// Why there is none with these, in words.
    pub fn from_parts(kind: &str, port: u16, checksum: Option<&str>) -> Result<Tunnel, String> {
        let said = checksum.unwrap_or(GueChecksum::No.name());
        if port != 0 && !matches!(Tunnel::named(kind), Some(Tunnel::Gue { .. })) {
            return Err(format!("a tunnel of type {kind} has no port"));
        }
        match (Tunnel::named(kind), GueChecksum::named(said)) {
            (None, _) => {
                let known = Tunnel::ALL.map(Tunnel::name).join(", ");
                Err(format!("no tunnel of type {kind:?}; there are {known}"))
            }
            (Some(Tunnel::Gue { .. }), _) if port == 0 => {
                Err("a tunnel of type gue needs a port other than 0".to_owned())
            }
            (Some(Tunnel::Ipip), Some(GueChecksum::No)) => Ok(Tunnel::Ipip),
            (Some(Tunnel::Gue { .. }), Some(checksum)) => Ok(Tunnel::Gue { port, checksum }),
            (Some(Tunnel::Gre { .. }), Some(GueChecksum::No)) => Ok(Tunnel::Gre { checksum: false }),
            (Some(Tunnel::Gre { .. }), Some(GueChecksum::Yes)) => Ok(Tunnel::Gre { checksum: true }),
            _ => Err(format!("a tunnel of type {kind} has no checksum {said:?}")),
        }
    }

    /// Bytes behind the outer IP header.
    #[inline]
    pub const fn header_len(self) -> usize {
        match self {
            Tunnel::Ipip => 0,
            Tunnel::Gue { .. } => 12,
            Tunnel::Gre { checksum: false } => 4,
            Tunnel::Gre { checksum: true } => 8,
        }
    }

    /// Bytes by which a packet grows in a tunnel to `to`.
    #[inline]
    pub const fn overhead(self, to: IpAddr) -> usize {
        let outer = match to {
            IpAddr::V4(_) => ipv4::LEN,
            IpAddr::V6(_) => ipv6::LEN,
        };
        outer + self.header_len()
    }
}

/// What a new connection is matched by: an address, or a prefix whose addresses are each as if they had a service of their
/// own, with real servers in common.
///
/// A firewall mark's has [`Protocol::ANY`], port 0, and the mark where an address begins, as the kernel writes it into a
/// persistence template.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ServiceKey {
    pub protocol: Protocol,
    /// Of a prefix: the first one, all host bits 0.
    pub address: IpAddr,
    /// Bits of `address` that count: 32 or 128 for one address alone.
    pub prefix_len: u8,
    /// 0: every port.
    pub port: u16,
}

/// In one or two words, where the derived one gives each field to the hasher by itself, and an address byte by byte.
impl Hash for ServiceKey {
    #[inline]
    fn hash<H: Hasher>(&self, to: &mut H) {
        let rest = u32::from(self.port) << 16 | u32::from(self.prefix_len) << 8 | u32::from(self.protocol.0);
        match self.address {
            IpAddr::V4(address) => to.write_u64(u64::from(u32::from(address)) << 32 | u64::from(rest)),
            IpAddr::V6(address) => {
                to.write_u128(address.into());
                to.write_u32(rest);
            }
        }
    }
}

impl ServiceKey {
    /// FTP's control connections are to this port (RFC 959 §8).
    pub const FTP: u16 = 21;

    /// Of one address.
    #[inline]
    pub const fn new(protocol: Protocol, address: IpAddr, port: u16) -> ServiceKey {
        let prefix_len = Prefix::longest(address.is_ipv6());
        ServiceKey { protocol, address, prefix_len, port }
    }

    /// Of what a packet is sent to.
    #[inline]
    pub fn of(packet: &Tuple) -> ServiceKey {
        ServiceKey::new(packet.protocol, packet.dst, packet.dport)
    }

    /// The addresses that it is for.
    #[inline]
    pub const fn prefix(&self) -> Prefix {
        Prefix { address: self.address, len: self.prefix_len }
    }

    /// Whether it is for more than one address.
    #[inline]
    pub const fn is_prefix(&self) -> bool {
        self.prefix_len != Prefix::longest(self.address.is_ipv6())
    }

    /// Whether it is FTP's.
    pub const fn is_ftp(&self) -> bool {
        self.port == ServiceKey::FTP && self.protocol.0 == Protocol::TCP.0
    }

    /// That of FTP's service at the same address.
    pub const fn of_ftp(&self) -> ServiceKey {
        ServiceKey { port: ServiceKey::FTP, ..*self }
    }

    /// The port that persistence templates have: that of FTP's is 0, for its data connections as well (`ip_vs_sched_persist`, whatever the
    /// protocol).
    #[inline]
    pub const fn template_port(&self) -> u16 {
        if self.port == ServiceKey::FTP { 0 } else { self.port }
    }

    /// The same with as many bits of the address.
    #[inline]
    pub(super) fn of_len(self, len: u8) -> ServiceKey {
        let address = Prefix { address: self.address, len }.network();
        ServiceKey { address, prefix_len: len, ..self }
    }

    /// Of a firewall mark, which is not 0.
    pub fn of_mark(mark: u32, is_ipv6: bool) -> ServiceKey {
        let address =
            if is_ipv6 { Ipv6Addr::from(u128::from(mark) << 96).into() } else { Ipv4Addr::from(mark).into() };
        ServiceKey::new(Protocol::ANY, address, 0)
    }

    pub fn mark(&self) -> Option<u32> {
        (self.protocol == Protocol::ANY).then(|| match self.address {
            IpAddr::V4(mark) => mark.into(),
            IpAddr::V6(mark) => (u128::from(mark) >> 96) as u32,
        })
    }
}

#[derive(Clone, Debug)]
pub struct Server {
    pub id: ServerId,
    pub address: IpAddr,
    pub port: u16,
    /// 0 quiesces: no new connections, the others go on. At most 2³¹ − 1.
    pub weight: u32,
    /// The last weight above 0 that the operator gave it since it was added; 0: none. mh goes by it, whatever the scheduler was then.
    pub last_weight: u32,
    pub forward: Forward,
    /// No new connections from this many on; 0: no limit.
    pub upper_threshold: u32,
    /// New connections again below this many; 0: below three quarters of `upper_threshold`.
    pub lower_threshold: u32,
    /// Set at `upper_threshold`, cleared at `lower_threshold`, by the workers; outlives the snapshot, and the server as long as it
    /// has connections. New when an edit lets connections in again.
    pub overloaded: Arc<AtomicBool>,
}

#[derive(Clone, Debug)]
pub struct Service {
    pub id: ServiceId,
    pub key: ServiceKey,
    pub scheduler: SchedulerKind,
    pub scheduler_flags: SchedulerFlags,
    /// As in [`Scheduler`].
    pub table_size: u32,
    pub warmup: u32,
    pub options: ServiceOptions,
    /// Where FullNAT connections come from; those that are not the director's own, or of another family than the real server, are
    /// passed over. Empty: from the address of the interface towards the real server.
    pub local_addresses: Vec<IpAddr>,
    /// How QUIC connection IDs name its real servers. `None`: they do not.
    pub quic_lb: Option<Arc<QuicLb>>,
    /// Of the limits in its options: outlives the snapshot. `None`: nothing is limited.
    pub limiter: Option<Arc<Limiter>>,
    /// Newest first: the order in which the kernel lists and scans them.
    pub servers: Vec<Server>,
    /// While a server warms up: the weights that the operator gave to those whose weight is another now.
    pub wanted_weights: HashMap<ServerId, u32>,
    /// Grows whenever a server is added, removed or edited (also when the edit changes nothing), or the scheduler is
    /// exchanged; not when the service is edited otherwise. Never used twice for one id, also when the service
    /// was deleted in between. Wraps.
    pub version: u32,
    /// Its scheduler keeps nothing, and no real server has a threshold.
    is_stateless: bool,
    compiled: scheduler::Compiled,
}

impl Server {
    /// Without thresholds.
    pub fn new(id: ServerId, (address, port): (IpAddr, u16), weight: u32, forward: Forward) -> Server {
        Server {
            id,
            address,
            port,
            weight,
            last_weight: weight,
            forward,
            upper_threshold: 0,
            lower_threshold: 0,
            overloaded: Arc::default(),
        }
    }

    /// The operator gives it another weight.
    pub fn set_weight(&mut self, weight: u32) {
        self.weight = weight;
        if weight > 0 {
            self.last_weight = weight;
        }
    }

    /// Takes new connections: neither quiesced nor overloaded.
    #[inline]
    pub fn takes_new(&self) -> bool {
        self.weight > 0 && !self.is_overloaded()
    }

    #[inline]
    pub fn is_overloaded(&self) -> bool {
        self.overloaded.load(Relaxed)
    }
}

impl Service {
    /// The service after a change from `old`, whose options it has, or a new one: with it, its scheduler's half is compiled.
    ///
    /// To be called for each change in turn, also for those that are never published: what a scheduler picks
    /// next may depend on each list of servers that there was. Several changes at once count as removals, then
    /// edits, then additions one by one.
    pub fn new(
        old: Option<&Service>,
        id: ServiceId,
        key: ServiceKey,
        scheduler: impl Into<Scheduler>,
        servers: Vec<Server>,
        version: u32,
    ) -> Service {
        let scheduler = scheduler.into();
        let compiled = scheduler::Compiled::new(old, scheduler, &servers, version);
        let Scheduler { kind, flags, table_size, warmup } = scheduler;
        let is_stateless = kind.is_stateless() && servers.iter().all(|server| server.upper_threshold == 0);
        let wanted_weights = HashMap::new();
        Service {
            id,
            key,
            scheduler: kind,
            scheduler_flags: flags,
            table_size,
            warmup,
            options: old.map_or_else(ServiceOptions::default, |old| old.options),
            local_addresses: old.map_or_else(Vec::new, |old| old.local_addresses.clone()),
            quic_lb: old.and_then(|old| old.quic_lb.clone()),
            limiter: old.and_then(|old| old.limiter.clone()),
            servers,
            wanted_weights,
            version,
            is_stateless,
            compiled,
        }
    }

    /// Whether its scheduler picks by a hash of the packet alone.
    #[inline]
    pub fn is_stateless(&self) -> bool {
        self.is_stateless
    }

    /// Whether the real server of a packet of no known connection follows from its ends alone.
    pub fn picks_alike(&self) -> bool {
        let options = &self.options;
        self.is_stateless && options.persistence.is_none() && !options.one_packet && self.quic_lb.is_none()
    }

    /// The scheduler with what it is told.
    pub fn scheduler(&self) -> Scheduler {
        Scheduler {
            kind: self.scheduler,
            flags: self.scheduler_flags,
            table_size: self.table_size,
            warmup: self.warmup,
        }
    }

    /// Whether a real server of it is reached by FullNAT.
    pub fn has_full_nat(&self) -> bool {
        self.servers.iter().any(|server| server.forward == Forward::FullNat)
    }

    /// The weight that the operator gave to a server of it.
    pub fn wanted_weight(&self, server: &Server) -> u32 {
        self.wanted_weights.get(&server.id).copied().unwrap_or(server.weight)
    }

    pub(crate) fn compiled(&self) -> &scheduler::Compiled {
        &self.compiled
    }
}
