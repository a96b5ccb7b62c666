//! ICMP errors that come in fragments. The kernel puts them together before it asks what they are about (`nf_defrag_ipv4`, `nf_defrag_ipv6`). Here the first
//! fragment tells, since it quotes the packet: all of them are RELATED to that one's connection, pass the rules as other fragments do
//! ([`pieces`](super::pieces)), and go to the same end with the same addresses; what is quoted is translated in the first one, as far as it is there.
//!
//! The worker that gathers a datagram's fragments remembers what the first one quotes. Whoever may have the connection gets each of them with that.
//!
//! Nobody has all that the checksum of the message covers, which is not looked at: it stays as right or wrong as it came.

use super::fragment::{Datagram, datagram};
use super::ipsec::{exchange, is_ipsec};
use super::related::{Search, Walked, own_answer_to};
use super::{Io, Kind, Path, Seen, Steer};
use crate::conntrack::Zones;
use crate::drop::DropReason;
use crate::flow::{FlowRef, Tuple};
use crate::icmp::{self, Embedded};
use crate::ids::WorkerId;
use crate::packet::Packet;
use crate::tables::Protocol;
use crate::time::Tick;
use crate::wire::parse::{Fragment, Headers};

/// Sets of datagrams whose first fragment quotes something.
pub(super) const SETS: usize = 64;

impl<P: Packet> Path<P> {
    /// The first fragment of an error, at the worker that gathers them.
    #[cold]
    pub(super) fn note_quote(
        &mut self,
        frame: &[u8],
        headers: &Headers,
        set: usize,
        datagram: Datagram,
        now: Tick,
    ) {
        if let Ok(embedded) = icmp::embedded_in_piece(frame, headers) {
            self.fragments.quotes.remember(set, datagram, own_answer_to(&embedded), now);
        }
    }

    /// How packets look that answer the one which this fragment's datagram is about.
    fn quote_of(&self, frame: &[u8], headers: &Headers, now: Tick) -> Option<Tuple> {
        let datagram = datagram(frame, headers);
        self.fragments.quotes.recall(self.set_of(&datagram), &datagram, now)
    }

    /// A later fragment, which has what stood in the first one, is of an error if that was.
    pub(super) fn join_error(&self, seen: &mut Seen, frame: &[u8], now: Tick) {
        let is_icmp = matches!(seen.headers.protocol, Protocol::ICMP | Protocol::ICMPV6);
        if seen.kind == Kind::Routed && is_icmp && self.quote_of(frame, &seen.headers, now).is_some() {
            seen.kind = Kind::IcmpError;
        }
    }

    /// Whom a fragment of an error goes to, with what it is about.
    pub(super) fn owner_of_quote(&self, frame: &[u8], seen: &Seen, now: Tick) -> Option<(WorkerId, Steer)> {
        let is_piece = seen.kind == Kind::IcmpError && seen.headers.fragment != Fragment::None;
        let about = is_piece.then(|| self.quote_of(frame, &seen.headers, now)).flatten()?;
        Some((self.owner_of_flow(&exchange_or_own(&about)), Steer::Quoted(about, Search::Begins)))
    }

    /// A fragment of an error at the worker that gathers them, whose the connection is too.
    #[cold]
    pub(super) fn related_in_pieces(&mut self, packet: P, headers: &Headers, now: Tick, io: &mut impl Io<P>) {
        match self.quote_of(packet.data(), headers, now).filter(|_| self.tables.rules.are_active()) {
            Some(about) => self.related_piece(packet, headers, about, Search::Begins, now, io),
            None => self.other(packet, headers, now, io),
        }
    }

    /// One that another worker handed over.
    #[cold]
    pub(super) fn related_piece_elsewhere(
        &mut self,
        packet: P,
        headers: &Headers,
        (about, search): (Tuple, Search),
        now: Tick,
        io: &mut impl Io<P>,
    ) {
        // A later one of IPv6 need not say it, and none has ports.
        let protocol = if headers.is_ipv6 { Protocol::ICMPV6 } else { Protocol::ICMP };
        let headers = &Headers { protocol, sport: 0, dport: 0, ..*headers };
        let search = match search {
            // Its tables may be others than those of the worker that it comes from.
            Search::GoesOn if self.owner_of_flow(&about) == self.worker => Search::Over,
            search => search,
        };
        self.related_piece(packet, headers, about, search, now, io);
    }

    fn related_piece(
        &mut self,
        packet: P,
        headers: &Headers,
        about: Tuple,
        search: Search,
        now: Tick,
        io: &mut impl Io<P>,
    ) {
        let quoted = match headers.fragment {
            Fragment::First => match icmp::embedded_in_piece(packet.data(), headers) {
                Ok(embedded) => Some(embedded),
                Err(_) => return self.other(packet, headers, now, io),
            },
            _ => None,
        };
        if search != Search::Over
            && self.local_ports.has_signposts
            && let Some(there) = self.pointed(&exchange_or_own(&about), now)
        {
            return io.hand_over(there, packet, Steer::Quoted(about, Search::Over));
        }
        if self.zones_matter() {
            return self.related_in_zone(packet, headers, (&about, quoted.as_ref()), now, io);
        }
        let found = self.find_about(&about, Zones::NONE);
        if found.is_none()
            && let Some((next, steer)) = self.who_is_asked(&about, search)
        {
            let search = if matches!(steer, Steer::Nowhere(..)) { Search::Over } else { Search::GoesOn };
            return io.hand_over(next, packet, Steer::Quoted(about, search));
        }
        match found {
            Some(at) => self.related_to(packet, headers, quoted.as_ref(), at, Walked::Nothing, now, io),
            None => self.other(packet, headers, now, io),
        }
    }

    /// Translates an error about a packet of the connection `at`: as [`translate_about`](Path::translate_about); of a later fragment, which quotes nothing that is
    /// known, its own addresses alone.
    ///
    /// # Errors
    /// As there.
    pub(super) fn translate_whole_or_piece(
        &mut self,
        packet: &mut P,
        headers: &Headers,
        quoted: Option<&Embedded>,
        at: FlowRef,
    ) -> Result<(), DropReason> {
        if let Some(embedded) = quoted {
            return self.translate_about(packet, headers, embedded, at);
        }
        for (end, address, _) in self.ends_about(at).into_iter().flatten() {
            icmp::set_end(packet.data_mut(), headers, end, address);
        }
        Ok(())
    }
}

/// What a packet looks like that answers the quoted one, or of the exchange that it belongs to, which is answered by `own`.
pub(super) fn exchange_or_own(own: &Tuple) -> Tuple {
    if is_ipsec(own.protocol) { exchange(own.src, own.dst) } else { *own }
}
