//! What goes over the API: one Rust type for each JSON object, used by the daemon and by `lbctl` alike.
//!
//! Commands are what the operator may ask for, in full and as it was typed: the model ([`crate::model`]) refuses by name what
//! cannot be, instead of a parser dropping it.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use lb_core::tables::Prefix;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::endpoint::{BadEndpoint, Endpoint};
use crate::one_line::one_line;

/// A transport protocol that a virtual service can be over.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    Tcp,
    Udp,
    Sctp,
}

impl Transport {
    pub const ALL: [Transport; 3] = [Transport::Tcp, Transport::Udp, Transport::Sctp];

    /// As in the config file, in URLs and in the services database.
    pub const fn name(self) -> &'static str {
        match self {
            Transport::Tcp => "tcp",
            Transport::Udp => "udp",
            Transport::Sctp => "sctp",
        }
    }
}

/// What a connection is over.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ConnectionProtocol {
    Tcp,
    Udp,
    Sctp,
    /// Of a firewall mark's persistence template: all of them.
    Ip,
}

impl ConnectionProtocol {
    pub const fn name(self) -> &'static str {
        match self.transport() {
            Some(transport) => transport.name(),
            None => "ip",
        }
    }

    pub const fn transport(self) -> Option<Transport> {
        match self {
            ConnectionProtocol::Tcp => Some(Transport::Tcp),
            ConnectionProtocol::Udp => Some(Transport::Udp),
            ConnectionProtocol::Sctp => Some(Transport::Sctp),
            ConnectionProtocol::Ip => None,
        }
    }
}

/// What a virtual service is known by, written `tcp/192.0.2.1:80`, `udp/[2001:db8::1]:53`, `tcp/192.0.2.0/24:80`, `fwmark/7` or
/// `fwmark6/7`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum ServiceAddress {
    /// All addresses of a prefix, which has no host bits; a single one is `prefix_len` 32 or 128.
    Endpoint {
        transport: Transport,
        address: IpAddr,
        prefix_len: u8,
        port: u16,
    },
    FwMark {
        mark: u32,
        is_ipv6: bool,
    },
}

impl utoipa::PartialSchema for ServiceAddress {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
        utoipa::openapi::ObjectBuilder::new()
            .schema_type(utoipa::openapi::schema::Type::String)
            .description(Some(
                "tcp/ADDRESS:PORT, tcp/ADDRESS/LENGTH:PORT, udp/…, sctp/…, fwmark/MARK or fwmark6/MARK",
            ))
            .examples([serde_json::json!("tcp/192.0.2.1:80")])
            .into()
    }
}

impl ToSchema for ServiceAddress {}

impl ServiceAddress {
    pub const fn new(transport: Transport, address: IpAddr, port: u16) -> ServiceAddress {
        let prefix_len = Prefix::longest(address.is_ipv6());
        ServiceAddress::Endpoint { transport, address, prefix_len, port }
    }

    pub fn at(transport: Transport, at: Endpoint) -> ServiceAddress {
        let Endpoint { prefix: Prefix { address, len: prefix_len }, port } = at;
        ServiceAddress::Endpoint { transport, address, prefix_len, port }
    }

    pub fn is_ipv6(&self) -> bool {
        match self {
            ServiceAddress::Endpoint { address, .. } => address.is_ipv6(),
            ServiceAddress::FwMark { is_ipv6, .. } => *is_ipv6,
        }
    }

    /// 0 for a firewall mark.
    pub fn port(&self) -> u16 {
        match self {
            ServiceAddress::Endpoint { port, .. } => *port,
            ServiceAddress::FwMark { .. } => 0,
        }
    }
}

impl fmt::Display for ServiceAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            ServiceAddress::Endpoint { transport, address, prefix_len, port } => {
                let at = Endpoint { prefix: Prefix { address, len: prefix_len }, port };
                write!(f, "{}/{at}", transport.name())
            }
            ServiceAddress::FwMark { mark, is_ipv6: false } => write!(f, "fwmark/{mark}"),
            ServiceAddress::FwMark { mark, is_ipv6: true } => write!(f, "fwmark6/{mark}"),
        }
    }
}

impl From<ServiceAddress> for String {
    fn from(address: ServiceAddress) -> String {
        address.to_string()
    }
}

impl TryFrom<String> for ServiceAddress {
    type Error = BadServiceAddress;

    fn try_from(text: String) -> Result<ServiceAddress, BadServiceAddress> {
        text.parse()
    }
}

#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BadServiceAddress {
    #[error(
        "virtual service {0:?}: expected tcp/ADDRESS:PORT, udp/ADDRESS:PORT, sctp/ADDRESS:PORT, fwmark/MARK or fwmark6/MARK; \
         ADDRESS may be ADDRESS/LENGTH"
    )]
    Malformed(String),
    #[error("virtual service {0:?}: {1}")]
    HostBits(String, BadEndpoint),
}

impl FromStr for ServiceAddress {
    type Err = BadServiceAddress;

    fn from_str(text: &str) -> Result<ServiceAddress, BadServiceAddress> {
        let bad = || BadServiceAddress::Malformed(text.to_owned());
        let (kind, rest) = text.split_once('/').ok_or_else(bad)?;
        if let Some(transport) = Transport::ALL.into_iter().find(|transport| transport.name() == kind) {
            let at = rest.parse().map_err(|error| match error {
                BadEndpoint::HostBits(_) => BadServiceAddress::HostBits(text.to_owned(), error),
                _ => bad(),
            })?;
            return Ok(ServiceAddress::at(transport, at));
        }
        let is_ipv6 = match kind {
            "fwmark" => false,
            "fwmark6" => true,
            _ => return Err(bad()),
        };
        match rest.parse() {
            Ok(mark @ 1..) => Ok(ServiceAddress::FwMark { mark, is_ipv6 }),
            _ => Err(bad()),
        }
    }
}

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

/// Idle seconds after which a connection is forgotten. 0 in a command: leave as it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Timeouts {
    /// Established TCP.
    pub tcp: u32,
    /// TCP after the server's FIN.
    pub tcp_fin: u32,
    pub udp: u32,
}

/// What a sync daemon does.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum SyncRole {
    /// Tells other directors of this one's connections.
    Master,
    /// Takes over the connections that other directors tell of.
    Backup,
}

impl SyncRole {
    pub const ALL: [SyncRole; 2] = [SyncRole::Master, SyncRole::Backup];

    /// As in the config file and for `ipvsadm`.
    pub const fn name(self) -> &'static str {
        match self {
            SyncRole::Master => "master",
            SyncRole::Backup => "backup",
        }
    }
}

/// A switch of the kernel's IPVS, by the kernel's name.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SysctlValue {
    pub name: String,
    pub value: u32,
}

/// A daemon that shares connections with other directors.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SyncDaemon {
    pub role: SyncRole,
    /// Linux interface that leads to the other directors.
    pub interface: String,
    /// Directors with another number are not heard; a backup with 0 hears all.
    #[serde(default)]
    pub syncid: u8,
    /// Longest message, bytes of UDP data; 0: what 1500 bytes of IP hold.
    #[serde(default)]
    pub maxlen: u16,
    #[serde(default = "SyncDaemon::default_group")]
    #[schema(value_type = String)]
    pub group: IpAddr,
    #[serde(default = "SyncDaemon::default_port")]
    pub port: u16,
    #[serde(default = "SyncDaemon::default_ttl")]
    pub ttl: u8,
}

impl SyncDaemon {
    /// The kernel's defaults.
    pub fn new(role: SyncRole, interface: &str) -> SyncDaemon {
        SyncDaemon {
            role,
            interface: interface.to_owned(),
            syncid: 0,
            maxlen: 0,
            group: SyncDaemon::default_group(),
            port: SyncDaemon::default_port(),
            ttl: SyncDaemon::default_ttl(),
        }
    }

    fn default_group() -> IpAddr {
        IpAddr::from([224, 0, 0, 81])
    }

    fn default_port() -> u16 {
        8848
    }

    fn default_ttl() -> u8 {
        1
    }
}

/// One change. Each is done wholly or not at all.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Command {
    AddService(ServiceSpec),
    /// Everything but the real servers is replaced.
    EditService(ServiceSpec),
    DeleteService {
        service: ServiceAddress,
    },
    AddServer {
        service: ServiceAddress,
        server: ServerSpec,
    },
    /// Everything but address and port is replaced.
    EditServer {
        service: ServiceAddress,
        server: ServerSpec,
    },
    DeleteServer {
        service: ServiceAddress,
        #[schema(value_type = String)]
        server: SocketAddr,
    },
    /// Deletes all services.
    Flush,
    /// Sets statistics to 0, of one service or of all.
    Zero {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        service: Option<ServiceAddress>,
    },
    SetTimeouts(Timeouts),
    SetSysctl(SysctlValue),
    StartSync(SyncDaemon),
    StopSync {
        role: SyncRole,
    },
}

/// What happens after a command of a batch that fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnError {
    /// The others are done: as `ipvsadm -R`.
    #[default]
    Continue,
    /// What was done before it is undone: the batch is done wholly or not at all.
    Rollback,
}

/// Body of `POST /v1/commands`. All of it takes effect on the packet path at the same moment.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Batch {
    pub commands: Vec<Command>,
    #[serde(default)]
    pub on_error: OnError,
}

/// Answer to a [`Batch`].
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct BatchReply {
    /// Commands done.
    pub done: usize,
    /// Commands that failed, in their order.
    pub failed: Vec<Failure>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Failure {
    /// Place in the batch, from 0.
    pub index: usize,
    #[serde(flatten)]
    pub error: ErrorBody,
}

/// Body of every answer that is not 2xx.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema, thiserror::Error)]
#[error("{message}")]
pub struct ErrorBody {
    pub error: ErrorKind,
    /// One line: the object as it was given, the value, what is allowed.
    pub message: String,
}

impl ErrorBody {
    pub fn new(error: ErrorKind, message: impl Into<String>) -> ErrorBody {
        ErrorBody { error, message: one_line(message.into()) }
    }
}

/// What went wrong; the first group are the kernel's own errors.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    ServiceExists,
    /// A command about a service itself names one that is not there.
    NoSuchService,
    /// A command about a real server names a service that is not there.
    ServiceNotDefined,
    ServerExists,
    /// A tracked connection with such ends is there already.
    ConnectionExists,
    NoSuchServer,
    /// A weight or threshold that cannot be.
    OutOfRange,
    UnknownScheduler,
    /// For example an address that is not unicast.
    InvalidOperation,
    /// There is a sync daemon of this role already.
    SyncRuns,
    /// There is no sync daemon of this role.
    NoSync,
    /// A sync daemon's interface is not there.
    NoSuchDevice,
    /// There is no room for one more.
    Full,
    BadRequest,
    NotFound,
    MethodNotAllowed,
    /// The body is longer than the daemon takes.
    TooLarge,
    /// The daemon cannot answer now: it is starting, stopping, or a worker does not answer.
    Unavailable,
    Internal,
}

impl ErrorKind {
    /// HTTP status of an answer with this error.
    pub const fn status(self) -> u16 {
        match self {
            ErrorKind::ServiceExists
            | ErrorKind::ServerExists
            | ErrorKind::ConnectionExists
            | ErrorKind::SyncRuns => 409,
            ErrorKind::NoSuchService
            | ErrorKind::ServiceNotDefined
            | ErrorKind::NoSuchServer
            | ErrorKind::NoSync
            | ErrorKind::NoSuchDevice
            | ErrorKind::NotFound => 404,
            ErrorKind::OutOfRange | ErrorKind::UnknownScheduler | ErrorKind::InvalidOperation => 422,
            ErrorKind::Full => 507,
            ErrorKind::BadRequest => 400,
            ErrorKind::MethodNotAllowed => 405,
            ErrorKind::TooLarge => 413,
            ErrorKind::Unavailable => 503,
            ErrorKind::Internal => 500,
        }
    }
}

/// Counts since the start or the last [`Command::Zero`].
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn service_addresses_read_as_they_are_written() {
        for text in [
            "tcp/192.0.2.1:80",
            "udp/[2001:db8::1]:53",
            "sctp/192.0.2.1:9000",
            "tcp/192.0.2.0/24:80",
            "udp/[2001:db8::/64]:0",
            "fwmark/7",
            "fwmark6/4294967295",
        ] {
            assert_eq!(text.parse::<ServiceAddress>().expect(text).to_string(), text);
        }
        for text in [
            "",
            "tcp",
            "tcp/",
            "tcp/192.0.2.1",
            "icmp/192.0.2.1:1",
            "fwmark/0",
            "fwmark/-1",
            "fwmark/4294967296",
            "tcp/2001:db8::1:80",
            "tcp/[fe80::1%3]:80",
            "tcp/192.0.2.1/24:80",
            "tcp/192.0.2.0/33:80",
        ] {
            let error = text.parse::<ServiceAddress>().expect_err(text);
            assert!(error.to_string().contains(&format!("{text:?}")), "{error}");
        }
    }

    #[test]
    fn commands_have_a_stable_form_and_defaults() {
        let json = r#"{"commands": [
            {"add_service": {"service": "tcp/192.0.2.1:80"}},
            {"add_server": {"service": "tcp/192.0.2.1:80", "server": {"server": "10.0.0.1:8080"}}},
            {"zero": {}},
            "flush",
            {"set_timeouts": {"tcp": 900, "tcp_fin": 120, "udp": 300}}
        ]}"#;
        let batch: Batch = serde_json::from_str(json).expect("valid");
        let service = "tcp/192.0.2.1:80".parse().expect("valid");
        assert_eq!(
            batch.commands,
            [
                Command::AddService(ServiceSpec::new(service, "wlc")),
                Command::AddServer {
                    service,
                    server: ServerSpec::new("10.0.0.1:8080".parse().expect("valid"))
                },
                Command::Zero { service: None },
                Command::Flush,
                Command::SetTimeouts(Timeouts { tcp: 900, tcp_fin: 120, udp: 300 }),
            ]
        );
        assert_eq!(batch.on_error, OnError::Continue);
        let again: Batch =
            serde_json::from_str(&serde_json::to_string(&batch).expect("serialises")).expect("reads");
        assert_eq!(again, batch);
    }

    #[test]
    fn unknown_fields_of_a_command_are_errors() {
        for json in [
            r#"{"commands": [{"add_service": {"service": "tcp/192.0.2.1:80", "typo": true}}]}"#,
            r#"{"commands": [{"zero": {"typo": "tcp/192.0.2.1:80"}}]}"#,
            r#"{"commands": [{"delete_service": {"service": "tcp/192.0.2.1:80", "typo": 1}}]}"#,
            r#"{"commands": [{"set_timeouts": {"tcp": 0, "tcp_fin": 0, "udp": 0, "typo": 1}}]}"#,
            r#"{"commands": [], "typo": 1}"#,
        ] {
            let error = serde_json::from_str::<Batch>(json).expect_err("unknown field");
            assert!(error.to_string().contains("typo"), "{error}");
        }
    }
}
