//! Lines of FTP's control connections that do not end in the segment that they begin in.
//!
//! What a segment leaves of a line that may tell of a data connection is remembered, and is read together with the segment that follows on it in its stream. No
//! packet waits for that, and what has gone on stays as it was: words that are to be exchanged are where they lie in one segment, words that need
//! not be are read wherever they were split. Of a few lines only, [`PLACES`] a worker; of more, those are passed over that began first.
//!
//! Between two address families, where whole lines are exchanged, none is read so.

use arrayvec::ArrayVec;

use super::Path;
use crate::conntrack::helper::ftp as helper;
use crate::flow::{Direction, FlowRef, Tuple};
use crate::packet::Packet;
use crate::wire::ftp::{self, Said};
use crate::wire::parse::Headers;
use crate::wire::segment::Segment;

/// Lines that are remembered.
const PLACES: usize = 32;
/// Bytes of one.
const MOST: usize = 128;
/// With what ends it.
type Whole = ArrayVec<u8, { 2 * MOST }>;

/// The beginning of a line.
#[derive(Clone, Debug)]
pub(super) struct Line {
    /// Of the packets that bring it.
    tuple: Tuple,
    /// The number of the byte that is to come next.
    next: u32,
    text: ArrayVec<u8, MOST>,
}

pub(super) struct Unfinished {
    lines: ArrayVec<Line, PLACES>,
    /// Which goes when another one comes and there is no room.
    oldest: usize,
}

/// What a segment says.
pub(super) struct Read {
    pub(super) said: Said,
    /// It was exchanged before.
    pub(super) is_again: bool,
    /// Some of the words went on in another segment: they cannot be exchanged.
    pub(super) is_gone: bool,
}

impl Unfinished {
    pub(super) fn new() -> Unfinished {
        Unfinished { lines: ArrayVec::new(), oldest: 0 }
    }

    /// What the data that begins with this number goes on with.
    fn begun(&self, tuple: &Tuple, seq: u32) -> Option<&[u8]> {
        let found = self.lines.iter().find(|line| line.next == seq && line.tuple == *tuple)?;
        Some(&found.text)
    }

    pub(super) fn keep(&mut self, line: Line) {
        if let Some(same) = self.lines.iter_mut().find(|known| known.tuple == line.tuple) {
            *same = line;
        } else if let Err(full) = self.lines.try_push(line) {
            self.lines[self.oldest] = full.element();
            self.oldest = (self.oldest + 1) % PLACES;
        }
    }

    /// What is left of a line behind data that begins with this number. `None`: nothing that may be of use.
    fn left(&self, tuple: Tuple, seq: u32, data: &[u8]) -> Option<Line> {
        let mut text = ArrayVec::new();
        let tail = match data.iter().rposition(|&byte| byte == b'\n') {
            Some(end) => &data[end + 1..],
            None => {
                text.try_extend_from_slice(self.begun(&tuple, seq).unwrap_or_default()).ok()?;
                data
            }
        };
        text.try_extend_from_slice(tail).ok()?;
        let next = seq.wrapping_add(data.len() as u32);
        ftp::may_tell(&text).then_some(Line { tuple, next, text })
    }
}

impl<P: Packet> Path<P> {
    /// What data of this way says that begins with this number.
    pub(super) fn read_lines(&self, data: &[u8], seq: u32, at: FlowRef) -> Option<Read> {
        let (id, direction) = (at.id(), at.direction());
        match self.unfinished.begun(&self.flows.tuple(id, direction), seq) {
            Some(begun) => read_on(begun, data, direction),
            None => helper::said(data, direction).map(|said| Read { said, is_again: false, is_gone: false }),
        }
    }

    /// The line that data of this way ends, which begins with this number, if it began in another segment.
    pub(super) fn ends_line(&self, data: &[u8], seq: u32, at: FlowRef) -> Option<Whole> {
        let begun = self.unfinished.begun(&self.flows.tuple(at.id(), at.direction()), seq)?;
        whole(begun, data).map(|(line, _)| line)
    }

    /// What a segment that is to go on leaves of a line.
    pub(super) fn left_of_line(
        &self,
        packet: &P,
        headers: &Headers,
        segment: &Segment,
        at: FlowRef,
    ) -> Option<Line> {
        let data = segment.data_of(packet.data(), headers).filter(|data| !data.is_empty())?;
        self.unfinished.left(self.flows.tuple(at.id(), at.direction()), segment.seq, data)
    }
}

/// This line with its end, and how much of the data that is. One that is too long is none.
fn whole(begun: &[u8], data: &[u8]) -> Option<(Whole, usize)> {
    let end = data.iter().position(|&byte| byte == b'\n')? + 1;
    let mut line = Whole::new();
    let is_read = [begun, &data[..end]].iter().all(|part| line.try_extend_from_slice(part).is_ok());
    if !is_read {
        line.clear();
    }
    Some((line, end))
}

/// What data says that ends this line, and more.
fn read_on(begun: &[u8], data: &[u8], direction: Direction) -> Option<Read> {
    let (line, end) = whole(begun, data)?;
    if let Some(said) = helper::said(&line, direction) {
        let (from, len) = said.place;
        let is_gone = from < begun.len();
        let place = (from.saturating_sub(begun.len()), len);
        return Some(Read { said: Said { place, ..said }, is_again: false, is_gone });
    }
    let said = helper::said(&data[end..], direction)?;
    let place = (said.place.0 + end, said.place.1);
    Some(Read { said: Said { place, ..said }, is_again: false, is_gone: false })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tables::Protocol;

    fn tuple(port: u16) -> Tuple {
        let (src, dst) = ([192, 0, 2, 1].into(), [192, 0, 2, 2].into());
        Tuple { src, dst, sport: port, dport: 21, protocol: Protocol::TCP }
    }

    const PORT: &[u8] = b"PORT 192,0,2,100,195,80\r\n";

    #[test]
    fn a_line_is_read_wherever_it_is_split_and_exchanged_where_its_words_are_together() {
        for cut in 1..PORT.len() {
            let mut unfinished = Unfinished::new();
            let (first, second) = PORT.split_at(cut);
            unfinished.keep(unfinished.left(tuple(1), 100, first).expect("it may tell"));
            let begun = unfinished.begun(&tuple(1), 100 + cut as u32).expect("it is remembered");
            let Read { said, is_gone, .. } =
                read_on(begun, second, Direction::Original).expect("it is whole now");
            assert_eq!((said.port, is_gone), (50000, cut > 5), "cut at {cut}");
            assert!(is_gone || said.place == (5 - cut, 18));
            assert_eq!(unfinished.begun(&tuple(1), 101 + cut as u32), None, "another number");
            assert_eq!(unfinished.begun(&tuple(2), 100 + cut as u32), None, "another stream");
        }
    }

    #[test]
    fn a_line_may_come_in_many_pieces_and_others_follow_it() {
        let mut unfinished = Unfinished::new();
        for (at, byte) in (0..).zip(&PORT[..PORT.len() - 1]) {
            unfinished.keep(unfinished.left(tuple(1), at, &[*byte]).expect("it may tell"));
        }
        let begun = unfinished.begun(&tuple(1), PORT.len() as u32 - 1).expect("there");
        assert!(read_on(begun, b"\nSTOR a\r\n", Direction::Original).is_some());
        let read = read_on(b"PORT", b" x\r\nPORT 192,0,2,100,195,80\r\n", Direction::Original);
        assert_eq!(read.map(|read| (read.said.place, read.is_gone)), Some(((9, 18), false)));
        assert!(read_on(b"PORT", b" 192,0,2", Direction::Original).is_none());
    }

    #[test]
    fn what_can_tell_of_nothing_is_not_remembered_and_of_too_many_the_first_go() {
        let mut unfinished = Unfinished::new();
        for text in [&b"STOR a"[..], b"220 hello", b"PORT 1\r\n", b"\r\n"] {
            assert!(unfinished.left(tuple(1), 0, text).is_none(), "{text:?}");
        }
        let long = [b"PORT ", &[b'1'; MOST][..]].concat();
        assert!(unfinished.left(tuple(1), 0, &long).is_none());
        for port in 0..=PLACES as u16 {
            unfinished.keep(unfinished.left(tuple(port), 0, b"NOOP\r\nPO").expect("it may tell"));
        }
        let known = |port| unfinished.begun(&tuple(port), 8).is_some();
        assert!(!known(0) && (1..=PLACES as u16).all(known));
    }

    proptest! {
        #[test]
        fn no_data_is_too_odd(begun in prop::collection::vec(any::<u8>(), 0..MOST), data in prop::collection::vec(
            prop_oneof![any::<u8>(), prop::sample::select(b"\r\n0123456789,|()".to_vec())], 0..400)) {
            for direction in [Direction::Original, Direction::Reply] {
                for begun in [&b"PORT "[..], b"227 (1,", &begun] {
                    if let Some(read) = read_on(begun, &data, direction).filter(|read| !read.is_gone) {
                        prop_assert!(read.said.place.0 + read.said.place.1 <= data.len());
                    }
                }
            }
        }
    }
}
