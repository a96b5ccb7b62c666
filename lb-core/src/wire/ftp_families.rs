//! FTP between a client of one address family and a server of the other: what either says, in the words that the other end knows (RFC 6384, which has
//! IPv6 clients of IPv4 servers; the other way round by the same rules).
//!
//! | an IPv6 client says | its server hears | and answers | the client hears |
//! |---|---|---|---|
//! | EPSV, EPSV 2 | PASV | 227 | 229, the same port (§6) |
//! | EPRT \|2\| | PORT | | (§7) |
//! | EPSV ALL | NOOP | 200 | 504 (§6) |
//! | EPSV, EPRT of another protocol | NOOP | 200 | 522 (RFC 2428 §2, §3) |
//!
//! | an IPv4 client says | its server hears | and answers | the client hears |
//! |---|---|---|---|
//! | PASV | EPSV | 229 | 227, the same port |
//! | PORT, EPRT \|1\| | EPRT \|2\| | | |
//! | EPSV, EPSV ALL | the same | 229 | the same |
//! | EPSV 1 | EPSV 2 | 229 | the same |
//! | EPSV, EPRT of another protocol | NOOP | 200 | 522 |
//!
//! An answer is changed only if what was asked for was; all else goes as it is (§10). A command that the server is not to hear becomes NOOP, whose
//! answer becomes that command's (§12): so nothing is made here, and each command keeps its answer. Once a server lets AUTH begin, nothing is read any
//! more (§5).

use std::io::Write;
use std::net::IpAddr;

use super::ftp::{Form, Said, Words, active_in, is_delimiter, passive_in, write_numbers};
use super::proxy::{write_address, write_number};

/// Why a command goes no further.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// It is of a protocol that is not the client's.
    Protocol,
    /// EPSV ALL: its client would be held to what its server does not hear.
    All,
}

/// What a client has asked for last, as far as it says how its server's answer is meant.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Asked {
    #[default]
    Nothing,
    /// In other words, where to come to.
    Passive,
    /// Nothing, by NOOP.
    Refused(Refusal),
    /// The same, and that was answered.
    WasRefused(Refusal),
    /// AUTH.
    Secured,
    /// It was let: the streams are not to be read.
    Hidden,
}

impl Asked {
    /// Of three bits; there are no others than [`Asked::bits`] gives.
    pub fn of_bits(bits: u8) -> Asked {
        match bits {
            1 => Asked::Passive,
            2 => Asked::Refused(Refusal::Protocol),
            3 => Asked::Refused(Refusal::All),
            4 => Asked::WasRefused(Refusal::Protocol),
            5 => Asked::WasRefused(Refusal::All),
            6 => Asked::Secured,
            7 => Asked::Hidden,
            _ => Asked::Nothing,
        }
    }

    /// 0 to 7.
    pub fn bits(self) -> u8 {
        match self {
            Asked::Nothing => 0,
            Asked::Passive => 1,
            Asked::Refused(Refusal::Protocol) => 2,
            Asked::Refused(Refusal::All) => 3,
            Asked::WasRefused(Refusal::Protocol) => 4,
            Asked::WasRefused(Refusal::All) => 5,
            Asked::Secured => 6,
            Asked::Hidden => 7,
        }
    }
}

/// A line that is said instead of another one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Line {
    Pasv,
    Epsv,
    /// EPSV 2.
    EpsvOfIpv6,
    Noop,
    /// PORT with an end.
    Port,
    /// EPRT, with an IPv6 end.
    Eprt,
    /// 227 with an end.
    Passive,
    /// 229 with an end's port.
    Extended,
    /// 522, with the protocol that may be asked for (RFC 2428 §2).
    WrongProtocol {
        is_ipv6: bool,
    },
    /// 504.
    NotAll,
}

impl Line {
    /// The line, without its end; `(address, port)` stands in those that have one.
    pub fn words(self, (address, port): (IpAddr, u16)) -> Words {
        let mut words = Words::new();
        let text: &[u8] = match self {
            Line::Pasv => b"PASV",
            Line::Epsv => b"EPSV",
            Line::EpsvOfIpv6 => b"EPSV 2",
            Line::Noop => b"NOOP",
            Line::Port => b"PORT ",
            Line::Eprt => b"EPRT |2|",
            Line::Passive => b"227 Entering Passive Mode (",
            Line::Extended => b"229 Entering Extended Passive Mode (|||",
            Line::WrongProtocol { is_ipv6: true } => b"522 Network protocol not supported, use (2)",
            Line::WrongProtocol { is_ipv6: false } => b"522 Network protocol not supported, use (1)",
            Line::NotAll => b"504 Command not implemented for that parameter",
        };
        // The longest that there is fits.
        let _ = words.try_extend_from_slice(text);
        let _ = match (self, address) {
            (Line::Port, IpAddr::V4(address)) => write_numbers(&mut words, address, port),
            (Line::Passive, IpAddr::V4(address)) => {
                write_numbers(&mut words, address, port).and_then(|()| words.write_all(b")."))
            }
            (Line::Extended, _) => write_number(&mut words, port).and_then(|()| words.write_all(b"|)")),
            (Line::Eprt, _) => write_address(&mut words, address)
                .and_then(|()| words.write_all(b"|"))
                .and_then(|()| write_number(&mut words, port))
                .and_then(|()| words.write_all(b"|")),
            _ => Ok(()),
        };
        words
    }
}

/// What a line is to the other end.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Heard {
    /// What is said instead of it. `None`: it goes as it is.
    pub instead: Option<Line>,
    /// Where its sender waits; of a server, at its own address.
    pub waits: Option<(Option<IpAddr>, u16)>,
    /// What has been asked for last from then on.
    pub asked: Asked,
}

/// What a client's line is to its server, which is of the other family.
pub fn client(line: &[u8], is_ipv6: bool) -> Heard {
    let plain = |instead, asked| Heard { instead: Some(instead), waits: None, asked };
    let refused = |refusal| plain(Line::Noop, Asked::Refused(refusal));
    let (verb, rest) = line.split_at_checked(4).unwrap_or((line, &[]));
    let rest = rest.trim_ascii();
    let is = |word: &[u8]| verb.eq_ignore_ascii_case(word);
    let own: &[u8] = if is_ipv6 { b"2" } else { b"1" };
    if is(b"EPSV") {
        return match (rest, is_ipv6) {
            (b"", false) => Heard::default(),
            (all, false) if all.eq_ignore_ascii_case(b"ALL") => Heard::default(),
            (protocol, false) if protocol == own => plain(Line::EpsvOfIpv6, Asked::Nothing),
            (all, true) if all.eq_ignore_ascii_case(b"ALL") => refused(Refusal::All),
            (protocol, true) if protocol.is_empty() || protocol == own => plain(Line::Pasv, Asked::Passive),
            _ => refused(Refusal::Protocol),
        };
    }
    if is(b"PASV") && rest.is_empty() && !is_ipv6 {
        return plain(Line::Epsv, Asked::Passive);
    }
    if is(b"AUTH") {
        return Heard { asked: Asked::Secured, ..Heard::default() };
    }
    let Some(Said { address: Some(address), port, .. }) = active_in(line, 0) else {
        let is_of_another = is(b"EPRT") && protocol_of(rest).is_some_and(|protocol| protocol != own);
        return if is_of_another { refused(Refusal::Protocol) } else { Heard::default() };
    };
    if address.is_ipv6() != is_ipv6 {
        return if is(b"EPRT") { refused(Refusal::Protocol) } else { Heard::default() };
    }
    let instead = if is_ipv6 { Line::Port } else { Line::Eprt };
    Heard { instead: Some(instead), waits: Some((Some(address), port)), asked: Asked::Nothing }
}

/// What a server's line is to its client, which is of the other family, and has asked for that.
pub fn server(line: &[u8], is_ipv6: bool, asked: Asked) -> Heard {
    let waits = |said: Said| Some((None, said.port));
    let same = Heard { asked, ..Heard::default() };
    match (passive_in(line, 0), asked) {
        (Some(said), Asked::Passive) if (said.form == Form::Numbers) == is_ipv6 => {
            let instead = if is_ipv6 { Line::Extended } else { Line::Passive };
            Heard { instead: Some(instead), waits: waits(said), asked: Asked::Nothing }
        }
        (Some(said), _) if said.form == Form::Port => Heard { waits: waits(said), ..same },
        (_, Asked::Refused(refusal)) if line.starts_with(b"200 ") => {
            let instead = match refusal {
                Refusal::Protocol => Line::WrongProtocol { is_ipv6 },
                Refusal::All => Line::NotAll,
            };
            Heard { instead: Some(instead), waits: None, asked: Asked::WasRefused(refusal) }
        }
        (_, Asked::Secured) if line.starts_with(b"234") || line.starts_with(b"334") => {
            Heard { asked: Asked::Hidden, ..same }
        }
        _ => same,
    }
}

/// The same of a line that was changed before and comes again.
pub fn server_again(line: &[u8], is_ipv6: bool, asked: Asked) -> Heard {
    let was = match asked {
        Asked::Refused(refusal) | Asked::WasRefused(refusal) => Asked::Refused(refusal),
        _ => Asked::Passive,
    };
    Heard { asked, ..server(line, is_ipv6, was) }
}

/// The protocol that EPRT's words name, if it is a number.
fn protocol_of(words: &[u8]) -> Option<&[u8]> {
    let (&delimiter, rest) = words.split_first()?;
    let end = rest.iter().position(|&byte| byte == delimiter).filter(|_| is_delimiter(delimiter))?;
    Some(&rest[..end]).filter(|words| !words.is_empty() && words.iter().all(u8::is_ascii_digit))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const V4: &str = "10.0.0.1";
    const V6: &str = "fd00::1";

    fn at(address: &str) -> (IpAddr, u16) {
        (address.parse().expect("an address"), 50000)
    }

    /// What a client's line becomes for its server, and what an answer then becomes for the client.
    fn told(line: &str, answer: &str, is_ipv6: bool) -> (String, String) {
        let heard = client(line.as_bytes(), is_ipv6);
        let text = |heard: Heard, line: &str, end| match heard.instead {
            Some(instead) => String::from_utf8(instead.words(at(end)).to_vec()).expect("text"),
            None => line.to_owned(),
        };
        let answered = server(answer.as_bytes(), is_ipv6, heard.asked);
        let own = if is_ipv6 { V4 } else { V6 };
        (text(heard, line, own), text(answered, answer, if is_ipv6 { V6 } else { V4 }))
    }

    #[test]
    fn each_end_hears_the_words_of_its_family() {
        let passive = "227 Entering Passive Mode (10,0,0,1,195,80).";
        let extended = "229 Entering Extended Passive Mode (|||50000|)";
        let (of_4, of_6) =
            ("522 Network protocol not supported, use (1)", "522 Network protocol not supported, use (2)");
        let not_all = "504 Command not implemented for that parameter";
        for (is_ipv6, line, heard, answer, answered) in [
            (true, "EPSV", "PASV", passive, extended),
            (true, "epsv 2", "PASV", passive, extended),
            (true, "EPSV", "PASV", "425 No", "425 No"),
            (true, "EPSV 1", "NOOP", "200 ok", of_6),
            (true, "EPSV 1", "NOOP", "530 Please login", "530 Please login"),
            (true, "EPSV all", "NOOP", "200 ok", not_all),
            (true, "PASV", "PASV", passive, passive),
            (true, "EPRT |2|2001:db8::1|1024|", "PORT 10,0,0,1,195,80", "200 ok", "200 ok"),
            (true, "EPRT |1|192.0.2.1|1024|", "NOOP", "200 ok", of_6),
            (true, "EPRT |7|x|1024|", "NOOP", "200 ok", of_6),
            (true, "EPRT |2|x|1024|", "EPRT |2|x|1024|", "501 what", "501 what"),
            (true, "PORT 192,0,2,1,4,0", "PORT 192,0,2,1,4,0", "500 Illegal", "500 Illegal"),
            (true, "TYPE I", "TYPE I", "200 ok", "200 ok"),
            (false, "PASV", "EPSV", extended, passive),
            (false, "EPSV", "EPSV", extended, extended),
            (false, "EPSV 1", "EPSV 2", extended, extended),
            (false, "EPSV 2", "NOOP", "200 ok", of_4),
            (false, "EPSV ALL", "EPSV ALL", "200 ok", "200 ok"),
            (false, "PORT 192,0,2,1,4,0", "EPRT |2|fd00:0:0:0:0:0:0:1|50000|", "200 ok", "200 ok"),
            (false, "EPRT !1!192.0.2.1!1024!", "EPRT |2|fd00:0:0:0:0:0:0:1|50000|", "200 ok", "200 ok"),
            (false, "EPRT |2|2001:db8::1|1024|", "NOOP", "200 ok", of_4),
        ] {
            let (is_heard, is_answered) = told(line, answer, is_ipv6);
            assert_eq!((&is_heard[..], &is_answered[..]), (heard, answered), "{line}");
        }
    }

    #[test]
    fn behind_auth_nothing_is_read_once_the_server_lets_it() {
        let asked = client(b"AUTH TLS", true).asked;
        assert_eq!(server(b"234 Go on", true, asked).asked, Asked::Hidden);
        assert_eq!(server(b"500 What", true, asked).asked, Asked::Secured);
        assert_eq!(client(b"USER x", true).asked, Asked::Nothing);
    }

    #[test]
    fn what_comes_again_becomes_the_same() {
        for asked in (0..8).map(Asked::of_bits) {
            assert_eq!(Asked::of_bits(asked.bits()), asked);
        }
        let first = server(b"200 ok", true, Asked::Refused(Refusal::All));
        let again = server_again(b"200 ok", true, first.asked);
        assert_eq!((again.instead, again.asked), (first.instead, first.asked));
        let line = b"227 (10,0,0,1,4,0)";
        let first = server(line, true, Asked::Passive);
        assert_eq!(server_again(line, true, first.asked), first);
    }

    proptest! {
        #[test]
        fn no_line_is_too_odd_and_none_becomes_too_long(line in prop::collection::vec(prop_oneof![
            any::<u8>(), prop::sample::select(b"0123456789,|() 12 227229PORTEPRTEPSV".to_vec())
        ], 0..100), is_ipv6: bool, bits in 0u8..8) {
            for begin in [&b""[..], b"EPSV", b"EPRT |", b"PORT ", b"227 ", b"229 (|||", b"200 "] {
                let line = [begin, &line[..]].concat();
                for heard in [client(&line, is_ipv6), server(&line, is_ipv6, Asked::of_bits(bits)), server_again(&line, is_ipv6, Asked::of_bits(bits))] {
                    for end in [at(V4), at(V6)] {
                        prop_assert!(heard.instead.is_none_or(|line| line.words(end).len() >= 4));
                    }
                }
            }
        }
    }
}
