//! A connection that is opened twice: with the client, who is answered with a SYN cookie, and once that is acknowledged with the server.
//!
//! ```text
//! client                    director                     server
//!   │ ── SYN ───────────────→ │                            │
//!   │ ←── SYN, ACK (cookie) ─ │  nothing is kept           │
//!   │ ── ACK ───────────────→ │ ── SYN ──────────────────→ │  the connection is entered
//!   │                         │ ←───────────── SYN, ACK ── │
//!   │ ←─ ACK (window opens) ─ │ ── ACK ──────────────────→ │
//!   │ ←══════════ numbers, clocks, windows moved ════════→ │
//! ```
//!
//! The cookie's window is closed, so that the client sends nothing but probes of it until the server has answered; each of these asks the
//! server again. From then on the server's numbers are moved by what its first one is apart from the cookie ([`Edit`]), as are timestamps and,
//! where the client was told another scale than the server's, windows. Rules and conntrack see the client's numbers alone.
//!
//! The server's SYN passes OUTPUT and POSTROUTING, as what the host sends, and `nat` there; a virtual service schedules it. So does the cookie, as any
//! [answer](super::answer), and so do the other packets that are made here, as ESTABLISHED.
//!
//! Source of the facts: Linux, `net/netfilter/nf_synproxy_core.c`.

use super::edited::is_intact;
use super::hooks::why;
use super::passage::{OUTPUT, Passage, Stop, Stopped};
use super::{Io, Passed, Path, passage};
use crate::conntrack::{self, CtState, Expectation, Labels, Zones};
use crate::drop::DropReason;
use crate::flow::edit::{Edit, Proxied, Shift};
use crate::flow::{Direction, FlowRef, Tuple};
use crate::hook::Hook;
use crate::ids::PortId;
use crate::packet::{NoRoom, Packet};
use crate::reset::make_reset;
use crate::rule::Table;
use crate::rule::counted::Ticket;
use crate::syn_cookie::{self, Offer, Secrets};
use crate::time::Tick;
use crate::wire::bare::Bare;
use crate::wire::ethernet;
use crate::wire::parse::Headers;
use crate::wire::segment::{self, Segment};
use crate::wire::tcp::{self, ACK, FIN, RST, SYN};
use crate::wire::tcp_options::{TcpOptions, scaled};

/// In a SYN: the sender can ECN; in its answer the first alone (RFC 3168 §6.1.1).
const ECE: u8 = 0x40;
const CWR: u8 = 0x80;

/// A client's connection, as its acknowledgement of a cookie tells it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Opening {
    /// The client's first number, and ours.
    seq: u32,
    isn: u32,
    /// The client's, in units of its scale.
    window: u16,
    /// What its SYN said, as far as the cookie tells.
    asked: TcpOptions,
    is_ecn: bool,
    /// Shift of the server's windows that the client was told.
    told: Option<u8>,
    /// What the client saw last of our clock.
    clock: u32,
}

impl Opening {
    /// `None`: it is no acknowledgement of a cookie. `seq` is the client's first number.
    pub(super) fn read(
        secrets: &Secrets,
        frame: &[u8],
        headers: &Headers,
        client: &Tuple,
        seq: u32,
        offer: &Offer,
        now: Tick,
    ) -> Option<Opening> {
        let header = tcp::header(frame, headers.l4.into())?;
        let isn = tcp::acknowledgement(header).wrapping_sub(1);
        let mss = syn_cookie::check(secrets, client, seq, isn, now)?;
        let stamps = TcpOptions::of(frame, headers.l4.into()).stamps.filter(|_| offer.timestamps);
        let (asked, is_ecn) = stamps.map_or_else(Default::default, |(_, echo)| syn_cookie::recall(echo));
        let (clock, echo) = stamps.unwrap_or_default();
        Some(Opening {
            seq,
            isn,
            window: u16::from_be_bytes([header[14], header[15]]),
            asked: TcpOptions { mss: Some(mss), stamps: stamps.map(|_| (clock, 0)), ..asked },
            is_ecn,
            told: asked.scale.and(offer.scale),
            clock: echo,
        })
    }

    /// Writes the client's SYN over its packet.
    pub(super) fn write<P: Packet>(
        &self,
        packet: &mut P,
        headers: &Headers,
        client: &Tuple,
    ) -> Result<Headers, NoRoom> {
        // A SYN's window has no scale.
        let window = scaled(self.window.into(), self.asked.scale.unwrap_or(0) as i8);
        let flags = if self.is_ecn { SYN | ECE | CWR } else { SYN };
        let options = self.asked.bytes();
        Bare { seq: self.seq, ack: 0, flags, window, options: &options }.write(
            packet,
            headers.l3.into(),
            client,
        )
    }

    /// What is kept of it.
    pub(super) fn edit(&self, wants: u8) -> Edit {
        let scales = [self.asked.scale, self.told].map(|scale| scale.unwrap_or(Proxied::NO_SCALE));
        let proxied = Proxied { isn: self.isn, clock: self.clock, window: self.window, scales };
        Edit::proxied(wants, proxied, self.seq.wrapping_add(1))
    }
}

/// What becomes of a packet of a proxied connection before anything else is done with it.
pub(super) enum Before<P> {
    /// It goes on.
    Goes(P, Headers),
    /// The server's answer, with the client's numbers. The first one, or it has come again.
    Opens(P, Headers, bool),
    /// It has become the client's SYN once more.
    Asks(P, Headers),
    /// The client acknowledges another cookie, when this connection is over.
    Reopens(P),
    /// The server took the SYN for another connection's: it is told that there is none.
    Stray(P),
    Dropped(DropReason),
    /// By rules.
    Stopped(Stopped),
}

impl<P: Packet> Path<P> {
    /// A SYN is answered with a cookie; an acknowledgement of one opens the connection to the server.
    #[cold]
    pub(super) fn syn_proxy(
        &mut self,
        mut packet: P,
        headers: &Headers,
        (offer, hook): (Offer, Hook),
        of: Option<&Passage>,
        now: Tick,
        io: &mut impl Io<P>,
    ) {
        if !is_intact(&packet, headers) {
            return self.drop(DropReason::BadCookie, hook);
        }
        if headers.tcp_flags & ACK == 0 {
            return self.answer_syn(packet, headers, (&offer, hook), of, now, io);
        }
        let client = Tuple::of_packet(packet.data(), headers);
        let Some(opening) = self.acknowledged(&packet, headers, &client, &offer, now) else {
            return self.drop(DropReason::BadCookie, hook);
        };
        if let Some(at) = self.flows.find(&client) {
            let entry = self.flows.entry(at.id());
            if !(entry.is_tracked() && conntrack::is_over(entry.protocol(), entry.state())) {
                return self.drop(DropReason::BadCookie, hook);
            }
            self.mine.cookies.reopened.add(1);
            self.end(at.id());
        }
        let Ok(headers) = opening.write(&mut packet, headers, &client) else {
            return self.drop(DropReason::NoBuffer, hook);
        };
        let mark = self.tables.marks.mark(&client, &self.tables.sets, now).unwrap_or(0);
        let is_local = self.tables.routes.is_local(client.dst);
        if is_local && self.is_served(&packet, &headers, &client, mark) {
            return self.serve_opened(packet, &headers, &client, opening, mark, now, io);
        }
        self.open_tracked(packet, &headers, client, &opening, now, io);
    }

    /// Answers a SYN for the server, by the way that it came.
    pub(super) fn answer_syn(
        &mut self,
        mut packet: P,
        headers: &Headers,
        (offer, hook): (&Offer, Hook),
        of: Option<&Passage>,
        now: Tick,
        io: &mut impl Io<P>,
    ) {
        let frame = packet.data();
        let client = Tuple::of_packet(frame, headers);
        let Some(header) = tcp::header(frame, headers.l4.into()) else {
            return self.drop(DropReason::Unsupported, hook);
        };
        if self.tables.routes.is_local(client.src) {
            return self.drop(DropReason::MartianAddress, hook);
        }
        self.mine.cookies.syn_received.add(1);
        let seq = tcp::sequence(header);
        let asked = TcpOptions::of(frame, headers.l4.into());
        // RFC 9293 §3.7.1.
        let mss = asked.mss.unwrap_or(if headers.is_ipv6 { 1220 } else { 536 });
        let isn = syn_cookie::make(&self.tables.cookies, &client, seq, mss, now);
        let told_mss = asked.mss.and(offer.mss);
        let mut flags = SYN | ACK;
        let told = match asked.stamps.filter(|_| offer.timestamps) {
            Some((clock, _)) => {
                let is_ecn = offer.ecn && headers.tcp_flags & (ECE | CWR) == ECE | CWR;
                flags |= if is_ecn { ECE } else { 0 };
                let sack = asked.sack && offer.sack;
                let kept = TcpOptions { scale: asked.scale.filter(|_| offer.scale.is_some()), sack, ..asked };
                let stamp = syn_cookie::stamp(&kept, is_ecn, now);
                let scale = asked.scale.and(offer.scale);
                TcpOptions { mss: told_mss, scale, sack, stamps: Some((stamp, clock)) }
            }
            None => TcpOptions { mss: told_mss, ..TcpOptions::default() },
        };
        let options = told.bytes();
        let on_its_road = self.answer_to(&packet, headers, CtState::Established, of, now);
        let answer = Bare { seq: isn, ack: seq.wrapping_add(1), flags, window: 0, options: &options };
        if answer.write(&mut packet, headers.l3.into(), &client.reversed()).is_err() {
            return self.drop(DropReason::NoBuffer, hook);
        }
        ethernet::swap_addresses(packet.data_mut());
        self.send_answer(packet, on_its_road, now, io);
    }

    /// What the acknowledgement of a cookie tells; `None`: it is of none.
    pub(super) fn acknowledged(
        &self,
        packet: &P,
        headers: &Headers,
        client: &Tuple,
        offer: &Offer,
        now: Tick,
    ) -> Option<Opening> {
        let frame = packet.data();
        let seq = tcp::sequence(tcp::header(frame, headers.l4.into())?).wrapping_sub(1);
        let opening = Opening::read(&self.tables.cookies, frame, headers, client, seq, offer, now);
        let cookies = &self.mine.cookies;
        if opening.is_some() { &cookies.valid } else { &cookies.invalid }.add(1);
        opening
    }

    /// Gives the SYN of an opened connection to its virtual service.
    pub(super) fn serve_opened(
        &mut self,
        packet: P,
        headers: &Headers,
        client: &Tuple,
        opening: Opening,
        mark: u32,
        now: Tick,
        io: &mut impl Io<P>,
    ) {
        let destination = (client.dst, client.dport);
        let passed = Passed {
            destination,
            state: CtState::New,
            mark,
            connection_mark: 0,
            labels: Labels::NONE,
            is_by_mark: false,
            is_traced: false,
            ticket: Ticket::NONE,
            opening: Some(opening),
        };
        self.with_passed(Some(passed), |path| path.serve(packet, headers, client, client, now, io));
    }

    /// The SYN of an opened connection that no service takes: OUTPUT, POSTROUTING, and out.
    fn open_tracked(
        &mut self,
        mut packet: P,
        headers: &Headers,
        client: Tuple,
        opening: &Opening,
        now: Tick,
        io: &mut impl Io<P>,
    ) {
        const RAW: [Stop; 1] = [(Table::Raw, Hook::Output)];
        let mut passage = self.passage(packet.port(), headers, CtState::New, now);
        (passage.input, passage.begins_at) = (None, Hook::Output);
        passage.output = self.output(self.tables.way(client.dst));
        let left = match self.pass(&RAW, &client, &mut packet, headers, &mut passage) {
            // In a zone it would not be found by its tuple alone.
            Ok(()) if passage.zones != Zones::NONE => Ok(None),
            Ok(()) => self.first_out(&mut packet, headers, client, &mut passage),
            Err(stopped) => Err(stopped),
        };
        match left {
            Ok(Some(at)) if self.begin_opening(at, opening) => {
                self.onward_tracked(packet, headers, at, now, io);
            }
            Ok(Some(at)) => {
                self.mine.edits.full.add(1);
                self.end(at.id());
                self.drop(DropReason::EditTableFull, Hook::Output);
            }
            // Rules say that it is not followed: nobody would move its numbers.
            Ok(None) => self.drop(DropReason::NotProxied, Hook::Output),
            Err(stopped) => self.stop(packet, headers, stopped, Some(&passage), now, io),
        }
    }

    /// It is edited for its helper too, if it has one.
    fn begin_opening(&mut self, at: FlowRef, opening: &Opening) -> bool {
        let wants = self.flows.edit(at.id()).map_or(0, |edit| edit.wants);
        self.flows.end_edit(at.id());
        self.flows.begin_edit(at.id(), opening.edit(wants))
    }

    /// A packet of a connection, before its state takes note of it: one that is not proxied goes as it is.
    pub(super) fn before(&mut self, mut packet: P, headers: &Headers, at: FlowRef, now: Tick) -> Before<P> {
        let edit = self.flows.edit(at.id()).copied().filter(Edit::is_proxied);
        let Some((edit, segment)) = edit.zip(Segment::of(packet.data(), headers)) else {
            return Before::Goes(packet, *headers);
        };
        let flags = headers.tcp_flags & (SYN | ACK | FIN | RST);
        let is_answer = at.direction() == Direction::Reply;
        if is_answer && flags == SYN | ACK && is_intact(&packet, headers) {
            let is_first = !edit.is_open();
            return match self.note_answer(&mut packet, headers, &segment, at) {
                Ok(headers) => Before::Opens(packet, headers, is_first),
                Err(NoRoom) => Before::Dropped(DropReason::NoBuffer),
            };
        }
        if !is_answer && flags == ACK && self.is_another(&packet, headers, &edit, at, now) {
            return Before::Reopens(packet);
        }
        if edit.is_open() || !is_answer && flags & (SYN | RST) != 0 {
            return Before::Goes(packet, *headers);
        }
        if is_answer && flags & RST == 0 {
            return Before::Stray(packet);
        }
        if is_answer {
            let seq = edit.proxied.isn.wrapping_add(1);
            segment::renumber(packet.data_mut(), headers, seq, &Shift::default());
            return Before::Goes(packet, *headers);
        }
        let Some(opening) = self.opening_again(&packet, headers, &edit, at, now) else {
            return Before::Dropped(DropReason::BadCookie);
        };
        if let Err(stopped) = self.pass_probe(&mut packet, headers, at, now) {
            return Before::Stopped(stopped);
        }
        let client = self.flows.tuple(at.id(), Direction::Original);
        match opening.write(&mut packet, headers, &client) {
            Ok(headers) => Before::Asks(packet, headers),
            Err(NoRoom) => Before::Dropped(DropReason::NoBuffer),
        }
    }

    /// Rules see a client's packet before the server has answered, as one of its connection. A virtual service's they have seen by now.
    fn pass_probe(
        &mut self,
        packet: &mut P,
        headers: &Headers,
        at: FlowRef,
        now: Tick,
    ) -> Result<(), Stopped> {
        let entry = self.flows.entry(at.id());
        if !(entry.is_tracked() && entry.is_ruled() && self.tables.rules.are_active()) {
            return Ok(());
        }
        let wire = self.flows.tuple(at.id(), at.direction());
        let mut passage = self.passage(packet.port(), headers, CtState::Established, now);
        passage.of = Some(at.id());
        self.pass(&passage::RAW, &wire, packet, headers, &mut passage)?;
        passage.state = self.flows.tracked(at.id()).is(at.direction());
        self.walk_tracked(packet, headers, at, &wire, &mut passage)
    }

    /// Whether a client's packet acknowledges the cookie of another connection with the same ends, when this one is over for conntrack, whose
    /// windows it may fit by chance.
    fn is_another(&self, packet: &P, headers: &Headers, edit: &Edit, at: FlowRef, now: Tick) -> bool {
        let entry = self.flows.entry(at.id());
        if !(entry.is_tracked() && conntrack::is_over(entry.protocol(), entry.state())) {
            return false;
        }
        let (frame, client) = (packet.data(), self.flows.tuple(at.id(), Direction::Original));
        let Some(header) = tcp::header(frame, headers.l4.into()) else { return false };
        let seq = tcp::sequence(header).wrapping_sub(1);
        Opening::read(&self.tables.cookies, frame, headers, &client, seq, &Offer::default(), now)
            .is_some_and(|opening| opening.isn != edit.proxied.isn)
    }

    /// What a client's packet tells that is to be made its SYN once more, which the server has not answered yet: its acknowledgement came again, or it probes
    /// the window, by a number before.
    fn opening_again(
        &mut self,
        packet: &P,
        headers: &Headers,
        edit: &Edit,
        at: FlowRef,
        now: Tick,
    ) -> Option<Opening> {
        let client = self.flows.tuple(at.id(), Direction::Original);
        let seq = edit.shift(Direction::Original).at().wrapping_sub(1);
        let offer = Offer { timestamps: true, ..Offer::default() };
        let secrets = &self.tables.cookies;
        let opening = Opening::read(secrets, packet.data(), headers, &client, seq, &offer, now)
            .filter(|opening| opening.isn == edit.proxied.isn && is_intact(packet, headers));
        let Some(opening) = opening else {
            self.mine.cookies.invalid.add(1);
            return None;
        };
        self.mine.cookies.valid.add(1);
        self.mine.cookies.retrans.add(1);
        Some(opening)
    }

    /// Takes note of the server's answer to our SYN, which becomes one with the client's numbers.
    fn note_answer(
        &mut self,
        packet: &mut P,
        headers: &Headers,
        segment: &Segment,
        at: FlowRef,
    ) -> Result<Headers, NoRoom> {
        let is_tracked = self.flows.entry(at.id()).is_tracked();
        let frame = packet.data();
        let theirs = TcpOptions::of(frame, headers.l4.into());
        let window = tcp::header(frame, headers.l4.into()).map_or(0, |h| u16::from_be_bytes([h[14], h[15]]));
        let ends = Tuple::of_packet(frame, headers);
        let edit = self.flows.edit_mut(at.id()).ok_or(NoRoom)?;
        let Proxied { isn, clock, scales: [asked, told], .. } = edit.proxied;
        let seen = if edit.is_open() {
            theirs.stamps.map_or(0, |(theirs, _)| theirs.wrapping_sub(clock))
        } else {
            clock
        };
        let scales = match (theirs.scale, told) {
            (_, Proxied::NO_SCALE) => [0; 2],
            (Some(scale), _) => [0, scale as i8 - told as i8],
            // Conntrack takes both ends' windows as they are then, as netfilter's does.
            (None, _) if is_tracked => [0; 2],
            (None, _) => [asked.min(TcpOptions::MAX_SCALE) as i8, -(told.min(TcpOptions::MAX_SCALE) as i8)],
        };
        if !edit.is_open() {
            edit.open(segment.seq, theirs.stamps.map(|(clock, _)| clock), scales);
        }
        let told = Some(told).filter(|&told| told != Proxied::NO_SCALE);
        let stamps = theirs.stamps.map(|(_, echo)| (seen, echo));
        let ours = TcpOptions { mss: None, scale: theirs.scale.and(told), sack: theirs.sack, stamps };
        let options = ours.bytes();
        let answer = Bare { seq: isn, ack: segment.ack, flags: SYN | ACK, window, options: &options };
        answer.write(packet, headers.l3.into(), &ends)
    }

    /// The server's answer, `packet`, has passed: the server gets the client's acknowledgement, and the client the server's window.
    pub(super) fn opened(
        &mut self,
        mut packet: P,
        headers: &Headers,
        (at, is_first): (FlowRef, bool),
        port: PortId,
        now: Tick,
        io: &mut impl Io<P>,
    ) {
        let client = FlowRef::new(at.id(), Direction::Original);
        let wire = self.flows.tuple(at.id(), Direction::Original);
        let frame = packet.data();
        let options = TcpOptions::of(frame, headers.l4.into());
        let link = frame.get(..usize::from(headers.l3));
        let (Some(link), Some(segment), Some(&Edit { proxied, .. })) =
            (link, Segment::of(frame, headers), self.flows.edit(at.id()))
        else {
            return self.drop(DropReason::Unsupported, Hook::Forward);
        };
        let stamps = options.stamps.map(|(clock, echo)| (echo, clock));
        let (told, next) =
            (TcpOptions { stamps, ..TcpOptions::default() }.bytes(), segment.seq.wrapping_add(1));
        let ack = Bare { seq: segment.ack, ack: next, flags: ACK, window: proxied.window, options: &told };
        let own = io.allocate().and_then(|mut own| {
            own.set_len(link.len()).ok()?;
            own.data_mut().get_mut(..link.len())?.copy_from_slice(link);
            let headers = ack.write(&mut own, link.len(), &wire).ok()?;
            Some((own, headers))
        });
        // Without one the server sends its answer again.
        let Some((own, own_headers)) = own else { return self.drop(DropReason::NoBuffer, Hook::Forward) };
        self.send_for_client(own, &own_headers, client, port, now, io);
        if !is_first {
            return;
        }
        let window =
            tcp::header(packet.data(), headers.l4.into()).map_or(0, |h| u16::from_be_bytes([h[14], h[15]]));
        let window = scaled(window.into(), -(options.scale.unwrap_or(0) as i8));
        let (ends, options) = (
            Tuple::of_packet(packet.data(), headers),
            TcpOptions { stamps: options.stamps, ..TcpOptions::default() }.bytes(),
        );
        let update = Bare { seq: next, ack: segment.ack, flags: ACK, window, options: &options };
        let Ok(headers) = update.write(&mut packet, headers.l3.into(), &ends) else {
            return self.drop(DropReason::NoBuffer, Hook::Forward);
        };
        if let Err((verdict, hook)) = self.pass_as_ours(&mut packet, &headers, at, now) {
            return self.drop(why(verdict), hook);
        }
        match self.flows.entry(at.id()).is_tracked() {
            true => self.onward_tracked(packet, &headers, at, now, io),
            false => self.masquerade(packet, &headers, at, now, io),
        }
    }

    /// OUTPUT and POSTROUTING for a packet of ours that goes this way of a connection: to rules it is one of that (Linux: `synproxy_send_tcp`).
    fn pass_as_ours(
        &mut self,
        packet: &mut P,
        headers: &Headers,
        at: FlowRef,
        now: Tick,
    ) -> Result<(), Stopped> {
        if !self.tables.rules.are_active() || !self.is_asked(&OUTPUT, headers) {
            return Ok(());
        }
        let wire = self.flows.tuple(at.id(), at.direction());
        let leaves = self.flows.tuple(at.id(), at.direction().opposite()).reversed();
        // What goes to the client is from whom it has asked, and destinations are exchanged at OUTPUT.
        let (begins, goes) = match at.direction() {
            Direction::Original => (wire, Tuple { dst: leaves.dst, dport: leaves.dport, ..wire }),
            Direction::Reply => (leaves, leaves),
        };
        let state = self.flows.tracked(at.id()).is(at.direction());
        let mut passage = self.passage(packet.port(), headers, state, now);
        (passage.input, passage.begins_at, passage.is_sent_on) = (None, Hook::Output, true);
        passage.output = self.output(self.tables.way(leaves.dst));
        (passage.at, passage.of) = (Some(at), Some(at.id()));
        let (before, behind) = OUTPUT.split_at(2);
        self.pass(before, &begins, packet, headers, &mut passage)?;
        self.pass(behind, &goes, packet, headers, &mut passage)
    }

    /// Sends a packet of ours as the client's.
    pub(super) fn send_for_client(
        &mut self,
        mut packet: P,
        headers: &Headers,
        client: FlowRef,
        port: PortId,
        now: Tick,
        io: &mut impl Io<P>,
    ) {
        let is_tracked = self.flows.entry(client.id()).is_tracked();
        if is_tracked {
            self.follows(packet.data(), headers, client, now);
        }
        if let Err((verdict, hook)) = self.pass_as_ours(&mut packet, headers, client, now) {
            return self.drop(why(verdict), hook);
        }
        if !is_tracked {
            return self.edit_and_send(packet, headers, client, now, io);
        }
        match self.edit(packet, headers, client, now, io) {
            Ok((mut packet, headers, _)) if self.leads_to_host(client) => {
                if self.translate_in_place(&mut packet, &headers, client) {
                    io.to_twin(port, packet);
                }
            }
            Ok((packet, headers, _)) => self.onward_tracked(packet, &headers, client, now, io),
            Err(reason) => self.drop(reason, Hook::Forward),
        }
    }

    /// A packet of a virtual service's connection that is proxied.
    pub(super) fn proxied(
        &mut self,
        packet: P,
        headers: &Headers,
        at: FlowRef,
        now: Tick,
        io: &mut impl Io<P>,
    ) {
        let port = packet.port();
        match self.before(packet, headers, at, now) {
            Before::Goes(packet, headers) => self.edit_and_send(packet, &headers, at, now, io),
            // OUTPUT has seen the client's.
            Before::Asks(packet, headers) => self.edit_and_send(packet, &headers, at, now, io),
            // Of a service's connection it is never asked.
            Before::Reopens(_) => self.drop(DropReason::BadCookie, Hook::Input),
            Before::Opens(packet, headers, is_first) => {
                self.follow_state(&headers, at);
                self.opened(packet, &headers, (at, is_first), port, now, io);
            }
            Before::Stray(packet) => self.refuse_stray(packet, headers, now, io),
            Before::Dropped(reason) => self.drop(reason, Hook::Input),
            Before::Stopped((verdict, hook)) => self.drop(why(verdict), hook),
        }
    }

    /// The server is told, as the client would, that what it acknowledges is of no connection (RFC 9293 §3.10.7.3).
    pub(super) fn refuse_stray(&mut self, packet: P, headers: &Headers, now: Tick, io: &mut impl Io<P>) {
        self.reset(packet, headers, (DropReason::NoConnection, Hook::Forward), None, now, io);
    }

    /// What a server on this host sends to a connection that is edited, with the client's numbers; what it tells of, and whether it opens it.
    /// `None`: it goes no further.
    #[cold]
    pub(super) fn edited_of_host(
        &mut self,
        packet: P,
        headers: &Headers,
        at: FlowRef,
        port: PortId,
        now: Tick,
        io: &mut impl Io<P>,
    ) -> Option<(P, Headers, Option<Expectation>, Option<bool>)> {
        match self.before(packet, headers, at, now) {
            Before::Goes(packet, headers) => match self.edit(packet, &headers, at, now, io) {
                Ok((packet, headers, told)) => return Some((packet, headers, told, None)),
                Err(reason) => self.drop(reason, Hook::Output),
            },
            Before::Opens(packet, headers, is_first) => return Some((packet, headers, None, Some(is_first))),
            Before::Stray(mut packet) => {
                self.drop(DropReason::NoConnection, Hook::Output);
                if make_reset(&mut packet, headers) {
                    io.to_twin(port, packet);
                }
            }
            Before::Dropped(reason) => self.drop(reason, Hook::Output),
            Before::Stopped((verdict, hook)) => self.drop(why(verdict), hook),
            // The client's, who is not here.
            Before::Asks(..) | Before::Reopens(_) => self.drop(DropReason::Unsupported, Hook::Output),
        }
        None
    }
}
