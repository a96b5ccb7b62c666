//! Who is where: the director's interfaces, the hosts on them, the addresses of virtual services.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use foldhash::fast::FixedState;
use lb_core::ids::PortId;
use lb_core::tables::{Interface, InterfaceId, Interfaces, Prefix, Route, Routes};

use crate::draw::Draw;
use crate::shape::Shape;
use crate::wire::{Link, Mac};

/// A map whose order nobody looks at, with a hash that is always the same.
pub type Map<K, V> = HashMap<K, V, FixedState>;

/// Addresses of virtual services.
pub const VIRTUAL: usize = 3;
/// Virtual services that may be: each address, TCP and UDP, both families.
pub const PLACES: usize = VIRTUAL * 4;
/// Where real servers answer; services are at 80.
pub const SERVER_PORT: u16 = 8080;
pub const SERVICE_PORT: u16 = 80;
/// Where a real server echoes what comes to it directly.
pub const ECHO_PORT: u16 = 7;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    Client,
    Server,
}

/// How a real server gets its packets. In one world always the same for a service and a host, as a connection keeps what it began with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum How {
    Masqueraded,
    Direct,
    /// To its address of the other family or of the service's.
    Tunnelled {
        is_other_family: bool,
    },
}

/// Where real servers unpack GUE.
pub const GUE_PORT: u16 = 6080;

#[derive(Clone, Debug)]
pub struct Host {
    pub role: Role,
    /// As a real server of each service.
    pub how: [How; PLACES],
    /// Index of the director's interface that leads to it.
    pub interface: usize,
    pub ipv4: Ipv4Addr,
    pub ipv6: Ipv6Addr,
    /// Its own, or that of the router before it.
    pub mac: Mac,
    pub is_behind_router: bool,
}

impl Host {
    pub fn address(&self, is_ipv6: bool) -> IpAddr {
        if is_ipv6 { self.ipv6.into() } else { self.ipv4.into() }
    }
}

pub struct Plan {
    pub interfaces: Arc<Interfaces>,
    pub routes: Arc<Routes>,
    pub hosts: Vec<Host>,
    pub clients: Vec<usize>,
    pub servers: Vec<usize>,
    by_address: Map<IpAddr, usize>,
    /// Of the director: its own and those of virtual services.
    local: Vec<IpAddr>,
    routers: Vec<(usize, IpAddr, Mac)>,
}

/// An address of interface `n`'s networks.
fn on(n: usize, is_outside: bool, host: u16) -> (Ipv4Addr, Ipv6Addr) {
    let (n8, n16) = (n as u8, n as u16);
    let [high, low] = host.to_be_bytes();
    if is_outside {
        (Ipv4Addr::new(172, 16 + n8, high, low), Ipv6Addr::new(0x2001, 0xdb8, 0, n16, 0, 0, 0, host))
    } else {
        (Ipv4Addr::new(10, n8, high, low), Ipv6Addr::new(0xfd00, 0, 0, n16, 0, 0, 0, host))
    }
}

/// Hosts behind a router of the outside interface 0.
fn far(host: u16) -> (Ipv4Addr, Ipv6Addr) {
    let [high, low] = host.to_be_bytes();
    (Ipv4Addr::new(198, 51, 100 + high, low), Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, host))
}

/// Address `n` of the virtual services.
pub fn virtual_address(n: usize, is_ipv6: bool) -> IpAddr {
    let (v4, v6) = on(0, true, 0x200 + n as u16);
    if is_ipv6 { v6.into() } else { v4.into() }
}

/// An address on interface 0 that nobody has.
pub fn nobody(is_ipv6: bool) -> IpAddr {
    let (v4, v6) = on(0, true, 0x909);
    if is_ipv6 { v6.into() } else { v4.into() }
}

impl Plan {
    pub fn new(shape: &Shape, draw: &mut Draw) -> Plan {
        let mut local: Vec<IpAddr> = Vec::new();
        let mut routes = Vec::new();
        let mut interfaces = Vec::new();
        let mut routers = Vec::new();
        let host_route = |address: IpAddr| Prefix { address, len: if address.is_ipv6() { 128 } else { 32 } };
        for (n, shape) in shape.interfaces.iter().enumerate() {
            let (ipv4, ipv6) = on(n, shape.is_outside, 1);
            let via = Route::Via { interface: InterfaceId(n as u16), gateway: None };
            routes.push((Prefix { address: ipv4.into(), len: 16 }, via));
            routes.push((Prefix { address: ipv6.into(), len: 64 }, via));
            local.extend([IpAddr::from(ipv4), ipv6.into()]);
            interfaces.push(Interface {
                name: format!("p{}.{}", shape.port, shape.vlan),
                port: PortId(shape.port),
                vlan: shape.vlan,
                mac: [2, 0, 0, 0, 0, shape.port as u8],
                mtu: shape.mtu,
                outside: shape.is_outside,
                group: 0,
                ipv4: Some(ipv4),
                ipv6: Some(ipv6),
            });
        }
        for n in 0..VIRTUAL {
            local.extend([virtual_address(n, false), virtual_address(n, true)]);
        }
        routes.extend(local.iter().map(|&address| (host_route(address), Route::Local)));
        let (router4, router6) = on(0, true, 0xfe);
        for (to, len, gateway) in
            [(IpAddr::from(far(0).0), 16, IpAddr::from(router4)), (far(0).1.into(), 48, router6.into())]
        {
            let via = Route::Via { interface: InterfaceId(0), gateway: Some(gateway) };
            routes.push((Prefix { address: to, len }, via));
            routers.push((0, gateway, [2, 0, 0, 0, 0xfe, 0]));
        }
        routes.push((Prefix { address: Ipv4Addr::new(203, 0, 113, 0).into(), len: 24 }, Route::Forbidden));
        let hosts: Vec<_> = (0..shape.clients + shape.servers).map(|n| host(shape, draw, n)).collect();
        let with = |role| (0..hosts.len()).filter(|&n| hosts[n].role == role).collect();
        let by_address = hosts
            .iter()
            .enumerate()
            .flat_map(|(n, host)| [(host.ipv4.into(), n), (host.ipv6.into(), n)])
            .collect();
        Plan {
            interfaces: Arc::new(Interfaces::new(interfaces)),
            routes: Arc::new(Routes::new(routes)),
            clients: with(Role::Client),
            servers: with(Role::Server),
            hosts,
            by_address,
            local,
            routers,
        }
    }

    /// The host that a frame of the director reaches: by address, or as a real server that has a virtual service's address too.
    pub fn host_towards(&self, link: &Link, to: IpAddr) -> Option<usize> {
        let is_it = |host: &Host| host.role == Role::Server && host.mac == link.dst;
        self.host_at(to).or_else(|| self.hosts.iter().position(is_it).filter(|_| self.is_local(to)))
    }

    /// How a host gets packets to this service; to itself, when it is for none.
    pub fn how(&self, host: usize, place: Option<usize>) -> How {
        place.map_or(How::Masqueraded, |place| self.hosts[host].how[place])
    }

    /// Address and port to which a client's packets come at a real server. `to`: the service's.
    pub fn arrives_at(&self, host: usize, place: Option<usize>, to: (IpAddr, u16)) -> (IpAddr, u16) {
        match (self.how(host, place), place) {
            (How::Masqueraded, Some(_)) => (self.hosts[host].address(to.0.is_ipv6()), SERVER_PORT),
            (How::Masqueraded, None) => (self.hosts[host].address(to.0.is_ipv6()), to.1),
            (How::Direct | How::Tunnelled { .. }, _) => to,
        }
    }

    pub fn host_at(&self, address: IpAddr) -> Option<usize> {
        self.by_address.get(&address).copied()
    }

    /// An address of the director that is no virtual service's.
    pub fn is_interface(&self, address: IpAddr) -> bool {
        self.local[..2 * self.interfaces.iter().count()].contains(&address)
    }

    pub fn is_local(&self, address: IpAddr) -> bool {
        self.local.contains(&address)
    }

    /// The MAC address that answers for `address` on an interface.
    pub fn mac_of(&self, interface: usize, address: IpAddr) -> Option<Mac> {
        let on_link = |host: &&Host| host.interface == interface && !host.is_behind_router;
        let host = self.host_at(address).map(|n| &self.hosts[n]).filter(on_link).map(|host| host.mac);
        host.or_else(|| self.routers.iter().find(|r| r.0 == interface && r.1 == address).map(|r| r.2))
    }

    /// All neighbours there are.
    pub fn neighbours(&self) -> Vec<(usize, IpAddr)> {
        let near = self.hosts.iter().filter(|host| !host.is_behind_router);
        near.flat_map(|host| [(host.interface, host.ipv4.into()), (host.interface, host.ipv6.into())])
            .chain(self.routers.iter().map(|router| (router.0, router.1)))
            .collect()
    }

    pub fn interface(&self, n: usize) -> &Interface {
        self.interfaces.get(InterfaceId(n as u16)).expect("an interface of the plan")
    }
}

fn host(shape: &Shape, draw: &mut Draw, n: usize) -> Host {
    let role = if n < shape.clients { Role::Client } else { Role::Server };
    let is_outside = role == Role::Client;
    let all: Vec<_> =
        (0..shape.interfaces.len()).filter(|&i| shape.interfaces[i].is_outside == is_outside).collect();
    let interface = draw.pick(&all);
    let number = 0x300 + n as u16;
    let is_behind_router = interface == 0 && is_outside && draw.coin();
    let (ipv4, ipv6) = if is_behind_router { far(n as u16 + 1) } else { on(interface, is_outside, number) };
    let mac = if is_behind_router { [2, 0, 0, 0, 0xfe, 0] } else { [2, 0, 0, 1, 0, n as u8] };
    let how = std::array::from_fn(|_| match draw.below(if shape.has_other_methods { 4 } else { 1 }) {
        0 | 1 => How::Masqueraded,
        2 => How::Direct,
        _ => How::Tunnelled { is_other_family: draw.coin() },
    });
    Host { role, how, interface, ipv4, ipv6, mac, is_behind_router }
}

/// Transport, family and address of place `n` of [`PLACES`].
pub fn place(n: usize) -> (bool, IpAddr) {
    let (is_tcp, is_ipv6) = (n.is_multiple_of(2), n / 2 % 2 == 1);
    (is_tcp, virtual_address(n / 4, is_ipv6))
}
