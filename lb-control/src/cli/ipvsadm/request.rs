//! From words to one request: what is asked for, checked as ipvsadm checks it before it asks the kernel.
//!
//! Messages and their order are recorded from ipvsadm 1.31. What this load balancer does not have yet is read and
//! checked like everything else; the model refuses it.

use std::net::{IpAddr, SocketAddr};

use lb_core::tables::ConnLimits;

use super::names::Names;
use super::options::{Given, Opt, Rules, Subject, TUNNEL, tunnel_rules};
use super::popt::Words;
use super::{Stop, address};
use crate::api::types::{
    Command, DEFAULT_SCHEDULER, ForwardMethod, Persistence, QuicKey, QuicLb, ServerSpec, ServiceAddress,
    ServiceSpec, SyncDaemon, SyncRole, Timeouts, Transport, Tunnel,
};
use crate::endpoint::Endpoint;

/// Longest timeout, in seconds: 31 days.
const MAX_TIMEOUT: i64 = 2_678_400;
/// Of `-p` without a number, in seconds.
const DEFAULT_PERSISTENCE: u32 = 360;
const DEFAULT_TUNNEL: &str = "ipip";
/// The kernel keeps 15 bytes of a scheduler's or an engine's name.
const MAX_NAME: usize = 15;
/// Longest synchronisation message: what a UDP datagram holds.
const MAX_SYNC_MESSAGE: i64 = 65_535 - 20 - 8;

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
#[derive(Default)]
struct Line {
    /// It may have been printed by a save.
    is_saved: bool,
    given: Given,
    format: Format,
    transport: Option<Transport>,
    at: Option<Endpoint>,
    port: u16,
    mark: u32,
    mark_is_ipv6: bool,
    scheduler: String,
    sched_flags: Option<String>,
    engine: Option<String>,
    persistence: Option<u32>,
    netmask: Option<String>,
    one_packet: bool,
    proxy_protocol: Option<String>,
    toa: bool,
    clamp_mss: bool,
    syn_cookies: Option<String>,
    conn_limit: u32,
    conn_rate: Option<String>,
    source_conn_limit: u32,
    source_conn_rate: Option<String>,
    source_prefix: Option<u8>,
    helper: Option<String>,
    table_size: Option<u32>,
    warmup: u32,
    local_addresses: Vec<IpAddr>,
    quic_lb: Vec<QuicLb>,
    quic_server_ids: Vec<String>,
    server: Option<SocketAddr>,
    forward: Option<ForwardMethod>,
    weight: Option<u32>,
    upper: u32,
    lower: u32,
    tun_type: Option<String>,
    tun_port: u16,
    tun_checksum: Option<&'static str>,
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
    let mut line = Line { is_saved, ..Line::default() };
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

fn timeout(text: &str, min: i64) -> Result<u32, Stop> {
    match address::number(text, min, MAX_TIMEOUT).map(u32::try_from) {
        Some(Ok(seconds)) => Ok(seconds),
        _ => Err(Stop::usage(format!("invalid timeout value `{text}' specified"))),
    }
}

/// A number from `min` to `max`, or the message that it is none.
fn number(text: &str, min: i64, max: u32, message: &str) -> Result<u32, Stop> {
    address::number(text, min, max.into())
        .and_then(|number| u32::try_from(number).ok())
        .ok_or_else(|| Stop::usage(message))
}

fn cut(name: &str) -> String {
    name.chars().take(MAX_NAME).collect()
}

impl Line {
    fn give(&mut self, subject: Subject) -> Result<(), Stop> {
        if self.given.add(subject) {
            return Ok(());
        }
        Err(Stop::usage(format!("multiple '{}' options specified", subject.name())))
    }

    /// `word`: what the option stood in.
    fn take(&mut self, opt: Opt, argument: Option<&str>, word: &str, names: &Names<'_>) -> Result<(), Stop> {
        const MAX: u32 = i32::MAX as u32;
        let text = argument.unwrap_or_default();
        match opt {
            Opt::TcpService => self.service(Transport::Tcp, text, names)?,
            Opt::UdpService => self.service(Transport::Udp, text, names)?,
            Opt::SctpService => self.service(Transport::Sctp, text, names)?,
            Opt::FwMark => {
                self.give(Subject::Service)?;
                self.mark = number(text, 1, u32::MAX, &format!("invalid fwmark value `{text}' specified"))?;
                self.transport = Some(Transport::Tcp);
            }
            Opt::Ipv6 if self.mark != 0 => {
                self.mark_is_ipv6 = true;
                self.netmask = None;
            }
            Opt::Ipv6 => return Err(Stop::usage("-6 used before -f\n")),
            Opt::Scheduler => {
                self.give(Subject::Scheduler)?;
                self.scheduler = cut(text);
            }
            Opt::SchedFlags => {
                self.give(Subject::SchedFlags)?;
                self.sched_flags = Some(text.to_owned());
            }
            Opt::PersistenceEngine => {
                self.give(Subject::PersistenceEngine)?;
                self.engine = Some(cut(text)).filter(|name| !name.is_empty());
            }
            Opt::Persistent => {
                self.give(Subject::Persistent)?;
                self.persistence = Some(match argument {
                    Some(text) => timeout(text, 1)?,
                    None => DEFAULT_PERSISTENCE,
                });
            }
            Opt::Netmask => {
                self.give(Subject::Netmask)?;
                self.netmask = Some(self.netmask(text, names)?);
            }
            Opt::OnePacket => {
                self.give(Subject::OnePacket)?;
                self.one_packet = true;
            }
            Opt::ProxyProtocol => {
                self.give(Subject::ProxyProtocol)?;
                self.proxy_protocol = Some(text.to_owned());
            }
            Opt::Toa => {
                self.give(Subject::Toa)?;
                self.toa = true;
            }
            Opt::ClampMss => {
                self.give(Subject::ClampMss)?;
                self.clamp_mss = true;
            }
            Opt::SynCookies => {
                self.give(Subject::SynCookies)?;
                self.syn_cookies = Some(text.to_owned());
            }
            Opt::ConnLimit => {
                self.give(Subject::ConnLimit)?;
                self.conn_limit = number(text, 0, ConnLimits::MOST, "illegal conn-limit specified")?;
            }
            Opt::ConnRate => {
                self.give(Subject::ConnRate)?;
                self.conn_rate = Some(text.to_owned());
            }
            Opt::SourceConnLimit => {
                self.give(Subject::SourceConnLimit)?;
                let most = ConnLimits::MOST;
                self.source_conn_limit = number(text, 0, most, "illegal source-conn-limit specified")?;
            }
            Opt::SourceConnRate => {
                self.give(Subject::SourceConnRate)?;
                self.source_conn_rate = Some(text.to_owned());
            }
            Opt::SourcePrefix => {
                self.give(Subject::SourcePrefix)?;
                self.source_prefix = Some(number(text, 1, 128, "illegal source-prefix specified")? as u8);
            }
            Opt::Helper => {
                self.give(Subject::Helper)?;
                self.helper = Some(text.to_owned());
            }
            Opt::TableSize => {
                self.give(Subject::TableSize)?;
                self.table_size = Some(number(text, 1, MAX, "illegal table-size specified")?);
            }
            Opt::Warmup => {
                self.give(Subject::Warmup)?;
                self.warmup = number(text, 0, MAX, "illegal warmup specified")?;
            }
            Opt::QuicLb => {
                self.give(Subject::QuicLb)?;
                // Without what was written: there may be a key in it.
                let wrong = || Stop::usage("illegal quic-lb specified");
                self.quic_lb = text.split(',').map(quic_lb).collect::<Option<_>>().ok_or_else(wrong)?;
            }
            Opt::QuicServerId => {
                self.give(Subject::QuicServerId)?;
                self.quic_server_ids = text.split(',').map(str::to_owned).collect();
            }
            Opt::RealServer => {
                self.give(Subject::Server)?;
                let (address, port) = address::endpoint(text, self.transport, names)
                    .ok_or_else(|| Stop::usage("illegal real server address[:port] specified"))?;
                self.server = Some(SocketAddr::new(address, port.unwrap_or(self.port)));
            }
            Opt::Gatewaying => self.forward(ForwardMethod::Direct)?,
            Opt::Ipip => self.forward(ForwardMethod::Tunnel)?,
            Opt::Masquerading => self.forward(ForwardMethod::Masq)?,
            Opt::FullNat => self.forward(ForwardMethod::FullNat)?,
            Opt::LocalAddress => {
                self.give(Subject::LocalAddress)?;
                let local = text.split(',').map(str::parse).collect::<Result<_, _>>();
                let wrong = |_| Stop::usage(format!("illegal local address `{text}' specified"));
                self.local_addresses = local.map_err(wrong)?;
            }
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
            Opt::TunNoCsum => self.checksum(Subject::TunNoCsum, "none")?,
            Opt::TunCsum => self.checksum(Subject::TunCsum, "checksum")?,
            Opt::TunRemCsum => self.checksum(Subject::TunRemCsum, "remote")?,
            Opt::Weight => {
                self.give(Subject::Weight)?;
                self.weight = Some(number(text, 0, MAX, "illegal weight specified")?);
            }
            Opt::UpperThreshold => {
                self.give(Subject::UpperThreshold)?;
                self.upper = number(text, 0, MAX, "illegal u_threshold specified")?;
            }
            Opt::LowerThreshold => {
                self.give(Subject::LowerThreshold)?;
                self.lower = number(text, 0, MAX, "illegal l_threshold specified")?;
            }
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
                let number = number(text, 1, MAX_SYNC_MESSAGE as u32, "illegal sync-maxlen specified")?;
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
            | Opt::Set
            | Opt::StartDaemon
            | Opt::StopDaemon
            | Opt::Help
            | Opt::Version => return Err(Stop::usage(format!("invalid option `{word}'"))),
        }
        Ok(())
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
        self.transport = Some(transport);
        self.at = Some(at);
        self.port = at.port;
        Ok(())
    }

    fn forward(&mut self, method: ForwardMethod) -> Result<(), Stop> {
        self.give(Subject::Forward)?;
        self.forward = Some(method);
        Ok(())
    }

    fn checksum(&mut self, subject: Subject, name: &'static str) -> Result<(), Stop> {
        self.give(subject)?;
        self.tun_checksum = Some(name);
        Ok(())
    }

    fn is_ipv6(&self) -> bool {
        self.mark_is_ipv6 || self.at.is_some_and(|at| at.prefix.address.is_ipv6())
    }

    fn netmask(&self, text: &str, names: &Names<'_>) -> Result<String, Stop> {
        if !self.is_ipv6() {
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
        if self.mark != 0 {
            return Some(ServiceAddress::FwMark { mark: self.mark, is_ipv6: self.mark_is_ipv6 });
        }
        Some(ServiceAddress::at(self.transport?, self.at?))
    }

    /// The service of a command that [`Rules`] let pass only with one.
    fn needed_service(&self) -> Result<ServiceAddress, Stop> {
        self.service_address().ok_or_else(Stop::try_help)
    }

    fn finish(self, command: Opt, timeouts: Option<Timeouts>) -> Result<Request, Stop> {
        // Asked for by name first, whatever the command.
        sched_flags(self.sched_flags.as_deref(), &self.scheduler)?;
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
        let is_mark = self.mark != 0;
        if !is_mark && self.port == 0 && self.persistence.is_none() {
            return Err(Stop::usage("Zero port specified for non-persistent service"));
        }
        if self.one_packet && !is_mark && self.transport != Some(Transport::Udp) {
            return Err(Stop::usage("One-Packet Scheduling is only for UDP virtual services"));
        }
        let scheduler =
            if self.scheduler.is_empty() { DEFAULT_SCHEDULER.to_owned() } else { self.scheduler.clone() };
        let is_unknown = !self.is_saved && scheduler == NOT_IN_THE_KERNEL;
        let helper = match self.helper.as_deref() {
            None => default_helper(&service).map(str::to_owned),
            Some(NO_HELPER) => None,
            Some(name) => Some(name.to_owned()),
        };
        Ok(ServiceSpec {
            service,
            scheduler_flags: sched_flags(self.sched_flags.as_deref(), &scheduler)?,
            // The daemon finds that there is none, after whether there is the service.
            scheduler: if is_unknown { NO_SCHEDULER.to_owned() } else { scheduler },
            // The kernel ignores a mask without persistence.
            persistence: self.persistence.map(|timeout| Persistence { timeout, netmask: self.netmask }),
            persistence_engine: self.engine,
            one_packet: self.one_packet,
            proxy_protocol: self.proxy_protocol,
            toa: self.toa,
            clamp_mss: self.clamp_mss,
            syn_cookies: self.syn_cookies,
            conn_limit: self.conn_limit,
            conn_rate: self.conn_rate,
            source_conn_limit: self.source_conn_limit,
            source_conn_rate: self.source_conn_rate,
            source_prefix: self.source_prefix,
            helper,
            table_size: self.table_size,
            warmup: self.warmup,
            local_addresses: self.local_addresses,
            quic_lb: self.quic_lb,
        })
    }

    fn server_spec(self, service: ServiceAddress) -> Result<ServerSpec, Stop> {
        let mut server = self.server.ok_or_else(Stop::try_help)?;
        let forward = self.forward.unwrap_or(ForwardMethod::Direct);
        if self.mark == 0 && !forward.changes_port() {
            server.set_port(self.port);
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
            checksum: self.tun_checksum.map(str::to_owned),
        });
        Ok(ServerSpec {
            server,
            weight: self.weight.unwrap_or(1),
            forward,
            upper_threshold: self.upper,
            lower_threshold: self.lower,
            tunnel,
            quic_server_ids: self.quic_server_ids,
        })
    }
}

/// One configuration, as `--quic-lb` takes it.
pub(super) fn quic_lb_text(config: &QuicLb) -> String {
    let QuicLb { config_id, server_id_length, nonce_length, key } = config;
    let key = key.as_ref().map_or(String::new(), |QuicKey(key)| format!(":{key}"));
    format!("{config_id}:{server_id_length}:{nonce_length}{key}")
}

/// The opposite of [`quic_lb_text`].
fn quic_lb(text: &str) -> Option<QuicLb> {
    let mut parts = text.splitn(4, ':');
    let mut number = || parts.next()?.parse().ok();
    let (config_id, server_id_length, nonce_length) = (number()?, number()?, number()?);
    let key = parts.next().map(|key| QuicKey(key.to_owned()));
    Some(QuicLb { config_id, server_id_length, nonce_length, key })
}

/// Says that there is no helper where there would be one.
pub(super) const NO_HELPER: &str = "none";

/// What a service has that names no helper: as with the kernel, once its module for FTP is loaded.
pub(super) fn default_helper(service: &ServiceAddress) -> Option<&'static str> {
    let is_ftp = matches!(service, ServiceAddress::Endpoint { transport: Transport::Tcp, port: 21, .. });
    is_ftp.then_some("ftp")
}

/// A scheduler that the kernel whose command lines were recorded does not have: who asks for it is told what is recorded.
const NOT_IN_THE_KERNEL: &str = "twos";
/// What no scheduler is called.
const NO_SCHEDULER: &str = "-";

/// Flags by name, `flag-1` to `flag-3` for any scheduler.
fn sched_flags(flags: Option<&str>, scheduler: &str) -> Result<Vec<String>, Stop> {
    let Some(flags) = flags else { return Ok(Vec::new()) };
    let check = |flag: &str| {
        let of = match flag {
            "flag-1" | "flag-2" | "flag-3" => scheduler,
            "sh-fallback" | "sh-port" => "sh",
            "mh-fallback" | "mh-port" => "mh",
            "maglev-port" => "maglev",
            _ => return Err(Stop::usage(format!("invalid scheduler flag `{flag}'"))),
        };
        if of == scheduler {
            return Ok(flag.to_owned());
        }
        Err(Stop::usage(format!("incompatible scheduler flag `{flag}'")))
    };
    flags.split(',').filter(|flag| !flag.is_empty()).map(check).collect()
}

fn multicast_group(text: &str) -> Result<IpAddr, Stop> {
    let group = text.parse();
    let family = match group {
        Ok(group) if IpAddr::is_multicast(&group) => return Ok(group),
        Ok(IpAddr::V4(_)) => "IPv4 ",
        Ok(IpAddr::V6(_)) => "IPv6 ",
        Err(_) if text.contains(':') => "IPv6 ",
        Err(_) => "IPv4 ",
    };
    Err(Stop::usage(format!("invalid {family}mcast-group `{text}'")))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::super::names::Lookup;
    use super::super::options::TABLE;
    use super::*;

    /// Nobody has a name.
    struct Nobody;

    impl Lookup for Nobody {
        fn address(&self, _: &str) -> Option<Ipv4Addr> {
            None
        }

        fn host(&self, _: Ipv4Addr) -> Option<String> {
            None
        }

        fn port(&self, _: &str, _: Transport) -> Option<u16> {
            None
        }

        fn service(&self, _: u16, _: Transport) -> Option<String> {
            None
        }
    }

    fn read(line: &str) -> Result<Request, Stop> {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        parse(&words, &Names::new(&Nobody))
    }

    #[test]
    fn a_line_becomes_one_command() {
        let service = "tcp/192.0.2.1:80".parse().expect("valid");
        let server = "10.0.0.1:8080".parse().expect("valid");
        let spec =
            ServerSpec { weight: 5, upper_threshold: 100, lower_threshold: 50, ..ServerSpec::new(server) };
        assert_eq!(
            read("-at192.0.2.1:80 -r 10.0.0.1:8080 -mw5 --u-threshold=100 -y 50"),
            Ok(Request::Change(Command::AddServer { service, server: spec }))
        );
        assert_eq!(
            read("-E -t 192.0.2.1:80"),
            Ok(Request::Change(Command::EditService(ServiceSpec::new(service, "wlc"))))
        );
        let local = vec![Ipv4Addr::new(10, 0, 0, 2).into(), Ipv4Addr::new(10, 0, 0, 3).into()];
        assert_eq!(
            read("-A -t 192.0.2.1:80 --laddr 10.0.0.2,10.0.0.3"),
            Ok(Request::Change(Command::AddService(ServiceSpec {
                local_addresses: local,
                ..ServiceSpec::new(service, "wlc")
            })))
        );
        assert!(read("-A -t 192.0.2.1:80 --laddr 10.0.0.2,").is_err());
        let full_nat = ServerSpec { forward: ForwardMethod::FullNat, ..ServerSpec::new(server) };
        assert_eq!(
            read("-a -t 192.0.2.1:80 -r 10.0.0.1:8080 --fullnat"),
            Ok(Request::Change(Command::AddServer { service, server: full_nat }))
        );
        assert_eq!(read("-Z"), Ok(Request::Change(Command::Zero { service: None })));
    }

    #[test]
    fn full_nat_and_tunnels_alone_lead_into_the_other_family() {
        for (service, server) in [("[2001:db8::1]:80", "10.0.0.1:8080"), ("192.0.2.1:80", "[fd00::1]:8080")] {
            let line = |forward: &str| read(&format!("-a -t {service} -r {server} {forward}"));
            let Ok(Request::Change(Command::AddServer { server: spec, .. })) = line("--fullnat") else {
                panic!("it is a right line")
            };
            assert_eq!((spec.server.to_string().as_str(), spec.forward), (server, ForwardMethod::FullNat));
            assert!(line("-i").is_ok());
            for forward in ["-m", "-g"] {
                let stop = line(forward).expect_err(forward);
                assert!(
                    stop.message.contains("Different address family is allowed only"),
                    "{}",
                    stop.message
                );
            }
        }
    }

    #[test]
    fn scheduler_flags_are_read_before_it_is_asked_what_the_command_takes() {
        for (line, says) in [
            ("-L -b fast", "invalid scheduler flag `fast'"),
            ("-D -t 192.0.2.1:80 -b mh-port -w 5", "incompatible scheduler flag `mh-port'"),
            ("-A -t 192.0.2.1:80 -b flag-2,sh-port", "incompatible scheduler flag `sh-port'"),
            ("-Z -b flag-1", "Illegal 'sched-flags' option with the 'zero' command"),
            ("-L 5 -b fast", "unexpected argument 5"),
        ] {
            assert_eq!(read(line).expect_err(line).message, says, "{line}");
        }
        let flags = |line: &str| match read(line) {
            Ok(Request::Change(Command::AddService(spec))) => spec.scheduler_flags,
            other => panic!("{line}: {other:?}"),
        };
        assert_eq!(flags("-A -t 192.0.2.1:80 -s sh -b ,sh-port,"), ["sh-port"]);
        assert_eq!(flags("-A -t 192.0.2.1:80 -b ,"), [""; 0]);
    }

    #[test]
    fn a_service_may_be_for_a_prefix() {
        for (line, service) in [
            ("-D -t 192.0.2.0/24:80", "tcp/192.0.2.0/24:80"),
            ("-D -u 192.0.2.0/24", "udp/192.0.2.0/24:0"),
            ("-D --sctp-service [2001:db8::/64]:80", "sctp/[2001:db8::/64]:80"),
            ("-D -t 2001:db8::/64", "tcp/[2001:db8::/64]:0"),
            ("-D -t 192.0.2.1/32:80", "tcp/192.0.2.1:80"),
        ] {
            let service = service.parse().expect("valid");
            assert_eq!(read(line), Ok(Request::Change(Command::DeleteService { service })), "{line}");
        }
        for (line, error) in [
            ("-D -t 192.0.2.1/24:80", "virtual service 192.0.2.1/24:80: has bits behind the prefix"),
            ("-D -t 192.0.2.0/33:80", "illegal virtual server address[:port] specified"),
            ("-D -t 192.0.2.0/24:x", "illegal virtual server address[:port] specified"),
            ("-a -t 192.0.2.1:80 -r 10.0.0.0/24:80", "illegal real server address[:port] specified"),
        ] {
            let stop = read(line).expect_err(line);
            assert!(stop.message.contains(error), "{line}: {}", stop.message);
        }
    }

    #[test]
    fn each_option_of_a_line_is_passed_on() {
        let Ok(Request::Change(Command::AddService(spec))) =
            read("-A -u [2001:db8::1]:53 -s sh -b sh-port,flag-1 -p 60 -M 64 -o --pe sip")
        else {
            panic!("it is a right line")
        };
        assert_eq!(spec.persistence, Some(Persistence { timeout: 60, netmask: Some("64".to_owned()) }));
        assert_eq!(spec.scheduler_flags, ["sh-port", "flag-1"]);
        assert_eq!((spec.one_packet, spec.persistence_engine.as_deref()), (true, Some("sip")));
        let Ok(Request::Change(Command::AddServer { server, .. })) =
            read("-a -t 192.0.2.1:80 -r 10.0.0.1 -i --tun-type gue --tun-port 6080 --tun-csum")
        else {
            panic!("it is a right line")
        };
        let tunnel = Tunnel { encapsulation: "gue".into(), port: 6080, checksum: Some("checksum".into()) };
        assert_eq!((server.forward, server.tunnel), (ForwardMethod::Tunnel, Some(tunnel)));
    }

    #[test]
    fn a_service_of_ftp_has_its_helper_unless_the_line_says_otherwise() {
        let helper = |line: &str| match read(line) {
            Ok(Request::Change(Command::AddService(spec))) => spec.helper,
            other => panic!("{line}: {other:?}"),
        };
        assert_eq!(helper("-A -t 192.0.2.1:21").as_deref(), Some("ftp"));
        assert_eq!(helper("-A -t 192.0.2.1:21 --helper none"), None);
        assert_eq!(helper("-A -t 192.0.2.1:2121"), None);
        assert_eq!(helper("-A -t 192.0.2.1:2121 --helper ftp").as_deref(), Some("ftp"));
    }

    proptest! {
        #[test]
        fn no_line_is_too_odd(
            words in prop::collection::vec(
                prop_oneof![
                    (0..TABLE.len()).prop_map(|index| format!("--{}", TABLE[index].long)),
                    (0..TABLE.len()).prop_map(|index| format!("-{}", TABLE[index].short.unwrap_or('n'))),
                    "[-=:.,0-9x\\[\\]a-zü]{0,8}",
                    Just("192.0.2.1:80".to_owned()),
                    Just("[2001:db8::1]:80".to_owned()),
                ],
                0..8,
            ),
        ) {
            if let Err(stop) = parse(&words, &Names::new(&Nobody)) {
                prop_assert!(stop.code == 2 || stop.code == 255);
                prop_assert!(!stop.message.is_empty());
            }
        }
    }
}
