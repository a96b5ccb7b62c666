//! What is measured of the packet path, by name, and what came out: the same for all that drive it.

use std::fmt;
use std::str::FromStr;

use lb_core::tables::{Forward, GueChecksum, Tunnel};
use serde::{Deserialize, Serialize};

use crate::traffic::{Established, Fresh, Lives, PACKETS_A_LIFE, Traffic, Transport};

/// One measure of the packet path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scenario {
    /// Packets of so many open connections.
    Masq(Transport),
    /// UDP packets of so many open connections, from the clients alone: the real servers answer by another
    /// way.
    OneWay(Forward),
    /// UDP packets of so many open connections, both ways.
    FullNat,
    /// UDP packets of so many open connections of no virtual service, both ways, whose source a rule
    /// exchanges.
    Snat,
    /// Connections that begin and end; so many are alive.
    New(Transport),
}

const GUE: Tunnel = Tunnel::Gue { port: 6080, checksum: GueChecksum::No };

const NAMES: [(&str, Scenario); 10] = [
    ("masq-udp", Scenario::Masq(Transport::Udp)),
    ("masq-tcp", Scenario::Masq(Transport::Tcp)),
    ("fullnat-udp", Scenario::FullNat),
    ("snat-udp", Scenario::Snat),
    ("direct-udp", Scenario::OneWay(Forward::Direct)),
    ("tunnel-udp", Scenario::OneWay(Forward::Tunnel(Tunnel::Ipip))),
    ("gue-udp", Scenario::OneWay(Forward::Tunnel(GUE))),
    ("gre-udp", Scenario::OneWay(Forward::Tunnel(Tunnel::Gre { checksum: false }))),
    ("new-udp", Scenario::New(Transport::Udp)),
    ("new-tcp", Scenario::New(Transport::Tcp)),
];

impl Scenario {
    pub fn all() -> impl Iterator<Item = Scenario> {
        NAMES.into_iter().map(|(_, scenario)| scenario)
    }

    pub fn name(self) -> &'static str {
        NAMES.iter().find(|(_, scenario)| *scenario == self).map_or("", |(name, _)| name)
    }

    /// Packets that make up what is counted: one, or a connection's life.
    pub fn packets_each(self) -> u64 {
        match self {
            Scenario::New(Transport::Tcp) => PACKETS_A_LIFE,
            _ => 1,
        }
    }

    /// Connections that the table has room for: what the configuration file says when it says nothing, or
    /// what the measure needs if that is more.
    pub fn capacity(self, flows: u32) -> u32 {
        match self {
            Scenario::New(_) => (flows + flows / 4).max(1_000_000),
            _ => flows.max(1_000_000),
        }
    }

    /// Calls `visit` with the traffic of this scenario.
    pub fn with<V: Visit>(self, flows: u32, visit: V) -> V::Output {
        match self {
            Scenario::Masq(transport) => visit.visit(Established::new(transport, Forward::Masq, flows)),
            Scenario::OneWay(forward) => visit.visit(Established::new(Transport::Udp, forward, flows)),
            Scenario::FullNat => visit.visit(Established::new(Transport::Udp, Forward::FullNat, flows)),
            Scenario::Snat => visit.visit(Established::snat(flows)),
            Scenario::New(Transport::Udp) => visit.visit(Fresh::new(flows)),
            Scenario::New(Transport::Tcp) => visit.visit(Lives::new(flows)),
        }
    }
}

/// Something to be done with a traffic of whatever type.
pub trait Visit {
    type Output;
    fn visit<T: Traffic + Send + 'static>(self, traffic: T) -> Self::Output;
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Scenario {
    type Err = String;

    fn from_str(name: &str) -> Result<Scenario, String> {
        let known = NAMES.map(|(name, _)| name).join(", ");
        let found = NAMES.into_iter().find(|(known, _)| *known == name);
        found.map(|(_, scenario)| scenario).ok_or(format!("no measure {name}; there are {known}"))
    }
}

/// What one process that measures the path prints, as one line of JSON.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Measured {
    /// Nanoseconds a packet of each run, the generator's not counted.
    pub ns: Vec<f64>,
    /// Nanoseconds a packet that the generator took, in the mean.
    pub generator_ns: f64,
    /// By how much the process grew from before its tables were made until the connections were open.
    pub resident_bytes: u64,
}

/// What was measured in several runs.
pub trait Repeated {
    fn runs(&self) -> u32;
}

impl Repeated for Measured {
    fn runs(&self) -> u32 {
        self.ns.len() as u32
    }
}

impl Repeated for Waited {
    fn runs(&self) -> u32 {
        self.passed.p50_us.len() as u32
    }
}

impl Repeated for Kept {
    fn runs(&self) -> u32 {
        self.alone.len() as u32
    }
}

/// How long packets wait and take.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Waited {
    pub passed: Waits,
    /// The same by what turns cost, in the CPU time of the thread where it had to leave its CPU.
    pub own: Waits,
    /// And in a loop that does nothing for as long as the path takes for its packets in the mean.
    pub control: Waits,
    /// The share of the turns in which the thread had to leave its CPU: with the path, and in the control.
    pub switched: [f64; 2],
}

/// A figure of each run, in microseconds.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Waits {
    pub p50_us: Vec<f64>,
    pub p999_us: Vec<f64>,
}

impl Waits {
    /// One more run, whose packets took so many cycles, in order.
    pub(crate) fn add(&mut self, cycles: &[u32], per_ns: f64) {
        let at = |share: f64| f64::from(cycles[(cycles.len() as f64 * share) as usize]) / (per_ns * 1e3);
        self.p50_us.push(at(0.5));
        self.p999_us.push(at(0.999));
    }
}

/// What packets of open connections kept under a flood: those that got through in a second, of each run.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Kept {
    /// Without a flood, with one, and with one while nobody gives way.
    pub alone: Vec<f64>,
    pub flooded: Vec<f64>,
    pub undefended: Vec<f64>,
    /// What a packet takes if no others come: of an open connection, of the flood, and of the flood when it
    /// gives way.
    pub known_ns: f64,
    pub new_ns: f64,
    pub dropped_ns: f64,
}

/// The resident memory of this process, huge pages included, in bytes.
///
/// # Panics
/// Without `/proc`.
pub fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux's /proc is mounted");
    parse_resident(&status)
}

fn parse_resident(status: &str) -> u64 {
    let kilobytes = |label: &str| -> u64 {
        let line = status.lines().find_map(|line| line.strip_prefix(label));
        line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
    };
    // Pages of hugetlbfs are counted apart.
    (kilobytes("VmRSS:") + kilobytes("HugetlbPages:")) << 10
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scenario_is_found_by_its_name() {
        for scenario in Scenario::all() {
            assert_eq!(scenario.name().parse(), Ok(scenario));
        }
        assert_eq!(
            "masq".parse::<Scenario>(),
            Err("no measure masq; there are masq-udp, masq-tcp, fullnat-udp, snat-udp, direct-udp, tunnel-udp, gue-udp, gre-udp, new-udp, new-tcp"
                .to_owned())
        );
    }

    #[test]
    fn resident_memory_has_both_kinds_of_pages() {
        let status = "VmHWM:\t  900 kB\nVmRSS:\t    100 kB\nHugetlbPages:\t    2048 kB\n";
        assert_eq!(parse_resident(status), 2148 << 10);
        assert!(resident_bytes() > 0);
    }
}
