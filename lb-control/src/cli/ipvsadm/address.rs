//! Reads numbers and addresses as the C library functions behind ipvsadm do: leading blanks and signs in numbers,
//! `1.2.3` for 1.2.0.3, hexadecimal and octal parts.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::names::Names;
use crate::api::types::Transport;
use crate::endpoint::{self, BadEndpoint, Endpoint};

/// As isspace has them.
const BLANKS: [char; 6] = [' ', '\t', '\n', '\x0b', '\x0c', '\r'];

/// A whole decimal number within `min..=max` (strtol).
pub(crate) fn number(text: &str, min: i64, max: i64) -> Option<i64> {
    let text = text.trim_start_matches(BLANKS);
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok().filter(|number| (min..=max).contains(number))
}

/// The number that `text` begins with, whatever follows; 0 if it begins with none (atoi).
pub(crate) fn leading_number(text: &str) -> i32 {
    let text = text.trim_start_matches(BLANKS);
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    let end = digits.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(digits.len());
    let most = if text.starts_with('-') { i64::MIN } else { i64::MAX };
    let number = &text[..text.len() - digits.len() + end];
    // What is too long for one word is cut for the other.
    if end == 0 { 0 } else { number.parse().unwrap_or(most) as i32 }
}

/// An IPv6 address with its last four bytes as IPv4's where all others are 0 (inet_ntop).
pub(crate) fn ipv6_text(address: Ipv6Addr) -> String {
    let bits = u128::from(address);
    if bits >> 32 == 0 && bits >> 16 != 0 {
        return format!("::{}", Ipv4Addr::from(bits as u32));
    }
    address.to_string()
}

/// An IPv4 address of one to four parts, the last one filling what is left; behind a blank may be anything (inet_aton).
pub(crate) fn ipv4(text: &str) -> Option<Ipv4Addr> {
    let text = text.split(BLANKS).next()?;
    let parts: Vec<u32> = text.split('.').map(part).collect::<Option<_>>()?;
    let (&last, front) = parts.split_last()?;
    if front.len() > 3 || front.iter().any(|&part| part > 255) {
        return None;
    }
    let room = 32 - 8 * front.len() as u32;
    if room < 32 && last >> room != 0 {
        return None;
    }
    let front = front.iter().enumerate().map(|(index, part)| part << (24 - 8 * index)).sum::<u32>();
    Some(Ipv4Addr::from(front | last))
}

fn part(text: &str) -> Option<u32> {
    let (digits, radix) = match text.as_bytes() {
        [b'0', b'x' | b'X', ..] => (&text[2..], 16),
        [b'0', _, ..] => (&text[1..], 8),
        _ => (text, 10),
    };
    if !digits.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return None;
    }
    u32::from_str_radix(digits, radix).ok()
}

/// An IPv4 address or the name of a host that has one.
pub(crate) fn host(text: &str, names: &Names<'_>) -> Option<Ipv4Addr> {
    ipv4(text).or_else(|| names.address(text))
}

/// `HOST`, `HOST:PORT`, `[IPV6]:PORT` or `IPV6`; ports also by name. `transport` is what names of ports are looked up
/// for. Of `[HOST]:PORT` the port is not read.
pub(crate) fn endpoint(
    text: &str,
    transport: Option<Transport>,
    names: &Names<'_>,
) -> Option<(IpAddr, Option<u16>)> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    if let Some(rest) = text.strip_prefix('[') {
        let (address, rest) = rest.split_once(']')?;
        let name = rest.strip_prefix(':')?;
        return match address.parse::<Ipv6Addr>() {
            Ok(address) => Some((address.into(), Some(port(name, transport, names)?))),
            Err(_) => Some((host(address, names)?.into(), None)),
        };
    }
    if let Ok(address) = text.parse::<Ipv6Addr>() {
        return Some((address.into(), None));
    }
    match text.rsplit_once(':') {
        None => Some((host(text, names)?.into(), None)),
        Some((address, name)) => {
            let address = host(address, names)?.into();
            Some((address, Some(port(name, transport, names)?)))
        }
    }
}

/// Not ipvsadm's: `NETWORK/LENGTH`, `NETWORK/LENGTH:PORT` or `[NETWORK/LENGTH]:PORT`. `None`: it is no prefix.
pub(crate) fn prefix_endpoint(
    text: &str,
    transport: Transport,
    names: &Names<'_>,
) -> Option<Result<Endpoint, BadEndpoint>> {
    let (network, name) = match text.strip_prefix('[') {
        Some(rest) => rest.split_once("]:")?,
        None if text.parse::<Ipv6Addr>().is_err() && endpoint::prefix(text).is_none() => {
            text.rsplit_once(':')?
        }
        None => (text, "0"),
    };
    let prefix = endpoint::prefix(network)?;
    Some(Endpoint::new(prefix, port(name, Some(transport), names)?))
}

fn port(text: &str, transport: Option<Transport>, names: &Names<'_>) -> Option<u16> {
    match number(text, 0, 65535) {
        Some(port) => u16::try_from(port).ok(),
        None => names.port(text, transport?),
    }
}

#[cfg(test)]
mod tests {
    use super::super::names::System;
    use super::*;

    #[test]
    fn numbers_are_read_to_their_end() {
        assert_eq!(number("  +12", 0, 65535), Some(12));
        assert_eq!(number("-1", -5, 5), Some(-1));
        for bad in ["", " ", "-", "3x", "0x10", "65536", "99999999999999999999", "1 "] {
            assert_eq!(number(bad, 0, 65535), None, "{bad:?}");
        }
    }

    #[test]
    fn a_number_at_the_beginning_is_read_and_cut() {
        let cases = [("64", 64), ("+64x", 64), (" \t64 ", 64), ("-1", -1), ("4294967360", 64)];
        let odd =
            [("", 0), ("x", 0), ("+ 64", 0), ("99999999999999999999", -1), ("-99999999999999999999", 0)];
        for (text, expected) in cases.into_iter().chain(odd) {
            assert_eq!(leading_number(text), expected, "{text:?}");
        }
    }

    #[test]
    fn an_ipv6_address_that_has_ipv4s_bytes_alone_ends_like_ipv4() {
        for (text, shown) in [
            ("::1.2.3.4", "::1.2.3.4"),
            ("::1:2", "::0.1.0.2"),
            ("::2", "::2"),
            ("::0.0.1.0", "::100"),
            ("::ffff:1.2.3.4", "::ffff:1.2.3.4"),
            ("::ffff:0:1.2.3.4", "::ffff:0:102:304"),
            ("64:ff9b::1.2.3.4", "64:ff9b::102:304"),
            ("::", "::"),
        ] {
            assert_eq!(ipv6_text(text.parse().expect(text)), shown);
        }
    }

    #[test]
    fn ipv4_addresses_may_lack_parts() {
        let cases = [
            ("1.2.3.4", Some([1, 2, 3, 4])),
            ("1.2.3", Some([1, 2, 0, 3])),
            ("1.258", Some([1, 0, 1, 2])),
            ("24", Some([0, 0, 0, 24])),
            ("0x7f.1", Some([127, 0, 0, 1])),
            ("010.0.0.1", Some([8, 0, 0, 1])),
            ("4294967295", Some([255, 255, 255, 255])),
            ("256.1.1.1", None),
            ("1.2.3.256", None),
            ("1.2.3.4.5", None),
            ("1..2", None),
            ("09.1", None),
            ("+1.2.3.4", None),
            ("", None),
            ("1.2.3.4 x", Some([1, 2, 3, 4])),
            ("1.2.3.4\n", Some([1, 2, 3, 4])),
            (" 1.2.3.4", None),
            ("1. 2", None),
        ];
        for (text, expected) in cases {
            assert_eq!(ipv4(text), expected.map(Ipv4Addr::from), "{text}");
        }
    }

    #[test]
    fn endpoints_are_read_as_recorded() {
        let names = Names::new(&System);
        let endpoint = |text| super::endpoint(text, Some(Transport::Tcp), &names);
        let v6: IpAddr = "2001:db8::12".parse().expect("valid");
        assert_eq!(endpoint("2001:db8::12"), Some((v6, None)));
        assert_eq!(endpoint("[2001:db8::12]:80"), Some((v6, Some(80))));
        assert_eq!(endpoint("10.0.0.1:http"), Some(([10, 0, 0, 1].into(), Some(80))));
        assert_eq!(endpoint("10.0.0.1 x:80"), Some(([10, 0, 0, 1].into(), Some(80))));
        for text in ["[10.0.0.1]:80", "[10.0.0.1]:", "[10.0.0.1]:nosuchservice"] {
            assert_eq!(endpoint(text), Some(([10, 0, 0, 1].into(), None)), "{text}");
        }
        for bad in [
            "[2001:db8::12]",
            "[2001:db8::12]:nosuchservice",
            "[10.0.0.1]",
            "[10.0.0.1]x",
            " 10.0.0.1:80",
            "80",
            "",
            "10.0.0.1:",
            "10.0.0.1:65536",
            "10.0.0.1:-1",
            "10.0.0.1:nosuchservice",
        ] {
            assert_eq!(endpoint(bad), None, "{bad}");
        }
    }
}
