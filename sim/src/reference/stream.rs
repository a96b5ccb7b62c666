//! The bytes that go one way of a connection, of which some are exchanged for others: by how much numbers are moved before the place and behind it.
//!
//! Of all that was ever exchanged the last is known. What was sent before the one before it is all acknowledged.

/// Of a stream whose connection begins, nothing is exchanged.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Stream {
    /// The sender's number where so many bytes were taken out, and so many put in.
    pub(super) at: u32,
    pub(super) taken: usize,
    pub(super) put: usize,
    /// What is added to numbers up to there.
    before: u32,
    /// The receiver has what was put in.
    pub(super) is_acked: bool,
    /// Behind the last byte that went on.
    passed: Option<u32>,
}

/// Which bytes of a segment are those that were exchanged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Holds {
    None,
    /// All of them, from there on.
    All(usize),
    /// Some.
    Some,
}

impl Stream {
    /// One that is moved by so much from `at` on, with nothing exchanged.
    pub(super) fn moved(at: u32, by: u32) -> Stream {
        Stream { at, before: by, ..Stream::default() }
    }

    /// One before whose first byte so many others come.
    pub(super) fn behind(at: u32, put: usize) -> Stream {
        Stream { at, put, ..Stream::default() }
    }

    fn after(&self) -> u32 {
        self.before.wrapping_add(self.put as u32).wrapping_sub(self.taken as u32)
    }

    /// A number of the sender's as the receiver sees it.
    pub(super) fn onward(&self, seq: u32) -> u32 {
        // What is put in where nothing is taken out comes before the byte that is there.
        let is_behind = if self.taken == 0 { !is_before(seq, self.at) } else { is_before(self.at, seq) };
        seq.wrapping_add(if is_behind { self.after() } else { self.before })
    }

    /// The way back: of what is put in the sender has nothing until the receiver has all.
    pub(super) fn back(&self, number: u32) -> u32 {
        let begin = self.at.wrapping_add(self.before);
        let end = begin.wrapping_add(self.put as u32);
        if !is_before(begin, number) {
            number.wrapping_sub(self.before)
        } else if self.put > 0 && is_before(number, end) {
            self.at
        } else {
            number.wrapping_sub(self.after())
        }
    }

    /// The receiver has all before this number of its.
    pub(super) fn note_ack(&mut self, number: u32) {
        let end = self.at.wrapping_add(self.before).wrapping_add(self.put as u32);
        self.is_acked |= self.put + self.taken > 0 && !is_before(number, end);
    }

    /// Whether the receiver can have all before this number, where nothing was exchanged: of the sender's SYN, at `at`, and what went on.
    pub(super) fn may_be_acked(&self, number: u32) -> bool {
        let first = self.at.wrapping_add(1);
        !is_before(number, first) && !is_before(self.passed.unwrap_or(first), number)
    }

    /// These of the sender's bytes go on.
    pub(super) fn note_passed(&mut self, seq: u32, len: usize) {
        // The number 0 is not told from none.
        let end = seq.wrapping_add(len as u32).max(1);
        if len > 0 && self.passed.is_none_or(|passed| is_before(passed, end)) {
            self.passed = Some(end);
        }
    }

    pub(super) fn has_passed(&self, seq: u32) -> bool {
        self.passed.is_some_and(|passed| is_before(seq, passed))
    }

    pub(super) fn holds(&self, seq: u32, len: usize) -> Holds {
        // As places in the segment, of which the first may be before it.
        let begin = i64::from(self.at.wrapping_sub(seq) as i32);
        let end = begin + self.taken as i64;
        let inside = |place: i64| (0..=len as i64).contains(&place);
        if begin == end || len == 0 || end <= 0 || begin >= len as i64 {
            Holds::None
        } else if inside(begin) && inside(end) {
            Holds::All(begin as usize)
        } else {
            Holds::Some
        }
    }

    /// Whether others can be exchanged here while what was exchanged before is on its way. Of the same length they move nothing.
    pub(super) fn may_exchange(&self, seq: u32) -> bool {
        self.put == self.taken || self.is_acked || !is_before(self.at, seq)
    }

    /// So many bytes are exchanged for so many others. What comes again is known.
    pub(super) fn exchange(&mut self, seq: u32, taken: usize, put: usize) {
        let is_first = self.put == self.taken && self.before == 0;
        if is_first || is_before(self.at, seq) {
            let before = self.after();
            *self = Stream { at: seq, taken, put, before, is_acked: false, passed: self.passed };
        }
    }
}

/// Of sequence numbers (RFC 9293 §3.4).
pub(super) fn is_before(a: u32, b: u32) -> bool {
    a.wrapping_sub(b) > u32::MAX / 2
}
