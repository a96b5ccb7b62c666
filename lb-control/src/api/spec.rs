//! Virtual services and real servers as the operator says them.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::address::ServiceAddress;

/// A virtual service without its real servers.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ServiceSpec {
    pub service: ServiceAddress,
    /// Name of the scheduler.
    #[serde(default = "default_scheduler")]
    pub scheduler: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scheduler_flags: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub persistence: Option<Persistence>,
    /// `sip`: each call, by its Call-ID, keeps a real server, not each client. Without persistence it has no effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub persistence_engine: Option<String>,
    /// One-packet scheduling: each UDP datagram is scheduled anew.
    #[serde(default, skip_serializing_if = "is_false")]
    pub one_packet: bool,
    /// A PROXY protocol header in front of the stream tells the real servers who the client is: `v1` or `v2`. TCP, masqueraded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy_protocol: Option<String>,
    /// A TCP option (kind 254) tells the real servers who the client is. TCP.
    #[serde(default, skip_serializing_if = "is_false")]
    pub toa: bool,
    /// The maximum segment size in a client's SYN is lowered to what fits the tunnel to the real server. TCP.
    #[serde(default, skip_serializing_if = "is_false")]
    pub clamp_mss: bool,
    /// What reads along for further connections: `ftp`. TCP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub helper: Option<String>,
    /// When clients are answered with SYN cookies: `on`, `auto`, `auto:SYNS_A_SECOND`, `off` when left out. TCP, masqueraded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub syn_cookies: Option<String>,
    /// Most connections at once, 1..=16000000; 0: any number.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub conn_limit: u32,
    /// Most new connections, `RATE` or `RATE:BURST`: in a second and at once, each in 1..=10000000. A burst of a second's worth when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conn_rate: Option<String>,
    /// The same of each source: a client's address, or as many bits of it as `source_prefix` says (1..=32, IPv6: 1..=128).
    #[serde(default, skip_serializing_if = "is_zero")]
    pub source_conn_limit: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_conn_rate: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_prefix: Option<u8>,
    /// Of scheduler maglev: places in its table, a prime in 65537..=16777216. 65537 when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table_size: Option<u32>,
    /// Slow start: seconds in which a real server that is added, or comes back from weight 0, gets its full weight,
    /// 0..=3600; 0: at once.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub warmup: u32,
    /// Of FullNAT: addresses of the director that real servers see as their clients, at most 64. When left out: that of the interface
    /// towards the real server.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub local_addresses: Vec<IpAddr>,
    /// How QUIC connection IDs name real servers: up to seven configurations, each with an ID of its own. UDP.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub quic_lb: Vec<QuicLb>,
}

/// How servers write their IDs into QUIC connection IDs (draft-ietf-quic-load-balancers).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct QuicLb {
    /// First three bits of the connection IDs, 0..=6.
    pub config_id: u32,
    /// Bytes, 1..=15.
    pub server_id_length: u32,
    /// Bytes, 4..=18; at most 19 together with `server_id_length`.
    pub nonce_length: u32,
    /// 32 hexadecimal digits. When left out connection IDs are not enciphered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<QuicKey>,
}

/// A key of QUIC-LB as it is written, `hidden` in answers that were not asked for it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
pub struct QuicKey(pub String);

impl QuicKey {
    pub fn hidden() -> QuicKey {
        QuicKey("hidden".to_owned())
    }
}

impl fmt::Debug for QuicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("QuicKey(hidden)")
    }
}

/// The scheduler of a service that names none, as with `ipvsadm`.
pub const DEFAULT_SCHEDULER: &str = "wlc";

fn default_scheduler() -> String {
    DEFAULT_SCHEDULER.to_owned()
}

pub(super) fn is_false(value: &bool) -> bool {
    !value
}

fn is_zero(value: &u32) -> bool {
    *value == 0
}

impl ServiceSpec {
    /// A plain service: no persistence, no flags.
    pub fn new(service: ServiceAddress, scheduler: &str) -> ServiceSpec {
        ServiceSpec {
            service,
            scheduler: scheduler.to_owned(),
            scheduler_flags: Vec::new(),
            persistence: None,
            persistence_engine: None,
            one_packet: false,
            proxy_protocol: None,
            toa: false,
            clamp_mss: false,
            helper: None,
            syn_cookies: None,
            conn_limit: 0,
            conn_rate: None,
            source_conn_limit: 0,
            source_conn_rate: None,
            source_prefix: None,
            table_size: None,
            warmup: 0,
            local_addresses: Vec::new(),
            quic_lb: Vec::new(),
        }
    }
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Persistence {
    /// Seconds, 1..=2678400.
    pub timeout: u32,
    /// Clients that are one client: an IPv4 mask (`255.255.255.0`) or an IPv6 prefix length (`64`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netmask: Option<String>,
}

/// How packets get to a real server.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ForwardMethod {
    #[default]
    Masq,
    Direct,
    Tunnel,
    FullNat,
}

impl ForwardMethod {
    pub const ALL: [ForwardMethod; 4] =
        [ForwardMethod::Masq, ForwardMethod::Direct, ForwardMethod::Tunnel, ForwardMethod::FullNat];

    /// The real server may listen on another port than the virtual service.
    pub const fn changes_port(self) -> bool {
        matches!(self, ForwardMethod::Masq | ForwardMethod::FullNat)
    }

    /// The real server may be of another address family than the virtual service.
    pub const fn changes_family(self) -> bool {
        matches!(self, ForwardMethod::Tunnel | ForwardMethod::FullNat)
    }

    /// As in the config file.
    pub const fn name(self) -> &'static str {
        match self {
            ForwardMethod::Masq => "masq",
            ForwardMethod::Direct => "direct",
            ForwardMethod::Tunnel => "tunnel",
            ForwardMethod::FullNat => "fullnat",
        }
    }
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ServerSpec {
    /// `10.0.0.1:8080`, `[2001:db8::1]:8080`.
    #[schema(value_type = String)]
    pub server: SocketAddr,
    /// 0..=2147483647; 0: no new connections, the others go on.
    #[serde(default = "default_weight")]
    pub weight: u32,
    #[serde(default)]
    pub forward: ForwardMethod,
    /// No new connections from this many on; 0: no limit.
    #[serde(default)]
    pub upper_threshold: u32,
    /// New connections again below this many; 0: three quarters of `upper_threshold`.
    #[serde(default)]
    pub lower_threshold: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tunnel: Option<Tunnel>,
    /// What it writes into QUIC connection IDs: at most 8 of 1 to 15 bytes, two hexadecimal digits each, no other server's.
    /// Each is used with the `quic_lb` of its length.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub quic_server_ids: Vec<String>,
}

fn default_weight() -> u32 {
    1
}

impl ServerSpec {
    /// Masquerading, weight 1, no thresholds.
    pub fn new(server: SocketAddr) -> ServerSpec {
        ServerSpec {
            server,
            weight: 1,
            forward: ForwardMethod::Masq,
            upper_threshold: 0,
            lower_threshold: 0,
            tunnel: None,
            quic_server_ids: Vec::new(),
        }
    }
}

/// How the tunnel to a real server is made.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Tunnel {
    /// `ipip`, `gue` or `gre`.
    pub encapsulation: String,
    /// UDP port of GUE; 0 otherwise.
    #[serde(default)]
    pub port: u16,
    /// `none`, `checksum` or `remote`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checksum: Option<String>,
}
