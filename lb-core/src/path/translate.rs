//! FullNAT into the other address family: an IPv6 client and an IPv4 real server, or the other way round (RFC 7915, in a connection's
//! hands instead of a prefix's).
//!
//! Such a connection has one IPv6 and one IPv4 tuple. It keeps no next hop, so that its packets leave the straight line where those do whose
//! next hop is not known, having told its state, been counted, edited and shown to rules as all others: no packet of one family is asked
//! whether it is one of these. A packet stays as it came until it is sent, so that whoever must be told something is told about what it sent.

use std::net::IpAddr;

use arrayvec::ArrayVec;

use super::established::count;
use super::output::Refusal;
use super::waiting::Going;
use super::{Io, Path, rewrite};
use crate::drop::DropReason;
use crate::flow::{Deltas, FlowRef, Tuple};
use crate::hook::Hook;
use crate::icmp::{self, Embedded};
use crate::packet::{Packet, RxChecksum};
use crate::tables::{NextHop, Protocol, Way};
use crate::time::Tick;
use crate::wire::checksum::{self, Delta};
use crate::wire::parse::{Fragment, Headers, parse_into};
use crate::wire::translate::{self, Addresses, Fields, GROWTH, IPV4_PIECE, MIN_IPV6_MTU};
use crate::wire::{fragment, udp};

impl<P: Packet> Path<P> {
    /// Sends a packet of the connection `at` as `after`, which is of the other family.
    #[inline(never)]
    pub(super) fn translate(
        &mut self,
        packet: P,
        headers: &Headers,
        at: FlowRef,
        after: Tuple,
        deltas: Deltas,
        now: Tick,
        io: &mut impl Io<P>,
    ) {
        match self.check_translated(headers, after.dst) {
            // As of what is rewritten: its answers would have to come back by the twin.
            Ok(Way::Local | Way::Linux) => self.drop(DropReason::Unsupported, Hook::Postrouting),
            Ok(_) => self.leave(packet, headers, after.dst, Going::Translated { after, deltas }, now, io),
            Err(refusal) => self.refuse_of(packet, headers, refusal, Some(at), now, io),
        }
    }

    /// Which way a packet goes to `to`, which is of the other family, if it may. An MTU is of the packet as it comes.
    pub(super) fn check_translated(&self, headers: &Headers, to: IpAddr) -> Result<Way, Refusal> {
        let (ip_len, dont_fragment) = translate::translated_len(headers);
        self.check(&Headers { ip_len, dont_fragment, ..*headers }, to).map_err(|refusal| match refusal {
            Refusal::TooBig(mtu) if headers.is_ipv6 => {
                let mtu = (u32::from(mtu) + GROWTH).try_into().unwrap_or(u16::MAX);
                // What is sent so long may be split behind us (RFC 7915 §5.1).
                Refusal::TooBig(mtu.max(MIN_IPV6_MTU))
            }
            Refusal::TooBig(mtu) => {
                Refusal::TooBig(mtu.saturating_sub((ip_len.saturating_sub(headers.ip_len)) as u16))
            }
            other => other,
        })
    }

    /// Sends a packet that is still as it came to the next hop `hop`, as `after`.
    #[inline(never)]
    pub(super) fn send_translated(
        &mut self,
        mut packet: P,
        headers: &Headers,
        after: &Tuple,
        deltas: Deltas,
        hop: &NextHop,
        io: &mut impl Io<P>,
    ) {
        if let Err(reason) = exchange_transport(&mut packet, headers, after, Delta(deltas.l4)) {
            return self.drop(reason, Hook::Postrouting);
        }
        let (len, dont_fragment) = translate::translated_len(headers);
        let mut later = ArrayVec::new();
        if !headers.is_ipv6 && !dont_fragment && len > MIN_IPV6_MTU.into() {
            // RFC 7915 §4: nobody splits it behind us.
            let split = fragment::split(&mut packet, headers, IPV4_PIECE, || io.allocate(), &mut later);
            if let Err(reason) = split {
                return self.drop(reason, Hook::Egress);
            }
        }
        for mut piece in std::iter::once(packet).chain(later) {
            match self.exchange_header(&mut piece, headers, after) {
                Ok(headers) => self.send_whole_or_split(piece, &headers, hop, io),
                Err(reason) => self.drop(reason, Hook::Postrouting),
            }
        }
    }

    /// Gives a packet, or a piece of it, the header of the other family, and one hop less. Returns its headers from then on.
    fn exchange_header(
        &mut self,
        packet: &mut P,
        headers: &Headers,
        after: &Tuple,
    ) -> Result<Headers, DropReason> {
        let l3 = usize::from(headers.l3);
        let (fields, payload) = Fields::read(packet.data(), l3, headers.is_ipv6)?;
        let addresses = Addresses::of(after.src, after.dst).ok_or(DropReason::Unsupported)?;
        let id = self.outer_ids.next();
        let fields = Fields { ttl: fields.ttl.wrapping_sub(1), ..fields };
        let header = fields.header(addresses, id)?;
        translate::replace(packet, l3, payload, &header, !headers.is_ipv6)?;
        let (_, dont_fragment) = translate::translated_len(headers);
        let (src, dst) = match addresses {
            Addresses::V4(src, dst) => (src.into(), dst.into()),
            Addresses::V6(..) => (0, 0),
        };
        Ok(Headers {
            src,
            dst,
            ip_len: header.len() as u32 + u32::from(fields.payload_len),
            l4: (l3 + header.len()) as u16,
            ttl: fields.ttl,
            is_ipv6: !headers.is_ipv6,
            dont_fragment: !headers.is_ipv6 || dont_fragment,
            ..*headers
        })
    }

    /// An ICMP error about a packet of the connection `at`, which goes as the error goes: to who sent the quoted packet, in its family.
    pub(super) fn translate_error(
        &mut self,
        mut packet: P,
        headers: &Headers,
        embedded: &Embedded,
        at: FlowRef,
        now: Tick,
        io: &mut impl Io<P>,
    ) {
        let quoted = at.direction().opposite();
        let sent = self.flows.tuple(at.id(), quoted);
        match self.check(headers, sent.src) {
            Ok(Way::Local | Way::Linux) => return self.drop(DropReason::Unsupported, Hook::Postrouting),
            Ok(_) => {}
            Err(refusal) => return self.refuse(packet, headers, refusal, None, now, io),
        }
        let entry = self.flows.entry(at.id());
        count(self.mine.server(entry.server()), at.direction(), headers);
        let back = Delta(entry.deltas(quoted).l4).reversed();
        if let Some(edit) = self.flows.edit(at.id()).filter(|_| embedded.protocol == Protocol::TCP) {
            let shift = edit.shift(quoted);
            icmp::renumber_quoted(packet.data_mut(), headers, embedded, |seq| shift.back(seq));
        }
        let mtus = translate::icmp::Mtus {
            receiver: self.tables.mtu_towards(sent.src),
            destination: self.tables.mtu_towards(embedded.dst),
        };
        let id = self.outer_ids.next();
        if let Err(reason) = translate::icmp::error(&mut packet, headers, embedded, &sent, back, mtus, id) {
            return self.drop(reason, Hook::Postrouting);
        }
        let mut error = Headers::NONE;
        let is_ip = parse_into(&mut error, packet.data(), packet.frame_len(), RxChecksum::Good);
        match is_ip {
            Ok(true) => self.leave(packet, &error, sent.src, Going::AsItIs, now, io),
            _ => self.drop(DropReason::Untranslatable, Hook::Postrouting),
        }
    }
}

/// Writes the ports, and brings the checksum up to date with the other family's pseudo-header. An IPv4 datagram without a checksum gets one,
/// which IPv6 asks for (RFC 7915 §4.5).
fn exchange_transport<P: Packet>(
    packet: &mut P,
    headers: &Headers,
    after: &Tuple,
    delta: Delta,
) -> Result<(), DropReason> {
    let l4 = usize::from(headers.l4);
    let frame = packet.data_mut();
    let lacks_checksum = headers.protocol == Protocol::UDP
        && !headers.is_ipv6
        && headers.fragment != Fragment::Later
        && udp::header(frame, l4).is_some_and(|header| udp::checksum(header) == 0);
    if lacks_checksum && headers.fragment == Fragment::First {
        // Nobody has all of what it would cover.
        return Err(DropReason::Untranslatable);
    }
    if rewrite::transport(frame, headers, (after.sport, after.dport), delta) == rewrite::Outcome::Unreadable {
        return Err(DropReason::Unsupported);
    }
    if lacks_checksum {
        let len = udp::header(frame, l4).map_or(0, udp::len);
        let covered = frame.get(l4..l4 + usize::from(len)).ok_or(DropReason::Untranslatable)?;
        let pseudo = match (after.src, after.dst) {
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                checksum::pseudo_v6(&src.octets(), &dst.octets(), Protocol::UDP.0, len.into())
            }
            _ => return Err(DropReason::Unsupported),
        };
        let sum = checksum::add(pseudo, checksum::sum(covered));
        if let Some(header) = udp::header_mut(frame, l4) {
            udp::set_checksum(header, checksum::finish_udp(sum));
        }
    }
    Ok(())
}
