//! TFTP: a server answers from a port of its own choice to the port that the request came from (RFC 1350 §4).
//!
//! Source of the facts: Linux, `net/netfilter/nf_conntrack_tftp.c`, `nf_nat_tftp.c`.

use super::{Announced, Class, Follows, Heard, Helper, Reads};
use crate::flow::{Direction, Tuple};
use crate::tables::Protocol;
use crate::time::Timeout;

pub(super) const HELPER: Helper = Helper {
    name: "tftp",
    protocols: &[Protocol::UDP],
    classes: &[Class { patience: Timeout::from_secs(300), most: 1 }],
    edits: 0,
    reads: Reads::Announcement(announces),
};

/// Opcodes of requests (RFC 1350 §5).
const RRQ: u16 = 1;
const WRQ: u16 = 2;

fn announces(heard: &Heard<'_>) -> Option<Announced> {
    let &Heard { data, direction, original, reply, .. } = heard;
    let opcode = u16::from_be_bytes(*data.first_chunk()?);
    (direction == Direction::Original && matches!(opcode, RRQ | WRQ)).then_some(Announced {
        tuple: Tuple { sport: 0, ..reply },
        follows: Follows { source: original.dst, destination: (original.src, original.sport) },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_announce_an_answer_from_any_port_and_nothing_else_does() {
        let ip = |text: &str| text.parse().expect("an address");
        let original = Tuple {
            src: ip("10.0.0.1"),
            dst: ip("192.0.2.9"),
            sport: 3000,
            dport: 69,
            protocol: Protocol::UDP,
        };
        let reply = Tuple { dst: ip("192.0.2.1"), dport: 4000, ..original.reversed() };
        let hears = |data: &[u8], direction| {
            announces(&Heard { data, direction, original, reply, is_answered: false })
        };
        let answer = Announced {
            tuple: Tuple { sport: 0, ..reply },
            follows: Follows { source: ip("192.0.2.9"), destination: (ip("10.0.0.1"), 3000) },
        };
        for request in [b"\0\x01file\0octet\0", b"\0\x02file\0octet\0"] {
            assert_eq!(hears(request, Direction::Original), Some(answer));
            assert_eq!(hears(request, Direction::Reply), None);
        }
        for other in [&b"\0\x03\0\x01data"[..], b"\0\x04\0\x01", b"\0\x05\0\0no\0", b"\0\x06", b"\0", b""] {
            assert_eq!(hears(other, Direction::Original), None, "{other:?}");
        }
    }
}
