//! What all versions of QUIC have in common of a packet's header (RFC 8999): its form, and the destination connection ID.

use super::array;

/// A long header begins with this bit, a short one without (RFC 8999 §5).
const LONG: u8 = 0x80;
/// Where the length of a long header's destination connection ID stands: behind the first byte and the version.
const LENGTH: usize = 5;

/// RFC 9000 §15, RFC 9369 §3.1.
const VERSION_1: u32 = 1;
const VERSION_2: u32 = 0x6b33_43cf;

/// The first packet of a datagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header<'a> {
    /// The destination connection ID; of a short header, which does not say how long it is, all that follows.
    pub destination: &'a [u8],
    /// A client that has not heard of its server yet may have made this up: an Initial or a 0-RTT packet of version 1 or 2 (RFC 9000
    /// §7.2). Other versions do not say.
    pub may_be_made_up: bool,
}

impl<'a> Header<'a> {
    /// `None`: the datagram ends within it.
    #[inline]
    pub fn of(datagram: &'a [u8]) -> Option<Header<'a>> {
        let (&first, rest) = datagram.split_first()?;
        if first & LONG == 0 {
            return Some(Header { destination: rest, may_be_made_up: false });
        }
        let len = usize::from(*datagram.get(LENGTH)?);
        let destination = datagram.get(LENGTH + 1..)?.get(..len)?;
        let kind = first >> 4 & 3;
        let may_be_made_up = match u32::from_be_bytes(*array(datagram, 1)?) {
            // RFC 9000 §17.2, table 5.
            VERSION_1 => matches!(kind, 0 | 1),
            // RFC 9369 §3.2.
            VERSION_2 => matches!(kind, 1 | 2),
            _ => false,
        };
        Some(Header { destination, may_be_made_up })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn long(kind: u8, version: u32, id: &[u8]) -> Vec<u8> {
        let mut packet = vec![0xc0 | kind << 4];
        packet.extend(version.to_be_bytes());
        packet.push(id.len() as u8);
        packet.extend(id);
        packet.extend([0; 9]);
        packet
    }

    #[test]
    fn a_long_header_says_how_long_its_connection_id_is_and_a_short_one_does_not() {
        for id in [&[][..], &[1], &[7; 20], &[9; 255]] {
            let packet = long(2, 1, id);
            assert_eq!(Header::of(&packet), Some(Header { destination: id, may_be_made_up: false }));
            for len in 0..LENGTH + 1 + id.len() {
                assert_eq!(Header::of(&packet[..len]), None, "{len} of {id:?}");
            }
        }
        let short = Header { destination: &[1, 2, 3][..], may_be_made_up: false };
        assert_eq!(Header::of(&[0x40, 1, 2, 3]), Some(short));
        assert_eq!(Header::of(&[0x00]), Some(Header { destination: &[], ..short }));
    }

    #[test]
    fn clients_make_up_the_connection_ids_of_initial_and_0_rtt_packets() {
        for (version, made_up) in [
            (VERSION_1, [true, true, false, false]),
            (VERSION_2, [false, true, true, false]),
            (0, [false; 4]),
            (0xff00_001d, [false; 4]),
        ] {
            let found =
                [0, 1, 2, 3].map(|kind| Header::of(&long(kind, version, &[5; 8])).unwrap().may_be_made_up);
            assert_eq!(found, made_up, "version {version:x}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_do_harm_and_what_is_found_stands_in_them(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Some(header) = Header::of(&bytes) {
                prop_assert!(header.destination.len() < bytes.len());
            }
        }
    }
}
