//! Frames, built and read without `lb-core`: what checks the path must not share its code.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub type Mac = [u8; 6];

pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const ICMP: u8 = 1;
pub const ICMPV6: u8 = 58;
pub const IPIP: u8 = 4;
pub const IPV6: u8 = 41;
pub const GRE: u8 = 47;

pub const FIN: u8 = 1;
pub const SYN: u8 = 2;
pub const RST: u8 = 4;
pub const PSH: u8 = 8;
pub const ACK: u8 = 16;

/// Ethernet, with a tag where `vlan` is not 0.
#[derive(Clone, Copy, Debug)]
pub struct Link {
    pub dst: Mac,
    pub src: Mac,
    pub vlan: u16,
}

#[derive(Clone, Copy, Debug)]
pub struct Ip {
    pub src: IpAddr,
    pub dst: IpAddr,
    pub ttl: u8,
    pub id: u16,
    pub dont_fragment: bool,
    /// Words of IPv4 options, all of them "no operation".
    pub options: u8,
}

#[derive(Clone, Copy, Debug)]
pub enum Body<'a> {
    Tcp {
        sport: u16,
        dport: u16,
        seq: u32,
        ack: u32,
        flags: u8,
        window: u16,
        /// A multiple of four bytes.
        options: &'a [u8],
        payload: &'a [u8],
    },
    /// `is_summed`: with a checksum.
    Udp {
        sport: u16,
        dport: u16,
        is_summed: bool,
        payload: &'a [u8],
    },
    Echo {
        is_reply: bool,
        id: u16,
        seq: u16,
        payload: &'a [u8],
    },
    /// `kind` and `code` of the packet's family.
    Error {
        kind: u8,
        code: u8,
        rest: u32,
        quote: &'a [u8],
    },
}

impl Body<'_> {
    pub fn protocol(&self, is_ipv6: bool) -> u8 {
        match self {
            Body::Tcp { .. } => TCP,
            Body::Udp { .. } => UDP,
            Body::Echo { .. } | Body::Error { .. } => {
                if is_ipv6 {
                    ICMPV6
                } else {
                    ICMP
                }
            }
        }
    }
}

/// The plain sum of RFC 1071: words, carries added back in. Words are added as this machine reads them, and the sum's bytes are
/// put in order (§2 (B)).
fn sum(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<4>();
    let mut last = [0; 4];
    last[..rest.len()].copy_from_slice(rest);
    let last = u64::from(u32::from_ne_bytes(last));
    // No frame is long enough for a carry out of 64 bits.
    let total = words.iter().fold(last, |total, word| total.wrapping_add(u32::from_ne_bytes(*word).into()));
    u16::from_be(folded(total)).into()
}

fn folded(mut total: u64) -> u16 {
    while total > 0xffff {
        total = (total >> 16) + (total & 0xffff);
    }
    total as u16
}

fn pseudo(src: IpAddr, dst: IpAddr, protocol: u8, len: usize) -> u64 {
    let ends = match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => sum(&src.octets()) + sum(&dst.octets()),
        (IpAddr::V6(src), IpAddr::V6(dst)) => sum(&src.octets()) + sum(&dst.octets()),
        _ => 0,
    };
    ends + u64::from(protocol) + len as u64
}

/// Writes a whole frame into `out`.
pub fn build(out: &mut Vec<u8>, link: &Link, ip: &Ip, body: &Body<'_>) {
    out.clear();
    write_link(out, link, ip.dst.is_ipv6());
    let protocol = body.protocol(ip.dst.is_ipv6());
    let l3 = out.len();
    match (ip.src, ip.dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let header = 20 + 4 * usize::from(ip.options);
            out.resize(l3 + header, 1);
            let flags = if ip.dont_fragment { 0x40 } else { 0 };
            out[l3..l3 + 12].copy_from_slice(&[
                0x45 + ip.options,
                0,
                0,
                0,
                (ip.id >> 8) as u8,
                ip.id as u8,
                flags,
                0,
                ip.ttl,
                protocol,
                0,
                0,
            ]);
            out[l3 + 12..l3 + 16].copy_from_slice(&src.octets());
            out[l3 + 16..l3 + 20].copy_from_slice(&dst.octets());
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            out.extend_from_slice(&[0x60, 0, 0, 0, 0, 0, protocol, ip.ttl]);
            out.extend_from_slice(&src.octets());
            out.extend_from_slice(&dst.octets());
        }
        _ => unreachable!("one family"),
    }
    let l4 = out.len();
    write_body(out, body, ip.dst.is_ipv6());
    let len = out.len() - l4;
    set_lengths(out, l3, l4);
    let at = match body {
        Body::Tcp { .. } => 16,
        Body::Udp { is_summed: false, .. } => return,
        Body::Udp { .. } => 6,
        Body::Echo { .. } | Body::Error { .. } => 2,
    };
    let cover = if protocol == ICMP { 0 } else { pseudo(ip.src, ip.dst, protocol, len) };
    let mut field = !folded(sum(&out[l4..]) + cover);
    if field == 0 && protocol == UDP {
        field = 0xffff;
    }
    out[l4 + at..l4 + at + 2].copy_from_slice(&field.to_be_bytes());
}

fn write_link(out: &mut Vec<u8>, link: &Link, is_ipv6: bool) {
    out.extend_from_slice(&link.dst);
    out.extend_from_slice(&link.src);
    if link.vlan != 0 {
        out.extend_from_slice(&[0x81, 0]);
        out.extend_from_slice(&link.vlan.to_be_bytes());
    }
    out.extend_from_slice(if is_ipv6 { &[0x86, 0xdd] } else { &[8, 0] });
}

fn write_body(out: &mut Vec<u8>, body: &Body<'_>, is_ipv6: bool) {
    match *body {
        Body::Tcp { sport, dport, seq, ack, flags, window, options, payload } => {
            out.extend_from_slice(&sport.to_be_bytes());
            out.extend_from_slice(&dport.to_be_bytes());
            out.extend_from_slice(&seq.to_be_bytes());
            out.extend_from_slice(&ack.to_be_bytes());
            out.extend_from_slice(&[0x50 + 4 * options.len() as u8, flags]);
            out.extend_from_slice(&window.to_be_bytes());
            out.extend_from_slice(&[0; 4]);
            out.extend_from_slice(options);
            out.extend_from_slice(payload);
        }
        Body::Udp { sport, dport, payload, .. } => {
            out.extend_from_slice(&sport.to_be_bytes());
            out.extend_from_slice(&dport.to_be_bytes());
            out.extend_from_slice(&(8 + payload.len() as u16).to_be_bytes());
            out.extend_from_slice(&[0, 0]);
            out.extend_from_slice(payload);
        }
        Body::Echo { is_reply, id, seq, payload } => {
            let kind = match (is_ipv6, is_reply) {
                (false, true) => 0,
                (false, false) => 8,
                (true, true) => 129,
                (true, false) => 128,
            };
            out.extend_from_slice(&[kind, 0, 0, 0]);
            out.extend_from_slice(&id.to_be_bytes());
            out.extend_from_slice(&seq.to_be_bytes());
            out.extend_from_slice(payload);
        }
        Body::Error { kind, code, rest, quote } => {
            out.extend_from_slice(&[kind, code, 0, 0]);
            out.extend_from_slice(&rest.to_be_bytes());
            out.extend_from_slice(quote);
        }
    }
}

/// Lengths and the IPv4 header's checksum of a packet that ends where `frame` does.
fn set_lengths(frame: &mut [u8], l3: usize, l4: usize) {
    if frame[l3] >> 4 == 4 {
        let len = (frame.len() - l3) as u16;
        frame[l3 + 2..l3 + 4].copy_from_slice(&len.to_be_bytes());
        frame[l3 + 10..l3 + 12].fill(0);
        let checksum = !folded(sum(&frame[l3..l4]));
        frame[l3 + 10..l3 + 12].copy_from_slice(&checksum.to_be_bytes());
    } else {
        let len = (frame.len() - l3 - 40) as u16;
        frame[l3 + 4..l3 + 6].copy_from_slice(&len.to_be_bytes());
    }
}

/// Gives an IPv4 packet the identification and the flags of another one, as long as both can be read.
pub fn identify_like(frame: &mut [u8], other: &[u8]) {
    let (Ok(seen), Some(words)) = (read(frame), other.get(18..22)) else { return };
    if seen.dst.is_ipv4() {
        frame[seen.l3 + 4..seen.l3 + 8].copy_from_slice(words);
        set_lengths(frame, seen.l3, seen.l4);
    }
}

/// A piece of a datagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Piece {
    pub id: u32,
    /// In bytes.
    pub offset: u16,
    pub more: bool,
}

/// A frame, read.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    pub link: Link,
    pub src: IpAddr,
    pub dst: IpAddr,
    pub ttl: u8,
    pub id: u16,
    pub protocol: u8,
    pub dont_fragment: bool,
    pub piece: Option<Piece>,
    pub l3: usize,
    pub l4: usize,
    pub end: usize,
}

/// Why a frame cannot be read.
pub type Unreadable = &'static str;

/// Reads Ethernet and IP; all that stands there must be right, the IPv4 header's checksum too.
pub fn read(frame: &[u8]) -> Result<Seen, Unreadable> {
    let mac = |at: usize| -> Result<Mac, Unreadable> {
        Ok(*frame.get(at..).and_then(|f| f.first_chunk()).ok_or("too short for Ethernet")?)
    };
    let word = |at: usize| -> Result<u16, Unreadable> {
        frame.get(at..).and_then(|f| f.first_chunk()).map(|w| u16::from_be_bytes(*w)).ok_or("too short")
    };
    let mut link = Link { dst: mac(0)?, src: mac(6)?, vlan: 0 };
    let (mut ethertype, mut l3) = (word(12)?, 14);
    if ethertype == 0x8100 {
        (link.vlan, ethertype, l3) = (word(14)? & 0xfff, word(16)?, 18);
    }
    match ethertype {
        0x0800 => {
            let header = frame.get(l3..l3 + 20).ok_or("too short for IPv4")?;
            let l4 = l3 + usize::from(header[0] & 15) * 4;
            let end = l3 + usize::from(word(l3 + 2)?);
            if header[0] >> 4 != 4 || l4 < l3 + 20 || end < l4 || frame.len() < end {
                return Err("not an IPv4 header");
            }
            if folded(sum(&frame[l3..l4])) != 0xffff {
                return Err("the IPv4 header's checksum is wrong");
            }
            let flags = word(l3 + 6)?;
            let (offset, more) = ((flags & 0x1fff) * 8, flags & 0x2000 != 0);
            let id = word(l3 + 4)?;
            let piece = (offset > 0 || more).then_some(Piece { id: id.into(), offset, more });
            let address =
                |at: usize| IpAddr::from(Ipv4Addr::from(*header[at..].first_chunk::<4>().unwrap_or(&[0; 4])));
            Ok(Seen {
                link,
                src: address(12),
                dst: address(16),
                ttl: header[8],
                id,
                protocol: header[9],
                dont_fragment: flags & 0x4000 != 0,
                piece,
                l3,
                l4,
                end,
            })
        }
        0x86dd => {
            let header = frame.get(l3..l3 + 40).ok_or("too short for IPv6")?;
            let end = l3 + 40 + usize::from(word(l3 + 4)?);
            if header[0] >> 4 != 6 || frame.len() < end {
                return Err("not an IPv6 header");
            }
            let (mut protocol, mut l4, mut piece) = (header[6], l3 + 40, None);
            if protocol == 44 {
                let at = frame.get(l4..l4 + 8).ok_or("too short for a fragment header")?;
                let flags = word(l4 + 2)?;
                let id = u32::from_be_bytes([at[4], at[5], at[6], at[7]]);
                piece = Some(Piece { id, offset: flags & !7, more: flags & 1 != 0 });
                (protocol, l4) = (at[0], l4 + 8);
            }
            let address = |at: usize| {
                IpAddr::from(Ipv6Addr::from(*header[at..].first_chunk::<16>().unwrap_or(&[0; 16])))
            };
            Ok(Seen {
                link,
                src: address(8),
                dst: address(24),
                ttl: header[7],
                id: 0,
                protocol,
                dont_fragment: true,
                piece,
                l3,
                l4,
                end,
            })
        }
        _ => Err("not IP"),
    }
}

impl Seen {
    pub fn is_first(&self) -> bool {
        self.piece.is_none_or(|piece| piece.offset == 0)
    }

    /// Source and destination port of TCP and UDP, where they stand.
    pub fn ports(&self, frame: &[u8]) -> Option<(u16, u16)> {
        if !self.is_first() || !matches!(self.protocol, TCP | UDP) {
            return None;
        }
        let p = frame.get(self.l4..self.l4 + 4)?;
        Some((u16::from_be_bytes([p[0], p[1]]), u16::from_be_bytes([p[2], p[3]])))
    }

    /// Whether the checksum of a whole TCP, UDP or ICMP packet is right; a UDP datagram of IPv4 may do without.
    pub fn is_sum_right(&self, frame: &[u8]) -> bool {
        let Some(body) = frame.get(self.l4..self.end) else { return false };
        if self.protocol == UDP && !self.dst.is_ipv6() && body.get(6..8) == Some(&[0, 0]) {
            return true;
        }
        let cover = match self.protocol {
            ICMP => 0,
            protocol => pseudo(self.src, self.dst, protocol, body.len()),
        };
        folded(sum(body) + cover) == 0xffff
    }

    /// The flags of a whole TCP segment or of the first piece of one.
    pub fn tcp_flags(&self, frame: &[u8]) -> u8 {
        if self.protocol != TCP || !self.is_first() {
            return 0;
        }
        frame.get(self.l4 + 13).copied().unwrap_or(0)
    }
}

/// A TCP segment.
#[derive(Clone, Copy, Debug)]
pub struct Segment<'a> {
    pub seq: u32,
    pub ack: u32,
    pub flags: u8,
    pub payload: &'a [u8],
}

pub fn segment<'a>(seen: &Seen, frame: &'a [u8]) -> Option<Segment<'a>> {
    let body = frame.get(seen.l4..seen.end)?;
    let header = body.first_chunk::<20>()?;
    let number = |at: usize| u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    let payload = body.get(usize::from(header[12] >> 4) * 4..)?;
    Some(Segment { seq: number(4), ack: number(8), flags: header[13], payload })
}

/// The data of a whole UDP datagram.
pub fn datagram<'a>(seen: &Seen, frame: &'a [u8]) -> Option<&'a [u8]> {
    let body = frame.get(seen.l4..seen.end)?;
    let len = usize::from(u16::from_be_bytes([*body.get(4)?, *body.get(5)?]));
    (len == body.len()).then_some(body.get(8..)?)
}

/// Cuts a frame's packet into pieces of at most `most` bytes of data each (rounded down to eight).
pub fn pieces(frame: &[u8], seen: &Seen, id: u32, most: usize) -> Vec<Vec<u8>> {
    let most = (most & !7).max(8);
    let data = &frame[seen.l4..seen.end];
    let chunks: Vec<_> = data.chunks(most).collect();
    let last = chunks.len() - 1;
    chunks
        .iter()
        .enumerate()
        .map(|(n, chunk)| {
            let more = n != last;
            let offset = (n * most) as u16;
            let mut out = frame[..seen.l4].to_vec();
            if seen.dst.is_ipv6() {
                out[seen.l3 + 6] = 44;
                out.extend([seen.protocol, 0]);
                out.extend((offset | u16::from(more)).to_be_bytes());
                out.extend(id.to_be_bytes());
            } else {
                let flags = (offset / 8) | if more { 0x2000 } else { 0 };
                out[seen.l3 + 6..seen.l3 + 8].copy_from_slice(&flags.to_be_bytes());
            }
            out.extend_from_slice(chunk);
            set_lengths(&mut out, seen.l3, seen.l4);
            out
        })
        .collect()
}

/// Whether a packet's protocol is that of a tunnel; GUE's is UDP to its port.
pub fn is_tunnel(seen: &Seen, frame: &[u8], gue_port: u16) -> bool {
    match seen.protocol {
        IPIP | IPV6 | GRE => true,
        UDP => seen.ports(frame).is_some_and(|ports| ports.1 == gue_port),
        _ => false,
    }
}

/// What a whole packet of a tunnel carries, as a frame of the same link.
///
/// # Errors
/// What is wrong with what stands before it.
pub fn unpack(frame: &[u8], outer: &Seen) -> Result<Vec<u8>, Unreadable> {
    let body = frame.get(outer.l4..outer.end).ok_or("too short for a tunnel")?;
    let (skip, is_ipv6) = match outer.protocol {
        IPIP => (0, false),
        IPV6 => (0, true),
        GRE => {
            let &[flags, 0, high, low] = body.first_chunk().ok_or("too short for GRE")? else {
                return Err("not a GRE header");
            };
            let skip = match flags {
                0 => 4,
                0x80 if folded(sum(body)) == 0xffff && body.get(6..8) == Some(&[0, 0]) => 8,
                _ => return Err("GRE's flags or checksum are wrong"),
            };
            match [high, low] {
                [8, 0] => (skip, false),
                [0x86, 0xdd] => (skip, true),
                _ => return Err("GRE carries no IP"),
            }
        }
        UDP => {
            let header = body.first_chunk::<12>().ok_or("too short for GUE")?;
            let len = usize::from(u16::from_be_bytes([header[4], header[5]]));
            // Over IPv6 it may do without a checksum as well (RFC 6935).
            let is_unsummed = header[6..8] == [0, 0];
            if len != body.len() || !is_unsummed && !outer.is_sum_right(frame) {
                return Err("GUE's length or checksum is wrong");
            }
            match header[8..] {
                [0, IPIP, 0, 0] => (12, false),
                [0, IPV6, 0, 0] => (12, true),
                _ => return Err("not a GUE header"),
            }
        }
        _ => return Err("not a tunnel"),
    };
    let mut inner = Vec::new();
    write_link(&mut inner, &outer.link, is_ipv6);
    inner.extend_from_slice(&body[skip..]);
    Ok(inner)
}

/// The packet of which `first` is the first piece and `data` all that its pieces carry.
pub fn join(first: &[u8], seen: &Seen, data: &[u8]) -> Vec<u8> {
    let mut out = first[..seen.l4].to_vec();
    if seen.dst.is_ipv6() {
        out.truncate(seen.l3 + 40);
        out[seen.l3 + 6] = seen.protocol;
    } else {
        out[seen.l3 + 6..seen.l3 + 8].fill(0);
    }
    let l4 = out.len();
    out.extend_from_slice(data);
    set_lengths(&mut out, seen.l3, l4);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(is_ipv6: bool) -> Ip {
        let (src, dst) = if is_ipv6 { ("fd00::1", "fd00::2") } else { ("10.0.0.1", "10.0.0.2") };
        Ip {
            src: src.parse().unwrap(),
            dst: dst.parse().unwrap(),
            ttl: 64,
            id: 7,
            dont_fragment: false,
            options: 0,
        }
    }

    #[test]
    fn what_is_built_is_read_and_a_changed_byte_is_seen() {
        let link = Link { dst: [1; 6], src: [2; 6], vlan: 5 };
        for is_ipv6 in [false, true] {
            let mut frame = Vec::new();
            for body in [
                Body::Tcp {
                    sport: 1,
                    dport: 2,
                    seq: 3,
                    ack: 4,
                    flags: SYN,
                    window: 5,
                    options: &[1; 4],
                    payload: b"odd",
                },
                Body::Udp { sport: 1, dport: 2, is_summed: true, payload: b"even" },
                Body::Echo { is_reply: false, id: 1, seq: 2, payload: b"ping" },
                Body::Error { kind: 3, code: 1, rest: 0, quote: b"quoted" },
            ] {
                build(&mut frame, &link, &ip(is_ipv6), &body);
                let seen = read(&frame).unwrap();
                assert!(seen.is_sum_right(&frame), "{body:?}");
                *frame.last_mut().unwrap() ^= 1;
                assert!(!seen.is_sum_right(&frame), "{body:?}");
            }
        }
    }

    #[test]
    fn pieces_hold_all_data_in_order() {
        let link = Link { dst: [1; 6], src: [2; 6], vlan: 0 };
        for is_ipv6 in [false, true] {
            let mut frame = Vec::new();
            let payload: Vec<u8> = (0..100).collect();
            build(
                &mut frame,
                &link,
                &ip(is_ipv6),
                &Body::Udp { sport: 1, dport: 2, is_summed: true, payload: &payload },
            );
            let seen = read(&frame).unwrap();
            let mut data = Vec::new();
            for piece in pieces(&frame, &seen, 9, 40) {
                let read = read(&piece).unwrap();
                let at = read.piece.unwrap();
                assert_eq!(usize::from(at.offset), data.len());
                data.extend_from_slice(&piece[read.l4..read.end]);
                assert_eq!(at.more, data.len() < 108);
            }
            assert_eq!(data, frame[seen.l4..seen.end]);
            let first = &pieces(&frame, &seen, 9, 40)[0];
            assert_eq!(join(first, &read(first).unwrap(), &data), frame);
        }
    }
}
