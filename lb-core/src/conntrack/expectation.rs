//! Connections that are expected: a helper read of them in another one, their *master*.
//!
//! One is found by the first packet that fits it, and is gone then: asked for only where a packet begins a connection, and while there
//! are any. The table has a fixed room, and each master a small part of it: its oldest one goes for another. It is not told when a master ends: who asks says whether that is still there, and those without one are
//! swept out, a few places a turn.
//!
//! Source of the facts: Linux, `net/netfilter/nf_conntrack_expect.c`.

use super::Told;
use super::helper::{Follows, HelperId};
use crate::flow::{FlowId, Hasher, Tuple};
use crate::tables::Protocol;
use crate::time::Tick;

/// Most that a worker expects at one time.
pub const ROOM: u16 = 1024;
const BUCKETS: u16 = 256;
/// Places that are looked at in a turn.
const SWEPT: u16 = 8;
const NONE: u16 = u16::MAX;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Expectation {
    /// As its first packet comes; source port 0: from any.
    pub tuple: Tuple,
    /// `None`: rules are asked how it is translated.
    pub follows: Option<Follows>,
    pub master: FlowId,
    /// The master's first packet: it tells it from another connection in the same place.
    pub told_by: Tuple,
    pub helper: HelperId,
    /// The kind of what is expected, as the helper has them.
    pub class: u8,
    /// It may begin again and again.
    pub is_permanent: bool,
    /// Not yet: it is to be confirmed.
    pub is_inactive: bool,
    pub zone: u16,
    /// What of it is not told to those who read events: as of its master.
    pub untold: Told,
    pub until: Tick,
}

impl Expectation {
    /// Whether a packet that begins one begins the other.
    fn is_like(&self, other: &Expectation) -> bool {
        self.tuple == other.tuple && self.zone == other.zone
    }

    fn has_master_of(&self, other: &Expectation) -> bool {
        self.is_told_by(other.master, &other.told_by)
    }

    fn is_told_by(&self, master: FlowId, told_by: &Tuple) -> bool {
        self.master == master && self.told_by == *told_by
    }

    /// Whether both lead to the same end.
    fn leads_as(&self, other: &Expectation) -> bool {
        self.follows.map(|follows| follows.destination) == other.follows.map(|follows| follows.destination)
    }

    fn is_stream(&self) -> u16 {
        (self.tuple.protocol == Protocol::TCP).into()
    }

    fn fits(&self, packet: &Tuple, zone: u16, now: Tick) -> bool {
        let sport = if self.tuple.sport == 0 { 0 } else { packet.sport };
        self.tuple == Tuple { sport, ..*packet }
            && self.zone == zone
            && !self.is_inactive
            && !now.is_at_or_after(self.until)
    }
}

struct Place {
    held: Option<Expectation>,
    /// The next one in its bucket, or the next free place.
    next: u16,
    /// The next older one in its master's bucket.
    older: u16,
}

pub struct Expectations {
    places: Box<[Place]>,
    buckets: Box<[u16]>,
    /// By master, the newest first.
    masters: Box<[u16]>,
    free: u16,
    len: u16,
    /// How many of them are of TCP.
    streams: u16,
    swept: u16,
    hasher: Hasher,
}

impl Expectations {
    pub fn new(hasher: Hasher) -> Expectations {
        let next = |place: u16| if place + 1 < ROOM { place + 1 } else { NONE };
        Expectations {
            places: (0..ROOM).map(|place| Place { held: None, next: next(place), older: NONE }).collect(),
            buckets: vec![NONE; usize::from(BUCKETS)].into(),
            masters: vec![NONE; usize::from(BUCKETS)].into(),
            free: 0,
            len: 0,
            streams: 0,
            swept: 0,
            hasher,
        }
    }

    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn len(&self) -> u16 {
        self.len
    }

    /// Those of TCP, whose first packets say themselves that they begin something.
    pub fn streams(&self) -> u16 {
        self.streams
    }

    /// Whether another connection than this one has told of the same.
    pub fn is_anothers(&self, new: &Expectation) -> bool {
        self.has_like(new, |held| !held.has_master_of(new))
    }

    /// Whether what begins there is led elsewhere already.
    pub fn is_taken(&self, new: &Expectation) -> bool {
        self.has_like(new, |held| !held.has_master_of(new) || !held.leads_as(new))
    }

    fn has_like(&self, new: &Expectation, is_it: impl Fn(&Expectation) -> bool) -> bool {
        let mut place = self.buckets[self.bucket(&new.tuple)];
        while let Some(Place { held, next, .. }) = self.places.get(usize::from(place)) {
            if held.as_ref().is_some_and(|held| held.is_like(new) && is_it(held)) {
                return true;
            }
            place = *next;
        }
        false
    }

    /// The one that such a packet begins. `is_alive`: its master is still there.
    pub fn find(
        &self,
        packet: &Tuple,
        zone: u16,
        now: Tick,
        is_alive: impl Fn(&Expectation) -> bool,
    ) -> Option<&Expectation> {
        let mut place = self.buckets[self.bucket(packet)];
        while let Some(Place { held, next, .. }) = self.places.get(usize::from(place)) {
            if let Some(held) = held.as_ref().filter(|held| held.fits(packet, zone, now) && is_alive(held)) {
                return Some(held);
            }
            place = *next;
        }
        None
    }

    /// Expects it. One that looks the same is replaced, and the oldest of its master's and class where that would have more than `most_a_master`: those `ended`. False:
    /// there is no room, of which `most` places may be used.
    #[must_use]
    pub fn add(
        &mut self,
        new: &Expectation,
        most_a_master: u16,
        most: u16,
        mut ended: impl FnMut(&Expectation),
    ) -> bool {
        if let Some(like) = self.remove(|held| held.is_like(new), &new.tuple) {
            ended(&like);
        }
        if let Some(oldest) = self.oldest_of(new, most_a_master).filter(|oldest| self.end(oldest)) {
            ended(&oldest);
        }
        let place = self.free;
        if place == NONE || self.len >= most {
            return false;
        }
        let bucket = self.bucket(&new.tuple);
        self.free = self.places[usize::from(place)].next;
        let master = master_bucket(new.master);
        let (next, older) = (self.buckets[bucket], self.masters[master]);
        self.places[usize::from(place)] = Place { held: Some(*new), next, older };
        self.buckets[bucket] = place;
        self.masters[master] = place;
        self.len += 1;
        self.streams += new.is_stream();
        true
    }

    /// Expects it no more. Returns whether it was there.
    pub fn end(&mut self, expected: &Expectation) -> bool {
        self.remove(|held| held == expected, &expected.tuple).is_some()
    }

    /// One of those that a connection has told of.
    pub fn of_master(
        &mut self,
        master: FlowId,
        told_by: &Tuple,
        is_it: impl Fn(&Expectation) -> bool,
    ) -> Option<&mut Expectation> {
        let mut place = self.masters[master_bucket(master)];
        while let Some(Place { held, older, .. }) = self.places.get(usize::from(place)) {
            if held.as_ref().is_some_and(|held| held.is_told_by(master, told_by) && is_it(held)) {
                return self.places[usize::from(place)].held.as_mut();
            }
            place = *older;
        }
        None
    }

    /// Looks at a few places, and ends what is over.
    pub fn sweep(&mut self, is_over: impl Fn(&Expectation) -> bool, mut ended: impl FnMut(&Expectation)) {
        if self.is_empty() {
            return;
        }
        for _ in 0..SWEPT {
            self.swept = if self.swept + 1 < ROOM { self.swept + 1 } else { 0 };
            let held = self.places[usize::from(self.swept)].held;
            if let Some(held) = held.filter(&is_over).filter(|held| self.end(held)) {
                ended(&held);
            }
        }
    }

    /// Those in so many places from `from` on.
    pub fn iter(&self, from: u32, count: u32) -> impl Iterator<Item = &Expectation> {
        let places = self.places.iter().skip(from as usize).take(count as usize);
        places.filter_map(|place| place.held.as_ref())
    }

    fn bucket(&self, tuple: &Tuple) -> usize {
        let to = match tuple.dst {
            std::net::IpAddr::V4(address) => u128::from(u32::from(address)),
            std::net::IpAddr::V6(address) => u128::from(address),
        };
        usize::from(self.hasher.owner(to, tuple.dport, BUCKETS))
    }

    /// Of those of its master and class the oldest, if there are as many.
    fn oldest_of(&self, new: &Expectation, many: u16) -> Option<Expectation> {
        let (mut count, mut oldest) = (0, None);
        let mut place = self.masters[master_bucket(new.master)];
        while let Some(Place { held, older, .. }) = self.places.get(usize::from(place)) {
            if let Some(held) = held.filter(|held| held.has_master_of(new) && held.class == new.class) {
                (count, oldest) = (count + 1, Some(held));
            }
            place = *older;
        }
        oldest.filter(|_| count >= many)
    }

    /// Takes a place out of its master's bucket.
    fn forget_master(&mut self, held: &Expectation, gone: u16) {
        let older = self.places[usize::from(gone)].older;
        let bucket = master_bucket(held.master);
        let mut place = self.masters[bucket];
        if place == gone {
            self.masters[bucket] = older;
            return;
        }
        while let Some(newer) = self.places.get_mut(usize::from(place)) {
            if newer.older == gone {
                newer.older = older;
                return;
            }
            place = newer.older;
        }
    }

    /// Takes the first one out that `is_it`, of those in the bucket of `tuple`.
    fn remove(&mut self, is_it: impl Fn(&Expectation) -> bool, tuple: &Tuple) -> Option<Expectation> {
        let bucket = self.bucket(tuple);
        let (mut before, mut place) = (NONE, self.buckets[bucket]);
        while let Some(&Place { held, next, .. }) = self.places.get(usize::from(place)) {
            if let Some(held) = held.filter(&is_it) {
                self.forget_master(&held, place);
                self.streams -= held.is_stream();
                match before {
                    NONE => self.buckets[bucket] = next,
                    before => self.places[usize::from(before)].next = next,
                }
                self.places[usize::from(place)] = Place { held: None, next: self.free, older: NONE };
                self.free = place;
                self.len -= 1;
                return Some(held);
            }
            (before, place) = (place, next);
        }
        None
    }
}

fn master_bucket(master: FlowId) -> usize {
    master.0 as usize % usize::from(BUCKETS)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;

    fn expected(to: u8, sport: u16, until: u32) -> Expectation {
        let ip = |n: u8| Ipv4Addr::new(10, 0, 0, n).into();
        let protocol = if to < 128 { Protocol::UDP } else { Protocol::TCP };
        let tuple = Tuple { src: ip(1), dst: ip(to), sport, dport: 9, protocol };
        // Each of a few masters tells of many; two in one place are told from one another.
        let told_by = Tuple { dst: ip(to % 16), sport: 1, ..tuple };
        let (master, helper) = (FlowId((to % 8).into()), HelperId(1));
        let (is_permanent, is_inactive, class) = (false, to % 64 == 63, to / 16 % 2);
        let until = Tick(until);
        Expectation {
            tuple,
            follows: None,
            master,
            told_by,
            helper,
            class,
            is_permanent,
            is_inactive,
            zone: 0,
            untold: Told::NONE,
            until,
        }
    }

    #[derive(Clone, Copy, Debug)]
    enum Do {
        Add(u8, u16),
        Begin(u8, u16),
        Sweep,
        Wait(u32),
    }

    proptest! {
        #[test]
        fn a_list_expects_the_same(deeds in proptest::collection::vec(prop_oneof![
            (any::<u8>(), 0..3u16).prop_map(|(to, sport)| Do::Add(to, sport)),
            (any::<u8>(), 1..4u16).prop_map(|(to, sport)| Do::Begin(to, sport)),
            Just(Do::Sweep),
            (0..40u32).prop_map(Do::Wait),
        ], 0..300), most in 1..40u16, most_a_master in 1..4u16) {
            let mut table = Expectations::new(Hasher::new(7));
            let mut list: Vec<Expectation> = Vec::new();
            let mut now = 0;
            for deed in deeds {
                match deed {
                    Do::Add(to, sport) => {
                        let new = expected(to, sport, now + 100);
                        let is_anothers = |held: &Expectation| {
                            held.tuple == new.tuple && (held.master, held.told_by) != (new.master, new.told_by)
                        };
                        prop_assert_eq!(table.is_anothers(&new), list.iter().any(is_anothers));
                        let mut must: Vec<Expectation> = list.extract_if(.., |held| held.tuple == new.tuple).collect();
                        let kind = |held: &Expectation| (held.master, held.told_by, held.class);
                        let is_own = |held: &Expectation| kind(held) == kind(&new);
                        if list.iter().filter(|held| is_own(held)).count() >= most_a_master.into() {
                            must.push(list.remove(list.iter().position(is_own).expect("the oldest")));
                        }
                        let fits = list.len() < most.into();
                        let mut ended = Vec::new();
                        prop_assert_eq!(table.add(&new, most_a_master, most, |one| ended.push(*one)), fits);
                        prop_assert_eq!(ended, must);
                        list.extend(fits.then_some(new));
                    }
                    Do::Begin(to, sport) => {
                        let packet = expected(to, sport, 0).tuple;
                        let is_odd = |held: &Expectation| held.master.0 % 2 == 1;
                        let found = table.find(&packet, 0, Tick(now), is_odd).copied();
                        let fits = |held: &&Expectation| {
                            held.fits(&packet, 0, Tick(now)) && is_odd(held) && !held.is_inactive
                        };
                        // Of several the last one that was added.
                        prop_assert_eq!(found, list.iter().rev().find(fits).copied());
                        if let Some(found) = found {
                            prop_assert!(table.end(&found) && !table.end(&found));
                            list.retain(|held| *held != found);
                        }
                    }
                    Do::Sweep => {
                        let is_over = |held: &Expectation| Tick(now).is_at_or_after(held.until);
                        let mut ended = 0;
                        (0..ROOM / SWEPT).for_each(|_| table.sweep(is_over, |_| ended += 1));
                        let before = list.len();
                        list.retain(|held| !is_over(held));
                        prop_assert_eq!(ended, before - list.len());
                    }
                    Do::Wait(time) => now += time,
                }
                prop_assert_eq!(usize::from(table.len()), list.len());
                let streams = list.iter().filter(|held| held.tuple.protocol == Protocol::TCP);
                prop_assert_eq!(usize::from(table.streams()), streams.count());
                let mut all: Vec<_> = table.iter(0, ROOM.into()).map(|held| held.tuple).collect();
                let mut listed: Vec<_> = list.iter().map(|held| held.tuple).collect();
                all.sort_by_key(|tuple| (tuple.dst, tuple.sport));
                listed.sort_by_key(|tuple| (tuple.dst, tuple.sport));
                prop_assert_eq!(all, listed);
            }
        }
    }
}
