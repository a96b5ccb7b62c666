//! From words to one request: what is asked for, checked as ipvsadm checks it before it asks the kernel.
//!
//! Messages and their order are recorded from ipvsadm 1.31. What this load balancer does not have yet is read and
//! checked like everything else; the model refuses it.

use std::net::SocketAddr;

use lb_core::tables::{self, ConnLimits, GueChecksum};

use super::names::Names;
use super::options::{Given, Opt, Rules, Subject, TUNNEL, tunnel_rules};
use super::popt::Words;
use super::words::{NO_HELPER, default_helper, multicast_group, number, quic_lb, sched_flags, timeout};
use super::{Stop, address};
use crate::api::types::{
    Command, DEFAULT_SCHEDULER, ForwardMethod, Persistence, ServerSpec, ServiceAddress, ServiceSpec,
    SyncDaemon, SyncRole, Timeouts, Transport, Tunnel,
};
use crate::endpoint::Endpoint;

/// Of `-p` without a number, in seconds.
const DEFAULT_PERSISTENCE: u32 = 360;
const DEFAULT_TUNNEL: &str = tables::Tunnel::Ipip.name();
/// The kernel keeps 15 bytes of a scheduler's or an engine's name.
const MAX_NAME: usize = 15;
/// Longest synchronisation message: what a UDP datagram holds.
const MAX_SYNC_MESSAGE: u32 = 65_535 - 20 - 8;
const MAX: u32 = i32::MAX as u32;
/// A scheduler that the kernel whose command lines were recorded does not have: who asks for it is told what is recorded.
const NOT_IN_THE_KERNEL: &str = "twos";
/// What no scheduler is called.
const NO_SCHEDULER: &str = "-";

/// How a listing looks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Format {
    pub(crate) numeric: bool,
    pub(crate) exact: bool,
    pub(crate) nosort: bool,
    pub(crate) stats: bool,
    pub(crate) rate: bool,
    pub(crate) thresholds: bool,
    pub(crate) persistent_conn: bool,
    pub(crate) tun_info: bool,
}

#[derive(Clone, PartialEq, Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one at a time, of a line")]
pub(crate) enum Request {
    Help,
    Version,
    Change(Command),
    ListServices(Format, Option<ServiceAddress>),
    ListConnections(Format),
    ListTimeouts,
    ListDaemons,
    Save(Format),
    Restore,
}

/// What was read so far.
struct Line {
    /// It may have been printed by a save.
    is_saved: bool,
    given: Given,
    format: Format,
    /// Its address is one once [`Subject::Service`] is given.
    spec: ServiceSpec,
    sched_flags: Option<String>,
    netmask: Option<String>,
    server: Option<SocketAddr>,
    forward: ForwardMethod,
    weight: u32,
    upper: u32,
    lower: u32,
    quic_server_ids: Vec<String>,
    tun_type: Option<String>,
    tun_port: u16,
    tun_checksum: Option<GueChecksum>,
    daemon: Option<SyncDaemon>,
}

/// Reads one command line, without the program's name.
///
/// # Errors
/// What to print and the exit code.
pub(crate) fn parse(words: &[String], names: &Names<'_>) -> Result<Request, Stop> {
    read(words, names, false)
}

/// The same of a line that may come from a save: it may name a scheduler that is not recorded of the kernel.
///
/// # Errors
/// As [`parse`].
pub(crate) fn parse_saved(words: &[String], names: &Names<'_>) -> Result<Request, Stop> {
    read(words, names, true)
}

fn read(words: &[String], names: &Names<'_>, is_saved: bool) -> Result<Request, Stop> {
    let mut words = Words::new(words);
    let Ok(Some((command, argument))) = words.next_option() else { return Err(Stop::try_help()) };
    let mut line = Line::new(is_saved);
    match command {
        Opt::Help => return Ok(Request::Help),
        Opt::Version => return Ok(Request::Version),
        Opt::StartDaemon | Opt::StopDaemon => {
            let role = argument.unwrap_or_default();
            let Some(role) = SyncRole::ALL.into_iter().find(|known| known.name() == role) else {
                return Err(Stop::usage(match command {
                    Opt::StartDaemon => "illegal start-daemon parameter specified",
                    _ => "illegal start_daemon specified",
                }));
            };
            line.daemon = Some(SyncDaemon::new(role, ""));
        }
        Opt::AddService
        | Opt::EditService
        | Opt::DeleteService
        | Opt::Clear
        | Opt::Restore
        | Opt::Save
        | Opt::AddServer
        | Opt::EditServer
        | Opt::DeleteServer
        | Opt::List
        | Opt::Zero
        | Opt::Set => {}
        _ => return Err(Stop::try_help()),
    }
    loop {
        match words.next_option() {
            Ok(Some((opt, argument))) => line.take(opt, argument.as_deref(), words.current(), names)?,
            Ok(None) => break,
            Err(bad) => return Err(Stop::line(bad.to_string())),
        }
    }
    let mut left_over = words.left_over().into_iter();
    let timeouts = match command {
        Opt::Set => Some(timeouts(&mut left_over)?),
        _ => None,
    };
    if let Some(word) = left_over.next() {
        return Err(Stop::usage(format!("unexpected argument {word}")));
    }
    line.finish(command, timeouts)
}

fn timeouts<'a>(words: &mut impl Iterator<Item = &'a str>) -> Result<Timeouts, Stop> {
    let (Some(tcp), Some(tcp_fin), Some(udp)) = (words.next(), words.next(), words.next()) else {
        return Err(Stop::usage("--set option requires 3 timeout values"));
    };
    Ok(Timeouts { tcp: timeout(tcp, 0)?, tcp_fin: timeout(tcp_fin, 0)?, udp: timeout(udp, 0)? })
}

fn cut(name: &str) -> String {
    name.chars().take(MAX_NAME).collect()
}

impl Line {
    fn new(is_saved: bool) -> Line {
        Line {
            is_saved,
            given: Given::default(),
            format: Format::default(),
            spec: ServiceSpec::new(ServiceAddress::FwMark { mark: 0, is_ipv6: false }, ""),
            sched_flags: None,
            netmask: None,
            server: None,
            forward: ForwardMethod::Direct,
            weight: 1,
            upper: 0,
            lower: 0,
            quic_server_ids: Vec::new(),
            tun_type: None,
            tun_port: 0,
            tun_checksum: None,
            daemon: None,
        }
    }

    fn give(&mut self, subject: Subject) -> Result<(), Stop> {
        if self.given.add(subject) {
            return Ok(());
        }
        Err(Stop::usage(format!("multiple '{}' options specified", subject.name())))
    }

    /// `word`: what the option stood in.
    fn take(&mut self, opt: Opt, argument: Option<&str>, word: &str, names: &Names<'_>) -> Result<(), Stop> {
        let text = argument.unwrap_or_default();
        let is_taken = self.take_address(opt, text, names)?
            || self.take_of_service(opt, argument, names)?
            || self.take_limit(opt, text)?
            || self.take_of_server(opt, text)?
            || self.take_of_tunnel(opt, text)?
            || self.take_of_daemon(opt, text)?
            || self.take_of_listing(opt)?;
        is_taken.then_some(()).ok_or_else(|| Stop::usage(format!("invalid option `{word}'")))
    }

    /// Which service and real server. Each of these says whether the option is one of its own.
    fn take_address(&mut self, opt: Opt, text: &str, names: &Names<'_>) -> Result<bool, Stop> {
        match opt {
            Opt::TcpService => self.service(Transport::Tcp, text, names)?,
            Opt::UdpService => self.service(Transport::Udp, text, names)?,
            Opt::SctpService => self.service(Transport::Sctp, text, names)?,
            Opt::FwMark => {
                self.give(Subject::Service)?;
                let mark = number(text, 1, u32::MAX, &format!("invalid fwmark value `{text}' specified"))?;
                self.spec.service = ServiceAddress::FwMark { mark, is_ipv6: false };
            }
            Opt::Ipv6 => match &mut self.spec.service {
                ServiceAddress::FwMark { mark: 1.., is_ipv6 } => {
                    *is_ipv6 = true;
                    self.netmask = None;
                }
                _ => return Err(Stop::usage("-6 used before -f\n")),
            },
            Opt::RealServer => {
                self.give(Subject::Server)?;
                let service = self.service_address();
                let transport = service.map(|service| match service {
                    ServiceAddress::Endpoint { transport, .. } => transport,
                    ServiceAddress::FwMark { .. } => Transport::Tcp,
                });
                let (address, port) = address::endpoint(text, transport, names)
                    .ok_or_else(|| Stop::usage("illegal real server address[:port] specified"))?;
                let of_service = service.map_or(0, |service| service.port());
                self.server = Some(SocketAddr::new(address, port.unwrap_or(of_service)));
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn take_of_service(&mut self, opt: Opt, argument: Option<&str>, names: &Names<'_>) -> Result<bool, Stop> {
        let text = argument.unwrap_or_default();
        match opt {
            Opt::Scheduler => {
                self.give(Subject::Scheduler)?;
                self.spec.scheduler = cut(text);
            }
            Opt::SchedFlags => {
                self.give(Subject::SchedFlags)?;
                self.sched_flags = Some(text.to_owned());
            }
            Opt::TableSize => {
                self.give(Subject::TableSize)?;
                self.spec.table_size = Some(number(text, 1, MAX, "illegal table-size specified")?);
            }
            Opt::Warmup => {
                self.give(Subject::Warmup)?;
                self.spec.warmup = number(text, 0, MAX, "illegal warmup specified")?;
            }
            Opt::PersistenceEngine => {
                self.give(Subject::PersistenceEngine)?;
                self.spec.persistence_engine = Some(cut(text)).filter(|name| !name.is_empty());
            }
            Opt::Persistent => {
                self.give(Subject::Persistent)?;
                let timeout = argument.map_or(Ok(DEFAULT_PERSISTENCE), |text| timeout(text, 1))?;
                self.spec.persistence = Some(Persistence { timeout, netmask: None });
            }
            Opt::Netmask => {
                self.give(Subject::Netmask)?;
                self.netmask = Some(self.netmask(text, names)?);
            }
            Opt::OnePacket => {
                self.give(Subject::OnePacket)?;
                self.spec.one_packet = true;
            }
            Opt::ProxyProtocol => {
                self.give(Subject::ProxyProtocol)?;
                self.spec.proxy_protocol = Some(text.to_owned());
            }
            Opt::Toa => {
                self.give(Subject::Toa)?;
                self.spec.toa = true;
            }
            Opt::ClampMss => {
                self.give(Subject::ClampMss)?;
                self.spec.clamp_mss = true;
            }
            Opt::Helper => {
                self.give(Subject::Helper)?;
                self.spec.helper = Some(text.to_owned());
            }
            Opt::QuicLb => {
                self.give(Subject::QuicLb)?;
                // Without what was written: there may be a key in it.
                let wrong = || Stop::usage("illegal quic-lb specified");
                self.spec.quic_lb = text.split(',').map(quic_lb).collect::<Option<_>>().ok_or_else(wrong)?;
            }
            Opt::LocalAddress => {
                self.give(Subject::LocalAddress)?;
                let local = text.split(',').map(str::parse).collect::<Result<_, _>>();
                let wrong = |_| Stop::usage(format!("illegal local address `{text}' specified"));
                self.spec.local_addresses = local.map_err(wrong)?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// How many connections a service takes.
    fn take_limit(&mut self, opt: Opt, text: &str) -> Result<bool, Stop> {
        let most = ConnLimits::MOST;
        match opt {
            Opt::SynCookies => {
                self.give(Subject::SynCookies)?;
                self.spec.syn_cookies = Some(text.to_owned());
            }
            Opt::ConnLimit => {
                self.give(Subject::ConnLimit)?;
                self.spec.conn_limit = number(text, 0, most, "illegal conn-limit specified")?;
            }
            Opt::ConnRate => {
                self.give(Subject::ConnRate)?;
                self.spec.conn_rate = Some(text.to_owned());
            }
            Opt::SourceConnLimit => {
                self.give(Subject::SourceConnLimit)?;
                self.spec.source_conn_limit = number(text, 0, most, "illegal source-conn-limit specified")?;
            }
            Opt::SourceConnRate => {
                self.give(Subject::SourceConnRate)?;
                self.spec.source_conn_rate = Some(text.to_owned());
            }
            Opt::SourcePrefix => {
                self.give(Subject::SourcePrefix)?;
                let bits = number(text, 1, 128, "illegal source-prefix specified")?;
                self.spec.source_prefix = Some(bits as u8);
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn take_of_server(&mut self, opt: Opt, text: &str) -> Result<bool, Stop> {
        match opt {
            Opt::Gatewaying => self.forward(ForwardMethod::Direct)?,
            Opt::Ipip => self.forward(ForwardMethod::Tunnel)?,
            Opt::Masquerading => self.forward(ForwardMethod::Masq)?,
            Opt::FullNat => self.forward(ForwardMethod::FullNat)?,
            Opt::Weight => {
                self.give(Subject::Weight)?;
                self.weight = number(text, 0, MAX, "illegal weight specified")?;
            }
            Opt::UpperThreshold => {
                self.give(Subject::UpperThreshold)?;
                self.upper = number(text, 0, MAX, "illegal u_threshold specified")?;
            }
            Opt::LowerThreshold => {
                self.give(Subject::LowerThreshold)?;
                self.lower = number(text, 0, MAX, "illegal l_threshold specified")?;
            }
            Opt::QuicServerId => {
                self.give(Subject::QuicServerId)?;
                self.quic_server_ids = text.split(',').map(str::to_owned).collect();
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn take_of_tunnel(&mut self, opt: Opt, text: &str) -> Result<bool, Stop> {
        match opt {
            Opt::TunType => {
                self.give(Subject::TunType)?;
                if tunnel_rules(text).is_none() {
                    return Err(Stop::usage("illegal tunnel type specified"));
                }
                self.tun_type = Some(text.to_owned());
            }
            Opt::TunPort => {
                self.give(Subject::TunPort)?;
                self.tun_port = number(text, 1, 65_535, "illegal tunnel port specified")? as u16;
            }
            Opt::TunNoCsum => self.checksum(Subject::TunNoCsum, GueChecksum::No)?,
            Opt::TunCsum => self.checksum(Subject::TunCsum, GueChecksum::Yes)?,
            Opt::TunRemCsum => self.checksum(Subject::TunRemCsum, GueChecksum::Remote)?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn take_of_daemon(&mut self, opt: Opt, text: &str) -> Result<bool, Stop> {
        match opt {
            Opt::McastInterface => {
                self.give(Subject::McastInterface)?;
                self.sync(|daemon| daemon.interface = cut(text));
            }
            Opt::SyncId => {
                self.give(Subject::SyncId)?;
                let number = number(text, 0, 255, "illegal syncid specified")?;
                self.sync(|daemon| daemon.syncid = number as u8);
            }
            Opt::SyncMaxLen => {
                self.give(Subject::SyncMaxLen)?;
                let number = number(text, 1, MAX_SYNC_MESSAGE, "illegal sync-maxlen specified")?;
                self.sync(|daemon| daemon.maxlen = number as u16);
            }
            Opt::McastGroup => {
                self.give(Subject::McastGroup)?;
                let group = multicast_group(text)?;
                self.sync(|daemon| daemon.group = group);
            }
            Opt::McastPort => {
                self.give(Subject::McastPort)?;
                let number = number(text, 1, 65_535, "illegal mcast-port specified")?;
                self.sync(|daemon| daemon.port = number as u16);
            }
            Opt::McastTtl => {
                self.give(Subject::McastTtl)?;
                let number = number(text, 1, 255, "illegal mcast-ttl specified")?;
                self.sync(|daemon| daemon.ttl = number as u8);
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn take_of_listing(&mut self, opt: Opt) -> Result<bool, Stop> {
        match opt {
            Opt::Connection => self.give(Subject::Connection)?,
            Opt::Timeout => self.give(Subject::Timeout)?,
            Opt::Daemon => self.give(Subject::Daemon)?,
            Opt::Sort => {}
            Opt::Stats
            | Opt::Rate
            | Opt::Exact
            | Opt::Thresholds
            | Opt::PersistentConn
            | Opt::TunInfo
            | Opt::NoSort
            | Opt::Numeric => self.look(opt)?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// With another command than a daemon's the option is refused later.
    fn sync(&mut self, set: impl FnOnce(&mut SyncDaemon)) {
        if let Some(daemon) = &mut self.daemon {
            set(daemon);
        }
    }

    fn look(&mut self, opt: Opt) -> Result<(), Stop> {
        let format = &mut self.format;
        let (subject, switch) = match opt {
            Opt::Stats => (Subject::Stats, &mut format.stats),
            Opt::Rate => (Subject::Rate, &mut format.rate),
            Opt::Exact => (Subject::Exact, &mut format.exact),
            Opt::Thresholds => (Subject::Thresholds, &mut format.thresholds),
            Opt::PersistentConn => (Subject::PersistentConn, &mut format.persistent_conn),
            Opt::TunInfo => (Subject::TunInfo, &mut format.tun_info),
            Opt::NoSort => (Subject::NoSort, &mut format.nosort),
            _ => (Subject::Numeric, &mut format.numeric),
        };
        *switch = true;
        self.give(subject)
    }

    fn service(&mut self, transport: Transport, text: &str, names: &Names<'_>) -> Result<(), Stop> {
        self.give(Subject::Service)?;
        let wrong = || Stop::usage("illegal virtual server address[:port] specified");
        let at = match address::prefix_endpoint(text, transport, names) {
            Some(at) => at.map_err(|error| Stop::usage(format!("virtual service {text}: {error}")))?,
            None => {
                let (address, port) = address::endpoint(text, Some(transport), names).ok_or_else(wrong)?;
                Endpoint::of(SocketAddr::new(address, port.unwrap_or(0)))
            }
        };
        if at.prefix.address.is_ipv6() {
            // One before it would be IPv4's.
            self.netmask = None;
        }
        self.spec.service = ServiceAddress::at(transport, at);
        Ok(())
    }

    fn forward(&mut self, method: ForwardMethod) -> Result<(), Stop> {
        self.give(Subject::Forward)?;
        self.forward = method;
        Ok(())
    }

    fn checksum(&mut self, subject: Subject, checksum: GueChecksum) -> Result<(), Stop> {
        self.give(subject)?;
        self.tun_checksum = Some(checksum);
        Ok(())
    }

    fn netmask(&self, text: &str, names: &Names<'_>) -> Result<String, Stop> {
        if !self.spec.service.is_ipv6() {
            let mask = address::host(text, names)
                .ok_or_else(|| Stop::usage("illegal virtual server persistent mask specified"))?;
            return Ok(mask.to_string());
        }
        match address::leading_number(text) {
            bits @ 1..=128 => Ok(bits.to_string()),
            _ => Err(Stop::usage("illegal ipv6 netmask specified")),
        }
    }

    fn service_address(&self) -> Option<ServiceAddress> {
        self.given.has(Subject::Service).then_some(self.spec.service)
    }

    /// The service of a command that [`Rules`] let pass only with one.
    fn needed_service(&self) -> Result<ServiceAddress, Stop> {
        self.service_address().ok_or_else(Stop::try_help)
    }

    fn finish(self, command: Opt, timeouts: Option<Timeouts>) -> Result<Request, Stop> {
        // Asked for by name first, whatever the command.
        sched_flags(self.sched_flags.as_deref(), &self.spec.scheduler)?;
        Rules::of_command(command).check(self.given).map_err(Stop::usage)?;
        Ok(match command {
            Opt::AddService => Request::Change(Command::AddService(self.service_spec()?)),
            Opt::EditService => Request::Change(Command::EditService(self.service_spec()?)),
            Opt::DeleteService => Request::Change(Command::DeleteService { service: self.needed_service()? }),
            Opt::AddServer => {
                let service = self.needed_service()?;
                Request::Change(Command::AddServer { service, server: self.server_spec(service)? })
            }
            Opt::EditServer => {
                let service = self.needed_service()?;
                Request::Change(Command::EditServer { service, server: self.server_spec(service)? })
            }
            Opt::DeleteServer => {
                let server = self.server.ok_or_else(Stop::try_help)?;
                Request::Change(Command::DeleteServer { service: self.needed_service()?, server })
            }
            Opt::Zero => Request::Change(Command::Zero { service: self.service_address() }),
            Opt::Set => Request::Change(Command::SetTimeouts(timeouts.ok_or_else(Stop::try_help)?)),
            Opt::List => self.listing()?,
            Opt::Save => Request::Save(self.format),
            Opt::Restore => Request::Restore,
            Opt::StartDaemon => Request::Change(Command::StartSync(self.daemon.ok_or_else(Stop::try_help)?)),
            Opt::StopDaemon => {
                let daemon = self.daemon.ok_or_else(Stop::try_help)?;
                Request::Change(Command::StopSync { role: daemon.role })
            }
            _ => Request::Change(Command::Flush),
        })
    }

    fn listing(self) -> Result<Request, Stop> {
        use Subject as S;
        let given = self.given;
        let is_short = given.has_any(&[S::Timeout, S::Daemon]);
        if (is_short || given.has(S::Connection)) && given.has_any(&[S::Stats, S::Rate, S::Thresholds])
            || is_short && given.has(S::PersistentConn)
        {
            return Err(Stop::usage("options conflicts in the list command"));
        }
        Ok(if given.has(S::Connection) {
            Request::ListConnections(self.format)
        } else if given.has(S::Timeout) {
            Request::ListTimeouts
        } else if given.has(S::Daemon) {
            Request::ListDaemons
        } else {
            Request::ListServices(self.format, self.service_address())
        })
    }

    fn service_spec(self) -> Result<ServiceSpec, Stop> {
        let service = self.needed_service()?;
        let mut spec = self.spec;
        if let ServiceAddress::Endpoint { transport, port, .. } = service {
            if port == 0 && spec.persistence.is_none() {
                return Err(Stop::usage("Zero port specified for non-persistent service"));
            }
            if spec.one_packet && transport != Transport::Udp {
                return Err(Stop::usage("One-Packet Scheduling is only for UDP virtual services"));
            }
        }
        if spec.scheduler.is_empty() {
            DEFAULT_SCHEDULER.clone_into(&mut spec.scheduler);
        }
        spec.scheduler_flags = sched_flags(self.sched_flags.as_deref(), &spec.scheduler)?;
        if !self.is_saved && spec.scheduler == NOT_IN_THE_KERNEL {
            // The daemon finds that there is none, after whether there is the service.
            NO_SCHEDULER.clone_into(&mut spec.scheduler);
        }
        spec.helper = match spec.helper {
            None => default_helper(&service).map(str::to_owned),
            given => given.filter(|name| name != NO_HELPER),
        };
        // The kernel ignores a mask without persistence.
        if let Some(persistence) = &mut spec.persistence {
            persistence.netmask = self.netmask;
        }
        Ok(spec)
    }

    fn server_spec(self, service: ServiceAddress) -> Result<ServerSpec, Stop> {
        let mut server = self.server.ok_or_else(Stop::try_help)?;
        let forward = self.forward;
        if let ServiceAddress::Endpoint { port, .. } = service
            && !forward.changes_port()
        {
            server.set_port(port);
        }
        if server.is_ipv6() != service.is_ipv6() && !forward.changes_family() {
            return Err(Stop::usage("Different address family is allowed only for tunneling servers"));
        }
        if self.given.has_any(TUNNEL) || self.given.has(Subject::TunType) {
            if forward != ForwardMethod::Tunnel {
                return Err(Stop::usage("Tunnel options conflict with forward method"));
            }
            let kind = self.tun_type.as_deref().unwrap_or(DEFAULT_TUNNEL);
            if let Some(rules) = tunnel_rules(kind) {
                rules.check_among(self.given, TUNNEL, "tunnel type").map_err(Stop::usage)?;
            }
        }
        let tunnel = (forward == ForwardMethod::Tunnel).then(|| Tunnel {
            encapsulation: self.tun_type.unwrap_or_else(|| DEFAULT_TUNNEL.to_owned()),
            port: self.tun_port,
            checksum: self.tun_checksum.map(|checksum| checksum.name().to_owned()),
        });
        Ok(ServerSpec {
            server,
            weight: self.weight,
            forward,
            upper_threshold: self.upper,
            lower_threshold: self.lower,
            tunnel,
            quic_server_ids: self.quic_server_ids,
        })
    }
}

#[cfg(test)]
mod tests;
