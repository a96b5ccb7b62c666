//! The director under test: two ports, one virtual service for each transport, ten real servers if not said
//! otherwise.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use lb_core::ids::{PortId, ServerId, ServiceId};
use lb_core::ipvs::SchedulerKind;
use lb_core::tables::{
    Forward, Interface, InterfaceId, Interfaces, Mac, Neighbours, Prefix, Protocol, Route, Routes, Server,
    Service, ServiceKey, Services, Tables,
};

use super::{LAN, WAN};

/// Our MAC addresses, by port.
pub(super) const MACS: [Mac; 2] = [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]];
pub(super) const VIP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
/// Real servers of each virtual service.
pub(super) const SERVERS: u32 = 10;
/// Where connections come from whose source is exchanged: room for 2.5 million.
pub(super) const LOCAL: [Ipv4Addr; 4] = [
    Ipv4Addr::new(10, 1, 0, 1),
    Ipv4Addr::new(10, 1, 0, 2),
    Ipv4Addr::new(10, 1, 0, 3),
    Ipv4Addr::new(10, 1, 0, 4),
];
/// Bounds the ids of real servers.
pub const SERVER_CAPACITY: usize = 64;

/// How connections are spread, and over how many real servers of each virtual service.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Spread {
    pub scheduler: SchedulerKind,
    /// At most 65,000.
    pub servers: u32,
}

impl Default for Spread {
    fn default() -> Spread {
        Spread { scheduler: SchedulerKind::Rr, servers: SERVERS }
    }
}

impl Spread {
    /// Bounds the ids of real servers.
    pub fn server_capacity(self) -> usize {
        (2 * self.servers as usize).max(SERVER_CAPACITY)
    }
}

/// The n-th real server's address.
pub(super) fn server(n: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 0, 0, 11)) + n)
}

/// What the control plane would publish: every neighbour resolved.
pub fn tables(spread: Spread, forward: Forward) -> Tables {
    let interface = |name: &str, port: PortId, mac| Interface {
        name: name.into(),
        port,
        vlan: 0,
        mac,
        mtu: 1500,
        outside: port == WAN,
        group: 0,
        ipv4: Some(Ipv4Addr::new(10, 0, 0, 1)),
        ipv6: None,
    };
    let interfaces = Interfaces::new(vec![interface("wan", WAN, MACS[0]), interface("lan", LAN, MACS[1])]);
    let gateway = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
    let local = LOCAL.map(|address| (Prefix { address: address.into(), len: 32 }, Route::Local));
    let routes = Routes::new(local.into_iter().chain([
        (Prefix { address: VIP.into(), len: 32 }, Route::Local),
        (
            Prefix { address: Ipv4Addr::UNSPECIFIED.into(), len: 0 },
            Route::Via { interface: InterfaceId(0), gateway: Some(gateway) },
        ),
        (
            Prefix { address: Ipv4Addr::new(10, 0, 0, 0).into(), len: 16 },
            Route::Via { interface: InterfaceId(1), gateway: None },
        ),
    ]));
    let mac = |n: u32| [2, 0, 0, 1, (n >> 8) as u8, n as u8];
    let servers = (0..spread.servers).map(|n| (InterfaceId(1), server(n).into(), Some(mac(n))));
    let gateways = [(InterfaceId(0), gateway, Some([2, 0, 0, 0, 1, 1]))];
    let neighbours = Neighbours::new(&interfaces, servers.chain(gateways));
    let services = [Protocol::TCP, Protocol::UDP].into_iter().enumerate().map(|(n, protocol)| {
        let servers = (0..spread.servers).map(|i| {
            Server::new(ServerId(n as u32 * spread.servers + i), (server(i).into(), 8080), 1, forward)
        });
        let key = ServiceKey::new(protocol, VIP.into(), 80);
        let mut service =
            Service::new(None, ServiceId(n as u32), key, spread.scheduler, servers.collect(), 1);
        service.local_addresses = LOCAL.map(IpAddr::from).to_vec();
        Arc::new(service)
    });
    let mut tables = Tables {
        generation: 1,
        interfaces: interfaces.into(),
        routes: routes.into(),
        neighbours: neighbours.into(),
        services: Services::new(services).into(),
        ..Tables::default()
    };
    // A generator that is never done looks like more than the worker can take.
    tables.settings.sysctls.drop_newcomers = 0;
    tables
}
