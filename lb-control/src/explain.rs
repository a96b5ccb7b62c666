//! A packet's road in the operator's words: what the path wrote down by numbers, with the names that these have.

mod walk;

use std::net::IpAddr;

use lb_core::conntrack::CtState;
use lb_core::flow::Tuple;
use lb_core::hook::Hook;
use lb_core::ids::PortId;
use lb_core::packet::Frame;
use lb_core::path::{Assumed, FlowView};
use lb_core::probe::{MOST_DATA, Probe};
use lb_core::rule::{Refusal, Verdict, chain_name};
use lb_core::tables::{Interface, InterfaceId, Prefix, Protocol, Tables, Way};
use lb_core::trace::{Filter, Trace};
use lb_core::trail::{Asked, End, Glimpse, Known, Observed, Step};
use lb_core::wire::tcp;

use crate::api::explain::{
    ConnectionView, Dropped, MetRule, PacketView, Probe as Asking, Road, RoadEnd, RoadStep, State, TableStep,
    TraceQuery,
};
use crate::api::types::{ErrorBody, ErrorKind};
use crate::endpoint;
use crate::model;
use crate::model::rules::RuleTables;
use walk::Walk;

const FLAGS: [(&str, u8); 8] =
    [("FIN", 1), ("SYN", 2), ("RST", 4), ("PSH", 8), ("ACK", 16), ("URG", 32), ("ECE", 64), ("CWR", 128)];

/// The hop limit of a probe that says nothing else.
const TTL: u8 = 64;

/// Reads what is asked: the frame that would come, and what is taken for granted of it.
///
/// # Errors
/// The first thing that cannot be, with what can.
pub(crate) fn frame(asked: &Asking, tables: &Tables) -> Result<(Frame, Assumed), ErrorBody> {
    let interface = interface(&asked.interface, tables)?;
    let is_ipv6 = asked.source.is_ipv6();
    if is_ipv6 != asked.destination.is_ipv6() {
        return Err(bad(format!("{} and {} are of two families", asked.source, asked.destination)));
    }
    let protocol = protocol(&asked.protocol, is_ipv6).ok_or_else(|| no_protocol(&asked.protocol))?;
    if asked.data > MOST_DATA {
        return Err(bad(format!("{} bytes of data: expected 0..={MOST_DATA}", asked.data)));
    }
    let mut tcp_flags = 0;
    for name in &asked.flags {
        let known = FLAGS.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        let names = || FLAGS.map(|(name, _)| name).join(", ");
        tcp_flags |= known.ok_or_else(|| bad(format!("TCP flag {name:?}: expected {}", names())))?.1;
    }
    let is_established = asked.state == Some(State::Established);
    let unsaid = if is_established { tcp::ACK } else { tcp::SYN };
    let probe = Probe {
        src: asked.source,
        dst: asked.destination,
        protocol,
        sport: asked.source_port,
        dport: asked.destination_port,
        tcp_flags: if asked.flags.is_empty() { unsaid } else { tcp_flags },
        icmp: asked.icmp.unwrap_or((if is_ipv6 { 128 } else { 8 }, 0)),
        ttl: asked.ttl.unwrap_or(TTL),
        data: asked.data,
    };
    // Whoever sends it; the host's own come from its interface.
    let somebody = [2, 0, 0, 0, 0, 0];
    let (to, from) = if asked.from_host { (somebody, interface.mac) } else { (interface.mac, somebody) };
    let frame = |probe: &Probe| Frame::new(interface.port, &probe.frame(to, from, interface.vlan));
    let assumed = match asked.state.filter(|_| tables.rules.are_active()) {
        None | Some(State::New) => Assumed::First,
        Some(State::Established) => Assumed::Begun(frame(&Probe { tcp_flags: tcp::SYN, data: 0, ..probe })),
        Some(State::Related) => Assumed::State(CtState::Related),
        Some(State::Invalid) => Assumed::State(CtState::Invalid),
        Some(State::Untracked) => Assumed::State(CtState::Untracked),
    };
    Ok((frame(&probe), assumed))
}

/// Packets of a trace when nothing is said, and at most; the same a second.
const COUNT: u32 = 20;
const MOST_COUNT: u32 = 100_000;
const RATE: u32 = 10;
const MOST_RATE: u32 = 1_000;

/// Reads which packets are to be watched.
///
/// # Errors
/// The first thing that cannot be, with what can.
pub(crate) fn trace(asked: &TraceQuery, tables: &Tables) -> Result<Trace, ErrorBody> {
    let interface = |name: &Option<String>| {
        let found = name.as_deref().map(|name| interface(name, tables)).transpose()?;
        Ok::<_, ErrorBody>(found.map(|interface| (interface.port, interface.vlan)))
    };
    let prefix = |text: &Option<String>| {
        let Some(text) = text else { return Ok(None) };
        let address = || {
            text.parse()
                .ok()
                .map(|address: IpAddr| Prefix { address, len: Prefix::longest(address.is_ipv6()) })
        };
        let read = endpoint::prefix(text).or_else(address);
        read.map(Some).ok_or_else(|| bad(format!("{text:?}: expected ADDRESS or ADDRESS/LENGTH")))
    };
    let protocol = asked.protocol.as_deref().map(|name| {
        [false, true].into_iter().find_map(|is_ipv6| protocol(name, is_ipv6)).ok_or_else(|| no_protocol(name))
    });
    let number = |what: &str, said: Option<u32>, unsaid: u32, most: u32| match said.unwrap_or(unsaid) {
        number if (1..=most).contains(&number) => Ok(number),
        number => Err(bad(format!("{what} {number}: expected 1..={most}"))),
    };
    let filter = Filter {
        input: interface(&asked.input)?,
        from_host: interface(&asked.from_host)?,
        protocol: protocol.transpose()?,
        src: prefix(&asked.source)?,
        dst: prefix(&asked.destination)?,
        sport: asked.source_port,
        dport: asked.destination_port,
        is_dropped: asked.dropped.unwrap_or_default(),
    };
    let count = number("count", asked.count, COUNT, MOST_COUNT)?;
    Ok(Trace::new(filter, count, number("rate", asked.rate, RATE, MOST_RATE)?))
}

fn bad(why: String) -> ErrorBody {
    ErrorBody::new(ErrorKind::BadRequest, why)
}

fn no_protocol(name: &str) -> ErrorBody {
    bad(format!("protocol {name:?}: expected tcp, udp, sctp, icmp, icmpv6, or 1 to 255"))
}

fn interface<'t>(name: &str, tables: &'t Tables) -> Result<&'t Interface, ErrorBody> {
    let all = || tables.interfaces.iter().map(|(_, interface)| interface);
    all().find(|interface| interface.name == name).ok_or_else(|| {
        let names: Vec<&str> = all().map(|interface| interface.name.as_str()).collect();
        bad(format!("interface {name:?}: there are {}", names.join(", ")))
    })
}

fn protocol(name: &str, is_ipv6: bool) -> Option<Protocol> {
    match name {
        "tcp" => Some(Protocol::TCP),
        "udp" => Some(Protocol::UDP),
        "sctp" => Some(Protocol::SCTP),
        "icmp" if !is_ipv6 => Some(Protocol::ICMP),
        "icmpv6" | "ipv6-icmp" if is_ipv6 => Some(Protocol::ICMPV6),
        number => number.parse().ok().filter(|&number| number != 0).map(Protocol),
    }
}

/// The connection that `view` is, if it is that of a packet which comes as `tuple`.
pub(crate) fn existing(view: &FlowView, tuple: &Tuple) -> Option<ConnectionView> {
    let original = view.original();
    let (dst, dport) = view.local.unwrap_or(view.client);
    let reply = Tuple { src: view.server.0, sport: view.server.1, dst, dport, ..original };
    let is_it = !view.is_template && (original == *tuple || reply == *tuple);
    is_it.then(|| ConnectionView {
        reply: reply == *tuple,
        state: view.state.to_owned(),
        source: ends(&original).0,
        destination: ends(&original).1,
        server: ends(&reply).0,
        service: !view.is_tracked,
    })
}

/// A road, with the names of `tables` and `rules`; with `all` the rules too that were asked and did not match.
pub(crate) fn road(observed: &Observed, tables: &Tables, rules: &RuleTables, all: bool) -> Road {
    let names = Names { tables };
    let mut steps: Vec<RoadStep> = Vec::new();
    let mut walk = Walk::default();
    for step in observed.trail.steps() {
        match (*step, steps.last_mut()) {
            (Step::Met(number), Some(RoadStep::Table(table))) => {
                let Some(place) = rules.place(number) else {
                    table.met.push(MetRule { rule: "taken out meanwhile".to_owned(), ..MetRule::default() });
                    continue;
                };
                if all {
                    table.met.extend(walk.meet(&place));
                }
                table.met.push(place.met());
            }
            (step @ Step::Asked(_), _) => {
                walk = Walk::default();
                steps.extend(names.step(step));
            }
            (Step::Said(verdict), Some(RoadStep::Table(table))) => table.verdict = said(verdict),
            (step, _) => steps.extend(names.step(step)),
        }
    }
    Road {
        worker: observed.worker.0,
        interface: names.port(observed.port, observed.came.map_or(0, |came| came.vlan)),
        from_host: observed.is_from_host,
        packet: observed.came.map(packet),
        steps,
        left_out: observed.trail.left_out(),
        dropped: observed.dropped.map(|(reason, hook)| Dropped {
            reason: reason.label().to_owned(),
            hook: hook.name().to_owned(),
        }),
        ends: observed.ends.iter().map(|end| names.end(end)).collect(),
    }
}

struct Names<'a> {
    tables: &'a Tables,
}

impl Names<'_> {
    fn interface(&self, id: InterfaceId) -> String {
        self.tables
            .interfaces
            .get(id)
            .map_or_else(|| format!("interface {}", id.0), |found| found.name.clone())
    }

    fn port(&self, port: PortId, vlan: u16) -> String {
        match self.tables.interfaces.find(port, vlan) {
            Some(id) => self.interface(id),
            None if vlan == 0 => format!("port {}", port.0),
            None => format!("port {}, VLAN {vlan}", port.0),
        }
    }

    /// A step; `None`: of one that is a part of the step before.
    fn step(&self, step: Step) -> Option<RoadStep> {
        let (source, destination) = match step {
            Step::Asked(Asked { tuple, .. }) | Step::Becomes(tuple) => ends(&tuple),
            _ => Default::default(),
        };
        Some(match step {
            Step::Known(known) => RoadStep::Known(connection(&known)),
            Step::At { hook, function } => {
                RoadStep::Function { hook: hook_name(hook), function: function.to_string() }
            }
            Step::Asked(Asked { table, hook, state, mark, input, output, .. }) => {
                RoadStep::Table(TableStep {
                    hook: hook_name(hook),
                    table: table.name().to_owned(),
                    state: state.name().to_owned(),
                    mark,
                    input: input.map(|id| self.interface(id)),
                    output: output.map(|id| self.interface(id)),
                    source,
                    destination,
                    met: Vec::new(),
                    verdict: String::new(),
                })
            }
            Step::Becomes(_) => RoadStep::Becomes { source, destination },
            Step::Routed(way) => RoadStep::Routed { way: self.way(way) },
            Step::ByMark(mark) => RoadStep::ByMark { mark },
            Step::Bypass => RoadStep::Bypass,
            Step::Service(id) => {
                let service = self.tables.services.iter().find(|service| service.id == id)?;
                RoadStep::Service {
                    service: model::address(&service.key).to_string(),
                    scheduler: service.scheduler.name().to_owned(),
                }
            }
            Step::Cookie { is_made } => RoadStep::Cookie { made: is_made },
            Step::Quic(named) => RoadStep::Quic { scheduled: named.err().map(|why| why.label().to_owned()) },
            Step::Server(id) => {
                let server = id.and_then(|id| self.tables.services.server(id));
                RoadStep::Server {
                    server: server.map(|server| end(server.address, server.port)),
                    forward: server.map(|server| model::forward_spec(server.forward).0.name().to_owned()),
                }
            }
            Step::Met(_) | Step::Said(_) => return None,
        })
    }

    fn way(&self, way: Way) -> String {
        match way {
            Way::Local => "to this host".to_owned(),
            Way::Linux => "up the twin: Linux routes it".to_owned(),
            Way::Hop(id) => match self.tables.neighbours.get(id) {
                Some(hop) => format!("by {}", self.interface(hop.interface)),
                None => "to a neighbour that is gone".to_owned(),
            },
            Way::Unresolved(interface, neighbour) => {
                format!("by {} to {neighbour}", self.interface(interface))
            }
            Way::Forbidden => "a route forbids it".to_owned(),
            Way::NoRoute => "there is no route".to_owned(),
        }
    }

    fn end(&self, end: &End) -> RoadEnd {
        match *end {
            End::Sent { port, to, is } => RoadEnd::Sent {
                interface: self.port(port, is.map_or(0, |is| is.vlan)),
                mac: to.map(|byte| format!("{byte:02x}")).join(":"),
                packet: is.map(packet),
            },
            End::ToTwin(port) => RoadEnd::Twin { interface: self.port(port, 0) },
            End::HandedOver(worker) => RoadEnd::Worker { worker: worker.0 },
            End::Unresolved(interface, neighbour) => {
                RoadEnd::Unresolved { interface: self.interface(interface), neighbour: neighbour.to_string() }
            }
        }
    }
}

/// As `-L` has it: INPUT …; the road's ends, which have no chains, by their own names.
fn hook_name(hook: Hook) -> String {
    match chain_name(hook) {
        "" => hook.name().to_ascii_uppercase(),
        name => name.to_owned(),
    }
}

fn said(verdict: Verdict) -> String {
    match verdict {
        Verdict::Accept => "accept".to_owned(),
        Verdict::Drop => "drop".to_owned(),
        Verdict::Reject(Refusal::TcpReset) => "reject, with a TCP reset".to_owned(),
        Verdict::Reject(Refusal::Field(at)) => {
            format!("reject, with an ICMPv6 parameter problem at byte {at}")
        }
        Verdict::Reject(Refusal::Icmp(kind, code)) => format!("reject, with ICMP type {kind} code {code}"),
        Verdict::Nat(..) => "translate".to_owned(),
        Verdict::Queue => "drop, since no program listens".to_owned(),
        Verdict::SynProxy(_) => "answer for the server, by a SYN cookie".to_owned(),
    }
}

fn end(address: IpAddr, port: u16) -> String {
    match (address, port) {
        (address, 0) => address.to_string(),
        (IpAddr::V6(address), port) => format!("[{address}]:{port}"),
        (IpAddr::V4(address), port) => format!("{address}:{port}"),
    }
}

/// Both ends, with ports where there are any.
fn ends(tuple: &Tuple) -> (String, String) {
    let port = |port| if tuple.protocol.has_ports() { port } else { 0 };
    (end(tuple.src, port(tuple.sport)), end(tuple.dst, port(tuple.dport)))
}

fn connection(known: &Known) -> ConnectionView {
    let (source, destination) = ends(&known.original);
    ConnectionView {
        reply: known.is_reply,
        state: known.state.to_owned(),
        source,
        destination,
        server: ends(&known.reply).0,
        service: !known.is_tracked,
    }
}

fn packet(seen: Glimpse) -> PacketView {
    let Tuple { src, dst, sport, dport, protocol } = seen.tuple;
    PacketView {
        protocol: match protocol {
            Protocol::TCP => "tcp".to_owned(),
            Protocol::UDP => "udp".to_owned(),
            Protocol::SCTP => "sctp".to_owned(),
            Protocol::ICMP => "icmp".to_owned(),
            Protocol::ICMPV6 => "icmpv6".to_owned(),
            Protocol(number) => number.to_string(),
        },
        source: src,
        destination: dst,
        ports: (protocol.has_ports() && !seen.is_later_fragment).then_some((sport, dport)),
        flags: match protocol {
            Protocol::TCP => FLAGS
                .iter()
                .filter(|(_, bit)| seen.tcp_flags & bit != 0)
                .map(|(name, _)| (*name).to_owned())
                .collect(),
            _ => Vec::new(),
        },
        icmp: seen.icmp,
        ttl: seen.ttl,
        length: seen.len,
        later_fragment: seen.is_later_fragment,
    }
}
