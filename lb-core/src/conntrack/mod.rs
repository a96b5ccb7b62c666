//! Connection tracking: what is this packet to a connection, in which state is that, how long may it rest?
//!
//! Asked for each packet of a connection that no virtual service has; [`advance`] is the one question, [`begin`] that of a packet
//! which no connection has. It changes what it is given ([`Tracked`], which the owner keeps beside the flow's entry) and nothing else: who
//! asks writes the state and the timeout into the entry. States, timeouts and their names are netfilter's; one file a protocol.
//!
//! Source of the facts: Linux, `net/netfilter/nf_conntrack_core.c` and `nf_conntrack_proto_*.c`.

mod expectation;
pub mod generic;
pub mod gre;
pub mod helper;
pub mod icmp;
mod label;
pub mod sctp;
mod settings;
pub mod tcp;
mod told;
mod tracked;
pub mod udp;
mod zone;

pub use expectation::{Expectation, Expectations, ROOM as EXPECTATIONS};
pub use label::Labels;
pub use settings::Settings;
pub use told::Told;
#[cfg(test)]
pub(crate) use tracked::layout;
pub use tracked::{Accounting, Status, Tracked};
pub use zone::{Template, Zones};

use crate::flow::Direction;
use crate::tables::Protocol;
use crate::time::{Tick, Timeout};
use crate::wire::parse::{Fragment, Headers};

/// What a packet is to connections: `-m conntrack --ctstate`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum CtState {
    /// Of no connection, and it can begin none; or it does not fit its connection.
    Invalid,
    /// It begins a connection, or goes the way of one that nothing came back of.
    New,
    /// Of a connection that packets of both directions were seen of.
    Established,
    /// It begins a connection that another one announced, or is an ICMP error about one.
    Related,
    /// Exempt from tracking.
    Untracked,
}

impl CtState {
    pub const ALL: [CtState; 5] =
        [CtState::Invalid, CtState::New, CtState::Established, CtState::Related, CtState::Untracked];

    /// The word of rules.
    pub const fn name(self) -> &'static str {
        match self {
            CtState::Invalid => "INVALID",
            CtState::New => "NEW",
            CtState::Established => "ESTABLISHED",
            CtState::Related => "RELATED",
            CtState::Untracked => "UNTRACKED",
        }
    }

    /// Whether conntrack has a connection for the packet, or makes one of it.
    pub const fn is_followed(self) -> bool {
        !matches!(self, CtState::Invalid | CtState::Untracked)
    }
}

/// Why a packet is invalid.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Invalid {
    /// Its header or its chunks say what cannot be.
    Malformed,
    /// TCP flags that no sender sets together.
    Flags,
    /// It is none that begins a connection.
    CannotBegin,
    /// It cannot come in the connection's state.
    State,
    /// It begins beyond what the receiver's window allows.
    SequenceAbove,
    /// It acknowledges what was never sent.
    AcknowledgementAbove,
    /// A reset that an end which knows the connection would not have sent.
    Reset,
    /// Another association's verification tag.
    Tag,
}

/// What becomes of a packet and its connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    Fine,
    /// The packet is no part of the connection, which goes on.
    Invalid(Invalid),
    /// The connection is over, and the packet begins the next one with the same tuples: that is to be ended, and the packet looked up again.
    Reopens,
    /// The packet goes on, and the connection ends with it: the first answer refused it.
    Ends,
}

/// What a packet did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Step {
    pub verdict: Verdict,
    /// What the packet is to rules.
    pub is: CtState,
    /// The connection's state from now on.
    pub state: u8,
    /// It ends so long after this packet. `None`: the packet does not prolong it.
    pub timeout: Option<Timeout>,
    /// State or [`Status`] are others than before.
    pub is_changed: bool,
}

/// What a protocol's file says of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Move {
    verdict: Verdict,
    state: u8,
    timeout: Option<Timeout>,
}

impl Move {
    fn to(state: u8, timeout: u32) -> Move {
        Move { verdict: Verdict::Fine, state, timeout: Some(Timeout::from_secs(timeout)) }
    }

    /// The packet passes, and nothing follows from it.
    fn ignored(state: u8) -> Move {
        Move { verdict: Verdict::Fine, state, timeout: None }
    }

    fn invalid(state: u8, why: Invalid) -> Move {
        Move { verdict: Verdict::Invalid(why), state, timeout: None }
    }
}

/// What a transport header says that matters to tracking.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Facts<'a> {
    Tcp(tcp::Segment<'a>),
    Udp,
    Icmp(icmp::Message),
    Sctp(sctp::Chunks<'a>),
    Gre,
    /// Of any other protocol.
    Other,
}

impl Facts<'_> {
    /// Reads a packet of which `headers` are. A later fragment says nothing: it goes with its datagram's first one.
    ///
    /// # Errors
    /// Its header is not in `frame`, or says what cannot be.
    pub fn read<'a>(frame: &'a [u8], headers: &Headers) -> Result<Facts<'a>, Invalid> {
        if headers.fragment == Fragment::Later {
            return Err(Invalid::Malformed);
        }
        match headers.protocol {
            Protocol::TCP => tcp::Segment::read(frame, headers).map(Facts::Tcp),
            Protocol::UDP => Ok(Facts::Udp),
            Protocol::ICMP | Protocol::ICMPV6 => icmp::Message::read(frame, headers).map(Facts::Icmp),
            Protocol::SCTP => sctp::Chunks::read(frame, headers).map(Facts::Sctp),
            Protocol::GRE => Ok(Facts::Gre),
            _ => Ok(Facts::Other),
        }
    }
}

/// A connection's first packet. Mark, zone and NAT are for the caller to write.
///
/// # Errors
/// Why it begins none: it is INVALID.
pub fn begin(facts: &Facts<'_>, now: Tick, settings: &Settings) -> Result<(Tracked, Step), Invalid> {
    let mut tracked = Tracked::default();
    let first = Direction::Original;
    let step = match facts {
        Facts::Tcp(segment) => tcp::begin(&mut tracked, segment, settings)?,
        Facts::Udp => udp::begin(&mut tracked, now, settings),
        Facts::Icmp(message) => icmp::begin(*message, settings)?,
        Facts::Sctp(chunks) => sctp::begin(&mut tracked, chunks, settings)?,
        Facts::Gre => gre::advance(&mut tracked, settings),
        Facts::Other => generic::advance(settings),
    };
    match step.verdict {
        Verdict::Invalid(why) => Err(why),
        _ => {
            let step = done(&mut tracked, 0, Status::NONE, first, CtState::New, step);
            Ok((tracked, Step { is_changed: true, ..step }))
        }
    }
}

/// A connection that is made without a packet. `tags`: of SCTP, what packets carry, by direction.
pub fn create(protocol: Protocol, tags: [u32; 2], now: Tick) -> Tracked {
    let mut tracked = Tracked::default();
    match protocol {
        Protocol::UDP => udp::create(&mut tracked, now),
        Protocol::SCTP => sctp::create(&mut tracked, tags),
        _ => {}
    }
    tracked
}

/// The state of this [`name`], or that of a protocol without states. `None`: it has no such state.
pub fn state_named(protocol: Protocol, wanted: Option<&str>) -> Option<u8> {
    let states = match protocol {
        Protocol::TCP => tcp::TcpState::ALL.len(),
        Protocol::SCTP => sctp::SctpState::ALL.len(),
        _ => 1,
    };
    (0..states as u8).find(|&state| name(protocol, state) == wanted)
}

/// Whether packets of a connection, which tracking has called ESTABLISHED and fine, change nothing of it any more but when it ends, under the same
/// settings: a UDP stream.
pub fn has_settled(protocol: Protocol, tracked: &Tracked, timeout: Timeout, settings: &Settings) -> bool {
    protocol == Protocol::UDP
        && !tracked.status.has(Status::FIXED_TIMEOUT)
        && udp::is_settled(tracked, timeout, settings)
}

/// The next packet of a connection, in `state` and with `left` until it ends.
#[inline]
pub fn advance(
    tracked: &mut Tracked,
    state: u8,
    direction: Direction,
    facts: &Facts<'_>,
    left: Timeout,
    now: Tick,
    settings: &Settings,
) -> Step {
    let before = tracked.status;
    let is = tracked.is(direction);
    let step = match facts {
        Facts::Tcp(segment) => tcp::advance(tracked, state, direction, segment, left, settings),
        Facts::Udp => udp::advance(tracked, now, settings),
        Facts::Icmp(message) => icmp::advance(*message, direction, settings),
        Facts::Sctp(chunks) => sctp::advance(tracked, state, direction, chunks, settings),
        Facts::Gre => gre::advance(tracked, settings),
        Facts::Other => generic::advance(settings),
    };
    done(tracked, state, before, direction, is, step)
}

fn done(
    tracked: &mut Tracked,
    state: u8,
    before: Status,
    direction: Direction,
    is: CtState,
    step: Move,
) -> Step {
    let Move { verdict, state: next, timeout } = step;
    let is = if matches!(verdict, Verdict::Invalid(_)) { CtState::Invalid } else { is };
    if direction == Direction::Reply && matches!(verdict, Verdict::Fine | Verdict::Ends) {
        tracked.status.set(Status::SEEN_REPLY);
    }
    let timeout = timeout.filter(|_| !before.has(Status::FIXED_TIMEOUT));
    Step { verdict, is, state: next, timeout, is_changed: state != next || tracked.status != before }
}

/// Whether a connection may be ended to make room for a new one: it is not assured, or is about to end anyway.
pub fn may_be_dropped_early(protocol: Protocol, state: u8, status: Status) -> bool {
    !status.has(Status::ASSURED)
        || match protocol {
            Protocol::TCP => tcp::TcpState::from_u8(state).is_closing(),
            Protocol::SCTP => sctp::SctpState::from_u8(state).is_closing(),
            _ => false,
        }
}

/// Whether a connection is only remembered, so that what is still on its way is known.
pub fn is_over(protocol: Protocol, state: u8) -> bool {
    protocol == Protocol::TCP
        && matches!(tcp::TcpState::from_u8(state), tcp::TcpState::TimeWait | tcp::TcpState::Close)
}

/// What `conntrack -L` calls a state of this protocol's connections; `None`: it has no states.
pub fn name(protocol: Protocol, state: u8) -> Option<&'static str> {
    match protocol {
        Protocol::TCP => Some(tcp::TcpState::from_u8(state).name()),
        Protocol::SCTP => Some(sctp::SctpState::from_u8(state).name()),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
