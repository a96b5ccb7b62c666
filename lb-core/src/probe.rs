//! A packet that nobody sent, made of a few words: for `explain`.

use std::net::IpAddr;

use crate::tables::{Mac, Protocol};
use crate::wire::{checksum, ipv4, ipv6};

/// What is said of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Probe {
    /// Of one family.
    pub src: IpAddr,
    pub dst: IpAddr,
    pub protocol: Protocol,
    /// Of TCP, UDP and SCTP; the source port is an echo's identifier.
    pub sport: u16,
    pub dport: u16,
    pub tcp_flags: u8,
    /// Type and code.
    pub icmp: (u8, u8),
    /// TTL or hop limit.
    pub ttl: u8,
    /// Bytes of data behind the transport header.
    pub data: u16,
}

/// Longest data of a probe: the whole frame is within the longest that there is.
pub const MOST_DATA: u16 = 8_900;

/// An SCTP INIT's length, and its number of streams, any one that is right.
const INIT_LEN: u16 = 20;
const STREAMS: u16 = 10;

impl Probe {
    /// The frame, with right checksums (SCTP's, which nobody here looks at, left out).
    pub fn frame(&self, to: Mac, from: Mac, vlan: u16) -> Vec<u8> {
        let mut frame = [to, from].concat();
        if vlan != 0 {
            frame.extend([0x81, 0]);
            frame.extend(vlan.to_be_bytes());
        }
        let transport = self.transport();
        let len = transport.len() as u16;
        match (self.src, self.dst) {
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
                frame.extend(len.to_be_bytes());
                frame.extend([self.protocol.0, self.ttl]);
                frame.extend(src.octets());
                frame.extend(dst.octets());
            }
            _ => {
                frame.extend([8, 0]);
                let mut header = vec![0x45, 0];
                header.extend((ipv4::LEN as u16 + len).to_be_bytes());
                // May not be split: nobody asks about fragments.
                header.extend([0, 0, 0x40, 0, self.ttl, self.protocol.0, 0, 0]);
                for address in [self.src, self.dst] {
                    header.extend(octets(address));
                }
                ipv4::fill_checksum(&mut header);
                frame.extend(header);
            }
        }
        frame.extend(transport);
        frame
    }

    /// Length of the IP packet.
    pub fn ip_len(&self) -> usize {
        self.transport().len() + if self.src.is_ipv6() { ipv6::LEN } else { ipv4::LEN }
    }

    fn transport(&self) -> Vec<u8> {
        let [sport, dport] = [self.sport, self.dport].map(u16::to_be_bytes);
        let ports = [sport, dport].concat();
        let mut bytes = match self.protocol {
            Protocol::TCP => {
                [&ports[..], &[0, 0, 0, 1, 0, 0, 0, 0, 0x50, self.tcp_flags, 0xff, 0xff, 0, 0, 0, 0]].concat()
            }
            Protocol::UDP => {
                let len = (8 + self.data).to_be_bytes();
                [&ports[..], &len, &[0, 0]].concat()
            }
            // An INIT, whose verification tag is 0.
            Protocol::SCTP => {
                let [len, streams] = [INIT_LEN, STREAMS].map(u16::to_be_bytes);
                [
                    &ports[..],
                    &[0; 8],
                    &[1, 0],
                    &len,
                    &[0, 0, 0, 1, 0, 1, 0, 0],
                    &streams,
                    &streams,
                    &[0, 0, 0, 1],
                ]
                .concat()
            }
            Protocol::ICMP | Protocol::ICMPV6 => {
                [&[self.icmp.0, self.icmp.1, 0, 0][..], &sport, &[0, 1]].concat()
            }
            _ => Vec::new(),
        };
        bytes.resize(bytes.len() + usize::from(self.data), 0);
        let field = match self.protocol {
            Protocol::TCP => 16,
            Protocol::UDP => 6,
            Protocol::ICMP | Protocol::ICMPV6 => 2,
            _ => return bytes,
        };
        let sum = checksum::add(self.pseudo(bytes.len()), checksum::sum(&bytes));
        bytes[field..field + 2].copy_from_slice(&checksum::finish_udp(sum).to_be_bytes());
        bytes
    }

    /// Sum of the pseudo-header; ICMP has none.
    fn pseudo(&self, len: usize) -> u16 {
        match (self.src, self.dst) {
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                checksum::pseudo_v6(&src.octets(), &dst.octets(), self.protocol.0, len as u32)
            }
            _ if self.protocol == Protocol::ICMP => 0,
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                checksum::pseudo_v4(src.into(), dst.into(), self.protocol.0, len as u16)
            }
            _ => 0,
        }
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::parse::{Parsed, parse};

    #[test]
    fn the_parser_reads_what_was_said() {
        for (src, dst) in [("192.0.2.1", "10.0.0.1"), ("2001:db8::1", "fd00::1")] {
            let (src, dst): (IpAddr, IpAddr) = (src.parse().unwrap(), dst.parse().unwrap());
            let icmp = if src.is_ipv6() { Protocol::ICMPV6 } else { Protocol::ICMP };
            for protocol in [Protocol::TCP, Protocol::UDP, Protocol::SCTP, icmp, Protocol::GRE] {
                for (vlan, data) in [(0, 0), (7, 11)] {
                    let icmp = (if src.is_ipv6() { 128 } else { 8 }, 0);
                    let probe = Probe {
                        src,
                        dst,
                        protocol,
                        sport: 4000,
                        dport: 80,
                        tcp_flags: 2,
                        icmp,
                        ttl: 64,
                        data,
                    };
                    let frame = probe.frame([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2], vlan);
                    let read = parse(&frame, frame.len(), Default::default());
                    let Ok(Parsed::Ip(headers)) = read else { panic!("{probe:?}: {read:?}") };
                    assert_eq!((headers.source(&frame), headers.destination(&frame)), (src, dst));
                    assert_eq!((headers.protocol, headers.vlan, headers.ttl), (protocol, vlan, 64));
                    assert_eq!(headers.ip_len as usize, probe.ip_len());
                    if protocol.has_ports() {
                        assert_eq!((headers.sport, headers.dport), (4000, 80));
                    }
                    let sum = checksum::of_transport(&frame, &headers).unwrap();
                    let has_none = matches!(protocol, Protocol::SCTP | Protocol::GRE);
                    assert!(checksum::is_good(sum) || has_none, "{probe:?}");
                }
            }
        }
    }
}
