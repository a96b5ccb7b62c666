//! In which state is an SCTP connection, how long may it rest in it?
//!
//! As for TCP the states are those of the kernel's IPVS, which sees packets, not associations, as the real server would name them: the
//! client's INIT alone means `INIT1`, which rests four seconds; a second one `INIT`, which rests a minute. Of a packet the
//! [chunk](crate::wire::sctp::chunk) counts that comes first. No verification tag is looked at.
//!
//! Source of the facts: Linux, `net/netfilter/ipvs/ip_vs_proto_sctp.c`.

use super::state::Direction;
use crate::time::Timeout;
use crate::wire::sctp;

/// The state of an SCTP connection.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[repr(u8)]
pub enum SctpState {
    /// No packet seen yet.
    #[default]
    None,
    /// The client's first INIT.
    Init1,
    /// Its next one.
    Init,
    /// The server's INIT ACK.
    CookieSent,
    /// The client's COOKIE ECHO.
    CookieReplied,
    /// The server's INIT, for an association that it begins.
    CookieWait,
    /// The client's INIT ACK.
    Cookie,
    /// The server's COOKIE ECHO.
    CookieEchoed,
    Established,
    /// The server's SHUTDOWN.
    ShutdownSent,
    /// The client's SHUTDOWN.
    ShutdownReceived,
    ShutdownAckSent,
    /// The first INIT was answered with ABORT.
    Rejected,
    Closed,
}

use SctpState::{
    Closed, Cookie, CookieEchoed, CookieReplied, CookieSent, CookieWait, Established, Init, Init1,
    None as New, Rejected, ShutdownAckSent, ShutdownReceived, ShutdownSent,
};

/// What a chunk means for the state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
enum Event {
    /// DATA, and whatever is none of the others.
    Data,
    Init,
    InitAck,
    CookieEcho,
    CookieAck,
    Shutdown,
    ShutdownAck,
    ShutdownComplete,
    Error,
    Abort,
}

const EVENTS: usize = 10;

impl Event {
    const fn of(chunk: u8) -> Event {
        match chunk {
            sctp::INIT => Event::Init,
            sctp::INIT_ACK => Event::InitAck,
            sctp::COOKIE_ECHO => Event::CookieEcho,
            sctp::COOKIE_ACK => Event::CookieAck,
            sctp::SHUTDOWN => Event::Shutdown,
            sctp::SHUTDOWN_ACK => Event::ShutdownAck,
            sctp::SHUTDOWN_COMPLETE => Event::ShutdownComplete,
            sctp::ERROR => Event::Error,
            sctp::ABORT => Event::Abort,
            _ => Event::Data,
        }
    }
}

impl SctpState {
    pub const ALL: [SctpState; 14] = [
        New,
        Init1,
        Init,
        CookieSent,
        CookieReplied,
        CookieWait,
        Cookie,
        CookieEchoed,
        Established,
        ShutdownSent,
        ShutdownReceived,
        ShutdownAckSent,
        Rejected,
        Closed,
    ];

    /// From memory that may hold anything: what is no state is `Closed`.
    #[inline]
    pub const fn from_u8(value: u8) -> SctpState {
        if (value as usize) < Self::ALL.len() { Self::ALL[value as usize] } else { Closed }
    }

    /// As `ipvsadm -Lnc` prints it.
    pub const fn name(self) -> &'static str {
        match self {
            New => "NONE",
            Init1 => "INIT1",
            Init => "INIT",
            CookieSent => "C-SENT",
            CookieReplied => "C-REPLIED",
            CookieWait => "C-WAIT",
            Cookie => "COOKIE",
            CookieEchoed => "C-ECHOED",
            Established => "ESTABLISHED",
            ShutdownSent => "S-SENT",
            ShutdownReceived => "S-RECEIVED",
            ShutdownAckSent => "S-ACK-SENT",
            Rejected => "REJECTED",
            Closed => "CLOSED",
        }
    }

    /// Counts as active: established. Unlike TCP's, a connection that is being set up does not.
    #[inline]
    pub const fn is_active(self) -> bool {
        matches!(self, Established)
    }

    /// The state after a packet with this chunk.
    #[inline]
    #[must_use]
    pub const fn next(self, direction: Direction, chunk: u8) -> SctpState {
        NEXT[direction as usize][Event::of(chunk) as usize][self as usize]
    }

    /// How long a connection may rest in this state; no setting says otherwise.
    pub const fn timeout(self) -> Timeout {
        Timeout::from_secs(match self {
            New => 2,
            Init1 | Rejected => 4,
            Established => 900,
            _ => 61,
        })
    }
}

/// From which states a chunk leads to another one. What is named later counts.
type Move = (Event, &'static [SctpState], SctpState);

const INPUT: &[Move] = &[
    (Event::Data, &[New], Established),
    (Event::Init, &[New], Init1),
    (Event::Init, &[Init1, Rejected, Closed], Init),
    (Event::InitAck, &[New, Init1, Init], CookieWait),
    (Event::InitAck, &[CookieWait], Cookie),
    (Event::CookieEcho, &[New, CookieSent], CookieReplied),
    (Event::CookieEcho, &[Init1], Init),
    (Event::CookieAck, &[New, CookieEchoed], Established),
    (Event::Shutdown, &[New, Established], ShutdownReceived),
    (Event::ShutdownAck, &[New, ShutdownSent, ShutdownAckSent], Closed),
    (Event::ShutdownAck, &[Init1], Init),
    (Event::ShutdownComplete, &[New, Init1, Init, ShutdownAckSent], Closed),
    (Event::Error, &[New, CookieEchoed], Closed),
    (Event::Abort, &SctpState::ALL, Closed),
    (Event::Abort, &[CookieWait], Rejected),
];

const OUTPUT: &[Move] = &[
    (Event::Data, &[New], Established),
    (Event::Init, &SctpState::ALL, CookieWait),
    (Event::Init, &[Established], Established),
    (Event::InitAck, &[New, Init1, Init], CookieSent),
    (Event::CookieEcho, &[New, Init1, Init, CookieSent, CookieReplied, CookieWait, Cookie], CookieEchoed),
    (Event::CookieAck, BEFORE_ESTABLISHED, Established),
    (Event::Shutdown, BEFORE_ESTABLISHED, ShutdownSent),
    (Event::Shutdown, &[Established], ShutdownSent),
    (Event::ShutdownAck, &[New, Init1, Init, CookieSent, CookieReplied], ShutdownAckSent),
    (Event::ShutdownAck, &[ShutdownSent, ShutdownReceived], ShutdownAckSent),
    (Event::ShutdownComplete, &[New], Closed),
    (Event::Error, &[New, Init1, Init, CookieSent, CookieReplied], Closed),
    (Event::Abort, &SctpState::ALL, Closed),
    (Event::Abort, &[Init1], Rejected),
];

/// What the client says must do for both sides.
const INPUT_ONLY: &[Move] = &[
    (Event::Data, &[New, CookieWait], Established),
    (Event::Init, &[New], Init1),
    (Event::Init, &[Init1, CookieSent, CookieReplied, CookieWait, Rejected, Closed], Init),
    (Event::InitAck, &[New, Init1, Init, CookieSent, CookieReplied, CookieWait], CookieEchoed),
    (Event::CookieEcho, &[New, Init1, Init, CookieSent, CookieReplied, CookieWait], Established),
    (Event::CookieAck, &[New, CookieSent, CookieReplied, Cookie, CookieEchoed], Established),
    (Event::Shutdown, &[New, Established], ShutdownReceived),
    (Event::ShutdownAck, &[New, Established, ShutdownSent, ShutdownAckSent], Closed),
    (Event::ShutdownAck, &[Init1], Init),
    (Event::ShutdownComplete, &[New, Init1, Init, CookieSent, CookieReplied], Closed),
    (Event::ShutdownComplete, &[ShutdownReceived, ShutdownAckSent], Closed),
    (Event::Error, &[New], Closed),
    (Event::Abort, &SctpState::ALL, Closed),
    (Event::Abort, &[CookieWait], Rejected),
];

const BEFORE_ESTABLISHED: &[SctpState] =
    &[New, Init1, Init, CookieSent, CookieReplied, CookieWait, Cookie, CookieEchoed];

type Table = [[SctpState; SctpState::ALL.len()]; EVENTS];

static NEXT: [Table; 3] = {
    let mut table = [[SctpState::ALL; EVENTS]; 3];
    fill(&mut table[Direction::Input as usize], INPUT);
    fill(&mut table[Direction::Output as usize], OUTPUT);
    fill(&mut table[Direction::InputOnly as usize], INPUT_ONLY);
    table
};

const fn fill(table: &mut Table, moves: &[Move]) {
    let mut at = 0;
    while at < moves.len() {
        let (event, from, to) = moves[at];
        let mut state = 0;
        while state < from.len() {
            table[event as usize][from[state] as usize] = to;
            state += 1;
        }
        at += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATA: u8 = 0;
    const HEARTBEAT: u8 = 4;
    const I_DATA: u8 = 64;

    fn live(steps: &[(Direction, u8, SctpState)]) {
        let mut state = New;
        for &(direction, chunk, expected) in steps {
            state = state.next(direction, chunk);
            assert_eq!(state, expected, "after chunk {chunk}");
        }
    }

    #[test]
    fn a_life_begun_and_ended_by_the_client() {
        live(&[
            (Direction::Input, sctp::INIT, Init1),
            (Direction::Input, sctp::INIT, Init),
            (Direction::Output, sctp::INIT_ACK, CookieSent),
            (Direction::Input, sctp::COOKIE_ECHO, CookieReplied),
            (Direction::Output, sctp::COOKIE_ACK, Established),
            (Direction::Input, DATA, Established),
            (Direction::Output, HEARTBEAT, Established),
            (Direction::Output, I_DATA, Established),
            (Direction::Input, sctp::SHUTDOWN, ShutdownReceived),
            (Direction::Output, sctp::SHUTDOWN_ACK, ShutdownAckSent),
            (Direction::Input, sctp::SHUTDOWN_COMPLETE, Closed),
            (Direction::Input, sctp::INIT, Init),
        ]);
    }

    #[test]
    fn a_server_that_ends_the_association_or_begins_one() {
        live(&[
            (Direction::Input, DATA, Established),
            (Direction::Output, sctp::SHUTDOWN, ShutdownSent),
            (Direction::Input, sctp::SHUTDOWN_ACK, Closed),
            (Direction::Output, sctp::SHUTDOWN_COMPLETE, Closed),
            (Direction::Output, sctp::INIT, CookieWait),
            (Direction::Input, sctp::INIT_ACK, Cookie),
            (Direction::Output, sctp::COOKIE_ECHO, CookieEchoed),
            (Direction::Input, sctp::COOKIE_ACK, Established),
        ]);
    }

    #[test]
    fn a_rejected_client_rests_as_short_as_one_that_nobody_answers() {
        live(&[(Direction::Input, sctp::INIT, Init1), (Direction::Output, sctp::ABORT, Rejected)]);
        assert_eq!((Rejected.timeout(), Init1.timeout()), (Timeout::from_secs(4), Timeout::from_secs(4)));
    }

    #[test]
    fn a_client_that_is_seen_alone_is_established_by_its_cookie() {
        live(&[
            (Direction::InputOnly, sctp::INIT, Init1),
            (Direction::InputOnly, sctp::COOKIE_ECHO, Established),
            (Direction::InputOnly, sctp::SHUTDOWN, ShutdownReceived),
            (Direction::InputOnly, sctp::SHUTDOWN_COMPLETE, Closed),
        ]);
    }

    #[test]
    fn an_abort_closes_from_everywhere_but_where_it_rejects() {
        for state in SctpState::ALL {
            for direction in [Direction::Input, Direction::Output, Direction::InputOnly] {
                let is_rejected = match direction {
                    Direction::Output => state == Init1,
                    Direction::Input | Direction::InputOnly => state == CookieWait,
                };
                let expected = if is_rejected { Rejected } else { Closed };
                assert_eq!(state.next(direction, sctp::ABORT), expected, "{} {direction:?}", state.name());
            }
        }
    }

    #[test]
    fn any_byte_is_a_state_and_what_is_none_is_closed() {
        for state in SctpState::ALL {
            assert_eq!(SctpState::from_u8(state as u8), state);
        }
        for value in 14..=255 {
            assert_eq!(SctpState::from_u8(value), Closed);
        }
        let seconds = SctpState::ALL.map(|state| state.timeout().as_secs());
        assert_eq!(seconds, [2, 4, 61, 61, 61, 61, 61, 61, 900, 61, 61, 61, 4, 61]);
    }
}
