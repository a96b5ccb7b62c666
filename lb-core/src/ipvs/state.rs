//! In which state is a connection, how long may it rest in it, does it count as active?
//!
//! Asked for each packet of a connection: a state is one byte in its flow, the next one is one look into a constant
//! table, the timeout another. The states are those of the kernel's IPVS, which sees packets, not sockets:
//! a client's FIN means `CLOSE_WAIT`, a server's `FIN_WAIT`. No sequence number is looked at. SCTP's are in
//! [`sctp`](super::sctp).
//!
//! Source of the facts: Linux, `net/netfilter/ipvs/ip_vs_proto_tcp.c` and `ip_vs_proto_udp.c`, and recorded packets.

use super::sctp::SctpState;
use crate::tables::{Protocol, Settings};
use crate::time::Timeout;

/// The state of a TCP connection.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[repr(u8)]
pub enum TcpState {
    /// No packet seen yet.
    #[default]
    None,
    Established,
    SynSent,
    SynRecv,
    FinWait,
    TimeWait,
    Close,
    CloseWait,
    LastAck,
    Listen,
    SynAck,
}

/// Which way a packet goes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Direction {
    /// From the client.
    Input,
    /// From the real server, through us.
    Output,
    /// From the client, when the server's answers do not come through us.
    InputOnly,
}

use TcpState::{
    Close, CloseWait, Established, FinWait, LastAck, Listen, None as New, SynAck, SynRecv, SynSent, TimeWait,
};

impl TcpState {
    pub const ALL: [TcpState; 11] =
        [New, Established, SynSent, SynRecv, FinWait, TimeWait, Close, CloseWait, LastAck, Listen, SynAck];

    /// From memory that may hold anything: what is no state is `Close`.
    #[inline]
    pub const fn from_u8(value: u8) -> TcpState {
        if (value as usize) < Self::ALL.len() { Self::ALL[value as usize] } else { Close }
    }

    /// As `ipvsadm -Lnc` prints it.
    pub const fn name(self) -> &'static str {
        match self {
            New => "NONE",
            Established => "ESTABLISHED",
            SynSent => "SYN_SENT",
            SynRecv => "SYN_RECV",
            FinWait => "FIN_WAIT",
            TimeWait => "TIME_WAIT",
            Close => "CLOSE",
            CloseWait => "CLOSE_WAIT",
            LastAck => "LAST_ACK",
            Listen => "LISTEN",
            SynAck => "SYNACK",
        }
    }

    /// Counts as active: being set up, or established. A connection is active from its beginning on.
    #[inline]
    pub const fn is_active(self) -> bool {
        ACTIVE >> self as u8 & 1 == 1
    }

    /// The state after a packet, by [`USUAL`] or [`SECURE`]. `flags` is the last byte of the TCP header's flags; of several, RST counts
    /// before SYN, SYN before FIN, FIN before ACK. A packet with none of them closes.
    #[inline]
    #[must_use]
    pub const fn next(self, transitions: &Transitions, direction: Direction, flags: u8) -> TcpState {
        let flags = (flags & 7 | flags >> 1 & 8) as usize;
        transitions[direction as usize][flags][self as usize]
    }
}

const ACTIVE: u16 = 1 << Established as u16 | 1 << SynSent as u16 | 1 << SynRecv as u16 | 1 << SynAck as u16;

/// Where SYN, FIN, ACK and RST lead from one state.
type Row = (TcpState, [TcpState; 4]);

const INPUT: [Row; 11] = [
    (New, [SynRecv, Close, Established, Close]),
    (Established, [Established, CloseWait, Established, Close]),
    (SynSent, [Established, SynSent, SynSent, Close]),
    (SynRecv, [SynRecv, TimeWait, Established, SynRecv]),
    (FinWait, [SynRecv, TimeWait, FinWait, Close]),
    (TimeWait, [SynRecv, TimeWait, TimeWait, Close]),
    (Close, [SynRecv, Close, Close, Close]),
    (CloseWait, [SynRecv, CloseWait, CloseWait, Close]),
    (LastAck, [SynRecv, LastAck, Close, LastAck]),
    (Listen, [SynRecv, Listen, Listen, Listen]),
    (SynAck, [SynRecv, TimeWait, Established, SynRecv]),
];

const OUTPUT: [Row; 11] = [
    (New, [SynSent, TimeWait, Established, Close]),
    (Established, [Established, FinWait, Established, Close]),
    (SynSent, [SynSent, SynSent, SynSent, SynSent]),
    (SynRecv, [SynRecv, TimeWait, Established, Close]),
    (FinWait, [SynSent, FinWait, FinWait, Close]),
    (TimeWait, [SynSent, TimeWait, TimeWait, TimeWait]),
    (Close, [SynSent, Close, Close, Close]),
    (CloseWait, [SynSent, TimeWait, CloseWait, Close]),
    (LastAck, [SynSent, LastAck, LastAck, Close]),
    (Listen, [Listen, Listen, Established, Close]),
    (SynAck, [SynRecv, TimeWait, Established, Close]),
];

/// Where a client's packet leads elsewhere when the server's answers are not seen.
const INPUT_ONLY: [Row; 3] = [
    (Established, [Established, FinWait, Established, Close]),
    (FinWait, [SynRecv, FinWait, FinWait, Close]),
    (SynAck, [SynRecv, TimeWait, Established, Close]),
];

/// Where it leads elsewhere under `secure_tcp`: a client alone does not establish a connection whose server is seen.
const SECURE_INPUT: [Row; 2] =
    [(SynRecv, [SynRecv, TimeWait, SynRecv, SynRecv]), (SynAck, [SynAck, SynAck, SynAck, Close])];

const SECURE_OUTPUT: [Row; 2] =
    [(SynRecv, [SynAck, TimeWait, Established, Close]), (SynAck, [SynAck, TimeWait, Established, Close])];

const SECURE_INPUT_ONLY: [Row; 8] = [
    (New, [SynAck, Close, Established, Close]),
    (FinWait, [SynAck, FinWait, FinWait, Close]),
    (TimeWait, [SynAck, TimeWait, TimeWait, Close]),
    (Close, [SynAck, Close, Close, Close]),
    (CloseWait, [SynAck, CloseWait, CloseWait, Close]),
    (LastAck, [SynAck, LastAck, Close, LastAck]),
    (Listen, [SynAck, Listen, Listen, Listen]),
    (SynAck, [SynAck, TimeWait, Established, Close]),
];

/// By direction, by flags (FIN 1, SYN 2, RST 4, ACK 8), by state.
pub type Transitions = [[[TcpState; 16]; 16]; 3];

pub static USUAL: Transitions = usual();

/// While the defence `secure_tcp` is on.
pub static SECURE: Transitions = {
    let mut table = usual();
    fill(&mut table[Direction::Input as usize], &SECURE_INPUT);
    fill(&mut table[Direction::Output as usize], &SECURE_OUTPUT);
    fill(&mut table[Direction::InputOnly as usize], &SECURE_INPUT_ONLY);
    table
};

const fn usual() -> Transitions {
    let mut table = [[[Close; 16]; 16]; 3];
    fill(&mut table[Direction::Input as usize], &INPUT);
    fill(&mut table[Direction::Output as usize], &OUTPUT);
    fill(&mut table[Direction::InputOnly as usize], &INPUT);
    fill(&mut table[Direction::InputOnly as usize], &INPUT_ONLY);
    table
}

const fn fill(table: &mut [[TcpState; 16]; 16], rows: &[Row]) {
    let mut row = 0;
    while row < rows.len() {
        let (state, [syn, fin, ack, rst]) = rows[row];
        let mut flags = 1;
        while flags < 16 {
            table[flags][state as usize] = match flags {
                flags if flags & 4 != 0 => rst,
                flags if flags & 2 != 0 => syn,
                flags if flags & 1 != 0 => fin,
                _ => ack,
            };
            flags += 1;
        }
        row += 1;
    }
}

/// How `ipvsadm -Lnc` calls the one state of a UDP connection. It never counts as active.
pub const UDP_STATE: &str = "UDP";

/// How long a connection may rest in each state, made once from the settings.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    tcp: [Timeout; 16],
    pub udp: Timeout,
}

impl Timeouts {
    pub fn new(settings: &Settings) -> Timeouts {
        let mut tcp = [Timeout::from_secs(10); 16];
        for (state, seconds) in [(New, 2), (SynSent, 120), (SynRecv, 60), (TimeWait, 120), (Close, 10)] {
            tcp[state as usize] = Timeout::from_secs(seconds);
        }
        for (state, seconds) in [(CloseWait, 60), (LastAck, 30), (Listen, 120), (SynAck, 120)] {
            tcp[state as usize] = Timeout::from_secs(seconds);
        }
        tcp[Established as usize] = settings.tcp;
        tcp[FinWait as usize] = settings.tcp_fin;
        Timeouts { tcp, udp: settings.udp }
    }

    #[inline]
    pub const fn tcp(&self, state: TcpState) -> Timeout {
        self.tcp[state as usize]
    }

    /// That of a connection of this protocol, of whose state its entry says `state`.
    #[inline]
    pub fn of(&self, protocol: Protocol, state: u8) -> Timeout {
        match protocol {
            Protocol::TCP => self.tcp(TcpState::from_u8(state)),
            Protocol::SCTP => SctpState::from_u8(state).timeout(),
            _ => self.udp,
        }
    }
}

/// What `ipvsadm -Lnc` calls a state of this protocol's connections.
pub fn name(protocol: Protocol, state: u8) -> &'static str {
    match protocol {
        Protocol::TCP => TcpState::from_u8(state).name(),
        Protocol::SCTP => SctpState::from_u8(state).name(),
        _ => UDP_STATE,
    }
}

/// Whether a connection of this protocol counts as active in this state.
#[inline]
pub fn is_active(protocol: Protocol, state: u8) -> bool {
    match protocol {
        Protocol::TCP => TcpState::from_u8(state).is_active(),
        Protocol::SCTP => SctpState::from_u8(state).is_active(),
        _ => false,
    }
}

/// Whether both ends of a connection of this protocol have agreed in this state.
#[inline]
pub fn is_established(protocol: Protocol, state: u8) -> bool {
    match protocol {
        Protocol::TCP => state == Established as u8,
        Protocol::SCTP => state == SctpState::Established as u8,
        _ => false,
    }
}

/// Whether both ends have agreed, now or before: netfilter calls such a connection assured. UDP knows of no agreement.
pub fn was_established(protocol: Protocol, state: u8) -> bool {
    match protocol {
        Protocol::TCP => {
            matches!(TcpState::from_u8(state), Established | FinWait | CloseWait | LastAck | TimeWait)
        }
        Protocol::SCTP => matches!(
            SctpState::from_u8(state),
            SctpState::Established
                | SctpState::ShutdownSent
                | SctpState::ShutdownReceived
                | SctpState::ShutdownAckSent
        ),
        _ => false,
    }
}

/// Whether a connection is only remembered, so that what is still on its way is known.
pub fn is_over(protocol: Protocol, state: u8) -> bool {
    protocol == Protocol::TCP && matches!(TcpState::from_u8(state), TimeWait | Close)
}

/// Whether there are connections of this protocol, and this is a state of theirs.
pub fn is_state(protocol: Protocol, state: u8) -> bool {
    match protocol {
        Protocol::TCP => usize::from(state) < TcpState::ALL.len(),
        Protocol::SCTP => usize::from(state) < SctpState::ALL.len(),
        Protocol::UDP => state == 0,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIN: u8 = 1;
    const SYN: u8 = 2;
    const RST: u8 = 4;
    const PSH: u8 = 8;
    const ACK: u8 = 16;

    #[test]
    fn any_byte_is_a_state_and_what_is_none_is_close() {
        for state in TcpState::ALL {
            assert_eq!(TcpState::from_u8(state as u8), state);
        }
        for value in 11..=255 {
            assert_eq!(TcpState::from_u8(value), Close);
        }
    }

    #[test]
    fn a_life_closed_by_the_client() {
        let mut state = New;
        for (direction, flags, expected) in [
            (Direction::Input, SYN, SynRecv),
            (Direction::Output, SYN | ACK, SynRecv),
            (Direction::Input, ACK, Established),
            (Direction::Input, ACK | FIN | PSH, CloseWait),
            (Direction::Output, ACK, CloseWait),
            (Direction::Output, ACK | FIN, TimeWait),
            (Direction::Input, ACK, TimeWait),
            (Direction::Input, SYN, SynRecv),
        ] {
            state = state.next(&USUAL, direction, flags);
            assert_eq!(state, expected);
        }
    }

    #[test]
    fn a_client_that_is_seen_alone_goes_through_fin_wait() {
        let next = |state: TcpState, flags| state.next(&USUAL, Direction::InputOnly, flags);
        assert_eq!(next(Established, FIN | ACK), FinWait);
        assert_eq!(next(FinWait, ACK), FinWait);
        assert_eq!(next(New, SYN), SynRecv);
        assert_eq!(next(SynRecv, RST), SynRecv);
    }

    #[test]
    fn with_secure_tcp_the_servers_acknowledgement_establishes_and_not_the_clients() {
        let mut state = New;
        for (direction, flags, expected) in [
            (Direction::Input, SYN, SynRecv),
            (Direction::Input, ACK, SynRecv),
            (Direction::Output, SYN | ACK, SynAck),
            (Direction::Input, ACK, SynAck),
            (Direction::Input, FIN | ACK, SynAck),
            (Direction::Output, ACK, Established),
            (Direction::Input, ACK | FIN, CloseWait),
        ] {
            state = state.next(&SECURE, direction, flags);
            assert_eq!(state, expected);
        }
        let alone = |state: TcpState, flags| state.next(&SECURE, Direction::InputOnly, flags);
        assert_eq!(alone(New, SYN), SynAck);
        assert_eq!(alone(SynAck, ACK), Established, "no answer is seen");
        assert_eq!(alone(SynAck, RST), Close);
        assert_eq!(alone(TimeWait, SYN), SynAck);
    }

    #[test]
    fn secure_tcp_changes_nothing_of_what_is_established() {
        for direction in [Direction::Input, Direction::Output, Direction::InputOnly] {
            for flags in 0..=255 {
                for state in [Established, SynSent] {
                    assert_eq!(state.next(&SECURE, direction, flags), state.next(&USUAL, direction, flags));
                }
            }
        }
    }

    #[test]
    fn of_several_flags_the_strongest_counts_and_none_closes() {
        let of = |state: TcpState| [&USUAL, &SECURE].map(|transitions| (state, transitions));
        for (state, transitions) in TcpState::ALL.into_iter().flat_map(of) {
            for direction in [Direction::Input, Direction::Output, Direction::InputOnly] {
                let next = |flags| state.next(transitions, direction, flags);
                assert_eq!(next(RST | SYN | FIN | ACK), next(RST));
                assert_eq!(next(SYN | FIN | ACK), next(SYN));
                assert_eq!(next(FIN | ACK), next(FIN));
                assert_eq!(next(0xe8), Close, "PSH, URG, ECE and CWR alone");
            }
        }
    }

    #[test]
    fn settings_govern_established_fin_wait_and_udp_alone() {
        let secs = Timeout::from_secs;
        let settings = Settings { tcp: secs(7), tcp_fin: secs(8), udp: secs(9), ..Settings::default() };
        let (set, default) = (Timeouts::new(&settings), Timeouts::new(&Settings::default()));
        assert_eq!((set.tcp(Established), set.tcp(FinWait), set.udp), (secs(7), secs(8), secs(9)));
        for state in TcpState::ALL {
            let same = set.tcp(state) == default.tcp(state);
            assert_eq!(same, state != Established && state != FinWait, "{}", state.name());
        }
        let seconds = TcpState::ALL.map(|state| default.tcp(state).as_secs());
        assert_eq!(seconds, [2, 900, 120, 60, 120, 120, 10, 60, 30, 120, 120]);
    }
}
