//! A TCP reset in answer to a segment, as the host that it was for would send one (RFC 9293 §3.10.7.1).

use crate::flow::Tuple;
use crate::packet::Packet;
use crate::tables::Protocol;
use crate::wire::bare::Bare;
use crate::wire::parse::{Fragment, Headers};
use crate::wire::tcp::{self, ACK, FIN, RST, SYN};
use crate::wire::{array, checksum, ethernet};

/// Turns a segment into the reset that answers it, from its destination to its source, by the way that it came. False, and the packet is
/// as it was: there is none (not TCP, a reset itself, in fragments, its checksum wrong, or the buffer is chained).
pub fn make_reset<P: Packet>(packet: &mut P, headers: &Headers) -> bool {
    let frame = packet.data();
    let is_answered = headers.protocol == Protocol::TCP
        && headers.tcp_flags & RST == 0
        && headers.fragment == Fragment::None
        && !ethernet::is_group(&ethernet::destination(frame))
        && checksum::of_transport(frame, headers).is_some_and(checksum::is_good);
    let Some(segment) = tcp::header(frame, headers.l4.into()).filter(|_| is_answered) else { return false };
    let word = |at: usize| array(segment, at).map_or(0, |bytes| u32::from_be_bytes(*bytes));
    let (their_seq, their_ack) = (word(4), word(8));
    let data = headers.l4_len().saturating_sub(usize::from(segment[12] >> 4) * 4) as u32;
    let flags = headers.tcp_flags;
    let length = data + u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0);
    let (seq, ack, flags) =
        if flags & ACK != 0 { (their_ack, 0, RST) } else { (0, their_seq.wrapping_add(length), RST | ACK) };
    let answer = Tuple::of_packet(frame, headers).reversed();
    // No segment is shorter, but an IPv4 header with options is longer than the one that is written.
    if (Bare { seq, ack, flags, window: 0, options: &[] }).write(packet, headers.l3.into(), &answer).is_err()
    {
        return false;
    }
    ethernet::swap_addresses(packet.data_mut());
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::PortId;
    use crate::packet::Frame;
    use crate::wire::parse::{Parsed, parse};

    fn segment(
        is_ipv6: bool,
        build: fn(etherparse::PacketBuilderStep<etherparse::TcpHeader>) -> Vec<u8>,
    ) -> Vec<u8> {
        let builder = etherparse::PacketBuilder::ethernet2([2, 0, 0, 0, 0, 9], [2, 0, 0, 0, 0, 1]);
        let builder = if is_ipv6 {
            builder.ipv6(
                [0x20, 1, 13, 184, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9],
                [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
                60,
            )
        } else {
            builder.ipv4([192, 0, 2, 9], [10, 0, 0, 1], 60)
        };
        build(builder.tcp(4000, 80, 1000, 512))
    }

    fn written(builder: etherparse::PacketBuilderStep<etherparse::TcpHeader>, data: &[u8]) -> Vec<u8> {
        let mut frame = Vec::new();
        builder.write(&mut frame, data).unwrap();
        frame
    }

    fn headers(frame: &[u8]) -> Headers {
        match parse(frame, frame.len(), Default::default()) {
            Ok(Parsed::Ip(headers)) => headers,
            other => panic!("{other:?}"),
        }
    }

    fn reset(frame: &[u8]) -> Option<(Headers, u32, u32)> {
        let mut packet = Frame::new(PortId(0), frame);
        if !make_reset(&mut packet, &headers(frame)) {
            assert_eq!(packet.data(), frame, "changed though there is no reset");
            return None;
        }
        let data = packet.data();
        let headers = headers(data);
        assert!(checksum::is_good(checksum::of_transport(data, &headers).unwrap()));
        assert_eq!((headers.sport, headers.dport), (80, 4000));
        assert_eq!(data[..12], [frame[6..12].to_vec(), frame[..6].to_vec()].concat());
        let word =
            |at: usize| u32::from_be_bytes(*data[usize::from(headers.l4)..][at..].first_chunk().unwrap());
        Some((headers, word(4), word(8)))
    }

    #[test]
    fn a_segment_with_ack_is_reset_at_the_number_that_it_expects() {
        for is_ipv6 in [false, true] {
            let (headers, seq, _) =
                reset(&segment(is_ipv6, |b| written(b.ack(77), b"data"))).expect("a reset");
            assert_eq!((headers.tcp_flags, seq), (RST, 77));
        }
    }

    #[test]
    fn a_syn_is_reset_by_acknowledging_it_with_its_data() {
        let (headers, seq, ack) = reset(&segment(false, |b| written(b.syn(), b"abc"))).expect("a reset");
        assert_eq!((headers.tcp_flags, seq, ack), (RST | ACK, 0, 1000 + 3 + 1));
    }

    #[test]
    fn a_reset_and_what_is_damaged_are_not_answered() {
        assert_eq!(reset(&segment(false, |b| written(b.rst(), b""))), None);
        let mut frame = segment(true, |b| written(b.syn(), b"abc"));
        *frame.last_mut().unwrap() ^= 1;
        assert_eq!(reset(&frame), None);
    }
}
