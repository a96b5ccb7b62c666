//! SCTP: states by the chunks of both ends, and the verification tags that tell associations apart.
//!
//! Source of the facts: Linux, `net/netfilter/nf_conntrack_proto_sctp.c`; RFC 9260 §8.4, §8.5.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, transmute_mut};

use super::tracked::PRIVATE;
use super::{Invalid, Move, Settings, Status, Tracked};
use crate::flow::Direction;
use crate::wire::parse::Headers;
use crate::wire::sctp::{
    ABORT, CHUNK, COOKIE_ACK, COOKIE_ECHO, ERROR, INIT, INIT_ACK, LEN, SHUTDOWN, SHUTDOWN_ACK,
    SHUTDOWN_COMPLETE,
};
use crate::wire::{array, be16};

const DATA: u8 = 0;
const HEARTBEAT: u8 = 4;
const HEARTBEAT_ACK: u8 = 5;

/// The state of an SCTP connection.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[repr(u8)]
pub enum SctpState {
    /// No packet seen yet.
    #[default]
    None,
    /// Over; or an INIT that nothing answers.
    Closed,
    /// INIT ACK.
    CookieWait,
    CookieEchoed,
    Established,
    /// The client's SHUTDOWN.
    ShutdownSent,
    /// The server's SHUTDOWN.
    ShutdownReceived,
    ShutdownAckSent,
    /// A HEARTBEAT on a path that had no packet before.
    HeartbeatSent,
}

use SctpState::{
    Closed, CookieEchoed, CookieWait, Established, HeartbeatSent, None as New, ShutdownAckSent,
    ShutdownReceived, ShutdownSent,
};

impl SctpState {
    pub const ALL: [SctpState; 9] = [
        New,
        Closed,
        CookieWait,
        CookieEchoed,
        Established,
        ShutdownSent,
        ShutdownReceived,
        ShutdownAckSent,
        HeartbeatSent,
    ];

    /// From memory that may hold anything: what is no state is `Closed`.
    #[inline]
    pub const fn from_u8(value: u8) -> SctpState {
        if (value as usize) < Self::ALL.len() { Self::ALL[value as usize] } else { Closed }
    }

    /// As `conntrack -L` prints it.
    pub const fn name(self) -> &'static str {
        match self {
            New => "NONE",
            Closed => "CLOSED",
            CookieWait => "COOKIE_WAIT",
            CookieEchoed => "COOKIE_ECHOED",
            Established => "ESTABLISHED",
            ShutdownSent => "SHUTDOWN_SENT",
            ShutdownReceived => "SHUTDOWN_RECD",
            ShutdownAckSent => "SHUTDOWN_ACK_SENT",
            HeartbeatSent => "HEARTBEAT_SENT",
        }
    }

    /// An end is shutting down.
    pub const fn is_closing(self) -> bool {
        matches!(self, ShutdownSent | ShutdownReceived | ShutdownAckSent)
    }

    /// `None`: the chunk cannot come. Chunks of other types, and states that a chunk leads nowhere from, stay.
    fn next(self, direction: Direction, chunk: u8) -> Option<SctpState> {
        let is_original = direction == Direction::Original;
        if !is_original && matches!(self, New | HeartbeatSent) {
            return match (self, chunk) {
                (HeartbeatSent, HEARTBEAT) => Some(HeartbeatSent),
                (HeartbeatSent, HEARTBEAT_ACK) => Some(Established),
                (_, INIT..=INIT_ACK | HEARTBEAT..=COOKIE_ACK | SHUTDOWN_COMPLETE) => None,
                _ => Some(self),
            };
        }
        let rows = if is_original { ORIGINAL } else { REPLY };
        let found = rows.iter().find(|(of, from, _)| *of == chunk && from.contains(&self));
        Some(found.map_or(self, |&(_, _, to)| to))
    }
}

/// From which states a chunk leads to another one.
type Row = (u8, &'static [SctpState], SctpState);

const ORIGINAL: &[Row] = &[
    (INIT, &[New, ShutdownSent, ShutdownReceived], Closed),
    (INIT, &[HeartbeatSent], CookieWait),
    (INIT_ACK, &[New, HeartbeatSent], Closed),
    (ABORT, &SctpState::ALL, Closed),
    (SHUTDOWN, &[New, HeartbeatSent], Closed),
    (SHUTDOWN, &[Established], ShutdownSent),
    (SHUTDOWN_ACK, &[New, ShutdownSent, ShutdownReceived, HeartbeatSent], ShutdownAckSent),
    (ERROR, &[New, HeartbeatSent], Closed),
    (COOKIE_ECHO, &[New, HeartbeatSent], Closed),
    (COOKIE_ECHO, &[CookieWait], CookieEchoed),
    (COOKIE_ACK, &[New, HeartbeatSent], Closed),
    (COOKIE_ACK, &[CookieEchoed], Established),
    (SHUTDOWN_COMPLETE, &[New, ShutdownAckSent, HeartbeatSent], Closed),
    (HEARTBEAT, &[New], HeartbeatSent),
    (HEARTBEAT_ACK, &[New], Closed),
];

const REPLY: &[Row] = &[
    (INIT_ACK, &[Closed], CookieWait),
    (ABORT, &SctpState::ALL, Closed),
    (SHUTDOWN, &[Established], ShutdownReceived),
    (SHUTDOWN_ACK, &[ShutdownSent, ShutdownReceived], ShutdownAckSent),
    (ERROR, &[CookieEchoed], Closed),
    (COOKIE_ECHO, &[CookieWait], CookieEchoed),
    (COOKIE_ACK, &[CookieEchoed], Established),
    (SHUTDOWN_COMPLETE, &[ShutdownAckSent], Closed),
];

/// Chunks of a packet that are looked at: real ones have a few, and those that matter stand at their beginning.
const MAX_CHUNKS: usize = 32;

/// A packet, chunk by chunk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Chunks<'a> {
    /// The verification tag.
    tag: u32,
    chunks: &'a [u8],
}

#[derive(Clone, Copy)]
struct Chunk<'a> {
    kind: u8,
    flags: u8,
    value: &'a [u8],
}

impl Chunk<'_> {
    /// The tag that the sender of an INIT or INIT ACK wants to be written to with.
    fn initiate_tag(&self) -> Option<u32> {
        array(self.value, 0).copied().map(u32::from_be_bytes)
    }
}

impl<'a> Chunks<'a> {
    /// # Errors
    /// It is not in `frame`, has no chunk, or chunks that may not stand where they do.
    pub fn read(frame: &'a [u8], headers: &Headers) -> Result<Chunks<'a>, Invalid> {
        let packet = frame.get(..headers.end()).unwrap_or(frame);
        let at = usize::from(headers.l4);
        let tag = array(packet, at + 4).copied().map(u32::from_be_bytes).ok_or(Invalid::Malformed)?;
        let chunks = packet.get(at + LEN..).ok_or(Invalid::Malformed)?;
        let read = Chunks { tag, chunks };
        let mut is_alone = false;
        let mut count = 0;
        for chunk in read.iter() {
            // RFC 9260 §6.10: these go alone.
            is_alone |= matches!(chunk.kind, INIT | INIT_ACK | SHUTDOWN_COMPLETE);
            let is_first = is_alone || matches!(chunk.kind, COOKIE_ECHO | COOKIE_ACK);
            if is_first && count > 0 {
                return Err(Invalid::Malformed);
            }
            count += 1;
        }
        if count == 0 { Err(Invalid::Malformed) } else { Ok(read) }
    }

    fn iter(&self) -> impl Iterator<Item = Chunk<'a>> + use<'a> {
        let mut rest = self.chunks;
        let chunks = std::iter::from_fn(move || {
            let &[kind, flags, high, low]: &[u8; CHUNK] = array(rest, 0)?;
            let len = usize::from(be16(high, low));
            let value = rest.get(CHUNK..len.min(rest.len()))?;
            rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
            Some(Chunk { kind, flags, value })
        });
        chunks.take(MAX_CHUNKS)
    }

    fn has(&self, kinds: &[u8]) -> bool {
        self.iter().any(|chunk| kinds.contains(&chunk.kind))
    }
}

/// What is known of both ends.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Association {
    /// Tags of packets, by direction; 0: not known.
    tags: [u32; 2],
    /// An end sent an INIT, and no cookie was acknowledged since.
    has_init: [u8; 2],
    /// A HEARTBEAT came with another tag: the path may belong to another association by now.
    is_doubted: u8,
    /// Which way that went.
    doubted: u8,
    unused: [u32; PRIVATE - 3],
}

impl Association {
    fn is_of(&self, chunk: Chunk<'_>, tag: u32, direction: Direction) -> bool {
        /// The sender has no tag of its own, and reflects that of the packet which it answers.
        const REFLECTED: u8 = 1;
        let of = if chunk.flags & REFLECTED == 0 { direction } else { direction.opposite() };
        tag == self.tags[of.index()]
    }

    /// A HEARTBEAT or its acknowledgement. `Ok(true)`: nothing may follow from it.
    fn heartbeat(
        &mut self,
        chunk: Chunk<'_>,
        tag: u32,
        direction: Direction,
        is_alone: bool,
    ) -> Result<bool, Invalid> {
        let (s, r) = (direction.index(), direction.opposite().index());
        if self.tags[s] == 0 {
            self.tags[s] = tag;
        } else if tag == self.tags[s] {
            self.is_doubted = 0;
        } else if !is_alone {
            return Err(Invalid::Tag);
        } else if chunk.kind == HEARTBEAT {
            (self.is_doubted, self.doubted) = (1, direction as u8);
            return Ok(true);
        } else if self.is_doubted == 0 || usize::from(self.doubted) == s {
            return Err(Invalid::Tag);
        } else {
            self.is_doubted = 0;
            (self.tags[s], self.tags[r]) = (tag, 0);
        }
        Ok(false)
    }

    /// The tags that an INIT or INIT ACK brings.
    fn initiate(&mut self, chunk: Chunk<'_>, direction: Direction) -> Result<(), Invalid> {
        let (s, r) = (direction.index(), direction.opposite().index());
        let tag = chunk.initiate_tag().ok_or(Invalid::Malformed)?;
        let [own, other] = [self.has_init[s] != 0, self.has_init[r] != 0];
        if chunk.kind == INIT {
            if own && other {
                self.has_init[r] = 0;
            }
            self.has_init[s] = 1;
        } else {
            let is_other = tag != self.tags[r];
            let is_answer_to_none = !other && self.tags[r] != 0;
            let have_both_begun = own && other;
            if is_other && (is_answer_to_none || have_both_begun) {
                return Err(Invalid::Tag);
            }
        }
        self.tags[r] = tag;
        Ok(())
    }
}

pub(super) fn begin(
    tracked: &mut Tracked,
    packet: &Chunks<'_>,
    settings: &Settings,
) -> Result<Move, Invalid> {
    // RFC 9260 §8.4: out of the blue, these are discarded.
    if packet.has(&[ABORT, SHUTDOWN_COMPLETE, COOKIE_ACK]) {
        return Err(Invalid::CannotBegin);
    }
    let association: &mut Association = transmute_mut!(&mut tracked.private);
    for chunk in packet.iter() {
        if matches!(New.next(Direction::Original, chunk.kind), None | Some(New)) {
            return Err(Invalid::CannotBegin);
        }
        match chunk.kind {
            INIT if packet.tag != 0 => return Err(Invalid::Tag),
            INIT => association.tags[1] = chunk.initiate_tag().ok_or(Invalid::Malformed)?,
            HEARTBEAT => association.tags[0] = packet.tag,
            _ => association.tags[1] = packet.tag,
        }
    }
    Ok(advance(tracked, New as u8, Direction::Original, packet, settings))
}

pub(super) fn create(tracked: &mut Tracked, tags: [u32; 2]) {
    let association: &mut Association = transmute_mut!(&mut tracked.private);
    association.tags = tags;
}

pub(super) fn advance(
    tracked: &mut Tracked,
    state: u8,
    direction: Direction,
    packet: &Chunks<'_>,
    settings: &Settings,
) -> Move {
    let association: &mut Association = transmute_mut!(&mut tracked.private);
    match follow(association, SctpState::from_u8(state), direction, packet) {
        Err(why) => Move::invalid(state, why),
        Ok((is, is_ignored)) => {
            if is == Established && state != Established as u8 {
                tracked.status.set(Status::ASSURED);
            }
            let step = Move::to(is as u8, settings.sctp[is as usize]);
            if is_ignored { Move::ignored(is as u8) } else { step }
        }
    }
}

/// The state after a packet, and whether it prolongs nothing.
fn follow(
    association: &mut Association,
    mut state: SctpState,
    direction: Direction,
    packet: &Chunks<'_>,
) -> Result<(SctpState, bool), Invalid> {
    const SPECIAL: [u8; 7] =
        [INIT, SHUTDOWN_COMPLETE, COOKIE_ECHO, ABORT, SHUTDOWN_ACK, HEARTBEAT, HEARTBEAT_ACK];
    let own = direction.index();
    if packet.tag != association.tags[own] && !packet.has(&SPECIAL) {
        return Err(Invalid::Tag);
    }
    let mut is_ignored = false;
    for chunk in packet.iter() {
        match chunk.kind {
            INIT if packet.tag != 0 => return Err(Invalid::Tag),
            ABORT | SHUTDOWN_COMPLETE if !association.is_of(chunk, packet.tag, direction) => {
                return Err(Invalid::Tag);
            }
            COOKIE_ECHO if packet.tag != association.tags[own] => return Err(Invalid::Tag),
            COOKIE_ACK => association.has_init = [0; 2],
            HEARTBEAT | HEARTBEAT_ACK => {
                let is_alone = !is_ignored && !packet.has(&[DATA]);
                if association.heartbeat(chunk, packet.tag, direction, is_alone)? {
                    is_ignored = true;
                    continue;
                }
            }
            _ => {}
        }
        let was = state;
        state = was.next(direction, chunk.kind).ok_or(Invalid::State)?;
        if matches!(chunk.kind, INIT | INIT_ACK) {
            association.initiate(chunk, direction)?;
            is_ignored |= chunk.kind == INIT && (was, state) == (Closed, Closed);
        }
    }
    Ok((state, is_ignored))
}
