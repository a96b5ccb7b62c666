//! The PROXY protocol's header, versions 1 and 2: who the client is and whom it asked, in front of a TCP stream.
//!
//! Source: W. Tarreau, "The PROXY protocol", HAProxy, 2020 (`doc/proxy-protocol.txt`), §2.1 and §2.2.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use arrayvec::ArrayVec;

use crate::flow::Tuple;

/// Longest of version 1, its line end included (§2.1: 107 bytes with a NUL that is none of it).
pub const MAX: usize = 107;

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Version {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

impl Version {
    pub const ALL: [Version; 2] = [Version::V1, Version::V2];

    pub const fn name(self) -> &'static str {
        match self {
            Version::V1 => "v1",
            Version::V2 => "v2",
        }
    }

    pub fn from_name(name: &str) -> Option<Version> {
        Version::ALL.into_iter().find(|version| version.name() == name)
    }
}

/// §2.2.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
const VERSION_2_PROXY: u8 = 0x21;
const STREAM_V4: u8 = 0x11;
const STREAM_V6: u8 = 0x21;

/// The header of a TCP connection of which `original` is the client's direction.
pub fn header(version: Version, original: &Tuple) -> ArrayVec<u8, MAX> {
    let mut header = ArrayVec::new();
    // The longest that there is fits.
    let _ = match version {
        Version::V1 => write_v1(&mut header, original),
        Version::V2 => write_v2(&mut header, original),
    };
    header
}

fn write_v1(out: &mut ArrayVec<u8, MAX>, original: &Tuple) -> std::io::Result<()> {
    let Tuple { src, dst, sport, dport, .. } = *original;
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            out.write_all(b"PROXY TCP4 ")?;
            write_v4(out, src)?;
            out.write_all(b" ")?;
            write_v4(out, dst)?;
        }
        (src, dst) => {
            out.write_all(b"PROXY TCP6 ")?;
            write_v6(out, wide(src))?;
            out.write_all(b" ")?;
            write_v6(out, wide(dst))?;
        }
    }
    out.write_all(b" ")?;
    write_number(out, sport)?;
    out.write_all(b" ")?;
    write_number(out, dport)?;
    out.write_all(b"\r\n")
}

fn write_v2(out: &mut ArrayVec<u8, MAX>, original: &Tuple) -> std::io::Result<()> {
    let Tuple { src, dst, sport, dport, .. } = *original;
    out.write_all(&SIGNATURE)?;
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            out.write_all(&[VERSION_2_PROXY, STREAM_V4, 0, 12])?;
            out.write_all(&src.octets())?;
            out.write_all(&dst.octets())?;
        }
        (src, dst) => {
            out.write_all(&[VERSION_2_PROXY, STREAM_V6, 0, 36])?;
            out.write_all(&wide(src).octets())?;
            out.write_all(&wide(dst).octets())?;
        }
    }
    out.write_all(&sport.to_be_bytes())?;
    out.write_all(&dport.to_be_bytes())
}

fn wide(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

/// As every reader takes it.
pub(crate) fn write_address<const N: usize>(
    out: &mut ArrayVec<u8, N>,
    address: IpAddr,
) -> std::io::Result<()> {
    match address {
        IpAddr::V4(address) => write_v4(out, address),
        IpAddr::V6(address) => write_v6(out, address),
    }
}

fn write_v4<const N: usize>(out: &mut ArrayVec<u8, N>, address: Ipv4Addr) -> std::io::Result<()> {
    for (n, octet) in address.octets().into_iter().enumerate() {
        if n > 0 {
            out.write_all(b".")?;
        }
        write_number(out, octet.into())?;
    }
    Ok(())
}

/// All eight groups, without leading zeros: the long form of RFC 4291 §2.2 (1), which every reader takes.
fn write_v6<const N: usize>(out: &mut ArrayVec<u8, N>, address: Ipv6Addr) -> std::io::Result<()> {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for (n, group) in address.segments().into_iter().enumerate() {
        if n > 0 {
            out.write_all(b":")?;
        }
        let first = (0..3).find(|digit| group >> (12 - digit * 4) != 0).unwrap_or(3);
        for digit in first..4 {
            out.write_all(&[DIGITS[usize::from(group >> (12 - digit * 4) & 0xf)]])?;
        }
    }
    Ok(())
}

/// In decimal, without the machinery of formatting.
pub(crate) fn write_number<const N: usize>(out: &mut ArrayVec<u8, N>, number: u16) -> std::io::Result<()> {
    let mut digits = [0; 5];
    let (mut rest, mut at) = (number, digits.len());
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.write_all(&digits[at..])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tables::Protocol;

    fn tuple(src: &str, sport: u16, dst: &str, dport: u16) -> Tuple {
        let [src, dst] = [src, dst].map(|address| address.parse().unwrap());
        Tuple { src, dst, sport, dport, protocol: Protocol::TCP }
    }

    #[test]
    fn version_1_is_the_line_of_the_specification() {
        let header_of = |tuple| String::from_utf8(header(Version::V1, &tuple).to_vec()).unwrap();
        assert_eq!(
            header_of(tuple("192.168.0.1", 56324, "192.168.0.11", 443)),
            "PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n"
        );
        assert_eq!(
            header_of(tuple("2001:db8::1", 1, "::", 65535)),
            "PROXY TCP6 2001:db8:0:0:0:0:0:1 0:0:0:0:0:0:0:0 1 65535\r\n"
        );
        let all = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
        assert_eq!(header_of(tuple(all, 65535, all, 65535)).len(), 104);
    }

    #[test]
    fn version_2_is_laid_out_as_the_specification_says() {
        let v4 = header(Version::V2, &tuple("192.0.2.1", 0x1234, "198.51.100.7", 443));
        assert_eq!(v4[..12], [0x0d, 0x0a, 0x0d, 0x0a, 0x00, 0x0d, 0x0a, 0x51, 0x55, 0x49, 0x54, 0x0a]);
        assert_eq!(v4[12..16], [0x21, 0x11, 0, 12]);
        assert_eq!(v4[16..], [192, 0, 2, 1, 198, 51, 100, 7, 0x12, 0x34, 1, 0xbb]);
        let v6 = header(Version::V2, &tuple("2001:db8::1", 1, "2001:db8::2", 2));
        assert_eq!((v6.len(), &v6[12..16]), (52, &[0x21, 0x21, 0, 36][..]));
        let mixed = header(Version::V2, &tuple("192.0.2.1", 1, "2001:db8::2", 2));
        assert_eq!(mixed[16..32], "::ffff:192.0.2.1".parse::<Ipv6Addr>().unwrap().octets());
    }

    proptest! {
        #[test]
        fn what_version_1_says_reads_as_what_was_meant(src: u128, dst: u128, sport: u16, dport: u16, is_v4: bool) {
            let address = |bits: u128| -> IpAddr {
                if is_v4 { Ipv4Addr::from(bits as u32).into() } else { Ipv6Addr::from(bits).into() }
            };
            let tuple = Tuple { src: address(src), dst: address(dst), sport, dport, protocol: Protocol::TCP };
            let line = String::from_utf8(header(Version::V1, &tuple).to_vec()).unwrap();
            let words: Vec<&str> = line.strip_suffix("\r\n").unwrap().split(' ').collect();
            prop_assert_eq!(words[1], if is_v4 { "TCP4" } else { "TCP6" });
            prop_assert_eq!(words[2].parse::<IpAddr>().unwrap(), tuple.src);
            prop_assert_eq!(words[3].parse::<IpAddr>().unwrap(), tuple.dst);
            prop_assert_eq!((words[4].parse(), words[5].parse()), (Ok(sport), Ok(dport)));
        }
    }
}
