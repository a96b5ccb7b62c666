//! Rules see a datagram once, by its first fragment, as behind the kernel's `nf_defrag_ipv4` and `nf_defrag_ipv6`, which put it together at priority −400,
//! before any table: what they say of the first one is said of those that follow it.
//!
//! Later ones pass the tables that the first has passed, and no rule is asked, so that none counts, limits or draws twice; they are stopped if it
//! was, and nobody is told again. They leave with its TTL and TOS, as the kernel's do when it splits the datagram once more, and with the mark
//! that it had by then. What is not known of the first one, which may have passed some tables at another worker, they are asked for themselves: with
//! its ports. So is one whose addresses a rule exchanges (`SNPT`, `DNPT`).

use super::Path;
use super::fragment::datagram;
use super::passage::{Passage, Stop, Stopped};
use crate::conntrack::Zones;
use crate::flow::Tuple;
use crate::packet::Packet;
use crate::rule::{Verdict, edit, place_bits, tos};
use crate::time::Tick;
use crate::wire::parse::{Fragment, Headers};

/// The bits of the TOS that are each fragment's own: ECN (RFC 3168 §5).
const ECN: u8 = 0b11;

/// What rules made of a datagram's first fragment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ruled {
    /// It went no further.
    stopped: Option<Stopped>,
    /// The tables that it passed, by hook.
    walked: u64,
    mark: u32,
    zones: Zones,
    is_untracked: bool,
    tos: u8,
    /// Its TTL as it leaves, and as it is routed.
    ttl: u8,
    routed: u8,
}

impl<P: Packet> Path<P> {
    /// Asks tables of a fragment: as [`pass`](Path::pass).
    #[cold]
    #[inline(never)]
    pub(super) fn pass_piece(
        &mut self,
        road: &[Stop],
        tuple: &Tuple,
        packet: &mut P,
        headers: &Headers,
        passage: &mut Passage,
    ) -> Result<(), Stopped> {
        let ruled = match headers.fragment {
            Fragment::Later => self.ruled_before(packet.data(), headers, passage.now),
            _ => None,
        };
        if let Some(ruled) = ruled {
            if place_bits(road) & !ruled.walked == 0 {
                ruled.say_again(packet, headers, passage);
                return Ok(());
            }
            if let Some(stopped) = ruled.stopped {
                return Err(stopped);
            }
        }
        let outcome = self.pass_each(road, tuple, packet, headers, passage);
        if headers.fragment == Fragment::First {
            self.note_ruled(road, outcome.err(), packet.data(), headers, passage);
        }
        outcome
    }

    /// Which tables a first fragment has passed that came here before.
    pub(super) fn walked_before(&self, frame: &[u8], headers: &Headers, now: Tick) -> u64 {
        self.ruled_before(frame, headers, now).map_or(0, |ruled| ruled.walked)
    }

    /// Why the first fragment of a later one's datagram went no further, if it did not.
    pub(super) fn stopped_before(&self, frame: &[u8], headers: &Headers, now: Tick) -> Option<Stopped> {
        let ruled = (headers.fragment == Fragment::Later).then(|| self.ruled_before(frame, headers, now));
        ruled??.stopped
    }

    /// The table `nat` found nothing for a first fragment.
    pub(super) fn note_untranslated(
        &mut self,
        frame: &[u8],
        headers: &Headers,
        stopped: Stopped,
        passage: &mut Passage,
    ) {
        self.note_ruled(&[], Some(stopped), frame, headers, passage);
    }

    /// What becomes of a first fragment on a road.
    fn note_ruled(
        &mut self,
        road: &[Stop],
        stopped: Option<Stopped>,
        frame: &[u8],
        headers: &Headers,
        passage: &mut Passage,
    ) {
        let stopped = stopped.map(|(verdict, hook)| match verdict {
            // Its sender is told once.
            Verdict::Reject(_) | Verdict::SynProxy(_) => (Verdict::Drop, hook),
            verdict => (verdict, hook),
        });
        if stopped.is_none() && passage.renumbered.is_none() {
            passage.walked |= place_bits(road);
        }
        let packet = frame.get(headers.l3.into()..).unwrap_or_default();
        let &mut Passage { walked, mark, zones, is_untracked, ttl: routed, now, .. } = passage;
        let ttl = packet.get(if headers.is_ipv6 { 7 } else { 8 }).copied().unwrap_or(routed);
        let tos = tos(packet, headers.is_ipv6);
        let ruled = Ruled { stopped, walked, mark, zones, is_untracked, tos, ttl, routed };
        self.keep_ruled(frame, headers, ruled, now);
    }

    fn keep_ruled(&mut self, frame: &[u8], headers: &Headers, ruled: Ruled, now: Tick) {
        if !self.is_dry {
            let datagram = datagram(frame, headers);
            let set = self.set_of(&datagram);
            self.fragments.ruled.remember(set, datagram, ruled, now);
        }
    }

    fn ruled_before(&self, frame: &[u8], headers: &Headers, now: Tick) -> Option<Ruled> {
        let datagram = datagram(frame, headers);
        self.fragments.ruled.recall(self.set_of(&datagram), &datagram, now)
    }
}

impl Ruled {
    /// Makes of a later fragment what rules made of the first.
    fn say_again<P: Packet>(&self, packet: &mut P, headers: &Headers, passage: &mut Passage) {
        let frame = packet.data_mut();
        let own = tos(frame.get(headers.l3.into()..).unwrap_or_default(), headers.is_ipv6);
        edit::write_tos(frame, headers, self.tos & !ECN | own & ECN);
        // As the first one has it, also where that stands for 255 and a hop.
        let hops = u8::from(self.ttl == 0 && self.routed > 1);
        edit::write_ttl(frame, headers, self.ttl.wrapping_sub(hops), hops);
        passage.ttl = self.routed;
        passage.mark = self.mark;
        passage.zones = self.zones;
        passage.is_untracked |= self.is_untracked;
    }
}
