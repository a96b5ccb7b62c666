//! What is, as answers show it.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::address::{ConnectionProtocol, ServiceAddress};
use super::spec::{ServerSpec, ServiceSpec};

/// Counts since the start or the last command `zero`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Counts {
    pub connections: u64,
    pub in_packets: u64,
    pub out_packets: u64,
    pub in_bytes: u64,
    pub out_bytes: u64,
}

/// The kernel's estimator: a moving average over the last seconds, each a second, rounded as the kernel rounds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Rates {
    pub connections: u64,
    pub in_packets: u64,
    pub out_packets: u64,
    pub in_bytes: u64,
    pub out_bytes: u64,
}

/// Answer to `GET /v1/services`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct ServicesReply {
    /// By protocol, address and port.
    pub services: Vec<ServiceView>,
}

/// A virtual service as it is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct ServiceView {
    #[serde(flatten)]
    pub spec: ServiceSpec,
    pub counts: Counts,
    pub rates: Rates,
    /// Where `syn_cookies` are `on` or `auto`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cookies: Option<CookieView>,
    /// Where connections are limited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limited: Option<LimitedView>,
    /// Newest first, as the kernel has them and the schedulers scan them.
    pub servers: Vec<ServerView>,
}

/// SYN cookies of a virtual service, since it was added.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct CookieView {
    /// Clients are answered with cookies now, by one worker at least.
    pub on: bool,
    /// SYNs that were answered with one.
    pub sent: u64,
    /// Acknowledgements of one, and of none, by packets of no connection.
    pub accepted: u64,
    pub rejected: u64,
}

/// Limits of a virtual service.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct LimitedView {
    /// Connections that `conn_limit` counts now; 0 without one.
    pub connections: u32,
    /// New connections that were not let in since the service was added, by the limit that they would have exceeded.
    pub conn_limit: u64,
    pub conn_rate: u64,
    pub source_conn_limit: u64,
    pub source_conn_rate: u64,
}

/// A real server as it is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct ServerView {
    #[serde(flatten)]
    pub spec: ServerSpec,
    /// Connections now: of TCP those that are established or being set up, of SCTP the established ones.
    pub active: u64,
    /// Connections now: all others.
    pub inactive: u64,
    /// Persistence templates now.
    pub persistent: u64,
    /// It reached its upper threshold and is not below the lower one yet.
    pub overloaded: bool,
    pub counts: Counts,
    pub rates: Rates,
}

/// A line of the answer to `GET /v1/connections`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Connection {
    pub protocol: ConnectionProtocol,
    /// Seconds until it is forgotten if nothing comes.
    pub expires: u32,
    /// The kernel's word: `ESTABLISHED`, `UDP` …
    pub state: String,
    #[schema(value_type = String)]
    pub client: SocketAddr,
    #[serde(rename = "virtual")]
    #[schema(value_type = String)]
    pub virtual_: SocketAddr,
    #[schema(value_type = String)]
    pub destination: SocketAddr,
    /// Of FullNAT: what the real server sees as its client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub local: Option<SocketAddr>,
    /// Of the persistence template of a call: a digest of client and Call-ID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub call: Option<String>,
    /// The service that has it, also when its real server was removed. None: it is of no service, or was begun while this answer
    /// was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<ServiceAddress>,
}

/// Answer to `POST /v1/sets`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct SetsReply {
    /// What tests found.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub said: Vec<String>,
    /// The line that was not done, with all behind it. Those before it are done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<SetFailure>,
}

/// Why a line of `ipset` is not done.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct SetFailure {
    /// From 1 on.
    pub line: usize,
    /// 0: a test that found nothing; 1: not possible; 2: the line has the wrong parts.
    pub code: u8,
    pub message: String,
}

/// Answer to `GET /v1/status`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Status {
    pub version: String,
    pub pid: u32,
    /// Seconds since the daemon was ready.
    pub uptime: u64,
    pub ready: bool,
    /// Why it is not ready: one line each.
    pub problems: Vec<String>,
    /// What runs short, so that something was refused within the last minute: one line each.
    pub alarms: Vec<String>,
    pub config: String,
    /// Of the tables published last.
    pub generation: u32,
    pub services: usize,
    pub servers: usize,
    /// Connections now, and how many there is room for.
    pub connections: u64,
    pub max_connections: u64,
    /// Virtual services whose clients are answered with SYN cookies now.
    pub syn_cookies: Vec<ServiceAddress>,
    /// Virtual services whose packets go by hash alone, because the flow table is short of room.
    pub by_hash: Vec<ServiceAddress>,
}

/// A port as it is, and its Linux twin.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct PortView {
    pub name: String,
    pub device: String,
    /// `aa:bb:cc:dd:ee:ff`
    pub mac: String,
    pub mtu: u32,
    pub link_up: bool,
    pub rx_packets: u64,
    pub rx_bytes: u64,
    pub tx_packets: u64,
    pub tx_bytes: u64,
    /// Lost by the device for want of buffers or by errors, as it says.
    pub rx_missed: u64,
    /// Packets that the device could not send.
    pub tx_errors: u64,
    pub to_twin: u64,
    pub from_twin: u64,
    /// Frames that the kernel refused on the twin.
    pub twin_refused: u64,
    /// Times that frames from the twin had to wait for a buffer.
    pub twin_waits: u64,
    /// Its pairs of a receive and a transmit queue.
    pub queues: u16,
    /// What it does for us: `rss`, `rx ipv4 checksum` …
    pub offloads: Vec<String>,
    /// How its driver receives bursts, in its own words: `Vector AVX2`; empty: it says nothing.
    pub rx_burst: String,
    /// How it sends them.
    pub tx_burst: String,
    /// Packets that came by it to one worker and were handed to the one that has their connection.
    pub handed_over: u64,
    /// How its packets get to the workers, and what to change where that costs.
    pub steering: String,
}

/// A reason for which packets were not sent, where, and how many.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct DropView {
    pub reason: String,
    pub hook: String,
    pub packets: u64,
}

/// A worker as it is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct WorkerView {
    pub worker: u16,
    pub cpu: u32,
    /// It took its last turn a moment ago.
    pub alive: bool,
    pub busy_cycles: u64,
    pub idle_cycles: u64,
    pub turns: u64,
    /// Turns of 100 µs and more: a packet that came meanwhile waited for so long.
    pub long_turns: u64,
    /// Of the tables that it uses.
    pub generation: u32,
    pub flows: u64,
    pub flow_capacity: u64,
    pub handed_over: u64,
    pub handed_in: u64,
}

/// What a system's SYN looks like.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct FingerprintView {
    /// `*`: any; a number; `S4`: so many times the segment size; `T4`: so many times the packet size; `%8192`: a multiple.
    pub window: String,
    pub ttl: u8,
    pub df: bool,
    /// Bytes of the IP packet.
    pub size: u16,
    /// As in `pf.os`; `.`: none.
    pub options: String,
    pub genre: String,
    pub version: String,
    pub subtype: String,
}
