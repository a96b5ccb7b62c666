//! A UDP datagram, changed: other words in the place of some of its data. Its checksum is brought up to date by the difference, so that a
//! wrong one stays wrong.

use super::checksum::{self, Delta};
use super::parse::{Fragment, Headers};
use super::segment::resize_ip;
use super::sip::{Place, Words};
use super::udp;
use crate::packet::{NoRoom, Packet};
use crate::tables::Protocol;

/// Other words for those in a place of the data.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change {
    pub place: Place,
    pub words: Words,
}

impl Change {
    /// By how many bytes the data grows.
    pub fn growth(&self) -> isize {
        self.words.len() as isize - self.place.len as isize
    }
}

/// What a whole datagram carries that is in one piece.
pub fn data<'a, P: Packet>(packet: &'a P, headers: &Headers) -> Option<&'a [u8]> {
    let is_whole = headers.protocol == Protocol::UDP && headers.fragment == Fragment::None;
    packet.data().get(usize::from(headers.l4) + udp::LEN..headers.end()).filter(|_| is_whole)
}

/// Makes these changes, which are in the order of their places, and returns the headers as they are then.
///
/// # Errors
/// `NoRoom`, in the buffer or in such an IP packet: the datagram is as it was.
pub fn exchange<P: Packet>(packet: &mut P, headers: &Headers, changes: &[Change]) -> Result<Headers, NoRoom> {
    let (start, end) = (usize::from(headers.l4) + udp::LEN, headers.end());
    let before = checksum::sum(data(packet, headers).ok_or(NoRoom)?);
    let follow = |pair: &[Change]| pair[0].place.at + pair[0].place.len <= pair[1].place.at;
    let last = changes.last().map_or(0, |change| change.place.at + change.place.len);
    let by: isize = changes.iter().map(Change::growth).sum();
    let most: usize = changes.iter().filter_map(|change| usize::try_from(change.growth()).ok()).sum();
    let is_sound = changes.windows(2).all(follow) && start + last <= end;
    let fits = usize::try_from(headers.ip_len as isize + by).is_ok_and(|len| len <= 65_535);
    if !is_sound || !fits || packet.frame_len() != packet.data().len() {
        return Err(NoRoom);
    }
    packet.set_len(end + most)?;
    let frame = packet.data_mut();
    let mut now = end;
    // From behind, so that places stay where they are.
    for change in changes.iter().rev() {
        let from = start + change.place.at;
        frame.copy_within(from + change.place.len..now, from + change.words.len());
        frame[from..from + change.words.len()].copy_from_slice(&change.words);
        now = now.wrapping_add_signed(change.growth());
    }
    let after = checksum::sum(&frame[start..now]);
    packet.set_len(now)?;
    let frame = packet.data_mut();
    let grown = resize_ip(frame, headers, by);
    if let Some(header) = udp::header_mut(frame, headers.l4.into()) {
        let (old, new) = (udp::len(header), udp::len(header).wrapping_add_signed(by as i16));
        header[4..6].copy_from_slice(&new.to_be_bytes());
        // The length is in the pseudo-header too.
        let length = Delta::word(old, new);
        let changed = Delta::word(before, after).and(length).and(length);
        udp::set_checksum(header, changed.apply_udp(udp::checksum(header)));
    }
    Ok(grown)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ids::PortId;
    use crate::packet::{Frame, RxChecksum};
    use crate::wire::parse::{Parsed, parse};

    fn frame(is_ipv6: bool, data: &[u8]) -> Frame {
        let ethernet = etherparse::PacketBuilder::ethernet2([2; 6], [4; 6]);
        let mut bytes = Vec::new();
        if is_ipv6 {
            ethernet.ipv6([1; 16], [2; 16], 64).udp(5060, 5060).write(&mut bytes, data).expect("memory");
        } else {
            ethernet
                .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
                .udp(5060, 5060)
                .write(&mut bytes, data)
                .expect("memory");
        }
        Frame::new(PortId(0), &bytes)
    }

    fn headers(frame: &Frame) -> Headers {
        match parse(frame.data(), frame.frame_len(), RxChecksum::Unknown) {
            Ok(Parsed::Ip(headers)) => headers,
            other => panic!("{other:?}"),
        }
    }

    proptest! {
        #[test]
        fn it_is_the_datagram_that_has_other_words_there(
            is_ipv6: bool,
            data in proptest::collection::vec(any::<u8>(), 0..200),
            cuts in proptest::collection::vec((0..40usize, 0..9usize, proptest::collection::vec(any::<u8>(), 0..12)), 0..6),
            has_checksum: bool,
        ) {
            let (mut changes, mut expected, mut at) = (Vec::new(), Vec::new(), 0);
            for (skip, len, words) in cuts {
                let from = at + skip;
                if from + len > data.len() {
                    break;
                }
                expected.extend_from_slice(&data[at..from]);
                expected.extend_from_slice(&words);
                changes.push(Change { place: Place { at: from, len }, words: words.into_iter().collect() });
                at = from + len;
            }
            expected.extend_from_slice(&data[at..]);
            let mut packet = frame(is_ipv6, &data);
            let mut wanted = frame(is_ipv6, &expected);
            // IPv4 may go without one.
            if !is_ipv6 && !has_checksum {
                for frame in [&mut packet, &mut wanted] {
                    let l4 = headers(frame).l4.into();
                    udp::set_checksum(udp::header_mut(frame.data_mut(), l4).expect("a header"), 0);
                }
            }
            let before = headers(&packet);
            let after = exchange(&mut packet, &before, &changes).expect("room");
            prop_assert_eq!(after, headers(&wanted));
            prop_assert_eq!(packet.data(), wanted.data());
        }
    }

    #[test]
    fn what_does_not_fit_changes_nothing() {
        let change = |at, len| Change { place: Place { at, len }, words: Words::from_iter([b'x'; 40]) };
        let (mut packet, mut large) = (frame(false, b"0123456789"), frame(false, &[b'.'; Frame::MAX - 42]));
        for changes in [&[change(4, 2), change(5, 1)][..], &[change(9, 2)], &[change(usize::MAX / 2, 1)]] {
            let (before, headers) = (packet.clone(), headers(&packet));
            assert_eq!(exchange(&mut packet, &headers, changes), Err(NoRoom));
            assert_eq!(packet, before);
        }
        let (before, headers) = (large.clone(), headers(&large));
        assert_eq!(exchange(&mut large, &headers, &[change(0, 1)]), Err(NoRoom));
        assert_eq!(large, before);
    }
}
