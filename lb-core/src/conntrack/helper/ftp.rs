//! FTP: one end says where it waits for the data connection of the other (RFC 959 §3.2, RFC 2428).
//!
//! A client by PORT and EPRT, a server by 227 and 229; each for itself alone (RFC 2577 §3), and a client for no port that a service of its could
//! have.
//!
//! Source of the facts: Linux, `net/netfilter/nf_conntrack_ftp.c` (as without its parameter `loose`), `nf_nat_ftp.c`.

use super::{Announced, Class, Follows, Heard, Helper, Reads};
use crate::flow::edit::FTP;
use crate::flow::{Direction, Tuple};
use crate::tables::Protocol;
use crate::time::Timeout;
use crate::wire::ftp::{self, Said};

pub(super) const HELPER: Helper = Helper {
    name: "ftp",
    protocols: &[Protocol::TCP],
    classes: &[Class { patience: Timeout::from_secs(300), most: 1 }],
    edits: FTP,
    reads: Reads::Announcement(announces),
};

/// The lowest port at which a client waits.
pub(crate) const FIRST_OF_CLIENTS: u16 = 1024;

fn announces(heard: &Heard<'_>) -> Option<Announced> {
    announced(heard, &said(heard.data, heard.direction)?)
}

/// What a packet's data says, that goes this way.
pub fn said(data: &[u8], direction: Direction) -> Option<Said> {
    match direction {
        Direction::Original => ftp::active(data),
        Direction::Reply => ftp::passive(data),
    }
}

/// What is announced by that.
pub fn announced(heard: &Heard<'_>, said: &Said) -> Option<Announced> {
    let &Heard { direction, original, reply, is_answered, .. } = heard;
    let (own, other, first_port) = match direction {
        Direction::Original => (original, reply, FIRST_OF_CLIENTS),
        Direction::Reply => (reply, original, 1),
    };
    let is_its_own = said.address.is_none_or(|address| address == own.src);
    (is_its_own && is_answered && said.port >= first_port).then_some(Announced {
        tuple: Tuple { sport: 0, dport: said.port, ..other },
        follows: Follows { source: own.dst, destination: (own.src, said.port) },
    })
}

#[cfg(test)]
mod tests {
    use super::super::HelperId;
    use super::*;

    #[test]
    fn it_is_the_one_that_virtual_services_have() {
        assert_eq!(HelperId::named(HELPER.name), Some(HelperId::FTP));
    }

    #[test]
    fn each_end_announces_a_connection_to_itself_and_to_nobody_else() {
        let ip = |text: &str| text.parse().expect("an address");
        let tuple = |src, sport, dst, dport| Tuple {
            src: ip(src),
            dst: ip(dst),
            sport,
            dport,
            protocol: Protocol::TCP,
        };
        // Both ends are translated: 10.0.0.1 is 192.0.2.1 outside, 10.0.0.9 inside is 192.0.2.9.
        let original = tuple("10.0.0.1", 3000, "192.0.2.9", 21);
        let reply = tuple("10.0.0.9", 2121, "192.0.2.1", 3001);
        let hears = |data: &str, direction, is_answered| {
            announces(&Heard { data: data.as_bytes(), direction, original, reply, is_answered })
        };
        let by_client = Announced {
            tuple: tuple("10.0.0.9", 0, "192.0.2.1", 5000),
            follows: Follows { source: ip("192.0.2.9"), destination: (ip("10.0.0.1"), 5000) },
        };
        let by_server = Announced {
            tuple: tuple("10.0.0.1", 0, "192.0.2.9", 5000),
            follows: Follows { source: ip("192.0.2.1"), destination: (ip("10.0.0.9"), 5000) },
        };
        for (said, direction, announced) in [
            ("PORT 10,0,0,1,19,136\r\n", Direction::Original, Some(by_client)),
            ("EPRT |1|10.0.0.1|5000|\r\n", Direction::Original, Some(by_client)),
            ("227 Passive (10,0,0,9,19,136)\r\n", Direction::Reply, Some(by_server)),
            ("229 Passive (|||5000|)\r\n", Direction::Reply, Some(by_server)),
            ("PORT 10,0,0,2,19,136\r\n", Direction::Original, None),
            ("PORT 192,0,2,1,19,136\r\n", Direction::Original, None),
            ("PORT 10,0,0,1,0,22\r\n", Direction::Original, None),
            ("227 Passive (192,0,2,9,19,136)\r\n", Direction::Reply, None),
            ("PORT 10,0,0,9,19,136\r\n", Direction::Reply, None),
            ("229 Passive (|||5000|)\r\n", Direction::Original, None),
        ] {
            assert_eq!(hears(said, direction, true), announced, "{said}");
            assert_eq!(hears(said, direction, false), None, "{said}");
        }
    }
}
