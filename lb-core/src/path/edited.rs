//! A packet of a connection whose streams are edited on their way: a PROXY header or the client's address as a TCP option
//! for the real server, addresses in FTP's replies; or whose numbers are moved, because it was opened twice (`syn_proxy.rs`).
//!
//! Nothing is put together again and no packet is kept. What is put in is put in anew each time that the bytes around it come by, so
//! that the ends' own retransmission repairs every loss: the header in front of the stream goes with the client's acknowledgement of
//! the real server's SYN, which the real server asks for again while it has not got it, and before whatever the client sends again
//! while the header is not acknowledged. All numbers behind an edit are moved by what is kept of it ([`Shift`]).
//!
//! [`Shift`]: crate::flow::edit::Shift

use std::net::IpAddr;

use arrayvec::ArrayVec;

use super::established::side;
use super::ftp::Heard;
use super::{Io, Path, forged};
use crate::conntrack::Expectation;
use crate::drop::DropReason;
use crate::flow::edit::{Edit, FTP, PROXIED, PROXY, PROXY_V1, PROXY_V2, SIP, TOA};
use crate::flow::{Direction, FlowId, FlowRef, Method, Tuple};
use crate::hook::Hook;
use crate::ipvs::state::TcpState;
use crate::packet::Packet;
use crate::tables::{Helper, Protocol, ServiceOptions};
use crate::time::Tick;
use crate::wire::checksum;
use crate::wire::parse::{Fragment, Headers};
use crate::wire::proxy::{self, Version};
use crate::wire::segment::{self, Segment};
use crate::wire::tcp::{ACK, RST, SYN};
use crate::wire::tcp_options;
use crate::wire::translate::GROWTH;

/// The option's kind, as the modules that read it on real servers know it ("TCP option address").
pub(super) const TOA_KIND: u8 = 254;

impl<P: Packet> Path<P> {
    /// What a new connection's packets need besides the rewrite, which its service [`wants`]. Returns false when there is no room for
    /// that: it must not be.
    #[must_use]
    #[inline]
    pub(super) fn begin_edits(&mut self, at: FlowRef, wants: u8, headers: &Headers) -> bool {
        wants == 0 && self.passed.is_none() || self.begin_these_edits(at, wants, headers)
    }

    #[inline(never)]
    fn begin_these_edits(&mut self, at: FlowRef, wants: u8, headers: &Headers) -> bool {
        let is_tcp = headers.protocol == Protocol::TCP && !self.flows.entry(at.id()).method().is_one_way();
        if let Some(opening) = self.passed.and_then(|passed| passed.opening) {
            let is_masq = self.flows.entry(at.id()).method() == Method::Masq;
            let is_begun = is_masq && self.flows.begin_edit(at.id(), opening.edit(wants));
            self.mine.edits.full.add(u64::from(is_masq && !is_begun));
            return is_begun;
        }
        // What is taken up in the middle may have been edited by another director, by nobody knows how much.
        if wants == 0 || !is_tcp || headers.tcp_flags & SYN == 0 {
            return true;
        }
        if self.flows.begin_edit(at.id(), Edit::new(wants)) {
            return true;
        }
        self.mine.edits.full.add(1);
        if wants == TOA {
            // The real server reads the stream as well without it.
            return true;
        }
        false
    }

    #[inline(never)]
    pub(super) fn edited(
        &mut self,
        packet: P,
        headers: &Headers,
        at: FlowRef,
        now: Tick,
        io: &mut impl Io<P>,
    ) {
        if self.flows.edit(at.id()).is_some_and(Edit::is_proxied) {
            return self.proxied(packet, headers, at, now, io);
        }
        self.edit_and_send(packet, headers, at, now, io);
    }

    pub(super) fn edit_and_send(
        &mut self,
        packet: P,
        headers: &Headers,
        at: FlowRef,
        now: Tick,
        io: &mut impl Io<P>,
    ) {
        if self.flows.edit(at.id()).is_some_and(|edit| edit.wants & FTP != 0) {
            return self.hear_and_send(packet, headers, at, now, io);
        }
        self.edit_heard(packet, headers, at, None, now, io);
    }

    /// The same, of what is known to say this of data connections.
    pub(super) fn edit_heard(
        &mut self,
        mut packet: P,
        headers: &Headers,
        at: FlowRef,
        heard: Option<&Heard>,
        now: Tick,
        io: &mut impl Io<P>,
    ) {
        let direction = at.direction();
        if headers.fragment != Fragment::Later && !self.follow_state(headers, at) {
            self.end(at.id());
            return self.first(packet, headers, now, io);
        }
        if headers.fragment == Fragment::Later {
            return self.masquerade(packet, headers, at, now, io);
        }
        if self.is_refused(headers, at) {
            self.turn_back(&mut packet, headers, at, now);
            return self.masquerade(packet, headers, at, now, io);
        }
        let segment = match forged::segment_of(packet.data(), headers) {
            Ok(Some(segment)) => segment,
            Ok(None) => return self.masquerade(packet, headers, at, now, io),
            Err(reason) => return self.drop(reason, Hook::Forward),
        };
        let done = match direction {
            Direction::Original => self.edit_clients(packet, headers, &segment, at, heard, now, io),
            Direction::Reply => self.edit_servers(packet, headers, &segment, at, heard, now),
        };
        match done {
            Ok(Edited { packet, headers, .. }) => self.masquerade(packet, &headers, at, now, io),
            Err(reason) => self.drop(reason, Hook::Forward),
        }
    }

    /// Whether a client's SYN begins another connection whatever the sysctl `conn_reuse_mode` says: its real server, to whom it is a new one, is told who the client is, or was
    /// opened for it.
    #[cold]
    pub(super) fn is_told_anew(&self, id: FlowId) -> bool {
        let entry = self.flows.entry(id);
        let asks = |wants: u8| wants & (PROXY | TOA | PROXIED) != 0;
        let is_edited = self.flows.edit(id).is_some_and(|edit| asks(edit.wants));
        let service = || self.tables.services.of_server(entry.server());
        !entry.method().is_one_way()
            && (is_edited || service().is_some_and(|service| asks(wants(&service.options))))
    }

    /// The connection's state takes note of a packet. False: the packet begins the next one.
    pub(super) fn follow_state(&mut self, headers: &Headers, at: FlowRef) -> bool {
        let was = TcpState::from_u8(self.flows.entry(at.id()).state());
        let is = was.next(self.transitions, side(at.direction()), headers.tcp_flags);
        if was != is {
            if self.starts_anew(was, at, headers) {
                return false;
            }
            self.change_state(at.id(), is as u8);
        }
        true
    }

    /// Edits a packet of a tracked connection; and what it tells of.
    pub(super) fn edit(
        &mut self,
        packet: P,
        headers: &Headers,
        at: FlowRef,
        now: Tick,
        io: &mut impl Io<P>,
    ) -> Result<(P, Headers, Option<Expectation>), DropReason> {
        let Some(segment) = forged::segment_of(packet.data(), headers)? else {
            return Ok((packet, *headers, None));
        };
        let edited = match at.direction() {
            Direction::Original => self.edit_clients(packet, headers, &segment, at, None, now, io),
            Direction::Reply => self.edit_servers(packet, headers, &segment, at, None, now),
        };
        edited.map(|Edited { packet, headers, expectation, .. }| (packet, headers, expectation))
    }

    /// Whether its sender will be told that it goes no further, for which it must be as it came.
    pub(super) fn is_refused(&mut self, headers: &Headers, at: FlowRef) -> bool {
        if self.flows.entry(at.id()).method() == Method::Translated {
            return self.check_translated(headers, self.leaves_to(at)).is_err();
        }
        let mtu = self.mtu(at);
        headers.ttl <= 1 || headers.dont_fragment && mtu.is_some_and(|mtu| headers.ip_len > mtu)
    }

    /// That of the next hop, if it is known: of the packet as it comes.
    pub(super) fn mtu(&mut self, at: FlowRef) -> Option<u32> {
        if self.flows.entry(at.id()).method() == Method::Translated {
            let to = self.leaves_to(at);
            let mtu = u32::from(self.tables.mtu_towards(to)?);
            return if to.is_ipv6() { mtu.checked_sub(GROWTH) } else { Some(mtu + GROWTH) };
        }
        let hop = self.hop(at)?;
        self.tables.neighbours.get(hop).map(|hop| hop.mtu.into())
    }

    /// Where a packet that goes this way leaves to.
    fn leaves_to(&self, at: FlowRef) -> IpAddr {
        self.flows.tuple(at.id(), at.direction().opposite()).src
    }

    fn edit_clients(
        &mut self,
        mut packet: P,
        headers: &Headers,
        segment: &Segment,
        at: FlowRef,
        heard: Option<&Heard>,
        now: Tick,
        io: &mut impl Io<P>,
    ) -> Result<Edited<P>, DropReason> {
        let id = at.id();
        let original = self.flows.tuple(id, Direction::Original);
        let state = TcpState::from_u8(self.flows.entry(id).state());
        let is_tracked = self.flows.entry(id).is_tracked();
        let mtu = self.mtu(at);
        let mut headers = *headers;
        let Some(edit) = self.flows.edit_mut(id) else { return Err(DropReason::Unsupported) };
        if headers.tcp_flags & ACK != 0 {
            edit.shift_mut(Direction::Reply).note_ack(segment.ack);
        }
        let wants = edit.wants;
        adjust(edit, packet.data_mut(), &headers, Direction::Original);
        let header = header(wants, &original);
        // A tracked one that begins anew is another one.
        let is_syn = headers.tcp_flags & SYN != 0 && !is_tracked;
        if !is_tracked {
            forged::check_client(edit, &headers, segment)?;
            forged::take_out(edit, &mut packet, &headers);
        }
        if is_syn && state == TcpState::SynRecv {
            forged::note_syn(edit, segment, header.len() as u8);
        }
        if is_syn && !header.is_empty() && segment.data_len > 0 {
            // Data in a SYN (RFC 7413) would be before the header. The client sends it again.
            headers = segment::cut_data(&mut packet, &headers, segment).map_err(no_room)?;
        }
        let (shift, reply) = (*edit.shift(Direction::Original), *edit.shift(Direction::Reply));
        let is_at = edit.has_begun() && segment.seq == shift.at() && !shift.is_acked();
        let is_first = is_at && shift.is_insertion();
        let is_due = is_first && headers.tcp_flags & (SYN | RST | ACK) == ACK && !header.is_empty();
        let mut seq = shift.onward(segment.seq);
        if headers.tcp_flags & RST != 0 && is_first && !edit.is_sent() || is_syn && !edit.is_proxied() {
            seq = segment.seq;
        }
        if is_due && is_intact(&packet, &headers) {
            edit.note_sent();
            if segment.data_len == 0 && headers.fragment == Fragment::None {
                seq = segment.seq;
                headers = segment::put_data(&mut packet, &headers, &header).map_err(no_room)?;
            } else {
                let mut own = io.allocate().ok_or(DropReason::NoBuffer)?;
                let own_headers =
                    segment::make_like(&mut own, &packet, &headers, segment, &header).map_err(no_room)?;
                segment::renumber(own.data_mut(), &own_headers, segment.seq, &reply);
                self.masquerade(own, &own_headers, at, now, io);
            }
        }
        if wants & TOA != 0 && headers.tcp_flags & (SYN | RST) == 0 && headers.fragment == Fragment::None {
            headers = self.add_toa(&mut packet, &headers, &original, mtu);
        }
        let mut expectation = None;
        if wants & FTP != 0 && is_tracked {
            (headers, expectation) = self.reword_tracked(&mut packet, &headers, segment, at, now)?;
        } else if let Some(heard) = heard {
            headers = self.say(&mut packet, &headers, at, heard)?;
        }
        if wants & SIP != 0 {
            headers = self.signal_segment(&mut packet, &headers, segment, at, now)?;
        }
        self.note_passed(segment, at);
        segment::renumber(packet.data_mut(), &headers, seq, &reply);
        Ok(Edited { packet, headers, expectation })
    }

    fn edit_servers(
        &mut self,
        mut packet: P,
        headers: &Headers,
        segment: &Segment,
        at: FlowRef,
        heard: Option<&Heard>,
        now: Tick,
    ) -> Result<Edited<P>, DropReason> {
        let id = at.id();
        let mut headers = *headers;
        let (tuple, is_tracked) =
            (self.flows.tuple(id, Direction::Original), self.flows.entry(id).is_tracked());
        let Some(edit) = self.flows.edit_mut(id) else { return Err(DropReason::Unsupported) };
        if !is_tracked {
            let wants = edit.wants;
            forged::note_server(edit, &headers, segment, || header(wants, &tuple).len() as u8);
        }
        if headers.tcp_flags & ACK != 0 && (edit.wants & PROXY == 0 || edit.is_sent()) {
            edit.shift_mut(Direction::Original).note_ack(segment.ack);
        }
        adjust(edit, packet.data_mut(), &headers, Direction::Reply);
        let original = *edit.shift(Direction::Original);
        if edit.wants & TOA != 0 && forged::is_told(edit, &headers, segment) {
            edit.wants &= !TOA;
            if edit.wants == 0 {
                // Nothing else was ever done to it: it is like any other from here on.
                self.flows.end_edit(id);
                return Ok(Edited { packet, headers, expectation: None });
            }
        }
        let mut expectation = None;
        let wants = self.flows.edit(id).map_or(0, |edit| edit.wants);
        if wants & SIP != 0 {
            headers = self.signal_segment(&mut packet, &headers, segment, at, now)?;
        }
        if wants & FTP != 0 && self.flows.entry(id).is_tracked() {
            (headers, expectation) = self.reword_tracked(&mut packet, &headers, segment, at, now)?;
        } else if let Some(heard) = heard {
            headers = self.say(&mut packet, &headers, at, heard)?;
        }
        self.note_passed(segment, at);
        let reply = self.flows.edit(id).map(|edit| *edit.shift(Direction::Reply)).unwrap_or_default();
        segment::renumber(packet.data_mut(), &headers, reply.onward(segment.seq), &original);
        Ok(Edited { packet, headers, expectation })
    }

    fn note_passed(&mut self, segment: &Segment, at: FlowRef) {
        if let Some(edit) = self.flows.edit_mut(at.id()).filter(|edit| edit.wants & (FTP | SIP) != 0) {
            edit.shift_mut(at.direction()).note_passed(segment.seq, segment.data_len);
        }
    }

    /// Where there is no room in the header or on the link the packet goes without; it has none of its own any more.
    fn add_toa(&self, packet: &mut P, headers: &Headers, original: &Tuple, mtu: Option<u32>) -> Headers {
        let option = toa(original);
        let fits = mtu.is_some_and(|mtu| headers.ip_len + option.len() as u32 <= mtu);
        match if fits { segment::add_option(packet, headers, &option).ok() } else { None } {
            Some(headers) => headers,
            None => {
                self.mine.edits.toa_left_out.add(1);
                *headers
            }
        }
    }
}

/// A packet that is ready for the rewrite.
struct Edited<P> {
    packet: P,
    headers: Headers,
    /// A connection to be tracked that it tells of.
    expectation: Option<Expectation>,
}

/// Moves clocks and windows of a connection that was opened twice.
fn adjust(edit: &Edit, frame: &mut [u8], headers: &Headers, direction: Direction) {
    if !edit.is_open() {
        return;
    }
    let l4 = usize::from(headers.l4);
    let ahead = edit.proxied.clock;
    if ahead != 0 {
        let (clock, echo) = match direction {
            Direction::Original => (0, ahead),
            Direction::Reply => (ahead.wrapping_neg(), 0),
        };
        tcp_options::shift_stamps(frame, l4, clock, echo);
    }
    if edit.scale(direction) != 0 && headers.tcp_flags & SYN == 0 {
        tcp_options::shift_window(frame, l4, edit.scale(direction));
    }
}

/// What is done to the streams of a service's connections.
#[inline]
pub(super) fn wants(options: &ServiceOptions) -> u8 {
    let proxy = match options.proxy_protocol {
        None => 0,
        Some(Version::V1) => PROXY_V1,
        Some(Version::V2) => PROXY_V2,
    };
    let toa = if options.toa { TOA } else { 0 };
    let helper = match options.helper {
        None => 0,
        Some(Helper::Ftp) => FTP,
    };
    proxy | toa | helper
}

/// What is put in front of the client's stream.
fn header(wants: u8, original: &Tuple) -> ArrayVec<u8, { proxy::MAX }> {
    match wants & PROXY {
        PROXY_V1 => proxy::header(Version::V1, original),
        PROXY_V2 => proxy::header(Version::V2, original),
        _ => ArrayVec::new(),
    }
}

/// Nothing is made after the numbers of a segment that was damaged on its way.
pub(super) fn is_intact<P: Packet>(packet: &P, headers: &Headers) -> bool {
    checksum::of_transport(packet.data(), headers).is_none_or(checksum::is_good)
}

fn no_room(_: crate::packet::NoRoom) -> DropReason {
    DropReason::NoBuffer
}

/// Port and address of the client: 8 bytes for IPv4, 20 for IPv6.
fn toa(original: &Tuple) -> ArrayVec<u8, 20> {
    let mut option = ArrayVec::new();
    let mut push = |bytes: &[u8]| {
        // The longest that there is fits.
        let _ = option.try_extend_from_slice(bytes);
    };
    let len = if original.src.is_ipv6() { 20 } else { 8 };
    push(&[TOA_KIND, len]);
    push(&original.sport.to_be_bytes());
    match original.src {
        IpAddr::V4(address) => push(&address.octets()),
        IpAddr::V6(address) => push(&address.octets()),
    }
    option
}
