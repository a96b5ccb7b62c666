//! The network around the director: two interfaces, the hosts behind each, and what the path is told of it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use lb_core::ids::{PortId, ServerId, ServiceId};
use lb_core::ipvs::SchedulerKind;
use lb_core::ipvs::scheduler::{Scheduler, SchedulerFlags};
use lb_core::rule::Rules;
use lb_core::tables::{
    ClientMask, Forward, GueChecksum, Interface, InterfaceId, Interfaces, Neighbours, Persistence, Protocol,
    Route, Routes, Server, ServiceKey, Services, Settings, Tables, Tunnel,
};
use lb_core::time::Timeout;

use super::model::{Forwarding, Service, Takes};
use super::npt;
use super::packet::number;
use super::rule::Prefix;
use super::world::LIFE;
use crate::draw::Draw;
use crate::wire::{ICMP, ICMPV6, Link, Mac, TCP, UDP};

pub(super) const INTERFACES: [&str; 2] = ["wan", "lan"];
/// Hosts behind each.
const HOSTS: u8 = 4;
/// Addresses outside that no host has, for SNAT.
const POOL: u8 = 2;
const MTU: u16 = 1500;

const TUNNELS: [Tunnel; 6] = [
    Tunnel::Ipip,
    Tunnel::Gue { port: GUE, checksum: GueChecksum::No },
    Tunnel::Gue { port: GUE, checksum: GueChecksum::Yes },
    Tunnel::Gue { port: GUE, checksum: GueChecksum::Remote },
    Tunnel::Gre { checksum: false },
    Tunnel::Gre { checksum: true },
];
const GUE: u16 = 6080;

/// Of one family; real servers may be of the other one.
pub(super) struct Net {
    pub(super) is_ipv6: bool,
}

impl Net {
    fn at(&self, interface: usize, host: u8) -> IpAddr {
        match (self.is_ipv6, interface) {
            (false, 0) => Ipv4Addr::new(192, 0, 2, host).into(),
            (false, _) => Ipv4Addr::new(10, 0, 0, host).into(),
            (true, 0) => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, host.into()).into(),
            (true, _) => Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, host.into()).into(),
        }
    }

    /// The director's own address.
    pub(super) fn own(&self, interface: usize) -> IpAddr {
        self.at(interface, 1)
    }

    /// The same, of the family of such an address.
    pub(super) fn own_like(&self, like: IpAddr) -> IpAddr {
        Net { is_ipv6: like.is_ipv6() }.own(self.interface(like))
    }

    /// The same network, of the other family.
    fn other(&self) -> Net {
        Net { is_ipv6: !self.is_ipv6 }
    }

    pub(super) fn host(&self, interface: usize, draw: &mut Draw) -> IpAddr {
        self.at(interface, 100 + draw.below(HOSTS.into()) as u8)
    }

    /// First and last of some addresses that a source may become.
    pub(super) fn pool(&self, draw: &mut Draw) -> (IpAddr, IpAddr) {
        let pool = |n| self.at(0, 20 + n);
        draw.pick(&[
            (self.own(0), self.own(0)),
            (self.own(1), self.own(1)),
            (pool(0), pool(0)),
            (pool(0), pool(POOL - 1)),
        ])
    }

    pub(super) fn prefix(&self, draw: &mut Draw) -> Prefix {
        let whole = if self.is_ipv6 { 128 } else { 32 };
        let interface = draw.below(2) as usize;
        match draw.below(4 + u64::from(self.is_ipv6)) {
            0 => Prefix { address: self.own(interface), len: whole },
            4 => Prefix { address: IpAddr::V6(npt::OUTER.into()), len: 64 },
            1 => Prefix { address: self.host(interface, draw), len: whole },
            2 => Prefix { address: self.at(interface, 100), len: whole - 1 },
            _ => Prefix { address: self.at(interface, 0), len: whole - 8 },
        }
    }

    /// What an inner host, or the director there, is known by outside where prefixes are exchanged.
    pub(super) fn outer(&self, draw: &mut Draw) -> IpAddr {
        let inner = if draw.below(4) == 0 { self.own(1) } else { self.host(1, draw) };
        IpAddr::V6(npt::map(number(inner), npt::OUTER).into())
    }

    /// An address by which an inner one is known outside: who answers to it has a router that knows the way.
    fn is_outer(&self, address: IpAddr) -> bool {
        self.is_ipv6 && npt::is_of(npt::OUTER, number(address))
    }

    fn router(&self) -> IpAddr {
        self.at(0, 100)
    }

    pub(super) fn icmp(&self) -> u8 {
        if self.is_ipv6 { ICMPV6 } else { ICMP }
    }

    pub(super) fn is_own(&self, address: IpAddr) -> bool {
        (0..INTERFACES.len()).any(|interface| self.own(interface) == address)
    }

    /// The interface that leads to an address.
    pub(super) fn interface(&self, address: IpAddr) -> usize {
        let wan = Net { is_ipv6: address.is_ipv6() }.own(0);
        usize::from(!self.is_outer(address) && number(address) >> 8 != number(wan) >> 8)
    }

    /// A host of this address answers.
    pub(super) fn is_host(&self, address: IpAddr) -> bool {
        let net = Net { is_ipv6: address.is_ipv6() };
        (100..100 + HOSTS).any(|host| net.at(self.interface(address), host) == address)
    }

    fn mac(&self, address: IpAddr) -> Mac {
        let address = if self.is_outer(address) { self.router() } else { address };
        [2, 0, 0, 1, self.interface(address) as u8, number(address) as u8]
    }

    fn own_mac(interface: usize) -> Mac {
        [2, 0, 0, 0, 0, interface as u8]
    }

    /// Of a frame that the director sends to `to`.
    pub(super) fn link_to(&self, to: IpAddr) -> Link {
        Link { dst: self.mac(to), src: Net::own_mac(self.interface(to)), vlan: 0 }
    }

    /// Of a frame that comes from `from`.
    pub(super) fn link_from(&self, from: IpAddr) -> Link {
        Link { dst: Net::own_mac(self.interface(from)), src: self.mac(from), vlan: 0 }
    }

    /// At an address of the director's, or by mark; its real servers are behind the other interface, two of them one host.
    pub(super) fn service(&self, draw: &mut Draw, has_windows: bool) -> Service {
        let count = draw.pick(&[1, 2, 3]);
        // IPVS goes by states of its own, in which a connection that was reset or closed is soon over.
        let is_tcp = draw.coin() && !has_windows;
        let is_marked = draw.below(4) == 0 && !has_windows;
        let servers = |net: &Net| [(net.at(1, 100), 80), (net.at(1, 101), 80), (net.at(1, 100), 8080)];
        let (protocol, port) = if is_tcp { (TCP, 80) } else { (UDP, 53) };
        let takes = match is_marked {
            true => Takes::Marked(1),
            false => Takes::Endpoint(protocol, (self.own(0), port)),
        };
        let is_persistent = draw.below(3) == 0;
        let is_one_way = draw.below(4) == 0;
        let is_other = draw.below(3) == 0;
        let forwarding = match (is_one_way, is_other) {
            (false, false) => Forwarding::Masquerading,
            (false, true) => Forwarding::FullNat,
            (true, false) => Forwarding::Direct,
            (true, true) => Forwarding::Tunnel(draw.pick(&TUNNELS)),
        };
        let may_be_other = matches!(forwarding, Forwarding::Tunnel(_) | Forwarding::FullNat);
        let is_other_family = may_be_other && draw.below(3) == 0;
        let servers = servers(&Net { is_ipv6: self.is_ipv6 != is_other_family });
        Service { takes, is_persistent, forwarding, servers, count }
    }

    pub(super) fn tables(
        &self,
        generation: u32,
        rules: &Arc<Rules>,
        settings: Settings,
        service: Option<Service>,
    ) -> Tables {
        let has_other = service.is_some_and(|service| service.servers[0].0.is_ipv6() != self.is_ipv6);
        let other = self.other();
        let nets = || [self, &other].into_iter().take(1 + usize::from(has_other));
        let ipv4 = |interface| nets().find(|net| !net.is_ipv6).map(|net| net.own(interface));
        let ipv6 = |interface| nets().find(|net| net.is_ipv6).map(|net| net.own(interface));
        let interface = |n: usize| Interface {
            name: INTERFACES[n].to_owned(),
            port: PortId(n as u16),
            vlan: 0,
            mac: Net::own_mac(n),
            mtu: MTU,
            outside: n == 0,
            group: 0,
            ipv4: ipv4(n).and_then(as_ipv4),
            ipv6: ipv6(n).and_then(as_ipv6),
        };
        let interfaces = Interfaces::new((0..INTERFACES.len()).map(interface).collect());
        let prefix = |address, len| lb_core::tables::Prefix { address, len };
        let all = nets().flat_map(|net| (0..INTERFACES.len()).map(move |n| (net, n)));
        let routes = all.clone().flat_map(|(net, n)| {
            let whole = if net.is_ipv6 { 128 } else { 32 };
            let via = Route::Via { interface: InterfaceId(n as u16), gateway: None };
            [(prefix(net.own(n), whole), Route::Local), (prefix(net.at(n, 0), whole - 8), via)]
        });
        let gateway = self.is_ipv6.then(|| {
            let via = Route::Via { interface: InterfaceId(0), gateway: Some(self.router()) };
            (prefix(IpAddr::V6(npt::OUTER.into()), 64), via)
        });
        let routes = routes.chain(gateway);
        let neighbours = all.flat_map(|(net, n)| {
            (20..20 + POOL).chain(100..100 + HOSTS).map(move |host| {
                let address = net.at(n, host);
                (InterfaceId(n as u16), address, Some(self.mac(address)))
            })
        });
        Tables {
            generation,
            routes: Routes::new(routes).into(),
            neighbours: Neighbours::new(&interfaces, neighbours).into(),
            interfaces: interfaces.into(),
            rules: rules.clone(),
            services: Services::new(service.map(|service| Arc::new(compiled(&service, self.is_ipv6)))).into(),
            settings,
            ..Tables::default()
        }
    }
}

fn as_ipv4(address: IpAddr) -> Option<Ipv4Addr> {
    if let IpAddr::V4(address) = address { Some(address) } else { None }
}

fn as_ipv6(address: IpAddr) -> Option<Ipv6Addr> {
    if let IpAddr::V6(address) = address { Some(address) } else { None }
}

fn compiled(service: &Service, is_ipv6: bool) -> lb_core::tables::Service {
    let server = |(id, &(address, port)): (u32, &(IpAddr, u16))| Server {
        id: ServerId(id),
        address,
        // The one that the client asks for.
        port: if service.forwarding.is_one_way() { 0 } else { port },
        weight: 1,
        last_weight: 1,
        forward: match service.forwarding {
            Forwarding::Masquerading => Forward::Masq,
            Forwarding::FullNat => Forward::FullNat,
            Forwarding::Direct => Forward::Direct,
            Forwarding::Tunnel(tunnel) => Forward::Tunnel(tunnel),
        },
        upper_threshold: 0,
        lower_threshold: 0,
        overloaded: Arc::default(),
    };
    let servers = (0..).zip(&service.servers[..service.count]).map(server).collect();
    let key = match service.takes {
        Takes::Endpoint(protocol, (address, port)) => ServiceKey::new(Protocol(protocol), address, port),
        Takes::Marked(mark) => ServiceKey::of_mark(mark, is_ipv6),
    };
    let kind = SchedulerKind::Sh;
    let flags = SchedulerFlags::from_names(kind, ["sh-port"]).expect("it has this one");
    let scheduler = Scheduler { flags, ..Scheduler::from(kind) };
    let mut compiled = lb_core::tables::Service::new(None, ServiceId(0), key, scheduler, servers, 1);
    let (timeout, mask) = (Timeout::from_secs(LIFE), ClientMask::WHOLE);
    compiled.options.persistence = service.is_persistent.then_some(Persistence { timeout, mask });
    compiled
}
