//! TCP: states as netfilter's, and whether a packet can be its connection's at all.
//!
//! The one in the middle sees what ends send, not what arrives. The state follows the flags of packets that fit the
//! [`window`]; what may be a sign that the ends know better (a SYN of a connection that is there) passes and is remembered, until the other
//! end's answer says who is right.
//!
//! Source of the facts: Linux, `net/netfilter/nf_conntrack_proto_tcp.c`; RFC 9293, RFC 5961 (resets and SYNs within the window).

mod segment;
mod window;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, transmute_mut, transmute_ref};

use self::segment::Kind;
pub use self::segment::Segment;
use self::window::Fit;
use super::{Invalid, Move, Settings, Status, Tracked, Verdict};
use crate::flow::Direction;
use crate::time::Timeout;

/// The state of a TCP connection.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[repr(u8)]
pub enum TcpState {
    /// No packet seen yet.
    #[default]
    None,
    /// A SYN.
    SynSent,
    /// SYN and ACK back.
    SynRecv,
    Established,
    /// The first FIN.
    FinWait,
    /// An ACK after it.
    CloseWait,
    /// A second FIN.
    LastAck,
    /// An ACK after that.
    TimeWait,
    /// A reset.
    Close,
    /// SYNs of both ends.
    SynSent2,
}

use TcpState::{
    Close, CloseWait, Established, FinWait, LastAck, None as New, SynRecv, SynSent, SynSent2, TimeWait,
};

impl TcpState {
    pub const ALL: [TcpState; 10] =
        [New, SynSent, SynRecv, Established, FinWait, CloseWait, LastAck, TimeWait, Close, SynSent2];

    /// From memory that may hold anything: what is no state is `Close`.
    #[inline]
    pub const fn from_u8(value: u8) -> TcpState {
        if (value as usize) < Self::ALL.len() { Self::ALL[value as usize] } else { Close }
    }

    /// As `conntrack -L` prints it.
    pub const fn name(self) -> &'static str {
        match self {
            New => "NONE",
            SynSent => "SYN_SENT",
            SynRecv => "SYN_RECV",
            Established => "ESTABLISHED",
            FinWait => "FIN_WAIT",
            CloseWait => "CLOSE_WAIT",
            LastAck => "LAST_ACK",
            TimeWait => "TIME_WAIT",
            Close => "CLOSE",
            SynSent2 => "SYN_SENT2",
        }
    }

    /// One end at least has closed.
    #[inline]
    pub const fn is_closing(self) -> bool {
        matches!(self, FinWait | CloseWait | LastAck | TimeWait | Close)
    }
}

/// Where a packet leads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Next {
    To(TcpState),
    /// The ends may know better: it passes, and changes nothing yet.
    Ignored,
    Invalid,
}

use Next::{Ignored, Invalid as Bad, To};

/// Where SYN, SYN with ACK, FIN, ACK and RST lead from one state.
type Row = (TcpState, [Next; 5]);

const ORIGINAL: [Row; 10] = [
    (New, [To(SynSent), Bad, Bad, To(Established), Bad]),
    (SynSent, [To(SynSent), Bad, Bad, Bad, To(Close)]),
    (SynSent2, [To(SynSent2), To(SynRecv), Bad, Bad, To(Close)]),
    (SynRecv, [Ignored, To(SynRecv), To(FinWait), To(Established), To(Close)]),
    (Established, [Ignored, Bad, To(FinWait), To(Established), To(Close)]),
    (FinWait, [Ignored, Bad, To(LastAck), To(CloseWait), To(Close)]),
    (CloseWait, [Ignored, Bad, To(LastAck), To(CloseWait), To(Close)]),
    (LastAck, [Ignored, Bad, To(LastAck), To(TimeWait), To(Close)]),
    (TimeWait, [To(SynSent), Bad, To(TimeWait), To(TimeWait), To(Close)]),
    (Close, [To(SynSent), Bad, To(Close), To(Close), To(Close)]),
];

const REPLY: [Row; 10] = [
    (New, [Bad; 5]),
    (SynSent, [To(SynSent2), To(SynRecv), Bad, Ignored, To(Close)]),
    (SynSent2, [To(SynSent2), To(SynRecv), Bad, Ignored, To(Close)]),
    (SynRecv, [Bad, Ignored, To(FinWait), To(SynRecv), To(Close)]),
    (Established, [Bad, Ignored, To(FinWait), To(Established), To(Close)]),
    (FinWait, [Bad, Ignored, To(LastAck), To(CloseWait), To(Close)]),
    (CloseWait, [Bad, Ignored, To(LastAck), To(CloseWait), To(Close)]),
    (LastAck, [Bad, Ignored, To(LastAck), To(TimeWait), To(Close)]),
    (TimeWait, [To(SynSent), Ignored, To(TimeWait), To(TimeWait), To(Close)]),
    (Close, [Bad, Ignored, To(Close), To(Close), To(Close)]),
];

/// By direction, [`Kind`] and state.
static NEXT: [[[Next; 16]; 8]; 2] = {
    let mut table = [[[Bad; 16]; 8]; 2];
    fill(&mut table[0], &ORIGINAL);
    fill(&mut table[1], &REPLY);
    table
};

const fn fill(table: &mut [[Next; 16]; 8], rows: &[Row; 10]) {
    let kinds = [Kind::Syn, Kind::SynAck, Kind::Fin, Kind::Ack, Kind::Rst];
    let mut row = 0;
    while row < rows.len() {
        let mut kind = 0;
        while kind < kinds.len() {
            table[kinds[kind] as usize][rows[row].0 as usize] = rows[row].1[kind];
            kind += 1;
        }
        row += 1;
    }
}

impl TcpState {
    #[inline]
    fn next(self, direction: Direction, kind: Kind) -> Next {
        NEXT[direction.index()][kind as usize][self as usize]
    }
}

/// What is known of both ends, by direction of what they send, and of the last packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Ends {
    /// Behind the last number that it sent.
    end: [u32; 2],
    /// Behind the last number that the other end let it send.
    limit: [u32; 2],
    /// The largest window that it offered; 0: nothing of it was seen.
    window: [u32; 2],
    /// The highest number that it acknowledged.
    acked: [u32; 2],
    last_seq: u32,
    last_ack: u32,
    last_end: u32,
    last_window: u16,
    /// Shift of its windows.
    scale: [u8; 2],
    flags: [u8; 2],
    /// A [`Kind`], and from [`WAY`] on which way it went: 0 or 1.
    last: u8,
    /// What a SYN that was ignored offers: flags, and from [`SYN_SCALE`] on the shift of its windows, of four bits.
    syn: u8,
    /// Not TCP's: of [`Tracked::label_set`].
    _labels: [u8; 2],
    /// So often the last packet came again.
    repetitions: u8,
    /// Not TCP's: of [`Tracked::helper`].
    _helper: u8,
}

/// Flags of an end.
const SCALES: u8 = 1;
const SACKS: u8 = 1 << 1;
/// It sent the first FIN.
const CLOSED_FIRST: u8 = 1 << 2;
/// Its packets are not measured by the windows.
const LIBERAL: u8 = 1 << 3;
/// It sent what is not acknowledged.
const UNACKNOWLEDGED: u8 = 1 << 4;
const HAS_ACKED: u8 = 1 << 5;
/// In `last`.
const WAY: u32 = 3;
/// In `syn`, between the flags of an offer and the others.
const SYN_SCALE: u32 = 2;
const OFFERED: u8 = SCALES | SACKS;
/// In `syn`: its answer may be a challenge (RFC 5961 §4), no acknowledgement of a FIN.
const MAY_BE_CHALLENGED: u8 = 1 << 6;
/// In `syn`: both ends sent a SYN.
const BOTH_OPENED: u8 = 1 << 7;

impl Ends {
    fn is_last(&self, kind: Kind, direction: Direction) -> bool {
        self.last == last(kind, direction)
    }

    fn note(&mut self, kind: Kind, direction: Direction) {
        self.last = last(kind, direction);
    }

    fn last_kind(&self) -> Kind {
        Kind::from_u8(self.last & ((1 << WAY) - 1))
    }
}

#[inline]
fn last(kind: Kind, direction: Direction) -> u8 {
    kind as u8 | (direction as u8) << WAY
}

impl Tracked {
    /// Whether a SYN that ends before this number is beyond all that the first end of a TCP connection sent.
    pub(crate) fn is_outrun_by(&self, end: u32) -> bool {
        let ends: &Ends = transmute_ref!(&self.private);
        end.wrapping_sub(ends.end[0]).cast_signed() > 0
    }
}

pub(super) fn begin(
    tracked: &mut Tracked,
    segment: &Segment<'_>,
    settings: &Settings,
) -> Result<Move, Invalid> {
    let kind = segment.kind()?;
    let To(state) = New.next(Direction::Original, kind) else { return Err(Invalid::CannotBegin) };
    if state != SynSent && settings.tcp_loose == 0 {
        return Err(Invalid::CannotBegin);
    }
    let ends: &mut Ends = transmute_mut!(&mut tracked.private);
    ends.begin(segment, state == SynSent);
    Ok(advance(tracked, New as u8, Direction::Original, segment, Timeout::default(), settings))
}

/// What follows from a packet's flags alone.
enum Way {
    /// It is to fit the windows; then the state is this.
    Measured(TcpState),
    /// It need not fit them.
    Exempt(TcpState),
    Done(Move),
}

#[inline]
pub(super) fn advance(
    tracked: &mut Tracked,
    state: u8,
    direction: Direction,
    segment: &Segment<'_>,
    left: Timeout,
    settings: &Settings,
) -> Move {
    let ends: &mut Ends = transmute_mut!(&mut tracked.private);
    let status = &mut tracked.status;
    let was = TcpState::from_u8(state);
    let kind = match segment.kind() {
        Ok(kind) => kind,
        Err(why) => return Move::invalid(state, why),
    };
    let is = match ends.way(was, kind, direction, segment, *status, settings) {
        Way::Done(step) => return step,
        Way::Exempt(is) => is,
        Way::Measured(is) => match ends.measure(was, kind, direction, segment, settings) {
            Fit::Fits => is,
            Fit::Ignored => return Move::ignored(state),
            Fit::Invalid(why) => {
                return ends.invalid(was, why, kind, direction, *status, left, settings);
            }
        },
    };
    ends.note(kind, direction);
    if was != is && is == FinWait {
        ends.flags[direction.index()] |= CLOSED_FIRST;
    }
    let timeout = ends.timeout(is, kind, settings);
    if !status.has(Status::SEEN_REPLY) {
        return unanswered(was, is, kind, timeout, settings);
    }
    if matches!(was, SynRecv | Established) && is == Established {
        status.set(Status::ASSURED);
    }
    Move::to(is as u8, timeout)
}

/// A packet that fits, of a connection that has no answer yet, or gets its first one.
fn unanswered(was: TcpState, is: TcpState, kind: Kind, timeout: u32, settings: &Settings) -> Move {
    let step = Move::to(is as u8, timeout);
    match kind {
        Kind::Rst => Move { verdict: Verdict::Ends, ..step },
        // Who sends SYNs for ever keeps nothing.
        Kind::Syn if was == SynSent => Move { timeout: None, ..step },
        // Taken up in its middle.
        _ if is == Established => Move::to(is as u8, timeout.min(settings.tcp_unacknowledged)),
        _ => step,
    }
}

impl Ends {
    /// Follows the flags, and what was ignored before.
    #[inline]
    fn way(
        &mut self,
        was: TcpState,
        kind: Kind,
        direction: Direction,
        segment: &Segment<'_>,
        status: Status,
        settings: &Settings,
    ) -> Way {
        let next = was.next(direction, kind);
        match next {
            // Nearly all packets.
            To(Established) if was == Established => Way::Measured(Established),
            Bad => Way::Done(Move::invalid(was as u8, Invalid::State)),
            To(SynSent) if was.is_closing() => {
                let is_over =
                    (self.flags[0] | self.flags[1]) & CLOSED_FIRST != 0 || self.is_last(Kind::Rst, direction);
                if is_over {
                    let step = Move { verdict: Verdict::Reopens, state: was as u8, timeout: None };
                    return Way::Done(step);
                }
                self.ignore(was, kind, direction, segment)
            }
            Ignored => self.ignore(was, kind, direction, segment),
            To(TimeWait)
                if was == LastAck
                    && kind == Kind::Ack
                    && self.is_last(Kind::Syn, direction.opposite())
                    && self.syn & MAY_BE_CHALLENGED != 0 =>
            {
                self.syn &= !MAY_BE_CHALLENGED;
                Way::Done(Move::ignored(was as u8))
            }
            To(SynSent2) => {
                self.syn |= BOTH_OPENED;
                Way::Measured(SynSent2)
            }
            // The ACK of the one that the other end's SYN with ACK was for.
            To(SynRecv)
                if kind == Kind::Ack && direction == Direction::Reply && self.syn & BOTH_OPENED != 0 =>
            {
                Way::Measured(Established)
            }
            To(Close) if kind == Kind::Rst => self.reset(was, direction, segment, status, settings),
            To(is) => Way::Measured(is),
        }
    }

    /// Lets a packet pass that may mean that the ends know better, or takes up what the answer to such a one says.
    #[cold]
    fn ignore(&mut self, was: TcpState, kind: Kind, direction: Direction, segment: &Segment<'_>) -> Way {
        let other = direction.opposite();
        if kind == Kind::SynAck && self.is_last(Kind::Syn, other) && segment.ack == self.last_end {
            // It answers the SYN that was ignored: the ends are in step, and so is this from here on.
            self.resume(other, direction);
            return Way::Measured(SynRecv);
        }
        self.note(kind, direction);
        self.last_seq = segment.seq;
        self.last_end = segment.end();
        self.last_window = segment.window;
        if kind == Kind::Syn && direction == Direction::Original {
            let offer = segment.offer();
            self.syn = offer.flags() | offer.scale().min(15) << SYN_SCALE;
            if was == LastAck {
                self.syn |= MAY_BE_CHALLENGED;
            }
        }
        if was == SynSent && kind == Kind::Ack && direction == Direction::Reply {
            self.last_ack = segment.ack;
        }
        Way::Done(Move::ignored(was as u8))
    }

    /// RFC 5961 §3: the end that gets a reset believes it when it has exactly the next number, and challenges it elsewhere in the
    /// window.
    fn reset(
        &mut self,
        was: TcpState,
        direction: Direction,
        segment: &Segment<'_>,
        status: Status,
        settings: &Settings,
    ) -> Way {
        if was.is_closing() {
            // Ports may be in use again, and what is known be of the connection before.
            return Way::Exempt(Close);
        }
        let other = direction.opposite();
        let is_established = was == Established && status.has(Status::ASSURED);
        let mut is = Close;
        if self.flags[other.index()] & HAS_ACKED != 0 && self.last_kind() != Kind::Syn {
            let expected = self.acked[other.index()];
            if segment.seq == 0 && !is_established {
                // It answers a SYN that was let through.
                return Way::Measured(Close);
            }
            if window::is_before(segment.seq, expected) && settings.tcp_ignore_invalid_rst == 0 {
                return Way::Done(Move::invalid(was as u8, Invalid::Reset));
            }
            let follows_data = self.is_last(Kind::Ack, direction) && segment.seq == self.last_end;
            if !is_established || segment.seq == expected || follows_data {
                return Way::Measured(Close);
            }
            // The receiver may challenge it: the connection stays until that is answered.
            is = was;
        }
        let answers_ignored = match self.last_kind() {
            Kind::Syn => status.has(Status::SEEN_REPLY),
            Kind::Ack => !status.has(Status::ASSURED),
            _ => false,
        };
        let answers_challenge =
            was == SynSent && self.is_last(Kind::Ack, Direction::Reply) && segment.seq == self.last_ack;
        if (answers_ignored && segment.ack == self.last_end) || answers_challenge {
            return Way::Exempt(is);
        }
        Way::Measured(is)
    }

    /// A packet that does not fit. Of ends that close or reset against what is known here, one is right: what waits for them is not
    /// worth days.
    #[cold]
    fn invalid(
        &mut self,
        was: TcpState,
        why: Invalid,
        kind: Kind,
        direction: Direction,
        status: Status,
        left: Timeout,
        settings: &Settings,
    ) -> Move {
        const WORTH_IT: Timeout = Timeout::from_secs(120);
        let mut step = Move::invalid(was as u8, why);
        if status.has(Status::ASSURED) && matches!(kind, Kind::Rst | Kind::Fin) {
            let other = direction.opposite();
            if self.is_last(Kind::Fin, other) || self.is_last(Kind::Rst, other) {
                let unacknowledged = Timeout::from_secs(settings.tcp_unacknowledged);
                step.timeout = (left >= WORTH_IT && left > unacknowledged).then_some(unacknowledged);
            } else {
                self.note(kind, direction);
            }
        }
        step
    }

    /// Seconds in which the next packet must come.
    fn timeout(&self, is: TcpState, kind: Kind, settings: &Settings) -> u32 {
        let ordinary = settings.tcp[is as usize];
        let retrans = settings.tcp_max_retrans_timeout;
        if u32::from(self.repetitions) >= settings.tcp_max_retrans && ordinary > retrans {
            retrans
        } else if kind == Kind::Rst {
            settings.tcp[Close as usize]
        } else if (self.flags[0] | self.flags[1]) & UNACKNOWLEDGED != 0 {
            ordinary.min(settings.tcp_unacknowledged)
        } else if self.last_window == 0 {
            ordinary.min(retrans)
        } else {
            ordinary
        }
    }
}

#[cfg(test)]
mod tests;
