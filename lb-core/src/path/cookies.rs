//! Virtual services whose clients are answered with SYN cookies (`syn_cookies`), always or while a flood of SYNs comes: how such a connection is opened is
//! in `syn_proxy.rs`.
//!
//! It is asked for first packets of such services alone. Who acknowledges a cookie that was made while there was need is served when there is none any more.

use super::edited::is_intact;
use super::first::FTP_DATA;
use super::syn_proxy::Opening;
use super::{Io, Passed, Path};
use crate::conntrack::{CtState, Labels};
use crate::drop::DropReason;
use crate::flow::Tuple;
use crate::hook::Hook;
use crate::ids::ServiceId;
use crate::packet::Packet;
use crate::rule::counted::Ticket;
use crate::syn_cookie::Offer;
use crate::tables::{Protocol, SynCookies};
use crate::time::Tick;
use crate::trail::Step;
use crate::wire::parse::{Fragment, Headers};
use crate::wire::tcp::{self, ACK, FIN, RST, SYN};

impl<P: Packet> Path<P> {
    /// A first packet, which services see as `seen`, for one whose clients may be answered with cookies: a SYN that is, or the acknowledgement of one. Returns
    /// what is neither.
    #[cold]
    pub(super) fn by_cookie(
        &mut self,
        mut packet: P,
        headers: &Headers,
        (client, seen): (&Tuple, &Tuple),
        (id, mode): (ServiceId, SynCookies),
        now: Tick,
        io: &mut impl Io<P>,
    ) -> Option<P> {
        let is_whole = headers.protocol == Protocol::TCP && headers.fragment == Fragment::None;
        let is_opened = self.passed.is_some_and(|passed| passed.opening.is_some());
        let is_served = self.is_for_services(seen, now) && client.sport != FTP_DATA;
        if !is_whole || is_opened || !is_served {
            return Some(packet);
        }
        let flags = headers.tcp_flags & (SYN | ACK | FIN | RST);
        if flags == SYN {
            let is_wanted = !self.tables.settings.draining && self.wants_cookie(id, mode, now);
            if !is_wanted || !is_intact(&packet, headers) {
                return Some(packet);
            }
            self.mine.service(id).cookies_sent.add(1);
            self.watch.note(|| Step::Service(id));
            self.watch.note(|| Step::Cookie { is_made: true });
            let offer = self.offer(client);
            self.answer_syn(packet, headers, (&offer, Hook::Input), None, now, io);
            return None;
        }
        if flags & ACK == 0 || flags & (SYN | RST) != 0 || !is_intact(&packet, headers) {
            return Some(packet);
        }
        let offer = self.offer(client);
        let Some(opening) = self.acknowledged(&packet, headers, client, &offer, now) else {
            self.mine.service(id).cookies_rejected.add(1);
            return Some(packet);
        };
        self.mine.service(id).cookies_accepted.add(1);
        self.watch.note(|| Step::Cookie { is_made: false });
        let Ok(headers) = opening.write(&mut packet, headers, client) else {
            self.drop(DropReason::NoBuffer, Hook::Input);
            return None;
        };
        let passed = self.passed.unwrap_or_else(|| Passed {
            destination: (seen.dst, seen.dport),
            state: CtState::New,
            mark: self.tables.marks.mark(seen, &self.tables.sets, now).unwrap_or(0),
            connection_mark: 0,
            labels: Labels::NONE,
            is_by_mark: !self.tables.routes.is_local(seen.dst),
            is_traced: false,
            ticket: Ticket::NONE,
            opening: None,
        });
        let passed = Passed { opening: Some(opening), ..passed };
        self.with_passed(Some(passed), |path| path.serve_rarely(packet, &headers, client, seen, now, io));
        None
    }

    /// Whether a SYN for a service is to be answered with a cookie. Each worker has the same share of a flood.
    fn wants_cookie(&self, id: ServiceId, mode: SynCookies, now: Tick) -> bool {
        match mode {
            SynCookies::Off => false,
            SynCookies::On => true,
            SynCookies::Auto(rate) => {
                let share = rate.div_ceil(self.counters.len() as u32);
                self.mine.service(id).count_syn(share, self.is_short, now)
            }
        }
    }

    /// What clients of services are offered. Whatever scale a real server has, windows are brought to this one.
    fn offer(&self, client: &Tuple) -> Offer {
        const SCALE: u8 = 7;
        let headers = if client.src.is_ipv6() { 60 } else { 40 };
        let mtu = self.tables.mtu_towards(client.src).unwrap_or(1500);
        let mss = Some(mtu.saturating_sub(headers));
        Offer { mss, scale: Some(SCALE), sack: true, timestamps: true, ecn: false }
    }

    /// Whether a packet that conntrack can make nothing of acknowledges the cookie of a service.
    #[cold]
    pub(super) fn acknowledges_services(
        &self,
        packet: &P,
        headers: &Headers,
        client: &Tuple,
        mark: u32,
        now: Tick,
    ) -> bool {
        let is_ack = headers.protocol == Protocol::TCP && headers.tcp_flags & (SYN | ACK | RST) == ACK;
        let service = self.tables.service_with(client, mark).filter(|_| is_ack);
        if service.is_none_or(|service| service.options.syn_cookies == SynCookies::Off) {
            return false;
        }
        let frame = packet.data();
        tcp::header(frame, headers.l4.into()).is_some_and(|header| {
            let (seq, secrets) = (tcp::sequence(header).wrapping_sub(1), &self.tables.cookies);
            Opening::read(secrets, frame, headers, client, seq, &Offer::default(), now).is_some()
        })
    }
}
