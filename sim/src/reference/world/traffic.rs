//! What comes in: packets of clients, answers to what left, errors about it, strays; some in pieces, some spoilt.

use std::net::IpAddr;

use lb_core::ids::PortId;
use lb_core::ipvs::quic_lb::Config;
use lb_core::packet::Frame;
use lb_core::tables::ServiceKey;
use lb_core::wire::tcp_options::TcpOptions;
use lb_dataplane::Logic;

use super::super::checksum;
use super::super::parse::{
    self, ABORT, ACK, AH, COOKIE_ACK, COOKIE_ECHO, ESP, FIN, ICMP, ICMPV6, INIT, Piece, RST, Read, SCTP, SYN,
    TCP, UDP, has_ports, word,
};
use super::super::quic::cipher::encipher;
use super::frames::{Recipe, quic, quic_id, sctp, segment, tcp, udp};
use super::operator::KEYS;
use super::{Mood, World, ip, port_mac};

/// Hosts that clients ask and caches answer for: some that there is a way to, and some that there is none to.
const SITES: [&str; 6] =
    ["203.0.113.7", "198.51.100.7", "198.51.100.8", "10.0.0.12", "10.0.0.99", "10.8.0.1"];
const SITES_IPV6: [&str; 4] = ["3fff::1", "2001:db8:1::7", "2001:db8:1::8", "fd00::12"];

impl<L: Logic<Frame>> World<L> {
    /// One packet, or the pieces of one.
    pub(super) fn frames(&mut self) -> Vec<(PortId, Vec<u8>)> {
        match self.mood {
            Mood::Fragments if self.rng.one_in(2) => {
                let (port, mut recipe) = self.client_packet();
                recipe.fragment = Some((64, self.rng.one_in(2)));
                recipe.id = self.rng.next() as u32;
                recipe.segment.truncate(80);
                return vec![(port, recipe.build())];
            }
            Mood::Errors if self.rng.one_in(2) => {
                let (port, mut recipe) = self.client_packet();
                recipe.ttl = 1;
                return vec![(port, recipe.build())];
            }
            Mood::Unresolved if self.rng.one_in(2) => {
                let hosts = [
                    "10.0.0.99",
                    "10.0.0.98",
                    "10.7.0.5",
                    "10.7.0.6",
                    "10.7.0.7",
                    "10.7.0.8",
                    "10.7.0.9",
                    "10.7.0.10",
                    "10.7.0.11",
                    "10.7.0.12",
                ];
                let (port, mut recipe) = self.client_packet();
                if recipe.src.is_ipv4() {
                    recipe.dst = ip(self.rng.of(&hosts));
                    recipe.segment = segment(recipe.protocol, (recipe.src, recipe.dst), recipe.segment);
                }
                return vec![(port, recipe.build())];
            }
            _ => {}
        }
        let drawn = match self.rng.below(10) {
            _ if self.has_ftp && self.rng.one_in(8) => self.said_again(),
            0..4 => Some(self.client_packet()),
            4..8 => self.answer(),
            8 => self.error(),
            _ => None,
        };
        let (port, mut recipe) = drawn.unwrap_or_else(|| self.stray());
        if self.rng.one_in(40) {
            recipe.segment.truncate(self.rng.below(24));
        }
        let mut frames = if self.rng.one_in(12) && recipe.segment.len() > 40 && recipe.fragment.is_none() {
            let mut pieces = pieces(&recipe, self.rng.of(&[24, 64, 200]));
            for _ in 0..self.rng.below(3) {
                let (a, b) = (self.rng.below(pieces.len()), self.rng.below(pieces.len()));
                pieces.swap(a, b);
            }
            if self.rng.one_in(4) {
                pieces.pop();
            }
            pieces.into_iter().map(|piece| piece.build()).collect()
        } else {
            vec![recipe.build()]
        };
        for frame in &mut frames {
            self.spoil(frame);
        }
        frames.into_iter().map(|frame| (port, frame)).collect()
    }

    pub(super) fn recipe(
        &mut self,
        port: PortId,
        src: IpAddr,
        dst: IpAddr,
        protocol: u8,
        bytes: Vec<u8>,
    ) -> Recipe {
        let rng = &mut self.rng;
        let options = match rng.below(30) {
            0 => vec![1, 1, 0, 9],
            1 => vec![0x94, 4, 0, 0],
            2 => vec![0x44, 6, 5, 0, 0x94, 4, 0, 0],
            3 => vec![131, 4, 4, 1],
            4 => vec![7, 9, 4, 1],
            5 => vec![1; 40],
            _ => vec![],
        };
        let extensions = match rng.below(30) {
            0 => vec![(0, [1, 4, 0, 0, 0, 0])],
            1 => vec![(60, [1, 4, 0, 0, 0, 0])],
            2 => vec![(0, [0; 6]), (43, [4, 0, 0, 0, 0, 0])],
            3 => vec![(43, [0, 1, 0, 0, 0, 0])],
            4 => vec![(60, [0; 6]); 9],
            5 => vec![(51, [0; 6])],
            6 => vec![(60, [0; 6]), (0, [0; 6])],
            _ => vec![],
        };
        let own = if rng.one_in(60) {
            rng.of(&[[0xff; 6], [1, 0, 0x5e, 0, 0, 1], [2, 9, 9, 9, 9, 9]])
        } else {
            port_mac(port.0)
        };
        Recipe {
            macs: ([2, 0, 0, 0, 1, 1], own),
            tags: match rng.below(60) {
                0 => vec![0],
                1 => vec![7],
                2 => vec![8],
                3 => vec![7, 0],
                4 => vec![0, 7],
                5 => vec![7, 7],
                6 => vec![1, 2, 3],
                _ => vec![],
            },
            src,
            dst,
            ttl: if rng.one_in(20) { rng.of(&[0, 1, 2]) } else { 64 },
            id: rng.below(30) as u32,
            dont_fragment: rng.one_in(2),
            options,
            extensions,
            fragment: if rng.one_in(100) { Some((0, false)) } else { None },
            protocol,
            segment: segment(protocol, (src, dst), bytes),
            padding: rng.of(&[0, 0, 6]),
        }
    }

    fn data(&mut self) -> Vec<u8> {
        if self.has_ftp && self.rng.one_in(4) {
            return self.line_of_anybody();
        }
        let len = self.rng.of(&[0, 1, 7, 64, 300, 1000, 1460]);
        self.rng.bytes(len)
    }

    fn flags(&mut self) -> u8 {
        let usual = [SYN, SYN, SYN | ACK, ACK, ACK, ACK, FIN | ACK, RST, RST | ACK, FIN, 0];
        if self.rng.one_in(15) { self.rng.next() as u8 } else { self.rng.of(&usual) }
    }

    fn chunk(&mut self) -> u8 {
        const DATA: u8 = 0;
        let usual =
            [INIT, INIT, 2, COOKIE_ECHO, COOKIE_ECHO, COOKIE_ACK, COOKIE_ACK, DATA, DATA, ABORT, 7, 8, 14];
        if self.rng.one_in(15) { self.rng.next() as u8 } else { self.rng.of(&usual) }
    }

    fn client_packet(&mut self) -> (PortId, Recipe) {
        let (mut protocol, mut vip, mut port) = self.rng.of(&KEYS[..10]);
        if self.has_ftp_port && self.beside.one_in(3) {
            protocol = TCP;
            vip = self.beside.of(&["192.0.2.10", "192.0.2.10", "192.0.2.11", "2001:db8::10"]);
            // Of control connections; and where a data connection is, or would be but for its port.
            port = self.beside.of(&[21, 21, 21, 20, 1023, 1024, 50_000, 50_001]);
        }
        if self.has_caches && self.beside.one_in(3) {
            vip = if vip.contains(':') { self.beside.of(&SITES_IPV6) } else { self.beside.of(&SITES) };
        }
        let vip = ip(vip);
        let client = ip(match (vip.is_ipv6(), self.rng.below(12)) {
            (false, 0) => "192.0.2.101",
            (false, 1) => "192.0.2.77",
            (false, 2) => "192.0.2.10",
            (false, 3..7) => "198.51.100.5",
            (false, _) => "192.0.2.100",
            (true, 0) => "fe80::5",
            (true, 1) => "2001:db8::77",
            (true, 2..6) => "2001:db8:1::5",
            (true, _) => "2001:db8::100",
        });
        let sport = match port {
            // Who negotiates IPsec; or what was negotiated.
            500 if self.rng.one_in(2) => {
                let (protocol, bytes) = (self.rng.of(&[ESP, ESP, AH]), self.data());
                return (PortId(0), self.recipe(PortId(0), client, vip, protocol, bytes));
            }
            500 if !self.rng.one_in(10) => 500,
            _ if self.rng.one_in(40) => 20,
            _ => 4000 + self.rng.below(25) as u16,
        };
        let dport = if self.rng.one_in(15) { self.rng.of(&[81, 80, 53]) } else { port };
        let bytes = self.transport(protocol, (sport, dport));
        (PortId(0), self.recipe(PortId(0), client, vip, protocol, bytes))
    }

    /// A message of one of a few calls; or of one that nobody can read.
    fn sip(&mut self, data: &[u8]) -> Vec<u8> {
        let name =
            self.rng.of(&["Call-ID: ", "Call-ID: ", "i:", "I\t:", "CALL-id:\r\n  ", "Call-IDs: ", " i: "]);
        let call = self.rng.of(&["a", "b@c", "d", "e@", "f g"]);
        let end = self.rng.of(&["\r\n", "\n", "\r", ""]);
        [b"A sip:b SIP/2.0\r\nTo: c\r\n", name.as_bytes(), call.as_bytes(), end.as_bytes(), data].concat()
    }

    /// A packet with a connection ID that names a real server, or none.
    fn quic(&mut self, data: &[u8]) -> Vec<u8> {
        let config = self.rng.of(&[0, 0, 1, 1, 2, 7]);
        let server = 10 + self.rng.below(13) as u8;
        let way = self.quic.get(usize::from(config));
        let mut written = quic_id(server, way.map_or(1, Config::id_len));
        written.extend(self.rng.bytes(6));
        if let Some((way, key)) = way.and_then(|way| Some((way, way.key()?))) {
            written.resize((way.id_len() + way.nonce_len()).into(), 0);
            written = encipher(&key.reveal(), &written);
        }
        let mut id = vec![config << 5];
        id.extend(written);
        id.truncate(self.rng.of(&[20, 20, 20, 4, 0]));
        let version = self.rng.of(&[1, 1, 0x6b33_43cf, 0xff00_001d]);
        let long = self.rng.one_in(2).then_some((self.rng.below(4) as u8, version));
        quic(long, &id, data)
    }

    fn tcp_options(&mut self) -> Vec<u8> {
        let edges = [2, 40, 100, 300].map(u32::to_be_bytes).concat();
        let stamps = self.rng.one_in(2).then_some((7, 0));
        let offer = TcpOptions {
            mss: self.rng.of(&[None, Some(1460), Some(40)]),
            scale: self.rng.of(&[None, Some(0), Some(9), Some(14)]),
            sack: self.rng.one_in(2),
            stamps,
        };
        match self.rng.below(8) {
            0 => vec![1; 12],
            1 | 2 => offer.bytes().to_vec(),
            3 => [&[1, 1, 5, 18][..], &edges].concat(),
            4 => [&[5, 10][..], &edges[4..12], &[1, 1]].concat(),
            5 => [&[1, 5, 10][..], &edges[4..12], &[0]].concat(),
            _ => vec![],
        }
    }

    /// What the other end says to a segment that is right.
    fn tcp_reply(&mut self, frame: &[u8], read: &Read) -> Vec<u8> {
        let number = |at| u32::from(word(frame, at)) << 16 | u32::from(word(frame, at + 2));
        let header_len = usize::from(frame[read.l4 + 12] >> 4) * 4;
        let ends = [SYN, FIN].map(|flag| u32::from(read.tcp_flags & flag != 0));
        let len = read.end.saturating_sub(read.l4 + header_len) as u32 + ends[0] + ends[1];
        let (seq, ack) = (number(read.l4 + 4), number(read.l4 + 8));
        let own = if read.tcp_flags & ACK != 0 { ack } else { self.rng.of(&[1000, u32::MAX]) };
        let (answers, data) = (read.tcp_flags & (SYN | ACK) == SYN, self.data());
        let flags = if answers { SYN | ACK } else { self.rng.of(&[ACK, ACK, ACK, FIN | ACK]) };
        let said = TcpOptions::read(frame.get(read.l4 + 20..read.l4 + header_len).unwrap_or_default());
        let stamps = said.stamps.map(|(clock, _)| (self.rng.below(1000) as u32, clock));
        let options = if answers {
            let scale = self.rng.of(&[None, Some(2), Some(7), Some(14)]);
            TcpOptions { mss: Some(1400), scale, sack: self.rng.one_in(2), stamps }.bytes()
        } else {
            TcpOptions { stamps, ..TcpOptions::default() }.bytes()
        };
        let data = if answers || self.rng.one_in(2) { &[][..] } else { &data };
        tcp((read.dport, read.sport), (own, seq.wrapping_add(len)), flags, &options, data)
    }

    fn transport(&mut self, protocol: u8, ports: (u16, u16)) -> Vec<u8> {
        let data = self.data();
        match protocol {
            TCP => {
                // Most often what follows on a SYN with the first number.
                let numbers = (
                    self.rng.of(&[1, 1, 2, 2, 2, 2, 3, 30]),
                    self.rng.of(&[2, 3, 29, 30, 31, 46, 54, 72, 500, u32::MAX]),
                );
                let (flags, options) = (self.flags(), self.tcp_options());
                tcp(ports, numbers, flags, &options, &data)
            }
            UDP if self.rng.one_in(2) => udp(ports, &self.sip(&data)),
            UDP if self.rng.one_in(2) => udp(ports, &self.quic(&data)),
            UDP => udp(ports, &data),
            SCTP => {
                let (chunk, next) = (self.chunk(), self.chunk());
                sctp(ports, [chunk, next], &data)
            }
            _ => [&[8, 0, 0, 0, 0, 1, 0, 1][..], &data].concat(),
        }
    }

    /// Something that left a while ago.
    fn left(&mut self) -> Option<(PortId, Vec<u8>, Read)> {
        if self.left.is_empty() {
            return None;
        }
        let place = self.rng.below(self.left.len());
        let (port, frame) = self.left[place].clone();
        let read = parse::read(&frame).ok().flatten()?;
        Some((port, frame, read))
    }

    /// A client's SYN for a service.
    pub(super) fn syn(&mut self) -> (PortId, Vec<u8>) {
        let (vip, dport) = self.rng.of(&[("192.0.2.10", 80), ("192.0.2.11", 443), ("2001:db8::10", 80)]);
        let vip = ip(vip);
        let dport = if self.has_ftp_port && self.beside.one_in(2) { ServiceKey::FTP } else { dport };
        let client = ip(if vip.is_ipv6() { "2001:db8::100" } else { "192.0.2.100" });
        let sport = 4000 + self.rng.below(25) as u16;
        let options = self.tcp_options();
        let bytes = tcp((sport, dport), (1, 0), SYN, &options, &[]);
        (PortId(0), self.recipe(PortId(0), client, vip, TCP, bytes).build())
    }

    /// What the other end says to the segment that left last.
    pub(super) fn next_of_stream(&mut self) -> Option<(PortId, Vec<u8>)> {
        let (port, frame) = self.left.back().cloned()?;
        let read = parse::read(&frame).ok().flatten()?;
        if read.protocol != TCP || read.piece != Piece::Whole {
            return None;
        }
        let bytes = self.tcp_reply(&frame, &read);
        Some((port, self.recipe(port, read.dst, read.src, TCP, bytes).build()))
    }

    /// A packet back to where something came from, or once more from the client.
    fn answer(&mut self) -> Option<(PortId, Recipe)> {
        let (port, frame, read) = self.left()?;
        let is_ipsec = [ESP, AH].contains(&read.protocol);
        if read.piece == Piece::Later || !is_ipsec && !has_ports(read.protocol) {
            return None;
        }
        let is_protected = is_ipsec || read.dport == 500 && self.rng.one_in(2);
        let (protocol, bytes) = if is_protected {
            (self.rng.of(&[ESP, AH]), self.data())
        } else if read.protocol == TCP && self.rng.below(4) > usize::from(!self.has_headers) {
            (TCP, self.tcp_reply(&frame, &read))
        } else {
            (read.protocol, self.transport(read.protocol, (read.dport, read.sport)))
        };
        Some((port, self.recipe(port, read.dst, read.src, protocol, bytes)))
    }

    /// An ICMP error about something that left.
    fn error(&mut self) -> Option<(PortId, Recipe)> {
        let (port, frame, read) = self.left()?;
        let kinds: &[u8] = if read.is_ipv6() { &[1, 2, 3, 4, 137, 128] } else { &[3, 3, 4, 5, 11, 12, 8] };
        let most = self.rng.of(&[20, 28, 30, 40, 60, 548]);
        let quote = &frame[read.l3..read.end.min(read.l3 + most)];
        let code = self.rng.of(&[1, 1, 3, 0, 2, 3, 4, 13]);
        let mut message = vec![self.rng.of(kinds), code, 0, 0];
        message.extend(self.rng.of(&[
            [0, 0, 5, 0],
            [0, 0, 5, 0],
            [0; 4],
            [0, 6, 0, 0],
            [9, 0, 0, 0],
            [0, 0, 0, 24],
        ]));
        message.extend(quote);
        if self.rng.one_in(10) {
            let place = 8 + self.rng.below(quote.len());
            message[place] ^= 1 << self.rng.below(8);
        }
        let router = match (read.is_ipv6(), self.rng.one_in(2)) {
            (false, true) => ip("198.51.100.1"),
            (true, true) => ip("2001:db8:1::1"),
            _ => read.dst,
        };
        let protocol = if read.is_ipv6() { ICMPV6 } else { ICMP };
        Some((port, self.recipe(port, router, read.src, protocol, message)))
    }

    /// Any packet through us, or up to the host.
    fn stray(&mut self) -> (PortId, Recipe) {
        let is_ipv6 = self.rng.one_in(2);
        let all: &[&str] = if is_ipv6 {
            &[
                "2001:db8::100",
                "fd00::11",
                "fd00::99",
                "2001:db8::9",
                "ff02::1",
                "fe80::1",
                "3fff::1",
                "::",
                "::1",
            ]
        } else {
            &[
                "192.0.2.100",
                "10.0.0.11",
                "10.0.0.99",
                "192.0.2.9",
                "224.0.0.1",
                "255.255.255.255",
                "203.0.113.7",
                "10.8.0.1",
                "10.7.0.5",
                "8.8.8.8",
                "0.0.0.0",
                "127.0.0.1",
            ]
        };
        let (src, dst) = (ip(self.rng.of(all)), ip(self.rng.of(all)));
        let protocol = self.rng.of(&[TCP, UDP, SCTP, ICMP, ICMPV6, 50]);
        let ports = (self.rng.of(&[4000, 20]), self.rng.of(&[80, 22]));
        let bytes = self.transport(protocol, ports);
        let port = PortId(self.rng.below(3) as u16);
        (port, self.recipe(port, src, dst, protocol, bytes))
    }

    fn spoil(&mut self, frame: &mut Vec<u8>) {
        if self.rng.one_in(15) {
            for _ in 0..=self.rng.below(2) {
                let place = self.rng.below(frame.len());
                frame[place] ^= 1 << self.rng.below(8);
            }
        }
        if self.rng.one_in(25)
            && let Some(at) = udp_checksum(frame)
        {
            frame[at..at + 2].fill(0);
        }
        // Most of what was flipped in an IPv4 header would never be seen behind its checksum.
        if self.rng.one_in(3) && frame.len() > 60 && frame[12..14] == [8, 0] {
            let len = usize::from(frame[14] & 15) * 4;
            if len >= 20 && frame.len() >= 14 + len {
                checksum::seal_ipv4(&mut frame[14..14 + len]);
            }
        }
        if self.rng.one_in(60) {
            let len = self.rng.below(frame.len() + 1);
            frame.truncate(len);
        }
    }
}

fn udp_checksum(frame: &[u8]) -> Option<usize> {
    let read = parse::read(frame).ok()??;
    (read.protocol == UDP && read.piece != Piece::Later).then_some(read.l4 + 6)
}

/// The fragments of a packet, of `len` bytes each.
fn pieces(recipe: &Recipe, len: usize) -> Vec<Recipe> {
    let count = recipe.segment.len().div_ceil(len);
    let part = |(number, part): (usize, &[u8])| Recipe {
        segment: part.to_vec(),
        fragment: Some(((number * len) as u16, number + 1 < count)),
        dont_fragment: false,
        ..recipe.clone()
    };
    recipe.segment.chunks(len).enumerate().map(part).collect()
}
