//! The options of ipvsadm 1.31, and which of them go with which command.
//!
//! One row an option: parsing and help follow from it. Names, letters and what combines are recorded behaviour and
//! ipvsadm(8).

use lb_core::tables::Tunnel;

/// An option as typed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Opt {
    AddService,
    EditService,
    DeleteService,
    Clear,
    Restore,
    Save,
    AddServer,
    EditServer,
    DeleteServer,
    List,
    Zero,
    Set,
    StartDaemon,
    StopDaemon,
    Help,
    Version,

    TcpService,
    UdpService,
    SctpService,
    FwMark,
    Ipv6,
    Scheduler,
    SchedFlags,
    PersistenceEngine,
    Persistent,
    Netmask,
    OnePacket,
    ProxyProtocol,
    Toa,
    ClampMss,
    SynCookies,
    ConnLimit,
    ConnRate,
    SourceConnLimit,
    SourceConnRate,
    SourcePrefix,
    QuicLb,
    QuicServerId,
    Helper,
    TableSize,
    Warmup,
    RealServer,
    Gatewaying,
    Ipip,
    Masquerading,
    FullNat,
    LocalAddress,
    TunType,
    TunPort,
    TunNoCsum,
    TunCsum,
    TunRemCsum,
    Weight,
    UpperThreshold,
    LowerThreshold,
    Connection,
    Timeout,
    Daemon,
    Stats,
    Rate,
    Exact,
    Thresholds,
    PersistentConn,
    TunInfo,
    NoSort,
    Sort,
    Numeric,
    McastInterface,
    SyncId,
    SyncMaxLen,
    McastGroup,
    McastPort,
    McastTtl,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Takes {
    Nothing,
    Argument,
    Optional,
}

pub(crate) struct Row {
    pub(crate) opt: Opt,
    pub(crate) short: Option<char>,
    pub(crate) long: &'static str,
    pub(crate) takes: Takes,
    /// What the argument is called in the help.
    pub(crate) argument: &'static str,
    pub(crate) help: &'static str,
}

const fn flag(opt: Opt, short: Option<char>, long: &'static str, help: &'static str) -> Row {
    Row { opt, short, long, takes: Takes::Nothing, argument: "", help }
}

const fn value(
    opt: Opt,
    short: Option<char>,
    long: &'static str,
    argument: &'static str,
    help: &'static str,
) -> Row {
    Row { opt, short, long, takes: Takes::Argument, argument, help }
}

/// Commands first, in the order of the help.
pub(crate) const TABLE: &[Row] = &[
    flag(Opt::AddService, Some('A'), "add-service", "add a virtual service"),
    flag(
        Opt::EditService,
        Some('E'),
        "edit-service",
        "change a virtual service; what is not given becomes the default",
    ),
    flag(Opt::DeleteService, Some('D'), "delete-service", "delete a virtual service and its real servers"),
    flag(Opt::Clear, Some('C'), "clear", "delete everything"),
    flag(Opt::Restore, Some('R'), "restore", "do the command lines that standard input holds"),
    flag(Opt::Save, Some('S'), "save", "print the command lines that make what is there"),
    flag(Opt::AddServer, Some('a'), "add-server", "add a real server to a virtual service"),
    flag(
        Opt::EditServer,
        Some('e'),
        "edit-server",
        "change a real server; what is not given becomes the default",
    ),
    flag(Opt::DeleteServer, Some('d'), "delete-server", "delete a real server"),
    flag(Opt::List, Some('L'), "list", "list services, connections or timeouts (also without any option)"),
    flag(Opt::List, Some('l'), "list", ""),
    flag(Opt::Zero, Some('Z'), "zero", "set statistics to 0, of one service or of all"),
    flag(Opt::Set, None, "set", "TCP TCPFIN UDP: set timeouts in seconds, 0 leaves one as it is"),
    value(
        Opt::StartDaemon,
        None,
        "start-daemon",
        "master|backup",
        "share connections with other directors: tell of them, or take them over",
    ),
    value(Opt::StopDaemon, None, "stop-daemon", "master|backup", "share connections no more"),
    flag(Opt::Help, Some('h'), "help", "this text"),
    flag(Opt::Version, Some('v'), "version", "version of the command syntax"),
    value(Opt::TcpService, Some('t'), "tcp-service", "HOST[:PORT]", "a TCP service"),
    value(Opt::UdpService, Some('u'), "udp-service", "HOST[:PORT]", "a UDP service"),
    value(Opt::SctpService, None, "sctp-service", "HOST[:PORT]", "an SCTP service"),
    value(Opt::FwMark, Some('f'), "fwmark-service", "MARK", "a service by firewall mark"),
    flag(Opt::Ipv6, Some('6'), "ipv6", "the firewall mark is for IPv6"),
    value(Opt::Scheduler, Some('s'), "scheduler", "NAME", "how connections are shared out; wlc if not given"),
    value(
        Opt::SchedFlags,
        Some('b'),
        "sched-flags",
        "FLAGS",
        "flags of the scheduler: sh-port, sh-fallback, mh-port, mh-fallback",
    ),
    value(Opt::PersistenceEngine, None, "pe", "NAME", "persistence engine: sip, by Call-ID"),
    Row {
        opt: Opt::Persistent,
        short: Some('p'),
        long: "persistent",
        takes: Takes::Optional,
        argument: "SECONDS",
        help: "a client keeps its real server, for 360 seconds if not given",
    },
    value(Opt::Netmask, Some('M'), "netmask", "MASK", "clients that are one client for -p"),
    flag(Opt::OnePacket, Some('o'), "ops", "schedule each datagram anew"),
    value(
        Opt::ProxyProtocol,
        None,
        "proxy-protocol",
        "v1|v2",
        "tell real servers the client by a header before the stream (not in the kernel)",
    ),
    flag(Opt::Toa, None, "toa", "tell real servers the client by a TCP option (not in the kernel)"),
    flag(
        Opt::ClampMss,
        None,
        "clamp-mss",
        "lower what a SYN asks for to what fits the tunnel (not in the kernel)",
    ),
    value(
        Opt::SynCookies,
        None,
        "syn-cookies",
        "off|on|auto[:RATE]",
        "answer clients with SYN cookies, always or above RATE SYNs a second (not in the kernel)",
    ),
    value(Opt::ConnLimit, None, "conn-limit", "N", "at most N connections at once (not in the kernel)"),
    value(
        Opt::ConnRate,
        None,
        "conn-rate",
        "RATE[:BURST]",
        "at most RATE new connections a second, BURST at once (not in the kernel)",
    ),
    value(
        Opt::SourceConnLimit,
        None,
        "source-conn-limit",
        "N",
        "at most N connections of each source (not in the kernel)",
    ),
    value(
        Opt::SourceConnRate,
        None,
        "source-conn-rate",
        "RATE[:BURST]",
        "as --conn-rate, of each source (not in the kernel)",
    ),
    value(
        Opt::SourcePrefix,
        None,
        "source-prefix",
        "LEN",
        "a source is as many bits of an address (not in the kernel)",
    ),
    value(
        Opt::Helper,
        None,
        "helper",
        "ftp|none",
        "what reads along for data connections; ftp for TCP port 21 if not given (not in ipvsadm)",
    ),
    value(
        Opt::TableSize,
        None,
        "table-size",
        "NUMBER",
        "places in the table of scheduler maglev, a prime (not in the kernel)",
    ),
    value(
        Opt::Warmup,
        None,
        "warmup",
        "SECONDS",
        "slow start: until a real server that comes has its full weight (not in the kernel)",
    ),
    value(
        Opt::QuicLb,
        None,
        "quic-lb",
        "ID:LENGTH:NONCE[:KEY][,…]",
        "QUIC connection IDs name real servers: config ID, bytes of server ID and nonce, key (not in the kernel)",
    ),
    value(
        Opt::RealServer,
        Some('r'),
        "real-server",
        "HOST[:PORT]",
        "a real server; its port is the service's if not given",
    ),
    flag(Opt::Gatewaying, Some('g'), "gatewaying", "direct routing, the default"),
    flag(Opt::Ipip, Some('i'), "ipip", "tunneling"),
    flag(Opt::Masquerading, Some('m'), "masquerading", "masquerading (NAT)"),
    flag(Opt::FullNat, None, "fullnat", "FullNAT: masquerading from an address of the director"),
    value(
        Opt::LocalAddress,
        None,
        "laddr",
        "ADDRESS[,ADDRESS]",
        "where FullNAT connections come from; the interface's address if not given",
    ),
    value(Opt::TunType, None, "tun-type", "ipip|gue|gre", "kind of tunnel"),
    value(Opt::TunPort, None, "tun-port", "PORT", "destination port of a gue tunnel"),
    flag(Opt::TunNoCsum, None, "tun-nocsum", "tunnel without checksum"),
    flag(Opt::TunCsum, None, "tun-csum", "tunnel with checksum"),
    flag(Opt::TunRemCsum, None, "tun-remcsum", "tunnel with remote checksum"),
    value(Opt::Weight, Some('w'), "weight", "NUMBER", "capacity of a real server; 0: no new connections"),
    value(
        Opt::UpperThreshold,
        Some('x'),
        "u-threshold",
        "NUMBER",
        "no new connections from this many on; 0: no limit",
    ),
    value(Opt::LowerThreshold, Some('y'), "l-threshold", "NUMBER", "new connections again below this many"),
    value(
        Opt::QuicServerId,
        None,
        "quic-server-id",
        "ID[,ID]",
        "what a real server writes into QUIC connection IDs, in hexadecimal digits (not in the kernel)",
    ),
    flag(Opt::Connection, Some('c'), "connection", "list connections"),
    flag(Opt::Timeout, None, "timeout", "list timeouts"),
    flag(Opt::Daemon, None, "daemon", "list synchronisation daemons"),
    flag(Opt::Stats, None, "stats", "list counts"),
    flag(Opt::Rate, None, "rate", "list rates a second"),
    flag(Opt::Exact, Some('X'), "exact", "do not abbreviate large numbers"),
    flag(Opt::Thresholds, None, "thresholds", "list thresholds"),
    flag(Opt::PersistentConn, None, "persistent-conn", "list persistent connections"),
    flag(Opt::TunInfo, None, "tun-info", "list tunnels"),
    flag(Opt::NoSort, None, "nosort", "list in the order of the table"),
    flag(Opt::Sort, None, "sort", "list sorted, the default"),
    flag(Opt::Numeric, Some('n'), "numeric", "list addresses and ports as numbers"),
    value(Opt::McastInterface, None, "mcast-interface", "NAME", "interface of the synchronisation"),
    value(Opt::SyncId, None, "syncid", "NUMBER", "identity of the synchronisation"),
    value(Opt::SyncMaxLen, None, "sync-maxlen", "BYTES", "longest synchronisation message, of UDP data"),
    value(Opt::McastGroup, None, "mcast-group", "ADDRESS", "multicast group of the synchronisation"),
    value(Opt::McastPort, None, "mcast-port", "PORT", "UDP port of the synchronisation"),
    value(Opt::McastTtl, None, "mcast-ttl", "NUMBER", "TTL of the synchronisation"),
];

macro_rules! subjects {
    ($($subject:ident = $name:literal,)*) => {
        /// What an option says, as error messages name it. Two options with the same subject exclude each other. The
        /// order is that of the checks.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub(crate) enum Subject {
            $($subject,)*
        }

        impl Subject {
            const ALL: &[Subject] = &[$(Subject::$subject),*];

            pub(crate) const fn name(self) -> &'static str {
                match self {
                    $(Subject::$subject => $name,)*
                }
            }
        }
    };
}

subjects! {
    Numeric = "numeric",
    Connection = "connection",
    Service = "service-address",
    Scheduler = "scheduler",
    Persistent = "persistent",
    Netmask = "netmask",
    Server = "real-server",
    Forward = "forwarding-method",
    Weight = "weight",
    UpperThreshold = "u-threshold",
    LowerThreshold = "l-threshold",
    McastInterface = "mcast-interface",
    Timeout = "timeout",
    Daemon = "daemon",
    Stats = "stats",
    Rate = "rate",
    Thresholds = "thresholds",
    PersistentConn = "persistent-conn",
    NoSort = "nosort",
    SyncId = "syncid",
    Exact = "exact",
    OnePacket = "ops",
    PersistenceEngine = "pe",
    SchedFlags = "sched-flags",
    McastGroup = "mcast-group",
    McastPort = "mcast-port",
    McastTtl = "mcast-ttl",
    SyncMaxLen = "sync-maxlen",
    TunInfo = "tun-info",
    TunType = "tun-type",
    TunPort = "tun-port",
    TunNoCsum = "tun-nocsum",
    TunCsum = "tun-csum",
    TunRemCsum = "tun-remcsum",
    ProxyProtocol = "proxy-protocol",
    Toa = "toa",
    ClampMss = "clamp-mss",
    SynCookies = "syn-cookies",
    ConnLimit = "conn-limit",
    ConnRate = "conn-rate",
    SourceConnLimit = "source-conn-limit",
    SourceConnRate = "source-conn-rate",
    SourcePrefix = "source-prefix",
    Helper = "helper",
    LocalAddress = "laddr",
    QuicLb = "quic-lb",
    QuicServerId = "quic-server-id",
    TableSize = "table-size",
    Warmup = "warmup",
}

/// One bit each in [`Given`].
const _: () = assert!(Subject::ALL.len() <= u64::BITS as usize);

/// Which subjects were given.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Given(u64);

impl Given {
    pub(crate) fn has(self, subject: Subject) -> bool {
        self.0 & 1 << subject as u64 != 0
    }

    pub(crate) fn has_any(self, subjects: &[Subject]) -> bool {
        subjects.iter().any(|&subject| self.has(subject))
    }

    /// False when it was given before.
    pub(crate) fn add(&mut self, subject: Subject) -> bool {
        let is_new = !self.has(subject);
        self.0 |= 1 << subject as u64;
        is_new
    }
}

/// What goes with a command, or with a kind of tunnel; all other subjects are illegal.
pub(crate) struct Rules {
    pub(crate) name: &'static str,
    pub(crate) required: &'static [Subject],
    pub(crate) optional: &'static [Subject],
    /// At most one of these.
    pub(crate) exclusive: &'static [Subject],
}

impl Rules {
    const fn of(
        name: &'static str,
        required: &'static [Subject],
        optional: &'static [Subject],
        exclusive: &'static [Subject],
    ) -> Rules {
        Rules { name, required, optional, exclusive }
    }

    /// The rules of the command that `opt` is, if it is one that has any.
    pub(crate) fn of_command(opt: Opt) -> Rules {
        use Subject as S;
        const SERVICE: &[S] = &[
            S::Scheduler,
            S::Persistent,
            S::Netmask,
            S::OnePacket,
            S::PersistenceEngine,
            S::SchedFlags,
            S::ProxyProtocol,
            S::Toa,
            S::ClampMss,
            S::SynCookies,
            S::ConnLimit,
            S::ConnRate,
            S::SourceConnLimit,
            S::SourceConnRate,
            S::SourcePrefix,
            S::Helper,
            S::LocalAddress,
            S::QuicLb,
            S::TableSize,
            S::Warmup,
        ];
        const SERVER: &[S] = &[
            S::Forward,
            S::Weight,
            S::UpperThreshold,
            S::LowerThreshold,
            S::TunType,
            S::TunPort,
            S::TunNoCsum,
            S::TunCsum,
            S::TunRemCsum,
            S::QuicServerId,
        ];
        const LIST: &[S] = &[
            S::Numeric,
            S::Stats,
            S::Rate,
            S::Thresholds,
            S::PersistentConn,
            S::NoSort,
            S::SyncId,
            S::Exact,
            S::TunInfo,
        ];
        const START: &[S] =
            &[S::McastInterface, S::SyncId, S::McastGroup, S::McastPort, S::McastTtl, S::SyncMaxLen];
        match opt {
            Opt::AddService => Rules::of("add-service", &[S::Service], SERVICE, &[]),
            Opt::EditService => Rules::of("edit-service", &[S::Service], SERVICE, &[]),
            Opt::DeleteService => Rules::of("delete-service", &[S::Service], &[], &[]),
            Opt::AddServer => Rules::of("add-server", &[S::Service, S::Server], SERVER, &[]),
            Opt::EditServer => Rules::of("edit-server", &[S::Service, S::Server], SERVER, &[]),
            Opt::DeleteServer => Rules::of("delete-server", &[S::Service, S::Server], &[], &[]),
            Opt::List => Rules::of("list", &[], LIST, &[S::Connection, S::Service, S::Timeout, S::Daemon]),
            Opt::Save => Rules::of("save", &[], &[S::Numeric], &[]),
            Opt::Restore => Rules::of("restore", &[], &[], &[]),
            Opt::Zero => Rules::of("zero", &[], &[S::Service], &[]),
            Opt::Set => Rules::of("set", &[], &[], &[]),
            Opt::StartDaemon => Rules::of("start-daemon", &[], START, &[]),
            Opt::StopDaemon => Rules::of("stop-daemon", &[], &[S::SyncId], &[]),
            _ => Rules::of("flush", &[], &[], &[]),
        }
    }

    /// The first thing that is wrong with what was given.
    pub(crate) fn check(&self, given: Given) -> Result<(), String> {
        self.check_among(given, Subject::ALL, "command")
    }

    /// The same for the options of tunnels only; `what` is how the message calls what the rules belong to.
    pub(crate) fn check_among(&self, given: Given, subjects: &[Subject], what: &str) -> Result<(), String> {
        let mut exclusive = None;
        for &subject in subjects {
            let name = subject.name();
            if !given.has(subject) {
                if self.required.contains(&subject) {
                    return Err(format!(
                        "You need to supply the '{name}' option for the '{}' {what}",
                        self.name
                    ));
                }
            } else if self.exclusive.contains(&subject) {
                if let Some(first) = exclusive.replace(name) {
                    return Err(format!(
                        "The option '{name}' conflicts with the '{first}' option in the '{}' {what}",
                        self.name
                    ));
                }
            } else if !self.required.contains(&subject) && !self.optional.contains(&subject) {
                return Err(format!("Illegal '{name}' option with the '{}' {what}", self.name));
            }
        }
        Ok(())
    }
}

/// Which options go with a kind of tunnel; `None` for a kind that does not exist.
pub(crate) fn tunnel_rules(kind: &str) -> Option<Rules> {
    use Subject as S;
    let tunnel = Tunnel::named(kind)?;
    let (required, exclusive): (&[S], &[S]) = match tunnel {
        Tunnel::Ipip => (&[], &[]),
        Tunnel::Gue { .. } => (&[S::TunPort], &[S::TunNoCsum, S::TunCsum, S::TunRemCsum]),
        Tunnel::Gre { .. } => (&[], &[S::TunNoCsum, S::TunCsum]),
    };
    Some(Rules::of(tunnel.name(), required, &[], exclusive))
}

/// Options that [`tunnel_rules`] are about.
pub(crate) const TUNNEL: &[Subject] =
    &[Subject::TunPort, Subject::TunNoCsum, Subject::TunCsum, Subject::TunRemCsum];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_letter_or_name_stands_for_two_options() {
        for (index, row) in TABLE.iter().enumerate() {
            for other in &TABLE[..index] {
                assert!(row.short.is_none() || row.short != other.short, "{:?}", row.opt);
                assert!(row.long != other.long || row.opt == other.opt, "{}", row.long);
            }
        }
    }
}
