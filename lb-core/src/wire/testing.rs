//! Frames for the tests of this crate, built by an implementation that is not ours (etherparse).

use std::collections::BTreeMap;

use etherparse::{
    IpFragOffset, IpHeaders, IpNumber, Ipv4Header, Ipv4Options, Ipv6Extensions, Ipv6FlowLabel,
    Ipv6FragmentHeader, Ipv6Header, Ipv6RawExtHeader, Ipv6RoutingExtensions, PacketBuilder, VlanId,
};

use super::parse::{Headers, Parsed, parse};
use super::{checksum, crc32c, sctp};
use crate::drop::DropReason;
use crate::packet::RxChecksum;

pub(crate) const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 1, 1];
pub(crate) const OUR_MAC: [u8; 6] = [2, 0, 0, 0, 1, 2];
pub(crate) const CLIENT: [u8; 4] = [172, 20, 8, 1];
pub(crate) const VIP: [u8; 4] = [10, 9, 0, 1];
pub(crate) const CLIENT6: [u8; 16] = [0xfd, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9];
pub(crate) const VIP6: [u8; 16] = [0xfd, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];

/// What is to be built.
#[derive(Clone, Debug)]
pub(crate) struct Recipe {
    pub(crate) vlans: Vec<u16>,
    pub(crate) ip: Ip,
    pub(crate) l4: L4,
    pub(crate) payload: Vec<u8>,
    /// Bytes behind the IP packet.
    pub(crate) padding: usize,
}

#[derive(Clone, Debug)]
pub(crate) enum Ip {
    V4 { src: [u8; 4], dst: [u8; 4], options: Vec<u8>, dont_fragment: bool, more: bool, offset: u16 },
    V6 { src: [u8; 16], dst: [u8; 16], extensions: Extensions },
}

/// Which extension headers an IPv6 packet has.
#[derive(Clone, Debug, Default)]
pub(crate) struct Extensions {
    pub(crate) hop_by_hop: bool,
    pub(crate) destination: bool,
    /// A routing header of this type with no segments left.
    pub(crate) routing: Option<u8>,
    /// Offset in bytes and the more-fragments bit.
    pub(crate) fragment: Option<(u16, bool)>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum L4 {
    Tcp {
        sport: u16,
        dport: u16,
        flags: u8,
        options: usize,
    },
    Udp {
        sport: u16,
        dport: u16,
    },
    /// A chunk, and data behind it. Its checksum is right.
    Sctp {
        sport: u16,
        dport: u16,
        chunk: u8,
    },
    Icmp {
        kind: u8,
        code: u8,
    },
    Other(u8),
}

pub(crate) fn v4() -> Ip {
    Ip::V4 { src: CLIENT, dst: VIP, options: vec![], dont_fragment: true, more: false, offset: 0 }
}

pub(crate) fn v6() -> Ip {
    Ip::V6 { src: CLIENT6, dst: VIP6, extensions: Extensions::default() }
}

pub(crate) fn tcp() -> L4 {
    L4::Tcp { sport: 4700, dport: 2018, flags: 2, options: 0 }
}

pub(crate) fn udp() -> L4 {
    L4::Udp { sport: 4700, dport: 2018 }
}

pub(crate) fn recipe(ip: Ip, l4: L4, payload: usize) -> Recipe {
    Recipe { vlans: vec![], ip, l4, payload: vec![0x64; payload], padding: 0 }
}

/// A frame without tags, options and padding.
pub(crate) fn frame(ip: Ip, l4: L4, payload: usize) -> Vec<u8> {
    recipe(ip, l4, payload).build()
}

impl Recipe {
    pub(crate) fn build(&self) -> Vec<u8> {
        let ip = self.ip.headers();
        let ethernet = PacketBuilder::ethernet2(CLIENT_MAC, OUR_MAC);
        let builder = match *self.vlans {
            [] => ethernet.ip(ip),
            [id] => ethernet.single_vlan(VlanId::try_new(id).unwrap()).ip(ip),
            [outer, inner] => {
                ethernet.double_vlan(VlanId::try_new(outer).unwrap(), VlanId::try_new(inner).unwrap()).ip(ip)
            }
            _ => panic!("at most two tags"),
        };
        let mut out = Vec::new();
        match self.l4 {
            L4::Tcp { sport, dport, flags, options } => {
                let mut tcp = etherparse::TcpHeader::new(sport, dport, 1000, 64_240);
                tcp.fin = flags & 1 != 0;
                tcp.syn = flags & 2 != 0;
                tcp.rst = flags & 4 != 0;
                tcp.psh = flags & 8 != 0;
                tcp.ack = flags & 16 != 0;
                tcp.urg = flags & 32 != 0;
                tcp.set_options_raw(&vec![1; options * 4]).unwrap();
                builder.tcp_header(tcp).write(&mut out, &self.payload)
            }
            L4::Udp { sport, dport } => builder.udp(sport, dport).write(&mut out, &self.payload),
            L4::Sctp { sport, dport, chunk } => {
                let mut packet = [sport.to_be_bytes(), dport.to_be_bytes(), [0xab; 2], [0xcd; 2]].concat();
                packet.extend([0, 0, 0, 0, chunk, 0]);
                packet.extend((self.payload.len() as u16 + 4).to_be_bytes());
                packet.extend(&self.payload);
                let checksum = crc32c::tests::slow(&packet);
                packet[sctp::CHECKSUM..sctp::LEN].copy_from_slice(&checksum.to_le_bytes());
                builder.write(&mut out, IpNumber::SCTP, &packet)
            }
            L4::Icmp { kind, code } if matches!(self.ip, Ip::V4 { .. }) => {
                builder.icmpv4_raw(kind, code, [0; 4]).write(&mut out, &self.payload)
            }
            L4::Icmp { kind, code } => builder.icmpv6_raw(kind, code, [0; 4]).write(&mut out, &self.payload),
            L4::Other(number) => builder.write(&mut out, IpNumber(number), &self.payload),
        }
        .expect("a valid packet");
        out.extend(std::iter::repeat_n(0xee, self.padding));
        out
    }
}

impl Ip {
    fn headers(&self) -> IpHeaders {
        match self {
            Ip::V4 { src, dst, options, dont_fragment, more, offset } => {
                let mut ip = Ipv4Header::new(0, 64, IpNumber::UDP, *src, *dst).unwrap();
                ip.identification = 0x1234;
                ip.dont_fragment = *dont_fragment;
                ip.more_fragments = *more;
                ip.fragment_offset = IpFragOffset::try_new(offset / 8).unwrap();
                ip.options = Ipv4Options::try_from(&options[..]).unwrap();
                IpHeaders::Ipv4(ip, Default::default())
            }
            Ip::V6 { src, dst, extensions } => {
                let raw = |payload: &[u8]| Ipv6RawExtHeader::new_raw(IpNumber::UDP, payload).unwrap();
                let ip = Ipv6Header {
                    flow_label: Ipv6FlowLabel::try_new(0x7a6d).unwrap(),
                    hop_limit: 64,
                    source: *src,
                    destination: *dst,
                    ..Default::default()
                };
                let extensions = Ipv6Extensions {
                    hop_by_hop_options: extensions.hop_by_hop.then(|| raw(&[1, 4, 0, 0, 0, 0])),
                    destination_options: (extensions.destination && extensions.routing.is_some())
                        .then(|| raw(&[1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])),
                    routing: extensions.routing.map(|kind| Ipv6RoutingExtensions {
                        routing: raw(&[kind, 0, 0, 0, 0, 0]),
                        final_destination_options: None,
                    }),
                    fragment: extensions.fragment.map(|(offset, more)| {
                        Ipv6FragmentHeader::new(
                            IpNumber::UDP,
                            IpFragOffset::try_new(offset / 8).unwrap(),
                            more,
                            0xdead_beef,
                        )
                    }),
                    auth: None,
                };
                IpHeaders::Ipv6(ip, extensions)
            }
        }
    }
}

/// Writes the IPv4 header's checksum, of an untagged frame.
pub(crate) fn reseal(frame: &mut [u8]) {
    let len = usize::from(frame[14] & 15) * 4;
    frame[24..26].fill(0);
    let sum = checksum::finish(checksum::sum(&frame[14..14 + len]));
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
}

/// Headers of a packet that parses.
pub(crate) fn headers(frame: &[u8]) -> Headers {
    match parse(frame, frame.len(), RxChecksum::Unknown) {
        Ok(Parsed::Ip(headers)) => headers,
        other => panic!("{other:?}"),
    }
}

/// Why a frame is refused.
pub(crate) fn refusal(frame: &[u8]) -> DropReason {
    parse(frame, frame.len(), RxChecksum::Unknown).expect_err("a refusal")
}

/// Frames that the kernel's IPVS received and sent in one step of a recording.
pub(crate) struct Step(Vec<Recorded>);

#[derive(serde::Deserialize)]
struct Recorded {
    /// `c0`: the clients' side, `r0`: the real servers'.
    #[serde(rename = "if")]
    interface: String,
    /// `out`: sent by the client or the real server, `in`: what came to it.
    dir: String,
    hex: String,
}

/// A step of `tests/oracle/icmp.json`.
pub(crate) fn recorded(vector: &str, step: &str) -> Step {
    #[derive(serde::Deserialize)]
    struct File {
        vectors: BTreeMap<String, BTreeMap<String, Vec<Recorded>>>,
    }
    let mut file: File = serde_json::from_str(include_str!("../../tests/oracle/icmp.json")).unwrap();
    Step(file.vectors.remove(vector).unwrap().remove(step).unwrap())
}

impl Step {
    /// The first frame seen there.
    pub(crate) fn frame(&self, interface: &str, dir: &str) -> Vec<u8> {
        self.frames(interface, dir).swap_remove(0)
    }

    pub(crate) fn frames(&self, interface: &str, dir: &str) -> Vec<Vec<u8>> {
        let byte = |hex: &str| u8::from_str_radix(hex, 16).unwrap();
        let bytes = |hex: &str| (0..hex.len()).step_by(2).map(|n| byte(&hex[n..n + 2])).collect();
        let seen = self.0.iter().filter(|frame| frame.interface == interface && frame.dir == dir);
        seen.map(|frame| bytes(&frame.hex)).collect()
    }
}
