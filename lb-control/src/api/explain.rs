//! One packet's road over the API: what is asked of `explain`, and what `explain` and `trace` say.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::query::query;
use super::spec::is_false;

/// Body of `POST /v1/explain`: a packet that nobody sent.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Probe {
    /// The interface that it comes in by; of one that the host sends, by which it leaves.
    pub interface: String,
    /// The host sends it.
    #[serde(default, skip_serializing_if = "is_false")]
    pub from_host: bool,
    /// tcp, udp, sctp, icmp, icmpv6, or a number.
    pub protocol: String,
    #[schema(value_type = String)]
    pub source: IpAddr,
    #[schema(value_type = String)]
    pub destination: IpAddr,
    /// Of an echo, its identifier.
    #[serde(default)]
    pub source_port: u16,
    #[serde(default)]
    pub destination_port: u16,
    /// FIN, SYN, RST, PSH, ACK, URG, ECE, CWR; without any, SYN, or ACK of an established connection.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub flags: Vec<String>,
    /// Type and code; without, an echo request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub icmp: Option<(u8, u8)>,
    /// TTL or hop limit; without, 64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<u8>,
    /// Bytes behind the transport header.
    #[serde(default)]
    pub data: u16,
    /// What the packet is to connection tracking; without, what it is to it as the first packet of its ends. Without rules nothing asks for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<State>,
    /// Tell of the rules too that do not match.
    #[serde(default, skip_serializing_if = "is_false")]
    pub all: bool,
}

/// What a packet is to connection tracking, as rules have it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema, clap::ValueEnum)]
#[serde(rename_all = "UPPERCASE")]
#[clap(rename_all = "UPPER")]
pub enum State {
    /// It begins a connection.
    New,
    /// It is of one that was answered, and goes the way of its first packet.
    Established,
    /// It begins one that another announced.
    Related,
    /// It is of none, and can begin none.
    Invalid,
    /// It is exempt from tracking.
    Untracked,
}

/// A packet's road.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Road {
    pub worker: u16,
    /// Where it came in, or by whose twin the host sent it.
    pub interface: String,
    pub from_host: bool,
    /// `None`: no IP packet that can be read.
    pub packet: Option<PacketView>,
    pub steps: Vec<RoadStep>,
    /// Steps that there was no room for.
    pub left_out: u32,
    pub dropped: Option<Dropped>,
    /// Where it went; where it was dropped, what its sender is told. With neither it waits for a next hop, or for its first fragment.
    pub ends: Vec<RoadEnd>,
}

/// Answer to `POST /v1/explain`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Explanation {
    /// Of the packet; of one of an established connection that cannot begin, that of its first packet.
    pub road: Road,
    #[serde(default, skip_serializing_if = "is_false")]
    pub cannot_begin: bool,
    /// There is a connection that such a packet is of, so that one that came now would go on with that.
    pub existing: Option<ConnectionView>,
}

/// A packet from outside.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct PacketView {
    pub protocol: String,
    #[schema(value_type = String)]
    pub source: IpAddr,
    #[schema(value_type = String)]
    pub destination: IpAddr,
    /// Of TCP, UDP and SCTP.
    pub ports: Option<(u16, u16)>,
    /// Of TCP.
    pub flags: Vec<String>,
    /// Type and code of ICMP.
    pub icmp: Option<(u8, u8)>,
    pub ttl: u8,
    /// Of the IP packet, bytes.
    pub length: u32,
    pub later_fragment: bool,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(tag = "step", rename_all = "snake_case")]
pub enum RoadStep {
    /// It is of a connection that is known.
    Known(ConnectionView),
    /// A function without rules has it.
    Function { hook: String, function: String },
    /// A table is asked.
    Table(TableStep),
    /// It is translated: its ends from here on.
    Becomes { source: String, destination: String },
    /// The routing decision.
    Routed { way: String },
    /// It is for another host, and for this one by a route of its mark.
    ByMark { mark: u32 },
    /// A virtual service has it.
    Service { service: String, scheduler: String },
    /// Its QUIC connection ID names a real server, or why it does not: `made_up`, `no_config` …
    Quic { scheduled: Option<String> },
    /// Its client is answered with a SYN cookie, or acknowledges one.
    Cookie { made: bool },
    /// The real server that is picked, and how packets get there; without: none takes it.
    Server { server: Option<String>, forward: Option<String> },
    /// Without a real server it goes straight on to the destination that it has (`cache_bypass`).
    Bypass,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct TableStep {
    pub hook: String,
    pub table: String,
    /// The packet as rules see it.
    pub state: String,
    pub mark: u32,
    pub input: Option<String>,
    pub output: Option<String>,
    pub source: String,
    pub destination: String,
    /// Those that matched, and chains whose end was met.
    pub met: Vec<MetRule>,
    /// accept, drop, reject …
    pub verdict: String,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct MetRule {
    /// Empty: it was taken out meanwhile.
    pub chain: String,
    /// From 1; without, the end of the chain.
    pub number: Option<usize>,
    /// The rule as `iptables -S` prints it behind the chain's name; of a chain's end its policy, or RETURN.
    pub rule: String,
    /// It did not match: where all are asked for.
    #[serde(default, skip_serializing_if = "is_false")]
    pub missed: bool,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct ConnectionView {
    /// The packet is of the direction of the answers.
    pub reply: bool,
    pub state: String,
    /// As its packets come: from whom, to whom.
    pub source: String,
    pub destination: String,
    /// The real server, or where it leaves to.
    pub server: String,
    /// It is of a virtual service.
    pub service: bool,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Dropped {
    pub reason: String,
    pub hook: String,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(tag = "end", rename_all = "snake_case")]
pub enum RoadEnd {
    /// It leaves by an interface, as this, for a next hop of this MAC address.
    Sent { interface: String, mac: String, packet: Option<PacketView> },
    /// To the host, by this interface's twin.
    Twin { interface: String },
    /// To the worker that has its connection.
    Worker { worker: u16 },
    /// It waits for a neighbour whose MAC address is asked for.
    Unresolved { interface: String, neighbour: String },
}

/// Query of `GET /v1/trace`; what is not said is any.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct TraceQuery {
    /// The interface's port that they come in by.
    pub input: Option<String>,
    /// The interface by whose port the host sends them.
    pub from_host: Option<String>,
    pub protocol: Option<String>,
    /// An address, or a prefix.
    pub source: Option<String>,
    pub destination: Option<String>,
    pub source_port: Option<u16>,
    pub destination_port: Option<u16>,
    /// Only those that are dropped.
    pub dropped: Option<bool>,
    /// Ends after so many; without, 20. At most 100,000.
    pub count: Option<u32>,
    /// At most so many a second; without, 10. At most 1,000.
    pub rate: Option<u32>,
    /// Ends after so long; without, 60. At most 3,600.
    pub seconds: Option<u32>,
}

impl TraceQuery {
    /// As it stands behind the path.
    pub fn query(&self) -> String {
        query(self)
    }
}

/// A line of the answer to `GET /v1/trace`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TraceLine {
    Road(Box<Road>),
    /// The last one, if there were any: packets that fit and are not shown, because of the rate or of a slow reader.
    Skipped {
        packets: u64,
    },
}
