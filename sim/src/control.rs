//! The control plane: the real model and compiler, commands drawn at random, and a Linux that resolves neighbours.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::time::Duration;

use lb_control::api::types::{
    Command, ForwardMethod, Persistence, ServerSpec, ServiceAddress, ServiceSpec, SysctlValue, Timeouts,
    Transport, Tunnel,
};
use lb_control::compile::{Compiler, Network};
use lb_control::model::{self, Limits, Model};
use lb_core::ids::ServerId;
use lb_core::tables::{InterfaceId, Neighbours, Server, Service, Settings, Sysctls, Tables};

use crate::draw::Draw;
use crate::ledger::Shortest;
use crate::map::{GUE_PORT, How, PLACES, Plan, SERVER_PORT, SERVICE_PORT, place};
use crate::shape::Shape;
use crate::wire::Mac;

/// A real server in one snapshot.
#[derive(Clone)]
pub struct Rule {
    pub id: ServerId,
    pub weight: u32,
    pub upper: u32,
    pub lower: u32,
    /// Its service's clients keep it, also when it takes no others.
    pub is_persistent: bool,
    pub overloaded: Arc<AtomicBool>,
}

/// A snapshot, and what the invariants want to know of it.
pub struct Published {
    pub tables: Arc<Tables>,
    /// By id.
    pub rules: Vec<Rule>,
    pub has_family: [bool; 2],
}

impl Published {
    pub fn rule(&self, id: ServerId) -> Option<&Rule> {
        self.rules.binary_search_by_key(&id, |rule| rule.id).ok().map(|at| &self.rules[at])
    }

    /// The service of place `n`.
    pub fn service(&self, n: usize) -> Option<&Arc<Service>> {
        self.tables.services.find(&model::key(&service(n)))
    }
}

impl Rule {
    pub fn is_overloaded(&self) -> bool {
        self.overloaded.load(Relaxed)
    }

    /// With so many connections it takes new ones again: fewer than the lower threshold, or than three quarters of the upper one.
    pub fn is_relieved(&self, connections: u64) -> bool {
        match self.lower {
            0 => connections * 4 < u64::from(self.upper) * 3,
            lower => connections < u64::from(lower),
        }
    }
}

/// What Linux knows of a neighbour.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Answer {
    at: u64,
    interface: usize,
    address: IpAddr,
}

pub struct Control {
    model: Model,
    compiler: Compiler,
    compiled: Vec<Arc<Tables>>,
    settings: Settings,
    neighbours: BTreeMap<(usize, IpAddr), Option<Mac>>,
    network: Network,
    answers: Vec<Answer>,
    /// Tables on their way to the workers, and which have not got them yet.
    publishing: Option<(u32, Vec<usize>)>,
    is_due: bool,
    /// By generation: all that a worker may use.
    pub history: BTreeMap<u32, Published>,
    /// Given up, so that nobody may hold them.
    pub past: Vec<(u32, Weak<Tables>)>,
    /// By worker: the generation that was left for it last.
    pub delivered: Vec<u32>,
    /// By place: hosts that were a real server of it, as bits.
    pub servers_ever: [u64; PLACES],
    pub shortest: Shortest,
}

/// The model's word for place `n`.
fn service(n: usize) -> ServiceAddress {
    let (is_tcp, address) = place(n);
    let transport = if is_tcp { Transport::Tcp } else { Transport::Udp };
    ServiceAddress::new(transport, address, SERVICE_PORT)
}

/// All that pick anybody.
const SCHEDULERS: [&str; 15] =
    ["rr", "wrr", "lc", "wlc", "lblc", "lblcr", "dh", "sh", "sed", "nq", "fo", "ovf", "mh", "maglev", "twos"];

/// A service with a scheduler at random, now and then with slow start; one in four is persistent.
fn spec(n: usize, draw: &mut Draw) -> ServiceSpec {
    let service = service(n);
    let mut spec = ServiceSpec::new(service, draw.pick(&SCHEDULERS));
    spec.warmup = draw.pick(&[0, 0, 0, 1, 60]);
    if draw.below(4) == 0 {
        let mask = if service.is_ipv6() { "64" } else { "255.255.255.0" };
        let netmask = draw.coin().then(|| mask.to_owned());
        spec.persistence = Some(Persistence { timeout: draw.pick(&[1, 3, 20, 100]), netmask });
    }
    spec
}

impl Control {
    /// A director's first configuration.
    pub fn new(shape: &Shape, plan: &Plan, draw: &mut Draw) -> Control {
        let mut control = Control::empty(shape, plan);
        // Real servers that are soon full, and connections that soon end.
        let is_limited = !shape.is_clean() && draw.below(3) == 0;
        if is_limited {
            let timeouts =
                Timeouts { tcp: draw.pick(&[3, 20, 900]), tcp_fin: 3, udp: draw.pick(&[1, 3, 20]) };
            control.apply(&Command::SetTimeouts(timeouts), plan);
        }
        let switches = [
            ("conn_reuse_mode", 3),
            ("expire_nodest_conn", 2),
            ("expire_quiescent_template", 1),
            ("sloppy_tcp", 1),
        ];
        for (name, most) in switches {
            if draw.below(3) == 0 {
                let value = SysctlValue { name: name.to_owned(), value: draw.between(0, most) as u32 };
                control.apply(&Command::SetSysctl(value), plan);
            }
        }
        for n in 0..PLACES {
            if n > 3 && draw.below(4) == 0 {
                continue;
            }
            let mut spec = spec(n, draw);
            if shape.is_clean() && spec.scheduler == "ovf" {
                // It refuses while every real server has more active connections than its weight, and a client may give up.
                spec.scheduler = "wlc".to_owned();
            }
            let mut commands = vec![Command::AddService(spec)];
            let first = draw.below(plan.servers.len() as u64) as usize;
            let count = draw.between(1, plan.servers.len() as u64) as usize;
            for at in 0..count {
                let host = plan.servers[(first + at) % plan.servers.len()];
                let server = control.server(plan, n, host);
                let server = if is_limited {
                    limited(server, draw)
                } else {
                    ServerSpec { weight: draw.between(1, 3) as u32, ..tunnelled(server, draw) }
                };
                commands.push(Command::AddServer { service: service(n), server });
            }
            // Beyond the ids that there are it is refused, as it should be.
            for command in &commands {
                let _ = control.apply(command, plan);
            }
        }
        if draw.coin() {
            for (interface, address) in plan.neighbours() {
                control.neighbours.insert((interface, address), plan.mac_of(interface, address));
            }
        }
        control.rebuild_neighbours();
        control
    }

    fn empty(shape: &Shape, plan: &Plan) -> Control {
        let settings = Settings::default();
        Control {
            model: Model::new(Limits { services: 64, servers: shape.server_ids }),
            compiler: Compiler::default(),
            compiled: Vec::new(),
            settings,
            neighbours: BTreeMap::new(),
            network: Network {
                interfaces: plan.interfaces.clone(),
                routes: plan.routes.clone(),
                neighbours: Arc::default(),
            },
            answers: Vec::new(),
            publishing: None,
            is_due: true,
            history: BTreeMap::new(),
            past: Vec::new(),
            delivered: vec![0; usize::from(shape.workers)],
            servers_ever: [0; PLACES],
            shortest: Shortest { tcp: settings.tcp.0, udp: settings.udp.0 },
        }
    }

    /// The control plane of a director that was started again: the same wishes, said anew.
    pub fn restarted(&self, shape: &Shape, plan: &Plan) -> Control {
        let mut next = Control::empty(shape, plan);
        next.settings = self.settings;
        next.servers_ever = self.servers_ever;
        // A connection goes on with the timeout that it has, which is that of some tables before.
        next.shortest = self.shortest;
        for service in self.model.services() {
            let key = model::address(&service.key);
            next.apply_quietly(&Command::AddService(model::service_spec(service)));
            // Newest first in the model.
            for server in service.servers.iter().rev() {
                let server = model::server_spec(service, server);
                next.apply_quietly(&Command::AddServer { service: key, server });
            }
        }
        next.apply_quietly(&Command::SetTimeouts(self.model.timeouts()));
        for (sysctl, value) in self.model.sysctls().values() {
            next.apply_quietly(&Command::SetSysctl(SysctlValue { name: sysctl.name.to_owned(), value }));
        }
        next.note_timeouts();
        next.neighbours = self.neighbours.clone();
        next.rebuild_neighbours();
        next
    }

    fn server(&self, plan: &Plan, n: usize, host: usize) -> ServerSpec {
        let is_ipv6 = place(n).1.is_ipv6();
        let at = |is_ipv6, port| ServerSpec::new(SocketAddr::new(plan.hosts[host].address(is_ipv6), port));
        match plan.hosts[host].how[n] {
            How::Masqueraded => at(is_ipv6, SERVER_PORT),
            How::Direct => ServerSpec { forward: ForwardMethod::Direct, ..at(is_ipv6, SERVICE_PORT) },
            How::Tunnelled { is_other_family } => {
                ServerSpec { forward: ForwardMethod::Tunnel, ..at(is_ipv6 != is_other_family, SERVICE_PORT) }
            }
        }
    }

    /// The switches, which one world never changes.
    pub fn sysctls(&self) -> Sysctls {
        self.model.sysctls()
    }

    fn apply(&mut self, command: &Command, plan: &Plan) -> bool {
        if !self.apply_quietly(command) {
            return false;
        }
        if let Command::AddServer { service: at, server } = command
            && let Some(n) = (0..PLACES).find(|&n| service(n) == *at)
            && let Some(host) = plan.host_at(server.server.ip())
        {
            self.servers_ever[n] |= 1 << host;
        }
        self.note_timeouts();
        true
    }

    fn apply_quietly(&mut self, command: &Command) -> bool {
        let Ok(change) = self.model.apply(command) else { return false };
        if change.publish {
            self.is_due = true;
            self.compiled.push(self.compiler.with_model(&self.model, self.settings));
        }
        true
    }

    /// Tables that were compiled since this was asked last, published or not: what a scheduler picks depends on each.
    pub fn compiled(&mut self) -> Vec<Arc<Tables>> {
        std::mem::take(&mut self.compiled)
    }

    fn note_timeouts(&mut self) {
        let now = self.model.settings(self.settings);
        self.shortest.tcp = self.shortest.tcp.min(now.tcp.0);
        self.shortest.udp = self.shortest.udp.min(now.udp.0);
    }

    /// One command at random. Returns a word for it, its place, and whether it was right.
    pub fn change(&mut self, plan: &Plan, draw: &mut Draw) -> (&'static str, usize, bool) {
        let n = draw.below(PLACES as u64) as usize;
        let host = draw.pick(&plan.servers);
        let server = self.server(plan, n, host);
        let service = service(n);
        let (word, command) = match draw.below(24) {
            0 | 1 => ("add service", Command::AddService(spec(n, draw))),
            2 | 3 => ("edit service", Command::EditService(spec(n, draw))),
            4 => ("delete service", Command::DeleteService { service }),
            5..=9 => ("add server", Command::AddServer { service, server: limited(server, draw) }),
            10..=15 => ("edit server", Command::EditServer { service, server: limited(server, draw) }),
            16..=18 => ("delete server", Command::DeleteServer { service, server: server.server }),
            19 => {
                let seconds = |draw: &mut Draw| draw.pick(&[0, 3, 20, 100, 900]);
                let timeouts = Timeouts { tcp: seconds(draw), tcp_fin: seconds(draw), udp: seconds(draw) };
                ("set timeouts", Command::SetTimeouts(timeouts))
            }
            20 => {
                self.settings.forwarding = !self.settings.forwarding;
                self.is_due = true;
                return ("set forwarding", usize::from(self.settings.forwarding), true);
            }
            21 if draw.below(20) == 0 => ("flush", Command::Flush),
            21 => ("add service", Command::AddService(spec(n, draw))),
            _ => ("zero", Command::Zero { service: Some(service) }),
        };
        (word, n, self.apply(&command, plan))
    }

    /// Time passes for servers that warm up. `now`: microseconds.
    pub fn pass(&mut self, now: u64) {
        if self.model.pass(Duration::from_micros(now)).publish {
            self.is_due = true;
            self.compiled.push(self.compiler.with_model(&self.model, self.settings));
        }
    }

    /// Forgets removed servers, once all workers use tables without them.
    pub fn release(&mut self, has_connections: impl FnMut(ServerId) -> bool) {
        self.model.release(has_connections);
    }

    /// The workers ask for a neighbour; Linux answers after a while.
    pub fn asked(&mut self, interface: InterfaceId, address: IpAddr, at: u64) {
        let question = Answer { at, interface: usize::from(interface.0), address };
        let is_same = |other: &Answer| other.interface == question.interface && other.address == address;
        if !self.answers.iter().any(is_same) {
            self.answers.push(question);
        }
    }

    /// Linux has answers. Returns how many.
    pub fn hear(&mut self, plan: &Plan, now: u64) -> usize {
        let (due, later): (Vec<_>, Vec<_>) = self.answers.drain(..).partition(|answer| answer.at <= now);
        self.answers = later;
        for answer in &due {
            let mac = plan.mac_of(answer.interface, answer.address);
            self.neighbours.insert((answer.interface, answer.address), mac);
        }
        if !due.is_empty() {
            self.rebuild_neighbours();
        }
        due.len()
    }

    /// Linux forgets a neighbour, or finds that it does not answer.
    pub fn lose_neighbour(&mut self, draw: &mut Draw, now: u64) {
        let all: Vec<_> = self.neighbours.keys().copied().collect();
        if all.is_empty() {
            return;
        }
        let one = draw.pick(&all);
        if draw.coin() {
            self.neighbours.remove(&one);
        } else {
            self.neighbours.insert(one, None);
            // It is asked for again when it has failed long enough.
            let at = now + draw.between(1000, 8_000_000);
            self.answers.push(Answer { at, interface: one.0, address: one.1 });
        }
        self.rebuild_neighbours();
    }

    fn rebuild_neighbours(&mut self) {
        let all = self
            .neighbours
            .iter()
            .map(|(&(interface, address), &mac)| (InterfaceId(interface as u16), address, mac));
        self.network.neighbours = Arc::new(Neighbours::new(&self.network.interfaces, all));
        self.is_due = true;
    }

    pub fn wants_to_publish(&self) -> bool {
        self.is_due
    }

    /// Begins to publish what there is, the tables before being everywhere. Returns the generation.
    pub fn publish(&mut self, order: Vec<usize>) -> u32 {
        self.is_due = false;
        self.compiler.with_network(&self.network);
        let tables = self.compiler.with_model(&self.model, self.settings);
        self.compiled.push(tables.clone());
        let generation = tables.generation;
        let mut rules: Vec<_> = self
            .model
            .services()
            .flat_map(|service| service.servers.iter().map(|server| rule(service, server)))
            .collect();
        rules.sort_by_key(|rule| rule.id);
        let has_family = [tables.serves(false), tables.serves(true)];
        self.history.insert(generation, Published { tables, rules, has_family });
        self.publishing = Some((generation, order));
        generation
    }

    /// Gives the tables that are being published to one worker more. `None`: all have them.
    pub fn next_delivery(&mut self) -> Option<(usize, Arc<Tables>)> {
        let (generation, left) = self.publishing.as_mut()?;
        let worker = left.pop();
        let Some(worker) = worker else {
            self.publishing = None;
            return None;
        };
        self.delivered[worker] = *generation;
        Some((worker, self.history[generation].tables.clone()))
    }

    /// Gives up all snapshots before `generation`, which every worker uses or is past.
    pub fn forget_before(&mut self, generation: u32) {
        while let Some(first) = self.history.first_entry()
            && *first.key() < generation
        {
            let (old, published) = first.remove_entry();
            self.past.push((old, Arc::downgrade(&published.tables)));
        }
    }

    /// Of the tables built last.
    pub fn generation(&self) -> u32 {
        self.compiler.current().generation
    }

    pub fn published(&self, generation: u32) -> Option<&Published> {
        self.history.get(&generation)
    }

    /// What a host has as real server of place `n`, if these tables have it.
    pub fn weight(&self, published: &Published, plan: &Plan, n: usize, host: usize) -> Option<u32> {
        let address = self.server(plan, n, host).server.ip();
        let mut servers = published.service(n)?.servers.iter();
        servers.find(|server| server.address == address).map(|server| server.weight)
    }

    /// A service exists, as wished.
    pub fn has(&self, n: usize) -> bool {
        self.model.find(&service(n)).is_some()
    }

    /// All ids of real servers are below.
    pub fn id_bound(&self) -> usize {
        self.history
            .values()
            .flat_map(|published| &published.rules)
            .map(|rule| rule.id.index() + 1)
            .max()
            .unwrap_or(0)
    }
}

fn rule(service: &Service, server: &Server) -> Rule {
    Rule {
        id: server.id,
        weight: server.weight,
        upper: server.upper_threshold,
        lower: server.lower_threshold,
        is_persistent: service.options.persistence.is_some(),
        overloaded: server.overloaded.clone(),
    }
}

/// With a weight and thresholds at random: none, low, or higher.
fn limited(server: ServerSpec, draw: &mut Draw) -> ServerSpec {
    let upper = match draw.below(4) {
        0 | 1 => 0,
        2 => draw.between(1, 3) as u32,
        _ => draw.between(1, 12) as u32,
    };
    let lower = if upper > 0 && draw.coin() { draw.between(1, upper.into()) as u32 } else { 0 };
    ServerSpec {
        weight: draw.pick(&[0, 1, 1, 2, 5]),
        upper_threshold: upper,
        lower_threshold: lower,
        ..tunnelled(server, draw)
    }
}

/// With a kind of tunnel at random, if there is one.
fn tunnelled(server: ServerSpec, draw: &mut Draw) -> ServerSpec {
    if server.forward != ForwardMethod::Tunnel {
        return server;
    }
    let (encapsulation, checksum) = draw.pick(&[
        ("ipip", None),
        ("gue", None),
        ("gue", Some("checksum")),
        ("gue", Some("remote")),
        ("gre", None),
        ("gre", Some("checksum")),
    ]);
    let port = if encapsulation == "gue" { GUE_PORT } else { 0 };
    let checksum = checksum.map(str::to_owned);
    ServerSpec { tunnel: Some(Tunnel { encapsulation: encapsulation.to_owned(), port, checksum }), ..server }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_that_is_carried_over_may_have_a_shorter_timeout_than_any_tables_since() {
        let mut draw = Draw::new(1);
        let shape = Shape::draw(&mut draw);
        let plan = Plan::new(&shape, &mut draw);
        let mut control = Control::new(&shape, &plan, &mut draw);
        for udp in [20, 900] {
            assert!(control.apply(&Command::SetTimeouts(Timeouts { tcp: 0, tcp_fin: 0, udp }), &plan));
        }
        assert_eq!(control.restarted(&shape, &plan).shortest.udp, 2000);
    }
}
