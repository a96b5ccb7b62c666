//! What is kept of a connection into whose streams bytes are put, or that was opened twice, with the client and for it: how far its
//! sequence numbers are apart on both sides.
//!
//! A connection has one [`Edit`], in a pool that is a fifth of the table's size, and says so by a bit of its entry. All others
//! pay nothing for it: the bit is one of those that [`Entry::is_plain`](super::Entry::is_plain) looks at.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, transmute_mut};

use super::tuple::Direction;
use crate::wire::ftp_families::Asked;
use crate::wire::tcp_options::TcpOptions;

/// What is done to a connection's packets, as bits of [`Edit::wants`].
pub const PROXY_V1: u8 = 1;
pub const PROXY_V2: u8 = 2;
pub const PROXY: u8 = PROXY_V1 | PROXY_V2;
/// The client's address as a TCP option, until the real server has answered.
pub const TOA: u8 = 4;
/// An FTP control connection.
pub const FTP: u8 = 8;
/// The client was answered with a SYN cookie.
pub const PROXIED: u8 = 16;
/// A connection of SIP.
pub const SIP: u8 = 32;

/// A connection's edits.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub struct Edit {
    /// Whose it is; [`Edit::NOBODY`] of a free place.
    pub(super) flow: u32,
    /// Where the connection's persistence template is; of a free place, the next free one.
    pub(super) more: u32,
    pub wants: u8,
    /// [`Edit::BEGUN`], [`Edit::SENT`], [`Edit::OPEN`], and above them what a client of FTP has [asked for](Edit::asked).
    pub(super) stage: u8,
    /// By direction: windows are shifted to the left by so much, or to the right.
    pub(super) scales: [i8; 2],
    pub(super) shifts: [Shift; 2],
    pub proxied: Proxied,
    /// The helper's. Of FTP by direction, of a tracked connection: the port that was put in last; of a virtual service's, a client's local one, a real server's is
    /// its own. Of SIP by TCP [`Calls`].
    pub(super) kept: [u32; 2],
}

/// What SIP's helper remembers of a connection: the numbers of the last requests of their kinds that it did something for.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Calls {
    pub invite: u32,
    pub register: u32,
}

/// What is kept of a connection whose client was answered with a SYN cookie.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub struct Proxied {
    /// The cookie: the first number of what the client takes for the server's.
    pub isn: u32,
    /// Until the server has answered, what the client saw last of our clock; then, how far the server's is ahead of that.
    pub clock: u32,
    /// The client's, as it said it when it acknowledged the cookie.
    pub window: u16,
    /// Shifts of windows that the client asked for and was told; [`Proxied::NO_SCALE`]: none.
    pub scales: [u8; 2],
}

impl Proxied {
    pub const NO_SCALE: u8 = u8::MAX;
}

impl Edit {
    /// Of one in a message.
    pub const BYTES: usize = 4 + 2 * Shift::BYTES + 12;
    pub(super) const NOBODY: u32 = u32::MAX;
    /// The number is known that the server waits for first.
    const BEGUN: u8 = 1;
    const SENT: u8 = 2;
    /// Of a connection that is [`PROXIED`]: the server has answered.
    const OPEN: u8 = 4;
    const ASKED_AT: u32 = 3;
    const ASKED: u8 = 7 << Self::ASKED_AT;

    pub fn new(wants: u8) -> Edit {
        Edit { wants, ..Edit::default() }
    }

    /// Of a connection whose client was answered with a SYN cookie, and whose data begins at `start`.
    pub fn proxied(wants: u8, proxied: Proxied, start: u32) -> Edit {
        let mut edit = Edit { proxied, ..Edit::new(wants | PROXIED) };
        edit.begin(start, 0);
        edit
    }

    /// Of the packets that go this way.
    pub fn shift(&self, direction: Direction) -> &Shift {
        &self.shifts[direction.index()]
    }

    pub fn shift_mut(&mut self, direction: Direction) -> &mut Shift {
        &mut self.shifts[direction.index()]
    }

    /// The port that stands in the last edit of the packets that go this way.
    pub fn port(&self, direction: Direction) -> u16 {
        self.kept[direction.index()] as u16
    }

    pub fn set_port(&mut self, direction: Direction, port: u16) {
        self.kept[direction.index()] = port.into();
    }

    /// Of a connection of SIP by TCP.
    pub fn calls(&mut self) -> &mut Calls {
        transmute_mut!(&mut self.kept)
    }

    /// What the client of an FTP control connection into the other address family has asked for last.
    pub fn asked(&self) -> Asked {
        Asked::of_bits((self.stage & Self::ASKED) >> Self::ASKED_AT)
    }

    pub fn set_asked(&mut self, asked: Asked) {
        self.stage = self.stage & !Self::ASKED | asked.bits() << Self::ASKED_AT;
    }

    /// The client's data begins at `start`: there `put` bytes are to come first.
    pub fn begin(&mut self, start: u32, put: u8) {
        self.stage = Self::BEGUN;
        self.shifts = [Shift { at: start, put: put.into(), ..Shift::default() }, Shift::default()];
    }

    /// The server has answered the client's SYN by its own, `isn`, and waits for `start`: there `put` bytes are to come first.
    pub fn answered(&mut self, start: u32, put: u8, isn: u32) {
        self.begin(start, put);
        self.shifts[Direction::Reply.index()].at = isn;
    }

    /// Whether it was begun by such an answer of the server's.
    pub fn is_answered_by(&self, start: u32, isn: u32) -> bool {
        let [from, back] = &self.shifts;
        self.has_begun() && (from.at, back.at) == (start, isn)
    }

    /// The client has sent another SYN: what the server waits for its answer will say.
    pub fn forget(&mut self) {
        (self.stage, self.shifts) = (0, Default::default());
    }

    pub fn has_begun(&self) -> bool {
        self.stage & Self::BEGUN != 0
    }

    /// What is put in front of the stream was sent once at least.
    pub fn is_sent(&self) -> bool {
        self.stage & Self::SENT != 0
    }

    pub fn note_sent(&mut self) {
        self.stage |= Self::SENT;
    }

    pub fn is_proxied(&self) -> bool {
        self.wants & PROXIED != 0
    }

    /// Whether both ends of a connection that is proxied are in step.
    pub fn is_open(&self) -> bool {
        self.stage & Self::OPEN != 0
    }

    /// The server's answer to our SYN came, which begins with `seq`: its clock says so much, and windows are shifted so from here on.
    pub fn open(&mut self, seq: u32, clock: Option<u32>, scales: [i8; 2]) {
        self.stage |= Self::OPEN;
        self.scales = scales;
        self.shifts[Direction::Reply.index()] =
            Shift { at: seq, before: self.proxied.isn.wrapping_sub(seq), ..Shift::default() };
        self.proxied.clock = clock.map_or(0, |clock| clock.wrapping_sub(self.proxied.clock));
    }

    /// What windows of packets that go this way are shifted by.
    pub fn scale(&self, direction: Direction) -> i8 {
        self.scales[direction.index()]
    }

    /// From memory that may hold anything.
    pub(super) fn is_sound(&self) -> bool {
        self.wants & !(PROXY | TOA | FTP | PROXIED | SIP) == 0
            && self.wants != 0
            && self.wants & PROXY != PROXY
    }

    /// As another director is told of it: whose it is here, and what has gone on by here, is nothing to it, and what a client waits for it asks for again.
    #[must_use]
    pub(crate) fn told(&self) -> Edit {
        let shifts = self.shifts.map(|shift| Shift { passed: 0, ..shift });
        Edit { flow: 0, more: 0, stage: self.stage & !Self::ASKED, shifts, ..*self }
    }

    /// Another director's knowledge of the connection takes the place of ours.
    pub(crate) fn replace(&mut self, told: &Edit) {
        *self = Edit { flow: self.flow, more: self.more, ..*told };
    }

    /// For a message between directors; numbers are big-endian.
    pub fn to_bytes(&self) -> [u8; Edit::BYTES] {
        let Proxied { isn, clock, window, scales: [asked, told] } = self.proxied;
        let [from_client, from_server] = self.scales.map(|scale| scale as u8);
        let mut bytes = [0; Edit::BYTES];
        bytes[..4].copy_from_slice(&[self.wants, self.stage, from_client, from_server]);
        let (shifts, rest) = bytes[4..].split_at_mut(2 * Shift::BYTES);
        for (shift, bytes) in self.shifts.iter().zip(shifts.as_chunks_mut().0) {
            *bytes = shift.to_bytes();
        }
        rest[..4].copy_from_slice(&isn.to_be_bytes());
        rest[4..8].copy_from_slice(&clock.to_be_bytes());
        rest[8..10].copy_from_slice(&window.to_be_bytes());
        rest[10..].copy_from_slice(&[asked, told]);
        bytes
    }

    /// The way back. `None`: there is no such edit, or of a connection that was not opened on both sides, of which nobody tells.
    pub fn from_bytes(bytes: &[u8; Edit::BYTES]) -> Option<Edit> {
        let (&[wants, stage, from_client, from_server], rest) = bytes.split_first_chunk()?;
        let (shifts, rest) = rest.split_at_checked(2 * Shift::BYTES)?;
        let ([from, back], []) = shifts.as_chunks() else { return None };
        let &[i0, i1, i2, i3, c0, c1, c2, c3, w0, w1, asked, told] = rest else { return None };
        let edit = Edit {
            wants,
            stage,
            scales: [from_client as i8, from_server as i8],
            shifts: [Shift::from_bytes(from)?, Shift::from_bytes(back)?],
            proxied: Proxied {
                isn: u32::from_be_bytes([i0, i1, i2, i3]),
                clock: u32::from_be_bytes([c0, c1, c2, c3]),
                window: u16::from_be_bytes([w0, w1]),
                scales: [asked, told],
            },
            ..Edit::default()
        };
        let is_scale = |scale: u8| scale == Proxied::NO_SCALE || scale <= TcpOptions::MAX_SCALE;
        let is_known = edit.is_sound()
            && wants & SIP == 0
            && stage & !(Self::BEGUN | Self::SENT | Self::OPEN) == 0
            && edit.is_open() == edit.is_proxied()
            && edit.scales.iter().all(|scale| scale.unsigned_abs() <= TcpOptions::MAX_SCALE)
            && edit.proxied.scales.into_iter().all(is_scale);
        is_known.then_some(edit)
    }

    /// Of an FTP control connection that the kernel's helper has edited: how it moves both sides' sequence numbers, in
    /// [its words](Shift::sequence). `None`: by more than one edit can.
    pub fn of_kernels_ftp(sequences: [[u32; 3]; 2]) -> Option<Edit> {
        let [from, back] = sequences.map(Shift::of_sequence);
        Some(Edit { stage: Self::BEGUN, shifts: [from?, back?], ..Edit::new(FTP) })
    }
}

/// The stream of one direction: where it was edited last, and by how much what follows is moved.
///
/// As netfilter's seqadj knows it, an offset before and one after a place. An edit is begun only when the one before it is
/// acknowledged (see [`Shift::may_follow`]): so all that is still under way is told by two offsets.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub struct Shift {
    /// The sender's sequence number where the edit is.
    at: u32,
    /// What is added to the sequence numbers up to there.
    before: u32,
    /// Behind the last of the sender's bytes that went on; 0: it is not known.
    passed: u32,
    /// Bytes that were taken out at `at`, and those put in: a PROXY header has 107 at most, an address in FTP's words 45, SIP's messages [`Shift::MOST`].
    taken: u16,
    /// With [`Shift::ACKED`]: the receiver has all of the edit.
    put: u16,
}

/// Where a segment lies that is to be sent on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Overlap {
    /// Has nothing of the last edit's bytes, or nothing was taken out.
    None,
    /// Has all of them, from this offset of its data on.
    Whole { at: usize, len: usize },
    /// Has some of them, which cannot be exchanged one by one.
    Part,
}

impl Shift {
    /// Of one in a message: none that is told of takes out, or puts in, more than 255 bytes.
    const BYTES: usize = 11;
    const ACKED: u16 = 1 << 15;
    /// Most bytes that are exchanged.
    pub const MOST: usize = Shift::ACKED as usize - 1;

    fn to_bytes(self) -> [u8; Shift::BYTES] {
        let ([a, b, c, d], [e, f, g, h]) = (self.at.to_be_bytes(), self.before.to_be_bytes());
        [a, b, c, d, e, f, g, h, self.taken as u8, self.put() as u8, self.is_acked().into()]
    }

    fn from_bytes(&[a, b, c, d, e, f, g, h, taken, put, acked]: &[u8; Shift::BYTES]) -> Option<Shift> {
        let (at, before) = (u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h]));
        let put = u16::from(put) | if acked == 1 { Shift::ACKED } else { 0 };
        (acked <= 1).then_some(Shift { at, before, passed: 0, taken: taken.into(), put })
    }

    /// As the kernel's IPVS keeps it (`struct ip_vs_seq`): the last number that is moved as before the edit, by how much those behind it are moved,
    /// and by how much those up to it.
    pub fn sequence(&self) -> [u32; 3] {
        let last = if self.taken == 0 { self.at.wrapping_sub(1) } else { self.at };
        [last, self.after(), self.before]
    }

    /// The way back: how much was put in and how much taken out is not known, but for the difference. `None`: it is not of one edit.
    fn of_sequence([last, after, before]: [u32; 3]) -> Option<Shift> {
        let more = after.wrapping_sub(before) as i32;
        let len = u8::try_from(more.unsigned_abs()).ok()?.into();
        let (at, put, taken) = if more < 0 { (last, 0, len) } else { (last.wrapping_add(1), len, 0) };
        Some(Shift { at, before, passed: 0, taken, put: put | Shift::ACKED })
    }

    pub fn at(&self) -> u32 {
        self.at
    }

    pub fn put(&self) -> u16 {
        self.put & !Shift::ACKED
    }

    /// Nothing was taken out there: something stands before what came.
    pub fn is_insertion(&self) -> bool {
        self.taken == 0
    }

    pub fn is_acked(&self) -> bool {
        self.put & Shift::ACKED != 0
    }

    /// These bytes of the sender's go on.
    pub fn note_passed(&mut self, seq: u32, len: usize) {
        let end = seq.wrapping_add(len as u32).max(1);
        if len > 0 && (self.passed == 0 || is_less(self.passed, end)) {
            self.passed = end;
        }
    }

    /// Whether bytes from this one on have gone on: others of another length can take their place no more.
    pub fn has_passed(&self, seq: u32) -> bool {
        self.passed != 0 && is_less(seq, self.passed)
    }

    /// Whether the receiver can acknowledge so much of a stream that nothing was exchanged in: the sender's SYN, at `at`, and what has gone on since.
    pub fn may_be_acked(&self, ack: u32) -> bool {
        let first = self.at.wrapping_add(1);
        let last = if self.passed == 0 { first } else { self.passed };
        !is_less(ack, first) && !is_less(last, ack)
    }

    /// What is added to the sequence numbers behind the edit.
    pub fn after(&self) -> u32 {
        self.before.wrapping_add(self.put().into()).wrapping_sub(self.taken.into())
    }

    /// The number of a byte on the receiver's side. One that is put before all that was there is not meant.
    pub fn onward(&self, seq: u32) -> u32 {
        let is_before = if self.taken == 0 { is_less(seq, self.at) } else { !is_less(self.at, seq) };
        seq.wrapping_add(if is_before { self.before } else { self.after() })
    }

    /// What the receiver acknowledges, on the sender's side: nothing of the edit while it has not all of it.
    pub fn back(&self, ack: u32) -> u32 {
        let begins = self.at.wrapping_add(self.before);
        if !is_less(begins, ack) {
            ack.wrapping_sub(self.before)
        } else if self.put() > 0 && is_less(ack, begins.wrapping_add(self.put().into())) {
            self.at
        } else {
            ack.wrapping_sub(self.after())
        }
    }

    /// Takes note of what the receiver acknowledges (its own number). Returns whether the edit was acknowledged by it.
    pub fn note_ack(&mut self, ack: u32) -> bool {
        let ends = self.at.wrapping_add(self.before).wrapping_add(self.put().into());
        let is_now = !self.is_acked() && self.put | self.taken != 0 && !is_less(ack, ends);
        self.put |= if is_now { Shift::ACKED } else { 0 };
        is_now
    }

    /// Where the last edit lies in a segment of `len` bytes of data from `seq` on.
    pub fn overlap(&self, seq: u32, len: usize) -> Overlap {
        let taken = usize::from(self.taken);
        let to_edit = self.at.wrapping_sub(seq) as i32 as i64;
        if taken == 0 || len == 0 || to_edit >= len as i64 || to_edit + taken as i64 <= 0 {
            Overlap::None
        } else if to_edit >= 0 && to_edit as usize + taken <= len {
            Overlap::Whole { at: to_edit as usize, len: taken }
        } else {
            Overlap::Part
        }
    }

    /// Whether there may be another edit at `seq`, or it is the one that there is, come again.
    pub fn may_follow(&self, seq: u32) -> bool {
        self.put() == self.taken || self.is_acked() || !is_less(self.at, seq)
    }

    /// At `at` of the sender's stream `taken` bytes became `put` others, [`Shift::MOST`] at most. One that came again changes nothing.
    pub fn follow(&mut self, at: u32, taken: usize, put: usize) {
        debug_assert!(taken.max(put) <= Shift::MOST);
        if self.put() == self.taken && self.before == 0 || is_less(self.at, at) {
            let (taken, put) = (taken as u16, put as u16 & !Shift::ACKED);
            *self = Shift { at, before: self.after(), passed: self.passed, taken, put };
        }
    }
}

/// `a < b` of sequence numbers (RFC 9293 §3.4).
pub fn is_less(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) < 0
}

/// What a later process relies on, in words.
#[cfg(test)]
pub(super) fn layout() -> String {
    use std::mem::offset_of;

    format!(
        "edit of {}: flow at {}, wants at {} (PROXY: {PROXY_V1}, {PROXY_V2}, TOA: {TOA}, FTP: {FTP}, proxied: {PROXIED}, SIP: {SIP}), stage at {}, scales at {}, shifts at {}, proxied at {}, kept at {}\n\
         shift of {}: at at {}, before at {}, passed at {}, taken at {}, put at {} (acked: {})",
        size_of::<Edit>(),
        offset_of!(Edit, flow),
        offset_of!(Edit, wants),
        offset_of!(Edit, stage),
        offset_of!(Edit, scales),
        offset_of!(Edit, shifts),
        offset_of!(Edit, proxied),
        offset_of!(Edit, kept),
        size_of::<Shift>(),
        offset_of!(Shift, at),
        offset_of!(Shift, before),
        offset_of!(Shift, passed),
        offset_of!(Shift, taken),
        offset_of!(Shift, put),
        Shift::ACKED,
    )
}
