//! Who changes a world: services, real servers, neighbours, settings, and the tables that workers get of them.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use lb_core::ids::{PortId, ServerId, ServiceId};
use lb_core::ipvs::SchedulerKind;
use lb_core::ipvs::quic_lb::{QuicLb, QuicServerId};
use lb_core::ipvs::scheduler::{Scheduler, SchedulerFlags};
use lb_core::packet::Frame;
use lb_core::tables::{
    ClientMask, ConnLimits, ConnRate, Engine, Forward, GueChecksum, Helper, Interface, InterfaceId,
    Interfaces, MarkRule, Marked, MarkedRoutes, Marks, Neighbours, Persistence, Prefix, Protocol,
    ProxyVersion, Route, Routes, Server, Service, ServiceKey, ServiceOptions, Services, SynCookies, Sysctl,
    Sysctls, Tables, Tunnel,
};
use lb_core::time::Timeout;
use lb_dataplane::Logic;

use super::{World, frames, ip, port_mac};

pub(super) const KEYS: [(u8, &str, u16); 20] = [
    (6, "192.0.2.10", 80),
    (17, "192.0.2.10", 80),
    (6, "192.0.2.11", 443),
    (6, "2001:db8::10", 80),
    (17, "2001:db8::10", 53),
    (17, "192.0.2.11", 0),
    (132, "192.0.2.10", 80),
    (132, "2001:db8::10", 80),
    (17, "192.0.2.11", 500),
    (17, "2001:db8::10", 500),
    // Firewall marks.
    (0, "0.0.0.7", 0),
    (0, "0:7::", 0),
    // Prefixes, within which the addresses above are.
    (6, "192.0.2.10/31", 80),
    (17, "192.0.2.8/29", 0),
    (6, "2001:db8::/64", 0),
    (17, "2001:db8::/120", 53),
    // From here on in worlds alone where FTP's port has services.
    (6, "192.0.2.10", 21),
    (6, "2001:db8::10", 21),
    (6, "192.0.2.10", 0),
    (6, "192.0.2.8/29", 21),
];

const WITHOUT_FTP_PORT: usize = 16;

/// Those by mark.
const BY_MARK: [usize; 2] = [10, 11];

/// What some routes take.
const NARROW: [u16; 2] = [600, 1290];

/// The prime that follows on the least size of maglev's table.
const LARGER_TABLE: u32 = 65_539;

pub(super) fn mark_rule(n: usize) -> MarkRule {
    let any = MarkRule::any(7);
    let prefix = |address, len| Some(Prefix { address: ip(address), len });
    match n {
        0 => MarkRule { protocol: Some(Protocol::UDP), destination: prefix("192.0.2.10", 31), ..any },
        1 => MarkRule { source: prefix("192.0.2.100", 32), destination_ports: 80..=80, ..any },
        2 => MarkRule { destination: prefix("2001:db8::", 32), destination_ports: 50..=60, ..any },
        3 => MarkRule { mark: 8, source: prefix("2001:db8::100", 128), ..any },
        4 => MarkRule { mark: 9, destination_ports: 443..=443, ..any },
        // Of what is bound for other hosts, where routes by mark are.
        6 => MarkRule { destination: prefix("203.0.113.0", 24), ..any },
        7 => MarkRule { source: prefix("198.51.100.0", 24), ..any },
        8 => MarkRule { destination: prefix("3fff::", 16), ..any },
        9 => MarkRule { source: prefix("2001:db8:1::", 48), ..any },
        10 => MarkRule { destination: prefix("198.51.100.0", 24), destination_ports: 1..=1023, ..any },
        _ => MarkRule { source: prefix("0.0.0.0", 0), ..any },
    }
}

pub(super) fn key(number: usize) -> ServiceKey {
    let (protocol, address, port) = KEYS[number];
    let (address, len) = address.split_once('/').unwrap_or((address, ""));
    let whole = ServiceKey::new(Protocol(protocol), ip(address), port);
    ServiceKey { prefix_len: len.parse().unwrap_or(whole.prefix_len), ..whole }
}

/// Those that may lead to the other family last, from [`FIRST_TO_OTHER`] on.
pub(super) const FORWARDS: &[Forward] = &[
    Forward::Masq,
    Forward::Masq,
    Forward::Masq,
    Forward::Direct,
    Forward::Direct,
    Forward::FullNat,
    Forward::FullNat,
    Forward::FullNat,
    Forward::Tunnel(Tunnel::Ipip),
    Forward::Tunnel(Tunnel::Ipip),
    Forward::Tunnel(Tunnel::Gue { port: 6080, checksum: GueChecksum::No }),
    Forward::Tunnel(Tunnel::Gue { port: 6080, checksum: GueChecksum::Yes }),
    Forward::Tunnel(Tunnel::Gre { checksum: false }),
    Forward::Tunnel(Tunnel::Gre { checksum: true }),
];

pub(super) const FIRST_TO_OTHER: usize = 5;

/// Whether the control plane lets a service with these options have such a real server.
pub(super) fn may_have(options: &ServiceOptions, key: &ServiceKey, server: &Server) -> bool {
    let is_other_family = server.address.is_ipv6() != key.address.is_ipv6();
    let is_answered = matches!(server.forward, Forward::Masq | Forward::FullNat);
    let has_cookies = options.syn_cookies != SynCookies::Off;
    (is_answered || options.proxy_protocol.is_none() && !has_cookies)
        && !(is_other_family && is_answered && (options.one_packet || has_cookies))
}

pub(super) fn server_address(is_ipv6: bool, n: usize) -> IpAddr {
    ip(&if is_ipv6 { format!("fd00::{}", 11 + n) } else { format!("10.0.0.{}", 11 + n) })
}

impl<L: Logic<Frame>> World<L> {
    pub(super) fn next_version(&mut self) -> u32 {
        self.version += 1;
        self.version
    }

    pub(super) fn keys(&self) -> &'static [(u8, &'static str, u16)] {
        &KEYS[..if self.has_ftp_port { KEYS.len() } else { WITHOUT_FTP_PORT }]
    }

    /// With flags, whether or not they mean something to it; maglev with one of two sizes of its table.
    pub(super) fn scheduler(&mut self, kind: SchedulerKind) -> Scheduler {
        let names = self.beside.of(&[&[][..], &["flag-1"], &["flag-2"], &["flag-1", "flag-2", "flag-3"]]);
        let flags = SchedulerFlags::from_names(kind, names.iter().copied()).expect("all have these");
        let plain = Scheduler::from(kind);
        let is_larger = kind == SchedulerKind::Maglev && self.beside.one_in(3);
        let table_size = if is_larger { LARGER_TABLE } else { plain.table_size };
        Scheduler { flags, table_size, ..plain }
    }

    /// Adds, removes or reschedules a service.
    pub(super) fn change_service(&mut self, number: usize) {
        let version = self.next_version();
        let scheduler = match self.rng.of(SchedulerKind::ALL) {
            _ if self.is_hashing => SchedulerKind::Sh,
            scheduler => scheduler,
        };
        let scheduler = self.scheduler(scheduler);
        let id = ServiceId(number as u32);
        if self.rng.one_in(2) {
            self.marks = (0..self.rng.below(4)).map(|_| self.rng.below(6)).collect();
        }
        if self.has_caches && self.beside.one_in(2) {
            self.marks = (0..1 + self.beside.below(4)).map(|_| self.beside.below(5) + 6).collect();
        }
        self.services[number] = match self.services[number].take() {
            None => {
                let mut service = Service::new(None, id, key(number), scheduler, vec![], version);
                service.options = self.options(&service.key);
                service.options.limits = self.change_limits(number);
                service.limiter = self.limiters.make(None, service.options.limits);
                service.local_addresses = self.local_addresses();
                service.quic_lb = self.quic_lb(&service.servers);
                Some(Arc::new(service))
            }
            Some(_) if self.rng.one_in(4) => None,
            Some(old) => {
                // Flags alone are no change to what a scheduler has made.
                let is_same = Scheduler { flags: old.scheduler_flags, ..scheduler } == old.scheduler();
                let version = if is_same { old.version } else { version };
                let mut service =
                    Service::new(Some(&old), id, old.key, scheduler, old.servers.clone(), version);
                service.options = self.options(&old.key);
                service.options.limits = self.change_limits(number);
                service.limiter = self.limiters.make(old.limiter.as_ref(), service.options.limits);
                if !service.servers.iter().all(|server| may_have(&service.options, &old.key, server)) {
                    service.options.one_packet = false;
                    (service.options.proxy_protocol, service.options.syn_cookies) = (None, SynCookies::Off);
                }
                service.local_addresses = self.local_addresses();
                service.quic_lb = self.quic_lb(&service.servers);
                Some(Arc::new(service))
            }
        };
        self.compile();
    }

    /// What a service may be limited to: every fourth is.
    pub(super) fn draw_limits(&mut self, key: &ServiceKey) -> ConnLimits {
        let prefixes =
            if key.address.is_ipv6() { [None, Some(64), Some(124)] } else { [None, Some(24), Some(31)] };
        let mut rate = || match self.rng.below(3) {
            0 => Some(ConnRate { per_second: self.rng.of(&[3, 40]), burst: self.rng.of(&[2, 9]) }),
            _ => None,
        };
        let (rate, source_rate) = (rate(), rate());
        let source_prefix = self.rng.of(&prefixes);
        let is_limited = self.rng.one_in(4);
        let limits = ConnLimits { rate, source_rate, source_prefix, connections: 9, ..ConnLimits::NONE };
        if is_limited { limits } else { ConnLimits::NONE }
    }

    /// As many connections as a service may have from now on; now and then any.
    pub(super) fn change_limits(&mut self, number: usize) -> ConnLimits {
        let (connections, source_connections) = (self.rng.of(&[0, 3, 12]), self.rng.of(&[0, 2, 8]));
        match self.limits[number] {
            limits if limits == ConnLimits::NONE || self.rng.one_in(4) => ConnLimits::NONE,
            limits => ConnLimits { connections, source_connections, ..limits },
        }
    }

    /// Every third service reads connection IDs, one of them without knowing how. Each real server has an ID of each length.
    pub(super) fn quic_lb(&mut self, servers: &[Server]) -> Option<Arc<QuicLb>> {
        if !self.rng.one_in(3) || self.is_hashing {
            return None;
        }
        let mut quic = QuicLb::default();
        quic.set_configs(self.quic[..self.rng.of(&[0, 1, 2, 2])].to_vec())
            .expect("each has an ID of its own");
        for server in servers {
            let ids = self.quic.map(|config| {
                let id = frames::quic_id(frames::last(server.address), config.id_len());
                let digits: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
                QuicServerId::parse(&digits).expect("hexadecimal")
            });
            quic.set_ids(server.id, ids.to_vec());
        }
        Some(quic.into())
    }

    /// Every third service is persistent, every fifth forgets each packet, two of three tell of their clients by an option, in every second world one of
    /// two by a header.
    pub(super) fn options(&mut self, key: &ServiceKey) -> ServiceOptions {
        let mask = self.rng.of(&[ClientMask::WHOLE, ClientMask::ipv4(Ipv4Addr::new(255, 255, 255, 0))]);
        let timeout = Timeout::from_secs(self.rng.of(&[1, 3, 100]));
        let persistence = self.rng.one_in(3).then_some(Persistence { timeout, mask });
        let persistence = persistence.filter(|_| !self.is_hashing);
        let engine = self.rng.one_in(4).then_some(Engine::Sip);
        let toa = !self.version.is_multiple_of(3);
        let may_be_tcp = [Protocol::TCP, Protocol::ANY].contains(&key.protocol);
        let is_tcp = self.has_headers && may_be_tcp;
        let is_ftp = self.has_ftp && may_be_tcp && !self.rng.one_in(3);
        let proxy_protocol = self.rng.of(&[None, None, Some(ProxyVersion::V1), Some(ProxyVersion::V2)]);
        let syn_cookies = self.rng.of(&[SynCookies::Off, SynCookies::On, SynCookies::Auto(3)]);
        // What tells an acknowledgement of a cookie from one worker to another is not to be had here.
        let may_have_cookies = is_tcp && persistence.is_none();
        ServiceOptions {
            persistence,
            engine,
            one_packet: self.rng.one_in(5) && !self.is_hashing,
            toa,
            clamp_mss: may_be_tcp && self.beside.one_in(2),
            helper: is_ftp.then_some(Helper::Ftp),
            proxy_protocol: proxy_protocol.filter(|_| is_tcp),
            syn_cookies: if may_have_cookies { syn_cookies } else { SynCookies::Off },
            ..ServiceOptions::default()
        }
    }

    /// Most services state none; some that are stated are not the director's, or are those of services too.
    pub(super) fn local_addresses(&mut self) -> Vec<IpAddr> {
        let known = ["10.0.0.9", "192.0.2.9", "192.0.2.11", "10.0.0.99", "2001:db8::9"];
        let count = self.rng.of(&[0, 0, 1, 2, 4]);
        (0..count).map(|_| ip(self.rng.of(&known))).collect()
    }

    /// Adds, edits or removes a real server of a service.
    pub(super) fn change_server(&mut self, number: usize) {
        let Some(old) = self.services[number].clone() else { return };
        let version = self.next_version();
        let n = self.rng.below(5);
        let is_other = self.rng.one_in(4);
        let address = server_address(old.key.address.is_ipv6() != is_other, n);
        let before = self.known.get(&(old.key, address)).cloned();
        let place = old.servers.iter().position(|server| server.address == address);
        let mut servers = old.servers.clone();
        if let Some(place) = place
            && self.rng.one_in(2)
        {
            servers.remove(place);
        } else {
            let next_id = ServerId(self.known.len() as u32);
            let upper_threshold = if self.is_hashing { 0 } else { self.rng.of(&[0, 0, 0, 3, 10]) };
            let forward = self.rng.of(if is_other { &FORWARDS[FIRST_TO_OTHER..] } else { FORWARDS });
            let forward = match forward {
                Forward::Tunnel(Tunnel::Gue { port, checksum: GueChecksum::Yes })
                    if self.beside.one_in(2) =>
                {
                    Forward::Tunnel(Tunnel::Gue { port, checksum: GueChecksum::Remote })
                }
                forward => forward,
            };
            let port = self.rng.of(&[80, 8080, 0]);
            let weight = self.rng.of(&[0, 1, 1, 2, 3, 4, 6, 100]);
            let last_weight = match place {
                Some(_) if weight == 0 => before.as_ref().map_or(0, |before| before.last_weight),
                _ => weight,
            };
            let mut server = Server {
                id: before.as_ref().map_or(next_id, |before| before.id),
                address,
                port,
                weight,
                last_weight,
                // Drawn anew for one that was there, whose connections and templates stay.
                forward,
                upper_threshold,
                lower_threshold: self.rng.of(&[0, 2]).min(upper_threshold),
                overloaded: before.as_ref().map(|before| before.overloaded.clone()).unwrap_or_default(),
            };
            if !may_have(&old.options, &old.key, &server) {
                return;
            }
            server.after_edit(before.map_or(0, |before| before.upper_threshold));
            match place {
                Some(place) => servers[place] = server.clone(),
                None => servers.insert(0, server.clone()),
            }
            self.known.insert((old.key, address), server);
        }
        let mut service = Service::new(Some(&old), old.id, old.key, old.scheduler(), servers, version);
        service.quic_lb = self.quic_lb(&service.servers);
        self.team.tell_service(&service);
        self.services[number] = Some(Arc::new(service));
        // A control plane in a hurry compiles several changes at once.
        if self.rng.one_in(2) {
            self.compile();
        }
    }

    pub(super) fn change_neighbour(&mut self) {
        let (n, is_ipv6) = (self.rng.below(5), self.rng.one_in(2));
        let address = match self.rng.below(4) {
            0 => ip(self.rng.of(&["192.0.2.100", "192.0.2.1", "2001:db8::100", "2001:db8::ffff"])),
            _ => server_address(is_ipv6, n),
        };
        match self.rng.below(5) {
            0 => self.neighbours.remove(&address),
            1 => self.neighbours.insert(address, None),
            _ => self.neighbours.insert(address, Some([2, 0, 0, 0, 3, n as u8])),
        };
        self.compile();
    }

    pub(super) fn change_settings(&mut self) {
        let timeout = self.rng.of(&[1, 5, 60, 900, 900]);
        match self.rng.below(10) {
            0 => self.settings.tcp = Timeout::from_secs(timeout),
            1 => self.settings.tcp_fin = Timeout::from_secs(timeout),
            2 => self.settings.udp = Timeout::from_secs(timeout),
            3 => self.settings.forwarding = !self.rng.one_in(4),
            4 => self.mtu = self.rng.of(&[1500, 1500, 1500, 1280, 576, 68, 20]),
            5 => self.settings.draining = self.rng.one_in(4),
            8 => self.settings.is_standby = self.rng.one_in(3),
            6 => self.has_ipv6_source = !self.rng.one_in(4),
            7 => self.change_sysctl(),
            _ => self.odd_route = self.rng.below(24),
        }
        self.compile();
    }

    pub(super) fn change_sysctl(&mut self) {
        // No world is so full that newcomers would give way, few have routes by mark, which draw by themselves, and none has another director to be told.
        let is_drawn =
            |name| !["drop_newcomers", "cache_bypass", "sync_period", "sync_threshold"].contains(&name);
        let drawn = || Sysctls::TABLE.iter().filter(|sysctl| is_drawn(sysctl.name));
        let at = self.rng.below(drawn().count());
        let Some(Sysctl { max, value, .. }) = drawn().nth(at) else { return };
        let small = self.rng.below((*max).min(3) as usize + 1) as u32;
        let is_number = *max > 3;
        let number = self.rng.of(&[2, 5, 15, 400]);
        *value(&mut self.settings.sysctls) = if is_number { number } else { small };
    }

    /// New tables, told to the team and not adopted yet.
    pub(super) fn compile(&mut self) {
        self.generation += 1;
        let interface = |name: &str, port: u16, vlan, mtu, ipv4: &str, ipv6: Option<&str>| Interface {
            name: name.into(),
            port: PortId(port),
            vlan,
            mac: port_mac(port),
            mtu,
            outside: port == 0,
            group: 0,
            ipv4: Some(ipv4.parse().unwrap()),
            ipv6: ipv6.map(|address| address.parse().unwrap()),
        };
        let lan_ipv6 = Some("fd00::9").filter(|_| self.has_ipv6_source);
        let interfaces = Interfaces::new(vec![
            interface("wan", 0, 0, 1500, "192.0.2.9", Some("2001:db8::9")),
            interface("lan", 1, 0, self.mtu, "10.0.0.9", lan_ipv6),
            interface("lan.7", 1, 7, 1500, "10.7.0.9", None),
        ]);
        let via =
            |n, gateway: Option<&str>| Route::Via { interface: InterfaceId(n), gateway: gateway.map(ip) };
        let route = |address: &str, len, route| (Prefix { address: ip(address), len }, route, 0);
        let narrow = |address: &str, len, mtu| (Prefix { address: ip(address), len }, via(1, None), mtu);
        let mut routes = match self.odd_route {
            1 => vec![route("10.0.0.0", 24, Route::Linux)],
            2 => vec![route("10.0.0.0", 24, Route::Forbidden)],
            3 => vec![route("10.0.0.12", 32, Route::Local)],
            4 => vec![route("192.0.2.10", 32, Route::Forbidden)],
            5 => vec![route("10.0.0.0", 24, via(2, None)), route("fd00::", 64, via(2, None))],
            6 => vec![route("fd00::", 64, Route::Linux)],
            7 => vec![narrow("10.0.0.12", 32, NARROW[0]), narrow("fd00::12", 128, NARROW[1])],
            8 => vec![narrow("10.0.0.0", 24, NARROW[1]), narrow("fd00::", 64, NARROW[1])],
            9 => {
                vec![(Prefix { address: ip("198.51.100.0"), len: 24 }, via(0, Some("192.0.2.1")), NARROW[0])]
            }
            _ => vec![],
        };
        routes.extend([
            route("192.0.2.0", 24, via(0, None)),
            route("192.0.2.9", 32, Route::Local),
            route("192.0.2.10", 32, Route::Local),
            route("192.0.2.11", 32, Route::Local),
            route("198.51.100.0", 24, via(0, Some("192.0.2.1"))),
            route("203.0.113.0", 24, Route::Forbidden),
            route("10.0.0.0", 24, via(1, None)),
            route("10.0.0.9", 32, Route::Local),
            route("10.7.0.0", 24, via(2, None)),
            route("10.8.0.0", 24, Route::Linux),
            route("2001:db8::", 64, via(0, None)),
            route("2001:db8::9", 128, Route::Local),
            route("2001:db8::10", 128, Route::Local),
            route("2001:db8:1::", 48, via(0, Some("2001:db8::ffff"))),
            route("fd00::", 64, via(1, None)),
            route("fd00::9", 128, Route::Local),
        ]);
        let on = |address: &IpAddr| match address {
            IpAddr::V4(a) if a.octets()[0] == 10 => vec![1, 2],
            IpAddr::V6(a) if a.segments()[0] == 0xfd00 => vec![1, 2],
            _ => vec![0],
        };
        let neighbours = self.neighbours.iter().flat_map(|(address, mac)| {
            on(address).into_iter().map(move |interface| (InterfaceId(interface), *address, *mac))
        });
        let narrowed = [(0, NARROW[0]), (1, NARROW[0]), (1, NARROW[1])].map(|(n, mtu)| (InterfaceId(n), mtu));
        self.tables = Arc::new(Tables {
            generation: self.generation,
            neighbours: Neighbours::with_mtus(&interfaces, &narrowed, neighbours).into(),
            interfaces: interfaces.into(),
            routes: Routes::with_mtus(routes).with_marked(self.marked_routes()).into(),
            services: Services::new(self.services.iter().flatten().cloned()).into(),
            rules: Arc::default(),
            marks: Marks(self.marks.iter().map(|&rule| mark_rule(rule)).collect()).into(),
            sets: Arc::default(),
            settings: self.settings,
            cookies: Default::default(),
            trace: None,
            fingerprints: Arc::default(),
            zone: Arc::default(),
            events: Arc::default(),
        });
        self.team.tell(&self.tables);
    }

    /// What is for other hosts and has the mark of a service may come here: all of it, or but for what is bound for the real servers' networks.
    fn marked_routes(&self) -> Option<MarkedRoutes> {
        let said = |address: &str, len, said| (Prefix { address: ip(address), len }, said);
        let all = [said("0.0.0.0", 0, Marked::Local), said("::", 0, Marked::Local)];
        let own = [said("10.0.0.0", 24, Marked::AsUnmarked), said("fd00::", 64, Marked::Next)];
        let but = if self.marks_all { &[][..] } else { &own };
        self.has_marked_routes
            .then(|| MarkedRoutes::new(7, u32::MAX, all.into_iter().chain(but.iter().copied())))
    }

    /// Whether there are routes by mark, and of what; and whether what no real server takes goes on.
    pub(super) fn change_marked_routes(&mut self) {
        self.has_marked_routes = !self.beside.one_in(4);
        self.marks_all = self.beside.one_in(2);
        self.settings.sysctls.cache_bypass = u32::from(!self.beside.one_in(3));
        if self.beside.one_in(3) {
            // Caches are gone, or are back.
            let number = self.beside.of(&BY_MARK);
            self.without_servers(number);
        }
        self.compile();
    }

    fn without_servers(&mut self, number: usize) {
        let Some(old) = self.services[number].clone() else { return };
        let version = self.next_version();
        let mut service = Service::new(Some(&old), old.id, old.key, old.scheduler(), Vec::new(), version);
        service.quic_lb = None;
        self.team.tell_service(&service);
        self.services[number] = Some(Arc::new(service));
    }
}
