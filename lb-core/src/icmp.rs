//! ICMP and ICMPv6 errors: whose connection is this one about, how is it passed on, how do we send one ourselves?
//!
//! Three jobs, all in the packet's own buffer. [`embedded`] reads the packet that an error quotes; [`translate`] makes an error about
//! one side of a translated connection into one about the other (RFC 5508 §4.2); [`make_error`] turns a packet that
//! goes no further into the error about it. [`RateLimit`] says how often.

use std::net::IpAddr;

use crate::drop::DropReason;
use crate::packet::{Packet, RxChecksum};
use crate::tables::Protocol;
use crate::time::Tick;
use crate::wire::checksum::{self, Delta};
use crate::wire::parse::{Fragment, Headers, ipv6_extensions, parse_into};
use crate::wire::{array, array_mut, be16, crc32c, ethernet, icmp, ipv4, ipv6, sctp, tcp, udp};

/// The packet that an error quotes, as far as it is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Embedded {
    /// Offset of its IP header in the frame.
    pub l3: u16,
    /// Offset of its transport header, of which at least 8 bytes are there.
    pub l4: u16,
    pub protocol: Protocol,
    pub src: IpAddr,
    pub dst: IpAddr,
    /// TCP, UDP and SCTP ports; of an ICMP query as in a tuple of one; 0 for other protocols.
    pub sport: u16,
    pub dport: u16,
    /// Bytes of the transport header and its data, quoted or not; `None` when it is a fragment.
    pub whole_len: Option<u16>,
}

/// Gives the quoted TCP segment another sequence number: the one that its sender knows it by.
pub fn renumber_quoted(
    frame: &mut [u8],
    headers: &Headers,
    embedded: &Embedded,
    number: impl FnOnce(u32) -> u32,
) {
    let at = usize::from(embedded.l4) + 4;
    let Some(field) = array_mut::<4>(frame, at) else { return };
    let old = u32::from_be_bytes(*field);
    let new = number(old);
    *field = new.to_be_bytes();
    let delta = Delta::double_word(old, new);
    if let Some(field) = array_mut::<2>(frame, usize::from(headers.l4) + 2) {
        *field = delta.apply(be16(field[0], field[1])).to_be_bytes();
    }
}

/// True for errors that [`translate`] may pass on: destination unreachable, source quench, time exceeded, parameter problem, and all of
/// ICMPv6, also those that nobody knows yet (RFC 4443 §2.4 (a)). A redirect speaks about its own link alone.
pub fn is_translatable(headers: &Headers) -> bool {
    headers.is_icmp_error() && (headers.is_ipv6 || headers.icmp_type != icmp::REDIRECT)
}

/// Reads the packet that an ICMP error quotes, and checks the ICMP checksum (RFC 5508 §4.1). `headers` are the error's.
///
/// The quoted header's own checksum is not checked: routers change the packet before they quote it, and the kernel's
/// IPVS does not look at it either.
///
/// # Errors
/// `BadIcmpChecksum`; `BadIcmpPayload` when what is quoted is not an IP packet with 8 bytes of transport header,
/// or is a later fragment, or the error itself is in fragments.
pub fn embedded(frame: &[u8], headers: &Headers) -> Result<Embedded, DropReason> {
    debug_assert!(headers.is_icmp_error());
    let sum = checksum::of_transport(frame, headers).ok_or(DropReason::BadIcmpPayload)?;
    if !checksum::is_good(sum) {
        return Err(DropReason::BadIcmpChecksum);
    }
    let message = frame.get(..headers.end()).ok_or(DropReason::BadIcmpPayload)?;
    quoted(message, usize::from(headers.l4) + icmp::LEN, headers.is_ipv6)
}

/// As [`embedded`], of an error's first fragment: of the message, whose checksum nobody can look at, so much is there.
///
/// # Errors
/// `BadIcmpPayload`, as there.
pub fn embedded_in_piece(frame: &[u8], headers: &Headers) -> Result<Embedded, DropReason> {
    debug_assert!(headers.is_icmp_error());
    let message = frame.get(..headers.end()).ok_or(DropReason::BadIcmpPayload)?;
    quoted(message, usize::from(headers.l4) + icmp::LEN, headers.is_ipv6)
}

/// Reads the quoted packet that begins at `l3` of a message, which is a frame up to the end of what is quoted.
///
/// # Errors
/// `BadIcmpPayload`, as [`embedded`].
pub fn quoted(message: &[u8], l3: usize, is_ipv6: bool) -> Result<Embedded, DropReason> {
    let (src, dst, protocol, l4, whole_end) = if is_ipv6 {
        let ip = ipv6::header(message, l3).filter(|ip| ip[0] >> 4 == 6).ok_or(DropReason::BadIcmpPayload)?;
        let walked = ipv6_extensions(message, l3 + ipv6::LEN, Protocol(ip[6]))
            .map_err(|_| DropReason::BadIcmpPayload)?;
        if walked.piece.is_some_and(|piece| piece.offset > 0) {
            return Err(DropReason::BadIcmpPayload);
        }
        let end = l3 + ipv6::LEN + usize::from(be16(ip[4], ip[5]));
        let whole_end = if walked.piece.is_some_and(|piece| piece.has_more) { None } else { Some(end) };
        (ipv6::source(ip).into(), ipv6::destination(ip).into(), walked.protocol, walked.l4, whole_end)
    } else {
        let ip = ipv4::header(message, l3).filter(|ip| ip[0] >> 4 == 4).ok_or(DropReason::BadIcmpPayload)?;
        if ipv4::header_len(ip) < ipv4::LEN || ipv4::fragmentation(ip) & ipv4::OFFSET != 0 {
            return Err(DropReason::BadIcmpPayload);
        }
        let (src, dst) = (ipv4::source(ip).to_be_bytes(), ipv4::destination(ip).to_be_bytes());
        let is_whole = ipv4::fragmentation(ip) & ipv4::MF == 0;
        let whole_end = is_whole.then(|| l3 + usize::from(be16(ip[2], ip[3])));
        (src.into(), dst.into(), Protocol(ip[9]), l3 + ipv4::header_len(ip), whole_end)
    };
    // RFC 792: at least 64 bits of the datagram's data.
    let start: &[u8; 8] = array(message, l4).ok_or(DropReason::BadIcmpPayload)?;
    let (sport, dport) = match protocol {
        protocol if protocol.has_ports() => (be16(start[0], start[1]), be16(start[2], start[3])),
        Protocol::ICMP | Protocol::ICMPV6 => icmp::Query::of(is_ipv6, start[0]).map_or((0, 0), |query| {
            let port = query.port(icmp::code(start));
            if query.is_answer { (port, icmp::identifier(start)) } else { (icmp::identifier(start), port) }
        }),
        _ => (0, 0),
    };
    // What is quoted need not say a length that can be.
    let whole_len = whole_end.and_then(|end| end.checked_sub(l4)).map(|len| len as u16);
    Ok(Embedded { l3: l3 as u16, l4: l4 as u16, protocol, src, dst, sport, dport, whole_len })
}

/// One end of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    Source,
    Destination,
}

/// Makes an error about one side of a connection one about the other, in place.
///
/// The quoted packet went the opposite way, so that writing `address` at one `end` of the error means writing `address`
/// and `port` at the other end of the quoted packet. An error from a router in front of us about what a real server sent
/// has its destination written (the real server; `End::Destination`); one from behind us about what a client sent
/// has its source written (the virtual service, as the kernel does: who is behind it is nobody's business).
///
/// Every checksum that covers a changed word follows: of both IPv4 headers, of the ICMP message, and, so that the receiver sees
/// the packet that it sent (RFC 5508 §4.2), of the quoted UDP or TCP header where it is quoted that far. The kernel leaves this last
/// one as it was on the other side.
///
/// # Errors
/// `BadIcmpPayload` when `address` is not of the packet's family, or `frame` is not the packet that `headers` and `embedded` were read
/// from; nothing was written.
pub fn translate(
    frame: &mut [u8],
    headers: &Headers,
    embedded: &Embedded,
    end: End,
    address: IpAddr,
    port: u16,
) -> Result<(), DropReason> {
    let (l3, l4) = (usize::from(headers.l3), usize::from(headers.l4));
    let (inner_l3, inner_l4) = (usize::from(embedded.l3), usize::from(embedded.l4));
    let is_whole = frame.len() >= headers.end()
        && headers.end() >= inner_l4 + 8
        && inner_l4 >= inner_l3 + ipv4::LEN
        && inner_l3 >= l4 + icmp::LEN;
    if !is_whole || address.is_ipv6() != headers.is_ipv6 {
        return Err(DropReason::BadIcmpPayload);
    }
    let inner_end = match end {
        End::Source => End::Destination,
        End::Destination => End::Source,
    };
    // What changes in the ICMP message, beginning with what its pseudo-header makes of the outer addresses.
    let mut message = match address {
        IpAddr::V4(_) => {
            set_address(frame, l3, end, address);
            Delta::default()
        }
        IpAddr::V6(_) => set_address(frame, l3, end, address),
    };
    let inner_checksum = read16(frame, inner_l3 + 10);
    let mut quoted = set_address(frame, inner_l3, inner_end, address);
    message = message.and(quoted);
    if !headers.is_ipv6 {
        message = message.and(Delta::word(inner_checksum, read16(frame, inner_l3 + 10)));
    }
    if embedded.protocol.has_ports() {
        let at = if inner_end == End::Source { inner_l4 } else { inner_l4 + 2 };
        let before = read16(frame, at);
        let ports = Delta::word(before, port);
        write16(frame, at, port);
        quoted = quoted.and(ports);
        message = message.and(ports).and(match embedded.protocol {
            Protocol::UDP => {
                reseal(frame, headers, inner_l4 + udp::CHECKSUM, |field| quoted.apply_udp(field))
            }
            Protocol::TCP => reseal(frame, headers, inner_l4 + tcp::CHECKSUM, |field| quoted.apply(field)),
            _ => reseal_sctp(frame, headers, embedded, inner_end, before ^ port),
        });
    }
    if matches!(embedded.protocol, Protocol::ICMP | Protocol::ICMPV6) {
        message = message.and(requery(frame, headers, inner_l4, inner_end, port, quoted));
    }
    let at = l4 + icmp::CHECKSUM;
    write16(frame, at, message.apply(read16(frame, at)));
    Ok(())
}

/// A quoted ICMP query, whose identifier is the port of the end that asks. `addresses` is what changed in its pseudo-header, which ICMPv6
/// has. Returns the change.
fn requery(frame: &mut [u8], headers: &Headers, l4: usize, end: End, port: u16, addresses: Delta) -> Delta {
    let query = icmp::Query::of(headers.is_ipv6, frame.get(l4).copied().unwrap_or_default());
    let is_asker = query.is_some_and(|query| query.is_answer == (end == End::Destination));
    let id = l4 + 4;
    let identifier = if is_asker { Delta::word(read16(frame, id), port) } else { Delta::default() };
    if is_asker {
        write16(frame, id, port);
    }
    let quoted = if headers.is_ipv6 { addresses.and(identifier) } else { identifier };
    identifier.and(reseal(frame, headers, l4 + icmp::CHECKSUM, |field| quoted.apply(field)))
}

/// Writes the quoted checksum at `at`, where it is quoted that far. Returns the change.
fn reseal(frame: &mut [u8], headers: &Headers, at: usize, changed: impl Fn(u16) -> u16) -> Delta {
    if at + 2 > headers.end() {
        return Delta::default();
    }
    let before = read16(frame, at);
    let after = changed(before);
    write16(frame, at, after);
    Delta::word(before, after)
}

/// As [`reseal`], of an SCTP packet, when a port at `end` differs by `change` (exclusive or) now. The checksum of a fragment, of which
/// one does not see how long the whole is, stays as it is.
fn reseal_sctp(frame: &mut [u8], headers: &Headers, embedded: &Embedded, end: End, change: u16) -> Delta {
    let at = usize::from(embedded.l4) + sctp::CHECKSUM;
    let len = embedded.whole_len.filter(|&len| usize::from(len) >= sctp::LEN);
    let (Some(len), true) = (len, at + 4 <= headers.end()) else { return Delta::default() };
    let Some(field) = array_mut::<4>(frame, at) else { return Delta::default() };
    let change = u32::from(change.swap_bytes()) << if end == End::Source { 0 } else { 16 };
    let before = u32::from_be_bytes(*field);
    let after = before ^ crc32c::change_at_start(change, len).swap_bytes();
    *field = after.to_be_bytes();
    Delta::double_word(before, after)
}

/// Writes the address at one end of a later fragment, which covers it by no checksum but that of its IP header.
pub fn set_end(frame: &mut [u8], headers: &Headers, end: End, address: IpAddr) {
    if address.is_ipv6() == headers.is_ipv6 {
        let _covered_in_the_first_one = set_address(frame, headers.l3.into(), end, address);
    }
}

/// Writes an address of the IP header at `l3`, and its checksum. Returns the change of the address.
fn set_address(frame: &mut [u8], l3: usize, end: End, address: IpAddr) -> Delta {
    match address {
        IpAddr::V4(address) => ipv4::header_mut(frame, l3).map(|ip| match end {
            End::Source => ipv4::set_source(ip, address.into()),
            End::Destination => ipv4::set_destination(ip, address.into()),
        }),
        IpAddr::V6(address) => ipv6::header_mut(frame, l3).map(|ip| match end {
            End::Source => ipv6::set_source(ip, &address.octets()),
            End::Destination => ipv6::set_destination(ip, &address.octets()),
        }),
    }
    .unwrap_or_default()
}

fn read16(frame: &[u8], at: usize) -> u16 {
    array(frame, at).map_or(0, |word| u16::from_be_bytes(*word))
}

fn write16(frame: &mut [u8], at: usize, word: u16) {
    if let Some(bytes) = array_mut(frame, at) {
        *bytes = word.to_be_bytes();
    }
}

/// What is wrong with a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Problem {
    NetUnreachable,
    HostUnreachable,
    PortUnreachable,
    /// A route or a rule says no.
    Prohibited,
    /// Its source means nothing where it would go. Of IPv4 there is no such word.
    BeyondScope,
    /// Longer than this MTU, and not to be fragmented.
    TooBig {
        mtu: u16,
    },
    /// TTL or hop limit reached 0.
    TimeExceeded,
    /// Another error of the packet's own family, passed on.
    Told {
        kind: u8,
        code: u8,
    },
    /// What stands at this byte of the IPv6 header cannot be.
    Field {
        at: u8,
    },
}

impl Problem {
    /// Type, code and the four bytes behind the checksum (RFC 792, RFC 1191 §4, RFC 1812 §5.2.7.1).
    fn icmp(self) -> (u8, u8, u32) {
        match self {
            Problem::NetUnreachable | Problem::BeyondScope => (3, 0, 0),
            Problem::HostUnreachable => (3, 1, 0),
            Problem::PortUnreachable => (3, 3, 0),
            Problem::TooBig { mtu } => (3, 4, u32::from(mtu)),
            Problem::Prohibited => (3, 13, 0),
            Problem::TimeExceeded => (11, 0, 0),
            Problem::Told { kind, code } => (kind, code, 0),
            // In the first byte of the four (RFC 792).
            Problem::Field { at } => (12, 0, u32::from(at) << 24),
        }
    }

    /// As [`icmp`](Self::icmp), for ICMPv6 (RFC 4443 §3).
    fn icmpv6(self) -> (u8, u8, u32) {
        match self {
            Problem::NetUnreachable => (1, 0, 0),
            Problem::Prohibited => (1, 1, 0),
            Problem::BeyondScope => (1, 2, 0),
            Problem::HostUnreachable => (1, 3, 0),
            Problem::PortUnreachable => (1, 4, 0),
            Problem::TooBig { mtu } => (2, 0, u32::from(mtu)),
            Problem::TimeExceeded => (3, 0, 0),
            Problem::Told { kind, code } => (kind, code, 0),
            Problem::Field { at } => (4, 0, at.into()),
        }
    }
}

/// Why no error was made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NoError {
    /// There must be no error about such a packet.
    Forbidden,
    /// The buffer has no room before the frame, or is chained.
    NoRoom,
}

/// Longest ICMP packet that quotes another: what every host takes (RFC 1812 §4.3.2.3), what every IPv6 link carries.
const MAX_IPV4: usize = 576;
const MAX_IPV6: usize = 1280;
/// TTL and hop limit of what we send, as Linux's.
const TTL: u8 = 64;
/// Precedence "internetwork control" (RFC 1812 §4.3.2.5), and what stays of the type of service that the packet had.
const PRECEDENCE: u8 = 0xc0;
const KEPT_TOS: u8 = 0x1e;

/// True when there may be an error about this packet (RFC 1122 §3.2.2, RFC 4443 §2.4 (e)): never about another error, what was
/// sent to many, a later fragment, or what names no sender.
pub fn may_answer(frame: &[u8], headers: &Headers) -> bool {
    const REDIRECT_V6: u8 = 137;
    let is_redirect =
        headers.is_ipv6 && headers.protocol == Protocol::ICMPV6 && headers.icmp_type == REDIRECT_V6;
    let has_one_receiver = match headers.destination(frame) {
        IpAddr::V4(to) => !to.is_multicast() && !to.is_broadcast(),
        IpAddr::V6(to) => !to.is_multicast(),
    };
    !headers.is_icmp_error()
        && !is_redirect
        && has_one_receiver
        && !ethernet::is_group(&ethernet::destination(frame))
        && headers.fragment != Fragment::Later
        && !headers.source(frame).is_unspecified()
}

/// Turns `packet` into the error about it, addressed to its sender, by the way that it came.
///
/// The error has the Ethernet header with its tags, the addresses swapped, and quotes the packet as it stands in the buffer: as much as makes
/// 576 bytes for IPv4, 1280 for IPv6. `source` is our address that it comes from. Its identification is that of the packet that it
/// quotes, so as to need no counter. For a chained buffer, `set_len` must be able to cut the chain.
///
/// # Errors
/// Why there is none; the packet is as it was. [`Forbidden`](NoError::Forbidden) also when `source` is of another family.
pub fn make_error<P: Packet>(
    packet: &mut P,
    headers: &Headers,
    problem: Problem,
    source: IpAddr,
) -> Result<(), NoError> {
    if !may_answer(packet.data(), headers) {
        return Err(NoError::Forbidden);
    }
    let l3 = usize::from(headers.l3);
    let (header_len, max) = match source {
        IpAddr::V4(_) if !headers.is_ipv6 => (ipv4::LEN + icmp::LEN, MAX_IPV4),
        IpAddr::V6(_) if headers.is_ipv6 => (ipv6::LEN + icmp::LEN, MAX_IPV6),
        _ => return Err(NoError::Forbidden),
    };
    let to = headers.source(packet.data());
    let quote = (headers.ip_len as usize).min(max - header_len);
    if packet.data().len() < l3 + quote {
        return Err(NoError::NoRoom);
    }
    packet.move_start(-(header_len as isize)).map_err(|_| NoError::NoRoom)?;
    if packet.set_len(l3 + header_len + quote).is_err() {
        // What was gained a line above can be given back.
        packet.move_start(header_len as isize).map_err(|_| NoError::NoRoom)?;
        return Err(NoError::NoRoom);
    }
    let frame = packet.data_mut();
    frame.copy_within(header_len..header_len + l3, 0);
    ethernet::swap_addresses(frame);
    let ip_len = header_len + quote;
    let ip = frame.get_mut(l3..).ok_or(NoError::NoRoom)?;
    match (source, to) {
        (IpAddr::V4(source), IpAddr::V4(to)) => {
            let tos = PRECEDENCE | ip.get(header_len + 1).map_or(0, |tos| tos & KEPT_TOS);
            write_ipv4(ip, tos, ip_len as u16, headers.fragment_id as u16, source.octets(), to.octets());
            write_icmp(ip, ipv4::LEN, problem.icmp(), 0);
        }
        (IpAddr::V6(source), IpAddr::V6(to)) => {
            let len = ip_len - ipv6::LEN;
            write_ipv6(ip, len as u16, source.octets(), to.octets());
            let pseudo = checksum::pseudo_v6(&source.octets(), &to.octets(), Protocol::ICMPV6.0, len as u32);
            write_icmp(ip, ipv6::LEN, problem.icmpv6(), pseudo);
        }
        _ => {}
    }
    Ok(())
}

/// What an error about a tunnel's packet means for the packet within: that of `inner`, quoted by that of `outer`.
pub fn problem(frame: &[u8], headers: &Headers, outer: &Embedded, inner: &Embedded) -> Option<Problem> {
    let message: &[u8; icmp::LEN] = array(frame, usize::from(headers.l4))?;
    let [kind, code, _, _, rest @ ..] = *message;
    let is_too_big = if headers.is_ipv6 { kind == 2 } else { (kind, code) == (3, 4) };
    if is_too_big {
        let mtu = if headers.is_ipv6 { u32::from_be_bytes(rest) } else { be16(rest[2], rest[3]).into() };
        let mtu = mtu.saturating_sub(u32::from(inner.l3 - outer.l3));
        return Some(Problem::TooBig { mtu: mtu.try_into().unwrap_or(u16::MAX) });
    }
    Some(if inner.src.is_ipv6() == headers.is_ipv6 {
        Problem::Told { kind, code }
    } else {
        Problem::HostUnreachable
    })
}

/// Turns an error about a tunnel's packet into one about the packet within, as far as that is quoted, from the address that it was
/// sent to. Returns the new packet's headers; its Ethernet addresses are good for nothing.
pub fn about_inner<P: Packet>(
    packet: &mut P,
    headers: &Headers,
    inner: &Embedded,
    problem: Problem,
) -> Option<Headers> {
    let (l3, start) = (usize::from(headers.l3), usize::from(inner.l3));
    let is_ipv6 = inner.src.is_ipv6();
    let end = headers.end();
    let frame = packet.data_mut();
    let ether_type = if is_ipv6 { ethernet::IPV6 } else { ethernet::IPV4 };
    frame.get_mut(l3 - 2..l3)?.copy_from_slice(&ether_type.to_be_bytes());
    frame.get(..end)?;
    frame.copy_within(..l3, start - l3);
    packet.move_start((start - l3) as isize).ok()?;
    let (src, dst, fragment_id) = match ipv4::header(packet.data(), l3) {
        Some(ip) if !is_ipv6 => (ipv4::source(ip), ipv4::destination(ip), be16(ip[4], ip[5]).into()),
        _ => (0, 0, 0),
    };
    let quoted = Headers {
        src,
        dst,
        fragment_id,
        ip_len: (end - start) as u32,
        l3: headers.l3,
        l4: inner.l4 - (start - l3) as u16,
        protocol: inner.protocol,
        is_ipv6,
        ..Headers::NONE
    };
    make_error(packet, &quoted, problem, inner.dst).ok()?;
    let mut error = Headers::NONE;
    let is_ip = parse_into(&mut error, packet.data(), packet.frame_len(), RxChecksum::Good);
    is_ip.ok()?.then_some(error)
}

fn write_ipv4(ip: &mut [u8], tos: u8, len: u16, id: u16, source: [u8; 4], to: [u8; 4]) {
    let Some(header) = ip.first_chunk_mut::<{ ipv4::LEN }>() else { return };
    *header = [0; ipv4::LEN];
    header[0] = 0x45;
    header[1] = tos;
    header[2..4].copy_from_slice(&len.to_be_bytes());
    header[4..6].copy_from_slice(&id.to_be_bytes());
    header[8] = TTL;
    header[9] = Protocol::ICMP.0;
    header[12..16].copy_from_slice(&source);
    header[16..20].copy_from_slice(&to);
    ipv4::fill_checksum(header);
}

fn write_ipv6(ip: &mut [u8], payload_len: u16, source: [u8; 16], to: [u8; 16]) {
    let Some(header) = ip.first_chunk_mut::<{ ipv6::LEN }>() else { return };
    *header = [0; ipv6::LEN];
    header[0] = 0x60;
    header[4..6].copy_from_slice(&payload_len.to_be_bytes());
    header[6] = Protocol::ICMPV6.0;
    header[7] = TTL;
    header[8..24].copy_from_slice(&source);
    header[24..40].copy_from_slice(&to);
}

/// Writes the ICMP header at `l4`; what follows it is quoted already.
fn write_icmp(ip: &mut [u8], l4: usize, (kind, code, rest): (u8, u8, u32), pseudo: u16) {
    let Some(message) = ip.get_mut(l4..) else { return };
    if let Some(header) = message.first_chunk_mut::<{ icmp::LEN }>() {
        let rest = rest.to_be_bytes();
        *header = [kind, code, 0, 0, rest[0], rest[1], rest[2], rest[3]];
    }
    let checksum = checksum::finish(checksum::add(pseudo, checksum::sum(message)));
    write16(message, icmp::CHECKSUM, checksum);
}

/// A token bucket: so many messages a second, a few at once (RFC 1812 §4.3.2.8).
#[derive(Clone, Debug)]
pub struct RateLimit {
    /// What may be sent now, in hundredths of a message.
    credit: u32,
    per_second: u32,
    burst: u32,
    last: Tick,
}

impl RateLimit {
    /// Linux's defaults, `net.ipv4.icmp_msgs_per_sec` and `icmp_msgs_burst`.
    pub const ICMP_PER_SECOND: u32 = 1000;
    pub const ICMP_BURST: u32 = 50;

    /// `burst` messages may be sent at `now`.
    pub fn new(per_second: u32, burst: u32, now: Tick) -> RateLimit {
        let burst = burst.saturating_mul(Tick::PER_SECOND);
        RateLimit { credit: burst, per_second, burst, last: now }
    }

    /// True when one more message may be sent, which is then counted.
    pub fn allow(&mut self, now: Tick) -> bool {
        // A message a second is a hundredth of one a tick.
        let gained = now.since(self.last).saturating_mul(self.per_second);
        self.credit = self.credit.saturating_add(gained).min(self.burst);
        self.last = now;
        match self.credit.checked_sub(Tick::PER_SECOND) {
            Some(rest) => {
                self.credit = rest;
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
#[path = "icmp_tests.rs"]
mod tests;
