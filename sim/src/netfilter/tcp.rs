//! What conntrack must say of TCP segments: the state that flags lead to, and whether numbers fit what both ends said that they would send and take.
//!
//! Written from what is published, not from `lb-core`: the windows are those of G. van Rooij, "Real Stateful TCP Packet Filtering in IP Filter"
//! (SANE 2000); states, what is let be, and resets are as Linux has them (6.x). Timeouts are not here: in these worlds all are the same.

use super::segment::{Kind, Segment};
use crate::wire::{ACK, RST, SYN};

/// An acknowledgement of what is not further back is never too old.
const OLD: u32 = 66_000;
/// No window is larger (RFC 7323, section 2.3), whatever ends say.
const LARGEST: u32 = 1 << 30;

/// The sysctls.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ways {
    /// A segment that is no SYN may begin a connection.
    pub(super) is_loose: bool,
    /// What does not fit the windows passes all the same.
    pub(super) is_liberal: bool,
    /// No reset is wrong by its number.
    pub(super) believes_resets: bool,
}

/// What becomes of a segment of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Said {
    Fits,
    /// It passes, and is not counted.
    LetBe,
    /// It is no part of the connection.
    Invalid,
    /// The connection is over: it may begin another one.
    Anew,
    /// It passes, and the connection is over.
    Ends,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Nothing,
    SynSent,
    BothSent,
    SynReceived,
    Established,
    FinWait,
    CloseWait,
    LastAck,
    TimeWait,
    Closed,
}

enum Leads {
    To(State),
    /// One of the ends may know better.
    Nowhere,
    Never,
}

/// What is known of an end.
#[derive(Clone, Copy, Default, Debug)]
struct End {
    /// Behind what it has sent.
    sent: u32,
    /// Behind what it may send.
    may_send: u32,
    /// The largest window that it had; 0: nothing came from it.
    window: u32,
    has_scale: bool,
    scale: u8,
    takes_blocks: bool,
    /// It is not measured.
    is_liberal: bool,
    acknowledged: Option<u32>,
    has_closed_first: bool,
}

/// The last segment that was taken note of.
#[derive(Clone, Copy, Default, Debug)]
struct Last {
    kind: Option<Kind>,
    is_reply: bool,
    ack: u32,
    end: u32,
    window: u16,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Tcp {
    state: State,
    ends: [End; 2],
    last: Last,
    /// What a SYN offered that was let be.
    offered: (Option<u8>, bool),
    /// Its answer may be a challenge (RFC 5961, section 4).
    awaits_challenge: bool,
    both_opened: bool,
    is_assured: bool,
}

/// Where the bounds of a sender are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) seq: [u32; 4],
    pub(super) ack: [u32; 3],
}

/// Numbers go round (RFC 9293, section 3.4).
fn is_before(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) < 0
}

fn leads(from: State, is_reply: bool, kind: Kind) -> Leads {
    use Leads::{Never, Nowhere, To};
    use State::*;
    match (kind, from) {
        (_, Nothing) if is_reply => Never,
        (Kind::Syn, Nothing) => To(SynSent),
        (Kind::Ack, Nothing) => To(Established),
        (_, Nothing) => Never,
        (Kind::Rst, _) => To(Closed),
        (Kind::Syn, SynSent) => To(if is_reply { BothSent } else { SynSent }),
        (Kind::Syn, BothSent) => To(BothSent),
        (Kind::Syn, TimeWait) => To(SynSent),
        (Kind::Syn, _) if is_reply => Never,
        (Kind::Syn, Closed) => To(SynSent),
        (Kind::Syn, _) => Nowhere,
        (Kind::SynAck, BothSent) => To(SynReceived),
        (Kind::SynAck, SynSent) if is_reply => To(SynReceived),
        (Kind::SynAck, _) if is_reply => Nowhere,
        (Kind::SynAck, SynReceived) => To(SynReceived),
        (Kind::SynAck, _) => Never,
        (Kind::Ack, SynSent | BothSent) if is_reply => Nowhere,
        (Kind::Ack | Kind::Fin, SynSent | BothSent) => Never,
        (Kind::Ack, SynReceived) if is_reply => To(SynReceived),
        (Kind::Ack, SynReceived | Established) => To(Established),
        (Kind::Ack, FinWait | CloseWait) => To(CloseWait),
        (Kind::Ack, LastAck | TimeWait) => To(TimeWait),
        (Kind::Fin, SynReceived | Established) => To(FinWait),
        (Kind::Fin, FinWait | CloseWait | LastAck) => To(LastAck),
        (Kind::Fin, TimeWait) => To(TimeWait),
        (Kind::Ack | Kind::Fin, Closed) => To(Closed),
    }
}

impl State {
    fn is_closing(self) -> bool {
        use State::*;
        matches!(self, FinWait | CloseWait | LastAck | TimeWait | Closed)
    }
}

/// What a reset is before it is measured.
enum Reset {
    To(State),
    /// It need not be measured.
    Certain(State),
    Wrong,
}

impl Tcp {
    /// What a first segment begins. `None`: nothing.
    pub(super) fn begin(segment: &Segment, len: usize, ways: Ways) -> Option<Tcp> {
        let is_syn = match segment.kind()? {
            Kind::Syn => true,
            Kind::Ack if ways.is_loose => false,
            _ => return None,
        };
        let sent = segment.end(len);
        let window = u32::from(segment.window).max(1);
        let taken_up = End { is_liberal: true, takes_blocks: true, ..End::default() };
        let ends = if is_syn {
            [End::opening(sent, window, segment.options.offer()), End::default()]
        } else {
            [End { sent, may_send: sent.wrapping_add(window), window, ..taken_up }, taken_up]
        };
        let mut tcp = Tcp {
            state: State::Nothing,
            ends,
            last: Last::default(),
            offered: (None, false),
            awaits_challenge: false,
            both_opened: false,
            is_assured: false,
        };
        tcp.follow(segment, len, false, false, ways);
        Some(tcp)
    }

    /// Whether it is over, and a connection begins beyond all that its first end sent.
    pub(super) fn is_outrun_by(&self, new: &Tcp) -> bool {
        matches!(self.state, State::TimeWait | State::Closed)
            && matches!(new.state, State::SynSent)
            && is_before(self.ends[0].sent, new.ends[0].sent)
    }

    /// A segment was answered with a reset.
    pub(super) fn close(&mut self) {
        self.state = State::Closed;
    }

    /// The next segment. `is_answered`: one came back before it.
    pub(super) fn follow(
        &mut self,
        segment: &Segment,
        len: usize,
        is_reply: bool,
        is_answered: bool,
        ways: Ways,
    ) -> Said {
        let Some(kind) = segment.kind() else { return Said::Invalid };
        let (from, last) = (self.state, self.last);
        let is_last = |kind, is_reply| (last.kind, last.is_reply) == (Some(kind), is_reply);
        let mut is_certain = false;
        let to = match leads(from, is_reply, kind) {
            Leads::Never => return Said::Invalid,
            Leads::To(State::SynSent) if matches!(from, State::TimeWait | State::Closed) => {
                let has_ended = self.ends.iter().any(|end| end.has_closed_first);
                if has_ended || is_last(Kind::Rst, is_reply) {
                    return Said::Anew;
                }
                return self.let_be(kind, segment, len, is_reply);
            }
            Leads::Nowhere => {
                let answers = kind == Kind::SynAck && is_last(Kind::Syn, !is_reply);
                if !answers || segment.ack != self.last.end {
                    return self.let_be(kind, segment, len, is_reply);
                }
                self.believe_syn(is_reply);
                State::SynReceived
            }
            Leads::To(State::TimeWait)
                if (from, kind) == (State::LastAck, Kind::Ack)
                    && is_last(Kind::Syn, !is_reply)
                    && self.awaits_challenge =>
            {
                self.awaits_challenge = false;
                return Said::LetBe;
            }
            Leads::To(State::BothSent) => {
                self.both_opened = true;
                State::BothSent
            }
            Leads::To(State::SynReceived) if is_reply && kind == Kind::Ack && self.both_opened => {
                State::Established
            }
            Leads::To(State::Closed) if kind == Kind::Rst => {
                match self.reset(segment, is_reply, is_answered, ways) {
                    Reset::Wrong => return Said::Invalid,
                    Reset::To(to) => to,
                    Reset::Certain(to) => {
                        is_certain = true;
                        to
                    }
                }
            }
            Leads::To(to) => to,
        };
        if !is_certain {
            match self.measure(kind, segment, len, is_reply, ways) {
                Said::Fits => {}
                Said::Invalid => {
                    // Who closes or resets against what is known here is remembered, until the other end does too.
                    let is_closing = matches!(kind, Kind::Fin | Kind::Rst);
                    let did_other = is_last(Kind::Fin, !is_reply) || is_last(Kind::Rst, !is_reply);
                    if self.is_assured && is_closing && !did_other {
                        (self.last.kind, self.last.is_reply) = (Some(kind), is_reply);
                    }
                    return Said::Invalid;
                }
                other => return other,
            }
        }
        (self.last.kind, self.last.is_reply) = (Some(kind), is_reply);
        self.state = to;
        self.ends[usize::from(is_reply)].has_closed_first |= from != to && to == State::FinWait;
        if is_answered {
            let is_open = matches!(from, State::SynReceived | State::Established);
            self.is_assured |= is_open && to == State::Established;
        } else if kind == Kind::Rst {
            return Said::Ends;
        } else if kind == Kind::Syn && from == State::SynSent {
            return Said::LetBe;
        }
        Said::Fits
    }

    /// It passes, and is remembered for what the other end may say to it.
    fn let_be(&mut self, kind: Kind, segment: &Segment, len: usize, is_reply: bool) -> Said {
        let Segment { ack, window, .. } = *segment;
        let is_challenge = self.state == State::SynSent && kind == Kind::Ack && is_reply;
        let ack = if is_challenge { ack } else { self.last.ack };
        self.last = Last { kind: Some(kind), is_reply, ack, end: segment.end(len), window };
        if kind == Kind::Syn && !is_reply {
            self.offered = segment.options.offer();
            self.both_opened = false;
            self.awaits_challenge = self.state == State::LastAck;
        }
        Said::LetBe
    }

    /// The SYN that was let be is answered: both ends know what was not known here.
    fn believe_syn(&mut self, is_reply: bool) {
        let (scale, takes_blocks) = self.offered;
        let window = u32::from(self.last.window).max(1);
        self.ends = [End::default(); 2];
        self.ends[usize::from(!is_reply)] = End::opening(self.last.end, window, (scale, takes_blocks));
        self.awaits_challenge = false;
    }

    fn reset(&self, segment: &Segment, is_reply: bool, is_answered: bool, ways: Ways) -> Reset {
        // Its ports may be used again, and what is known be of the time before.
        if self.state.is_closing() {
            return Reset::Certain(State::Closed);
        }
        let (seq, last) = (segment.seq, &self.last);
        let is_established = self.state == State::Established && self.is_assured;
        let mut to = State::Closed;
        let expected = self.ends[usize::from(!is_reply)].acknowledged;
        if let Some(expected) = expected.filter(|_| last.kind != Some(Kind::Syn)) {
            if seq == 0 && !is_established {
                return Reset::To(State::Closed);
            }
            if is_before(seq, expected) && !ways.believes_resets {
                return Reset::Wrong;
            }
            let follows_data = last.kind == Some(Kind::Ack) && last.is_reply == is_reply && seq == last.end;
            if !is_established || seq == expected || follows_data {
                return Reset::To(State::Closed);
            }
            // RFC 5961, section 3: who gets it may challenge it.
            to = self.state;
        }
        let may_answer = match last.kind {
            Some(Kind::Syn) => is_answered,
            Some(Kind::Ack) => !self.is_assured,
            _ => false,
        };
        let answers_challenge = self.state == State::SynSent
            && (last.kind, last.is_reply) == (Some(Kind::Ack), true)
            && seq == last.ack;
        if may_answer && segment.ack == last.end || answers_challenge {
            return Reset::Certain(to);
        }
        Reset::To(to)
    }

    fn measure(&mut self, kind: Kind, segment: &Segment, len: usize, is_reply: bool, ways: Ways) -> Said {
        let Segment { mut seq, mut ack, .. } = *segment;
        let mut end = segment.end(len);
        let (me, other) = (usize::from(is_reply), usize::from(!is_reply));
        let mut arrived = ack;
        if let Some((_, to)) = segment.options.block.filter(|_| self.ends[other].takes_blocks) {
            arrived = if is_before(ack, to) { to } else { ack };
        }
        let begins_again = segment.has(SYN)
            && is_before(self.ends[me].sent, end)
            && matches!(self.state, State::SynSent | State::SynReceived);
        let is_first = self.ends[me].window == 0;
        if segment.has(SYN) && (is_first || begins_again) {
            self.opens(segment, end, is_reply);
            if !segment.has(ACK) && (is_first || is_reply) {
                return Said::Fits;
            }
        } else if is_first {
            self.joins(segment, end, arrived, is_reply);
        }
        let (sender, receiver) = (self.ends[me], self.ends[other]);
        if !segment.has(ACK) || segment.has(RST) && ack == 0 {
            (ack, arrived) = (receiver.sent, receiver.sent);
        }
        if segment.has(RST) && seq == 0 && self.state == State::SynSent {
            (seq, end) = (sender.sent, sender.sent);
        }
        let or_liberal = |said| if ways.is_liberal || sender.is_liberal { Said::Fits } else { said };
        let is_late = receiver.window > 0 && is_before(end, sender.sent.wrapping_sub(receiver.window));
        let has_old_ack = is_before(arrived, receiver.sent.wrapping_sub(sender.window.max(OLD)));
        let has_new_ack = is_before(receiver.sent, arrived);
        if is_before(sender.may_send, seq) {
            let too_many = end.wrapping_sub(sender.may_send).wrapping_add(1);
            let is_little = receiver.window > 0 && too_many <= receiver.window;
            if is_little && !is_late && !has_old_ack && !has_new_ack {
                // The receiver may take more than it said.
                self.ends[me].sent = end;
                return or_liberal(Said::LetBe);
            }
            return or_liberal(Said::Invalid);
        }
        if has_new_ack {
            return or_liberal(Said::Invalid);
        }
        if is_late || has_old_ack {
            return or_liberal(Said::LetBe);
        }
        let window = self.window(segment, me);
        let sender = &mut self.ends[me];
        sender.window = sender.window.max(window.saturating_add(arrived.wrapping_sub(ack)).min(LARGEST));
        if is_before(sender.sent, end) {
            sender.sent = end;
        }
        if segment.has(ACK) {
            let is_more = sender.acknowledged.is_none_or(|before| is_before(before, ack));
            sender.acknowledged = if is_more { Some(ack) } else { sender.acknowledged };
        }
        let may_send = sender.may_send;
        let receiver = &mut self.ends[other];
        if receiver.window > 0 && is_before(may_send, end) {
            receiver.window = receiver.window.saturating_add(end.wrapping_sub(may_send)).min(LARGEST);
        }
        if !is_before(arrived.wrapping_add(window), receiver.may_send) {
            // A closed window is asked after with one byte.
            receiver.may_send = arrived.wrapping_add(window.max(1));
        }
        if kind == Kind::Ack {
            let window = segment.window;
            self.last = Last { is_reply, ack, end, window, ..self.last };
        }
        Said::Fits
    }

    /// An end's own SYN.
    fn opens(&mut self, segment: &Segment, end: u32, is_reply: bool) {
        let window = u32::from(segment.window).max(1);
        let [me, other] = [usize::from(is_reply), usize::from(!is_reply)];
        self.ends[me] = End::opening(end, window, segment.options.offer());
        // Both scale, or none (RFC 7323, section 2.2).
        if is_reply && !(self.ends[me].has_scale && self.ends[other].has_scale) {
            (self.ends[me].scale, self.ends[other].scale) = (0, 0);
        }
    }

    /// The first segment of an end whose SYN nobody saw.
    fn joins(&mut self, segment: &Segment, end: u32, arrived: u32, is_reply: bool) {
        let [me, other] = [usize::from(is_reply), usize::from(!is_reply)];
        let window = self.window(segment, me).max(1);
        self.ends[me] = End { sent: end, may_send: end.wrapping_add(window), window, ..self.ends[me] };
        let other = &mut self.ends[other];
        if other.window == 0 {
            (other.sent, other.may_send) = (arrived, arrived);
        } else if arrived == other.sent.wrapping_add(1) {
            // It answers a keep-alive.
            other.sent = arrived;
        }
    }

    /// The window that a segment offers; a SYN's is never scaled.
    fn window(&self, segment: &Segment, me: usize) -> u32 {
        let scale = if segment.has(SYN) { 0 } else { self.ends[me].scale };
        u32::from(segment.window) << scale
    }

    /// Numbers at which something changes for segments of this direction.
    pub(super) fn bounds(&self, is_reply: bool) -> Bounds {
        let (sender, receiver) = (&self.ends[usize::from(is_reply)], &self.ends[usize::from(!is_reply)]);
        Bounds {
            seq: [
                sender.may_send,
                sender.may_send.wrapping_add(receiver.window),
                sender.sent.wrapping_sub(receiver.window),
                receiver.acknowledged.unwrap_or(sender.sent),
            ],
            ack: [
                receiver.sent,
                receiver.sent.wrapping_sub(sender.window.max(OLD)),
                receiver.sent.wrapping_sub(OLD),
            ],
        }
    }
}

impl End {
    /// With what a SYN says and offers, and nothing else known.
    fn opening(end: u32, window: u32, (scale, takes_blocks): (Option<u8>, bool)) -> End {
        End {
            sent: end,
            may_send: end,
            window,
            has_scale: scale.is_some(),
            scale: scale.unwrap_or(0),
            takes_blocks,
            ..End::default()
        }
    }
}
