//! Direct routing and tunnels: a client's packet goes on to the real server with its addresses and ports as they are, and
//! the real server answers the client by another way.
//!
//! So the client's direction alone drives a TCP connection's state, as in the kernel, and there is nothing to translate.
//! A real server that is an address of this host (the kernel's "local node") gets its packets by the twin.

use std::net::IpAddr;

use arrayvec::ArrayVec;

use super::established::{count, is_open};
use super::one_packet::Choice;
use super::output::Refusal;
use super::sctp::Sctp;
use super::tunnel::{self, Ends, Outer, Prepared};
use super::waiting::Going;
use super::{Io, Path, rewrite};
use crate::drop::DropReason;
use crate::flow::{Direction, FlowRef, Method};
use crate::hook::Hook;
use crate::ids::ServerId;
use crate::ipvs::state::{self, TcpState};
use crate::packet::Packet;
use crate::tables::{Forward, NextHop, Protocol, Reachability, Tunnel, Way};
use crate::time::Tick;
use crate::wire::parse::{Fragment, Headers};
use crate::wire::tcp::{self, SYN};
use crate::wire::{fragment, ipv4, ipv6};

impl<P: Packet> Path<P> {
    /// As [`Path::established`], for a packet of such a connection: there are none but from the client.
    #[inline(always)]
    pub(super) fn one_way(
        &mut self,
        packet: P,
        headers: &Headers,
        at: FlowRef,
        now: Tick,
        io: &mut impl Io<P>,
    ) {
        self.one_way_by(packet, headers, at, state::Direction::InputOnly, now, io);
    }

    /// The same, where a connection's state follows this column of the table.
    #[inline(always)]
    pub(super) fn one_way_by(
        &mut self,
        packet: P,
        headers: &Headers,
        at: FlowRef,
        side: state::Direction,
        now: Tick,
        io: &mut impl Io<P>,
    ) {
        if at.direction() == Direction::Reply {
            // Its place was another connection's when the burst was looked up.
            return self.first(packet, headers, now, io);
        }
        if headers.protocol == Protocol::TCP && headers.fragment != Fragment::Later {
            let was = TcpState::from_u8(self.flows.entry(at.id()).state());
            let is = was.next(self.transitions, side, headers.tcp_flags);
            if was != is {
                if self.starts_anew(was, at, headers) {
                    self.end(at.id());
                    return self.first(packet, headers, now, io);
                }
                self.change_state(at.id(), is as u8);
            }
        } else if headers.protocol == Protocol::SCTP
            && self.sctp_state(packet.data(), headers, at, side) == Sctp::BeginsAnew
        {
            self.end(at.id());
            return self.first(packet, headers, now, io);
        }
        self.flows.entry_mut(at.id()).touch(now);
        self.onward(packet, headers, at, now, io);
    }

    /// As [`Path::one_way`], for where few packets come by.
    #[inline(never)]
    pub(super) fn one_way_rarely(
        &mut self,
        packet: P,
        headers: &Headers,
        at: FlowRef,
        now: Tick,
        io: &mut impl Io<P>,
    ) {
        self.one_way(packet, headers, at, now, io);
    }

    /// As [`Path::onward`], for what is rare: an ICMP error about the connection, a datagram that is all that there is of one.
    #[inline(never)]
    pub(super) fn onward_rarely(
        &mut self,
        packet: P,
        headers: &Headers,
        at: FlowRef,
        now: Tick,
        io: &mut impl Io<P>,
    ) {
        self.onward(packet, headers, at, now, io);
    }

    /// Sends a packet on to its real server, and counts it.
    #[inline(always)]
    fn onward(&mut self, packet: P, headers: &Headers, at: FlowRef, now: Tick, io: &mut impl Io<P>) {
        let entry = self.flows.entry(at.id());
        count(self.mine.server(entry.server()), Direction::Original, headers);
        match entry.method() {
            Method::Tunnel => self.onward_in_tunnel(packet, headers, at, now, io),
            Method::Direct | Method::Masq | Method::Translated => {
                self.onward_as_it_is(packet, headers, at, now, io)
            }
        }
    }

    #[inline(always)]
    fn onward_as_it_is(
        &mut self,
        mut packet: P,
        headers: &Headers,
        at: FlowRef,
        now: Tick,
        io: &mut impl Io<P>,
    ) {
        let kept = self.flows.entry(at.id()).hop_or_none(at.direction());
        match self.tables.neighbours.get(kept) {
            Some(hop) if rewrite::plain_but_for_ttl(packet.data_mut(), headers, hop) => {
                io.transmit(hop.port, packet);
            }
            _ => self.onward_as_it_is_rarely(packet, headers, at, now, io),
        }
    }

    /// The same of a packet that is not as nearly all are, or whose next hop is not kept yet.
    #[inline(never)]
    fn onward_as_it_is_rarely(
        &mut self,
        mut packet: P,
        headers: &Headers,
        at: FlowRef,
        now: Tick,
        io: &mut impl Io<P>,
    ) {
        let hop = self.hop(at).and_then(|hop| self.tables.neighbours.get(hop));
        let Some(hop) = hop.filter(|hop| is_open(hop, headers)) else {
            return self.onward_off_line(packet, headers, at, now, io);
        };
        rewrite::decrement_ttl(packet.data_mut(), headers);
        self.send(packet, headers, hop, io);
    }

    /// Packets to one real server have all of their way in common: it is kept by real server, not by connection.
    #[inline(never)]
    fn onward_in_tunnel(
        &mut self,
        mut packet: P,
        headers: &Headers,
        at: FlowRef,
        now: Tick,
        io: &mut impl Io<P>,
    ) {
        let tunnel = self.tunnels.find(self.flows.entry(at.id()).server(), self.tables.generation);
        let is_syn = headers.tcp_flags & SYN != 0;
        if let Some(tunnel) = tunnel
            && !is_syn
            && rewrite::goes_plainly(headers, tunnel.plain_room)
        {
            let (outer, hop, id) = (&tunnel.outer, &tunnel.hop, self.outer_ids.next());
            return match outer.put_before_plain(&mut packet, headers, &hop.macs, id) {
                Ok(()) => io.transmit(hop.port, packet),
                Err(reason) => self.drop(reason, Hook::Postrouting),
            };
        }
        self.onward_in_tunnel_rarely(packet, headers, at, now, io);
    }

    /// The same of a packet, or by a tunnel, that is not as nearly all are, or whose way is not kept yet.
    #[inline(never)]
    fn onward_in_tunnel_rarely(
        &mut self,
        mut packet: P,
        headers: &Headers,
        at: FlowRef,
        now: Tick,
        io: &mut impl Io<P>,
    ) {
        let (server, generation) = (self.flows.entry(at.id()).server(), self.tables.generation);
        if headers.tcp_flags & SYN != 0 {
            let (tunnel, to) = self.tunnel_to(server, at);
            self.clamp_mss(&mut packet, headers, server, tunnel, to);
        }
        if self.tunnels.find(server, generation).is_none() {
            self.prepare(server, at, headers.is_ipv6);
        }
        let tunnel = self.tunnels.find(server, generation);
        let Some(tunnel) =
            tunnel.filter(|tunnel| (headers.ttl > 1) & (headers.ip_len <= u32::from(tunnel.room)))
        else {
            return self.onward_off_line(packet, headers, at, now, io);
        };
        match tunnel.outer.put_before_forwarded(&mut packet, headers, self.outer_ids.next()) {
            Ok(()) => self.send(packet, headers, &tunnel.hop, io),
            Err(reason) => self.drop(reason, Hook::Postrouting),
        }
    }

    /// A client's SYN: what it asks for is lowered to what fits the tunnel, if its service says so.
    #[cold]
    fn clamp_mss(&self, packet: &mut P, headers: &Headers, server: ServerId, tunnel: Tunnel, to: IpAddr) {
        let service = self.tables.services.of_server(server);
        if !service.is_some_and(|service| service.options.clamp_mss) {
            return;
        }
        let ip_and_tcp = if headers.is_ipv6 { ipv6::LEN + tcp::LEN } else { ipv4::LEN + tcp::LEN };
        let taken = (tunnel.overhead(to) + ip_and_tcp) as u16;
        if let Some(mss) = self.tables.mtu_towards(to).and_then(|mtu| mtu.checked_sub(taken)) {
            tcp::lower_mss(packet.data_mut(), headers.l4.into(), mss);
        }
    }

    /// Works out the way to a real server by its tunnel, and keeps it if there is one.
    #[inline(never)]
    fn prepare(&mut self, server: ServerId, at: FlowRef, carries_ipv6: bool) {
        let (tunnel, to) = self.tunnel_to(server, at);
        if self.hides_df(carries_ipv6, to) {
            // Rarely wanted: the straight line of all others does not ask.
            return;
        }
        let Way::Hop(hop) = self.tables.way(to) else { return };
        let hop = self.tables.neighbours.get(hop).filter(|hop| hop.state == Reachability::Reachable);
        let Some(&hop) = hop else { return };
        let Some(ends) = self.ends(to, &hop) else { return };
        let left = |room: u16| room.saturating_sub(tunnel.overhead(to) as u16);
        let outer = Outer::new(tunnel, ends, carries_ipv6);
        let plain_room = if outer.is_plain() { left(hop.plain_room) } else { 0 };
        let prepared = Prepared { hop, room: left(hop.mtu), plain_room, outer };
        self.tunnels.keep(server, self.tables.generation, prepared);
    }

    /// The next hop is not known yet or does not answer, the packet does not fit, or the real server is this host.
    #[cold]
    fn onward_off_line(&mut self, packet: P, headers: &Headers, at: FlowRef, now: Tick, io: &mut impl Io<P>) {
        let to = self.flows.tuple(at.id(), Direction::Reply).src;
        let tunnel = self.tunnel(at).map(|(tunnel, _)| tunnel);
        self.leave_one_way(packet, headers, to, tunnel, Some(at), now, io);
    }

    /// Sends a packet of no connection that is kept on to the real server that was chosen, and counts it.
    #[cold]
    pub(super) fn go_unkept(
        &mut self,
        mut packet: P,
        headers: &Headers,
        &Choice { after, method, server, .. }: &Choice,
        now: Tick,
        io: &mut impl Io<P>,
    ) {
        count(self.mine.server(server), Direction::Original, headers);
        let to = after.dst;
        let tunnel = self.tunnel_unkept(method, server);
        if let Some(tunnel) = tunnel.filter(|_| headers.tcp_flags & SYN != 0) {
            self.clamp_mss(&mut packet, headers, server, tunnel, to);
        }
        self.leave_one_way(packet, headers, to, tunnel, None, now, io);
    }

    /// As for a connection: the kind of tunnel that the real server has now.
    fn tunnel_unkept(&self, method: Method, server: ServerId) -> Option<Tunnel> {
        let kind = || match self.tables.services.server(server).map(|server| server.forward) {
            Some(Forward::Tunnel(tunnel)) => tunnel,
            _ => Tunnel::Ipip,
        };
        (method == Method::Tunnel).then(kind)
    }

    /// Why a packet of no connection that is kept goes no further.
    pub(super) fn refusal_unkept(&self, headers: &Headers, choice: &Choice) -> Option<Refusal> {
        let to = choice.after.dst;
        let tunnel = self.tunnel_unkept(choice.method, choice.server);
        self.check_within(headers, to, tunnel.map_or(0, |tunnel| tunnel.overhead(to))).err()
    }

    fn leave_one_way(
        &mut self,
        mut packet: P,
        headers: &Headers,
        to: IpAddr,
        tunnel: Option<Tunnel>,
        of: Option<FlowRef>,
        now: Tick,
        io: &mut impl Io<P>,
    ) {
        let overhead = tunnel.map_or(0, |tunnel| tunnel.overhead(to));
        match self.check_within(headers, to, overhead) {
            Ok(Way::Local) => return io.to_twin(packet.port(), packet),
            // Of a connection past all real servers: Linux sends it on.
            Ok(Way::Linux) if to == headers.destination(packet.data()) => {
                return io.to_twin(packet.port(), packet);
            }
            // Linux would take it for its own: the virtual service's address is there.
            Ok(Way::Linux) => return self.drop(DropReason::Unsupported, Hook::Postrouting),
            Ok(_) => rewrite::decrement_ttl(packet.data_mut(), headers),
            Err(refusal) => {
                if headers.ttl > 1 {
                    // The kernel's IPVS quotes the packet as it would have left.
                    rewrite::decrement_ttl(packet.data_mut(), headers);
                }
                return self.refuse_of(packet, headers, refusal, of, now, io);
            }
        }
        self.leave(packet, headers, to, tunnel.map_or(Going::AsItIs, Going::InTunnel), now, io);
    }

    /// The tunnel that a connection's packets go through, and where it ends.
    pub(super) fn tunnel(&self, at: FlowRef) -> Option<(Tunnel, IpAddr)> {
        let entry = self.flows.entry(at.id());
        (entry.method() == Method::Tunnel).then(|| self.tunnel_to(entry.server(), at))
    }

    /// The kind of tunnel is what the real server has now; the connection goes on through one when the real server's
    /// method is another by now, as in the kernel.
    fn tunnel_to(&self, server: ServerId, at: FlowRef) -> (Tunnel, IpAddr) {
        match self.tables.services.server(server) {
            Some(server) => match server.forward {
                Forward::Tunnel(tunnel) => (tunnel, server.address),
                Forward::Masq | Forward::FullNat | Forward::Direct => (Tunnel::Ipip, server.address),
            },
            None => (Tunnel::Ipip, self.flows.tuple(at.id(), Direction::Reply).src),
        }
    }

    /// A tunnel to `to` begins at the interface of the next hop.
    fn ends(&self, to: IpAddr, hop: &NextHop) -> Option<Ends> {
        Ends::new(self.tables.interfaces.get(hop.interface)?, to)
    }

    /// Puts a packet into a tunnel that begins at the interface of `hop`.
    fn encapsulate(
        &mut self,
        packet: &mut P,
        headers: &Headers,
        tunnel: Tunnel,
        to: IpAddr,
        hop: &NextHop,
    ) -> Result<(), DropReason> {
        let ends = self.ends(to, hop).ok_or(DropReason::NoTunnelSource)?;
        let id = self.outer_ids.next();
        let dont_fragment = headers.dont_fragment && !self.hides_df(headers.is_ipv6, to);
        let headers = &Headers { dont_fragment, ..*headers };
        Outer::new(tunnel, ends, headers.is_ipv6).put_before(packet, headers, id)
    }

    /// Whether a packet in a tunnel to `to` may be split with the tunnel's, also if it says that it may not (`pmtu_disc`).
    fn hides_df(&self, carries_ipv6: bool, to: IpAddr) -> bool {
        self.tables.settings.sysctls.pmtu_disc == 0 && !carries_ipv6 && to.is_ipv4()
    }

    /// Sends a packet, whose TTL is as it shall be, through a tunnel to the next hop `hop`.
    #[cold]
    pub(super) fn send_in_tunnel(
        &mut self,
        mut packet: P,
        headers: &Headers,
        tunnel: Tunnel,
        to: IpAddr,
        hop: &NextHop,
        io: &mut impl Io<P>,
    ) {
        let room = u32::from(hop.mtu).saturating_sub(tunnel.overhead(to) as u32);
        if headers.ip_len > room && to.is_ipv6() {
            // No router splits the outer packet on its way, and we do not either: the inner one may be split.
            let mut later = ArrayVec::new();
            let split = fragment::split(&mut packet, headers, room as u16, || io.allocate(), &mut later);
            if let Err(reason) = split {
                return self.drop(reason, Hook::Egress);
            }
            for piece in std::iter::once(packet).chain(later) {
                self.send_piece_in_tunnel(piece, headers, tunnel, to, hop, io);
            }
            return;
        }
        if let Err(reason) = self.encapsulate(&mut packet, headers, tunnel, to, hop) {
            return self.drop(reason, Hook::Postrouting);
        }
        if headers.ip_len <= room {
            return self.send(packet, headers, hop, io);
        }
        match tunnel::outer(&packet) {
            Some(outer) => self.send_in_pieces(packet, &outer, hop, io),
            None => self.drop(DropReason::Unsupported, Hook::Egress),
        }
    }

    fn send_piece_in_tunnel(
        &mut self,
        mut piece: P,
        headers: &Headers,
        tunnel: Tunnel,
        to: IpAddr,
        hop: &NextHop,
        io: &mut impl Io<P>,
    ) {
        let ip_len = (piece.frame_len() - usize::from(headers.l3)) as u32;
        let headers = Headers { ip_len, ..*headers };
        match self.encapsulate(&mut piece, &headers, tunnel, to, hop) {
            Ok(()) => self.send(piece, &headers, hop, io),
            Err(reason) => self.drop(reason, Hook::Postrouting),
        }
    }

    /// Which way a packet to `to` goes, if it may with `overhead` bytes before it.
    pub(super) fn check_within(
        &self,
        headers: &Headers,
        to: IpAddr,
        overhead: usize,
    ) -> Result<Way, Refusal> {
        let is_split = overhead > 0 && self.hides_df(headers.is_ipv6, to);
        let dont_fragment = headers.dont_fragment && !is_split;
        let grown = Headers { ip_len: headers.ip_len + overhead as u32, dont_fragment, ..*headers };
        self.check(&grown, to).map_err(|refusal| match refusal {
            Refusal::TooBig(mtu) => Refusal::TooBig(mtu.saturating_sub(overhead as u16)),
            other => other,
        })
    }
}
