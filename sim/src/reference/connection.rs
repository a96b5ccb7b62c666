//! What a connection keeps: its state, its time, what it counts as.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use lb_core::flow::template::templated;
use lb_core::flow::{Direction, Method};
use lb_core::ids::ServerId;
use lb_core::ipvs::sctp::SctpState;
use lb_core::ipvs::state::TcpState;
use lb_core::path::FlowView;
use lb_core::tables::{Protocol, Services, Settings, Sysctls};
use lb_core::time::{Tick, Timeout};

use super::flows::{Connection, Number};
use super::ftp::{AWAITED, PATIENCE};
use super::parse::{INIT, Piece, Read, SYN};
use super::persistent::STAYS;
use super::tcp::Sender;
use super::{Reference, sctp, tcp};

impl Reference {
    /// A packet has to do with a connection: from now on it may rest as long as the settings say now.
    pub(super) fn renew(&mut self, number: Number) {
        let generation = self.tables.generation;
        let connection = self.flows.get(number);
        // Where its data connections have kept it, it has its own time again when it is read.
        let is_kept = connection.is_control() && connection.timeout == STAYS;
        if !is_kept || connection.renewed != generation {
            self.rests(number);
        }
        self.flows.change(number, |connection| connection.renewed = generation);
        self.count_towards_limits(number);
    }

    /// It may rest as long as its state says.
    pub(super) fn rests(&mut self, number: Number) {
        let settings = self.tables.settings;
        self.flows.change(number, |connection| connection.timeout = connection.state.timeout(&settings));
    }

    pub(super) fn enter_state(&mut self, number: Number, state: State) {
        let connection = self.flows.get(number);
        let (was, is) = (connection.state, state.is_active());
        if was == state {
            return;
        }
        let server = connection.server;
        self.comes(number);
        if self.flows.get(number).is_active != is {
            let cell = self.counters.server(server);
            let (from, to) = if is { (&cell.inactive, &cell.active) } else { (&cell.active, &cell.inactive) };
            from.sub(1);
            to.add(1);
        }
        self.flows.change(number, |connection| (connection.state, connection.is_active) = (state, is));
        if state.is_over() {
            let mut counts_in = Vec::new();
            self.flows.change(number, |connection| counts_in = std::mem::take(&mut connection.counts_in));
            self.count_no_more(counts_in);
        }
        self.rests(number);
        self.renew(number);
    }

    pub(super) fn count(&mut self, server: ServerId, direction: Direction, read: &Read) {
        self.touch(server);
        let cell = self.counters.server(server);
        let (packets, bytes) = match direction {
            Direction::Original => (&cell.in_packets, &cell.in_bytes),
            Direction::Reply => (&cell.out_packets, &cell.out_bytes),
        };
        packets.add(1);
        bytes.add(read.ip_len() as u64);
    }
}

/// Whether answers come by here too.
pub(super) fn is_answered(method: Method) -> bool {
    matches!(method, Method::Masq | Method::Translated)
}

/// What a connection's packets have told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    Tcp(TcpState),
    Sctp(SctpState),
    Udp,
    /// No connection: a client is awaited.
    Awaited,
}

impl State {
    /// Before the first packet.
    pub(super) fn new(protocol: Protocol) -> State {
        match protocol {
            Protocol::TCP => State::Tcp(TcpState::None),
            Protocol::SCTP => State::Sctp(SctpState::None),
            _ => State::Udp,
        }
    }

    /// After a packet.
    pub(super) fn next(self, method: Method, is_from_client: bool, is_secure: bool, read: &Read) -> State {
        let is_answered = is_answered(method);
        match (self, read.chunk) {
            _ if read.piece == Piece::Later => self,
            (State::Tcp(state), _) if is_secure => {
                let sender = match (is_answered, is_from_client) {
                    (true, true) => Sender::Client,
                    (true, false) => Sender::Server,
                    (false, _) => Sender::LoneClient,
                };
                State::Tcp(tcp::next_securely(state, sender, read.tcp_flags))
            }
            (State::Tcp(state), _) if is_answered => {
                State::Tcp(tcp::next(state, is_from_client, read.tcp_flags))
            }
            (State::Tcp(state), _) => State::Tcp(tcp::next_unanswered(state, read.tcp_flags)),
            (State::Sctp(state), Some(chunk)) if is_answered && is_from_client => {
                State::Sctp(sctp::after_client(state, chunk))
            }
            (State::Sctp(state), Some(chunk)) if is_answered => State::Sctp(sctp::after_server(state, chunk)),
            (State::Sctp(state), Some(chunk)) => State::Sctp(sctp::after_client_alone(state, chunk)),
            (State::Sctp(_), None) | (State::Udp | State::Awaited, _) => self,
        }
    }

    pub(super) fn is_active(self) -> bool {
        match self {
            State::Tcp(state) => tcp::is_active(state),
            State::Sctp(state) => state == SctpState::Established,
            State::Udp | State::Awaited => false,
        }
    }

    /// The ends have not agreed, or not any more.
    pub(super) fn is_half_open(self) -> bool {
        match self {
            State::Tcp(state) => matches!(
                state,
                TcpState::None | TcpState::SynSent | TcpState::SynRecv | TcpState::SynAck | TcpState::Listen
            ),
            State::Sctp(state) => !matches!(
                state,
                SctpState::Established
                    | SctpState::ShutdownSent
                    | SctpState::ShutdownReceived
                    | SctpState::ShutdownAckSent
            ),
            State::Udp | State::Awaited => false,
        }
    }

    /// It is only remembered.
    pub(super) fn is_over(self) -> bool {
        matches!(self, State::Tcp(TcpState::TimeWait | TcpState::Close))
    }

    pub(super) fn timeout(self, settings: &Settings) -> Timeout {
        match self {
            State::Tcp(state) => tcp::timeout(state, settings),
            State::Sctp(state) => sctp::timeout(state),
            State::Udp => settings.udp,
            State::Awaited => PATIENCE,
        }
    }

    /// Whether a packet of the client, of a connection that is over, begins a new one; one whose real server `is_told` of the client does in any case.
    fn starts_anew(self, read: &Read, method: Method, is_told: bool, mode: u32) -> bool {
        let is_syn = read.tcp_flags & SYN != 0;
        match self {
            State::Tcp(TcpState::TimeWait | TcpState::Close) => is_syn && (mode != 0 || is_told),
            State::Tcp(TcpState::FinWait) => is_syn && (mode & 2 != 0 && !is_answered(method) || is_told),
            State::Tcp(TcpState::CloseWait | TcpState::LastAck) => is_syn && is_told,
            State::Sctp(SctpState::Closed) => mode != 0 && read.chunk == Some(INIT),
            _ => false,
        }
    }

    fn name(self) -> &'static str {
        match self {
            State::Tcp(state) => state.name(),
            State::Sctp(state) => state.name(),
            State::Udp => "UDP",
            State::Awaited => TcpState::Listen.name(),
        }
    }
}

impl Connection {
    /// Its real server was removed; one past all real servers had none.
    pub(super) fn lacks_server(&self, services: &Services) -> bool {
        self.server != ServerId::BYPASS && services.server(self.server).is_none()
    }

    /// As of which method its state follows: nobody has said of one past all real servers that answers go another way.
    pub(super) fn column(&self) -> Method {
        if self.server == ServerId::BYPASS { Method::Masq } else { self.method }
    }

    /// The same, of one that no template and no control connection has.
    pub(super) fn starts_anew(&self, read: &Read, is_told: bool, sysctls: &Sysctls) -> bool {
        let is_free = self.bound_by.is_none() && self.controlled_by.is_none();
        let mode = if is_free { sysctls.conn_reuse_mode } else { 0 };
        self.state.starts_anew(read, self.method, is_told, mode)
    }

    /// Whether a client's packet begins anew as far as its protocol goes, in whatever state its connection is. What an FTP session awaits is
    /// begun by none.
    pub(super) fn may_be_left(&self, read: &Read) -> bool {
        match self.state {
            _ if self.controlled_by.is_some() => false,
            State::Tcp(_) | State::Awaited => read.tcp_flags & SYN != 0,
            State::Sctp(_) => read.chunk == Some(INIT),
            State::Udp => false,
        }
    }
}

impl Reference {
    /// As `ipvsadm -Lnc` lists it.
    pub(super) fn view(&self, connection: &Connection) -> FlowView {
        let mut view = view(connection, self.now);
        if let Some(template) = connection.template {
            let is_assured =
                template.was_assured || self.team.shared().template_use(template.serial).is_assured;
            view.state = if is_assured { "ASSURED" } else { "NONE" };
        }
        view
    }
}

fn view(connection: &Connection, now: Tick) -> FlowView {
    let Connection { original, reply, server, state, .. } = *connection;
    FlowView {
        protocol: match original.protocol {
            AWAITED => Protocol::TCP,
            protocol => templated(protocol).unwrap_or(protocol),
        },
        is_template: connection.template.is_some(),
        is_tracked: false,
        known: connection.known(),
        client: if connection.template.is_some() { (reply.dst, 0) } else { (original.src, original.sport) },
        call: (connection.template.is_some() && original.sport != 0)
            .then_some((original.src, original.sport)),
        virtual_: (original.dst, original.dport),
        server: match (server, reply.src) {
            (ServerId::BYPASS, IpAddr::V4(_)) => (Ipv4Addr::UNSPECIFIED.into(), 0),
            (ServerId::BYPASS, IpAddr::V6(_)) => (Ipv6Addr::UNSPECIFIED.into(), 0),
            _ => (reply.src, reply.sport),
        },
        local: connection.local(),
        server_id: server,
        method: connection.method,
        state: state.name(),
        expires_in: Timeout(connection.due().since(now)),
    }
}
