//! Does a segment fit what both ends said that they would send and take?
//!
//! Four bounds, of the data and of what is acknowledged, above and below: I. it begins at most where the receiver's window ends;
//! II. it ends not further back than that window reaches; III. it acknowledges nothing that was not sent; IV. nothing that is long
//! acknowledged. Above is INVALID; below is late or sent again and passes, telling nothing.
//!
//! Source: G. van Rooij, "Real Stateful TCP Packet Filtering in IP Filter", SANE 2000; with segments that only touch the window, scaled
//! windows (RFC 7323) and selective acknowledgements (RFC 2018) as in Linux.

use super::{
    Ends, HAS_ACKED, Kind, LIBERAL, MAY_BE_CHALLENGED, OFFERED, SACKS, SCALES, SYN_SCALE, Segment, SynRecv,
    SynSent, TcpState, UNACKNOWLEDGED, WAY,
};
use crate::conntrack::{Invalid, Settings};
use crate::flow::Direction;
use crate::wire::tcp::{ACK, RST, SYN};

/// How far back an acknowledgement may lie at least: the largest window without scale, and a little.
const OLD_ACK: u32 = 66_000;
/// No window is larger (RFC 7323 §2.3).
const LARGEST: u32 = 1 << 30;

pub(super) enum Fit {
    Fits,
    /// It passes, and the connection is as before.
    Ignored,
    Invalid(Invalid),
}

/// Sequence numbers go round: at most half the circle lies before any (RFC 9293 §3.4).
#[inline]
pub(super) fn is_before(a: u32, b: u32) -> bool {
    a.wrapping_sub(b) > u32::MAX / 2
}

impl Ends {
    /// The first packet: a SYN, or one in the connection's middle.
    pub(super) fn begin(&mut self, segment: &Segment<'_>, is_syn: bool) {
        let (end, window) = (segment.end(), u32::from(segment.window).max(1));
        self.end[0] = end;
        self.window[0] = window;
        if is_syn {
            self.limit[0] = end;
            let offer = segment.offer();
            (self.flags[0], self.scale[0]) = (offer.flags(), offer.scale());
        } else {
            // How its windows are scaled is not known and never will be.
            self.limit[0] = end.wrapping_add(window);
            self.flags = [SACKS | LIBERAL; 2];
        }
    }

    /// An end's own SYN.
    fn opened(&mut self, direction: Direction, segment: &Segment<'_>) {
        let (s, r) = (direction.index(), direction.opposite().index());
        self.end[s] = segment.end();
        self.limit[s] = segment.end();
        self.window[s] = u32::from(segment.window).max(1);
        let offer = segment.offer();
        (self.flags[s], self.scale[s]) = (offer.flags(), offer.scale());
        // RFC 7323 §2.2: both, or none.
        if direction == Direction::Reply && self.flags[s] & self.flags[r] & SCALES == 0 {
            self.scale = [0; 2];
        }
    }

    /// The connection is the one that the SYN which was ignored began: that went `opener`'s way, and this is the answer to it.
    pub(super) fn resume(&mut self, opener: Direction, answer: Direction) {
        let (o, a) = (opener.index(), answer.index());
        self.end[o] = self.last_end;
        self.limit[o] = self.last_end;
        self.window[o] = u32::from(self.last_window).max(1);
        self.scale[o] = self.syn >> SYN_SCALE & 15;
        self.syn &= !MAY_BE_CHALLENGED;
        self.flags[o] = self.syn & OFFERED;
        (self.end[a], self.limit[a], self.window[a], self.acked[a]) = (0, 0, 0, 0);
        self.scale[a] = 0;
        self.flags[a] &= LIBERAL;
    }

    /// Measures a segment, and learns from it when it fits. `state` is that before it.
    pub(super) fn measure(
        &mut self,
        state: TcpState,
        kind: Kind,
        direction: Direction,
        segment: &Segment<'_>,
        settings: &Settings,
    ) -> Fit {
        let (s, r) = (direction.index(), direction.opposite().index());
        if segment.is_fragment {
            // How long it is only its last fragment tells.
            self.flags[0] |= LIBERAL;
            self.flags[1] |= LIBERAL;
        }
        let (mut seq, mut end) = (segment.seq, segment.end());
        let mut ack = segment.ack;
        let mut arrived = if self.flags[r] & SACKS != 0 { segment.highest_arrived(ack) } else { ack };
        if self.window[s] == 0 {
            if segment.has(SYN) {
                self.opened(direction, segment);
                if !segment.has(ACK) {
                    return Fit::Fits;
                }
            } else {
                self.joined(direction, segment, arrived);
            }
        } else if segment.has(SYN) && is_before(self.end[s], end) && matches!(state, SynSent | SynRecv) {
            // It begins once more, with other numbers.
            self.opened(direction, segment);
            if direction == Direction::Reply && !segment.has(ACK) {
                return Fit::Fits;
            }
        }
        if !segment.has(ACK) || (segment.has(RST) && ack == 0) {
            (ack, arrived) = (self.end[r], self.end[r]);
        }
        if segment.has(RST) && seq == 0 && state == SynSent {
            // It answers a SYN, and has no number to say.
            (seq, end) = (self.end[s], self.end[s]);
        }

        let is_liberal = settings.tcp_be_liberal != 0 || self.flags[s] & LIBERAL != 0;
        let oldest = self.end[r].wrapping_sub(self.window[s].max(OLD_ACK));
        let is_ack_sent = !is_before(self.end[r], arrived);
        let is_ack_recent = !is_before(arrived, oldest);
        let is_in_window = !is_before(end, self.end[s].wrapping_sub(self.window[r]));
        if is_before(self.limit[s], seq) {
            let beyond = end.wrapping_sub(self.limit[s]).wrapping_add(1);
            if self.window[r] > 0 && is_in_window && is_ack_sent && is_ack_recent && beyond <= self.window[r]
            {
                // More than it was let, but that may well be acknowledged.
                self.end[s] = end;
                self.flags[s] |= UNACKNOWLEDGED;
                return if is_liberal { Fit::Fits } else { Fit::Ignored };
            }
            return refused(is_liberal, Invalid::SequenceAbove);
        }
        if !is_ack_sent {
            return refused(is_liberal, Invalid::AcknowledgementAbove);
        }
        if (self.window[r] > 0 && !is_in_window) || !is_ack_recent {
            return if is_liberal { Fit::Fits } else { Fit::Ignored };
        }
        self.learn(direction, segment, ack, arrived, end);
        if kind == Kind::Ack {
            self.count_repetitions(direction, segment, seq, ack, end);
        }
        Fit::Fits
    }

    /// The first packet of an end whose beginning was not seen.
    #[cold]
    fn joined(&mut self, direction: Direction, segment: &Segment<'_>, arrived: u32) {
        let (s, r) = (direction.index(), direction.opposite().index());
        self.end[s] = segment.end();
        self.window[s] = self.scaled(s, segment).max(1);
        self.limit[s] = self.end[s].wrapping_add(self.window[s]);
        if self.window[r] == 0 {
            (self.end[r], self.limit[r]) = (arrived, arrived);
        } else if arrived == self.end[r].wrapping_add(1) {
            // It answers a keep-alive probe, whose number is one that was acknowledged already.
            self.end[r] = arrived;
        }
    }

    /// The window that a segment offers. A SYN's is never scaled (RFC 7323 §2.2).
    fn scaled(&self, s: usize, segment: &Segment<'_>) -> u32 {
        let shift = if segment.has(SYN) { 0 } else { u32::from(self.scale[s] & 15) };
        u32::from(segment.window) << shift
    }

    /// What a segment that fits says of its sender, and allows the receiver.
    #[inline]
    fn learn(&mut self, direction: Direction, segment: &Segment<'_>, ack: u32, arrived: u32, end: u32) {
        let (s, r) = (direction.index(), direction.opposite().index());
        let window = self.scaled(s, segment);
        let reach = window.saturating_add(arrived.wrapping_sub(ack)).min(LARGEST);
        self.window[s] = self.window[s].max(reach);
        if is_before(self.end[s], end) {
            self.end[s] = end;
            self.flags[s] |= UNACKNOWLEDGED;
        }
        if segment.has(ACK) && (self.flags[s] & HAS_ACKED == 0 || is_before(self.acked[s], ack)) {
            self.acked[s] = ack;
            self.flags[s] |= HAS_ACKED;
        }
        if self.window[r] > 0 && is_before(self.limit[s], end) {
            let beyond = end.wrapping_sub(self.limit[s]);
            self.window[r] = self.window[r].saturating_add(beyond).min(LARGEST);
        }
        let limit = arrived.wrapping_add(window);
        if !is_before(limit, self.limit[r]) {
            // A probe of a closed window has one byte.
            self.limit[r] = limit.wrapping_add(u32::from(window == 0));
        }
        if ack == self.end[r] {
            self.flags[r] &= !UNACKNOWLEDGED;
        }
    }

    fn count_repetitions(
        &mut self,
        direction: Direction,
        segment: &Segment<'_>,
        seq: u32,
        ack: u32,
        end: u32,
    ) {
        let is_same = self.last >> WAY == direction as u8
            && (self.last_seq, self.last_ack, self.last_end) == (seq, ack, end)
            && self.last_window == segment.window;
        if is_same {
            self.repetitions = self.repetitions.saturating_add(1);
        } else {
            (self.last_seq, self.last_ack, self.last_end) = (seq, ack, end);
            self.last_window = segment.window;
            self.repetitions = 0;
        }
    }
}

fn refused(is_liberal: bool, why: Invalid) -> Fit {
    if is_liberal { Fit::Fits } else { Fit::Invalid(why) }
}
