//! Where connections are kept: index, entries and addresses, without the timers.

mod beside;
mod check;
mod labels;

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{Ordering, compiler_fence};

use super::edit::Edit;
use super::entry::{Deltas, Entry, FlowId, FlowRef, NewFlow, indexed};
use super::hash::{FlowHash, Hasher};
use super::header::{CONNECTIONS_A_COUNT, Header, PoolHead, Sizes};
use super::index::Index;
use super::template::templated;
use super::tuple::{Addresses, Direction, Tuple};
use crate::conntrack::{Accounting, Tracked, Zones};
use crate::mem::{Region, Slab};
use crate::tables::Protocol;
use crate::wire::parse::Headers;
use labels::LabelSets;
pub(super) use labels::max_sets;

/// Why a connection was not entered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InsertError {
    /// All entries (or all places for IPv6 addresses) are in use.
    Full,
    /// Both buckets of one of its tuples are full: rare, below 1 in 100,000 in a full table.
    IndexFull,
    /// One of its tuples belongs to this connection already.
    Taken(FlowId),
}

pub struct Store {
    header: Slab<Header>,
    index: Index,
    entries: Slab<Entry>,
    addresses: Slab<Addresses>,
    /// Of a free place for addresses, the next free one.
    next_addresses: Slab<u32>,
    /// Of a connection that is edited: where its edit is, which then says the following. Of one that is
    /// counted at its persistence template: where that is. Of one that is in zones: these.
    more: Slab<u32>,
    edits: Slab<Edit>,
    /// By connection whose packets are counted: where.
    counted_at: Slab<u32>,
    accounting: Slab<Accounting>,
    /// By connection: what rules and tracking know of it.
    tracked: Slab<Tracked>,
    labels: LabelSets,
    /// How many are in zones.
    zoned: u32,
    hasher: Hasher,
}

impl Store {
    pub(super) fn bytes_for(max_connections: u32, max_ipv6_connections: u32) -> usize {
        let [.., end] = Sizes::new(max_connections, max_ipv6_connections, 0).places();
        end + Region::bytes_for::<u32>(max_ipv6_connections as usize)
            + Region::bytes_for::<u32>(max_connections as usize)
            + Region::bytes_for::<u32>(max_sets(max_connections) as usize)
            + Region::bytes_for::<Accounting>(max_connections.div_ceil(CONNECTIONS_A_COUNT) as usize)
    }

    pub(super) fn take(
        region: &mut Region,
        max_connections: u32,
        max_ipv6_connections: u32,
        seed: u64,
    ) -> Store {
        assert!(max_connections <= Sizes::MOST_CONNECTIONS, "a flow's reference has 31 bits");
        let mut header: Slab<Header> = region.take(1);
        header[0] = Header {
            sizes: Sizes::new(max_connections, max_ipv6_connections, seed),
            entries: PoolHead::EMPTY,
            addresses: PoolHead::EMPTY,
            edits: PoolHead::EMPTY,
            counts: PoolHead::EMPTY,
        };
        let max_edits = header[0].sizes.max_edits();
        Store {
            header,
            index: Index::take(region, max_connections),
            entries: region.take(max_connections as usize),
            addresses: region.take(max_ipv6_connections as usize),
            more: region.take(max_connections as usize),
            edits: region.take(max_edits as usize),
            tracked: region.take(max_connections as usize),
            labels: LabelSets::take(region, max_connections, Hasher::new(seed)),
            next_addresses: region.take(max_ipv6_connections as usize),
            counted_at: region.take(max_connections as usize),
            accounting: region.take(max_connections.div_ceil(CONNECTIONS_A_COUNT) as usize),
            zoned: 0,
            hasher: Hasher::new(seed),
        }
    }

    #[inline]
    pub fn hasher(&self) -> Hasher {
        self.hasher
    }

    /// Connections, and of these IPv6 ones.
    pub fn len(&self) -> (u32, u32) {
        (self.header[0].entries.used, self.header[0].addresses.used)
    }

    pub fn is_empty(&self) -> bool {
        self.len().0 == 0
    }

    /// First stage of a look-up: fetches the index's line.
    #[inline]
    pub fn prefetch_bucket(&self, hash: FlowHash) {
        self.index.prefetch(hash);
    }

    /// Second stage: which entry it most likely is, and fetches that.
    #[inline]
    pub fn guess(&self, hash: FlowHash) -> Option<FlowRef> {
        let guess = self.index.guess(hash)?;
        self.entries.prefetch(guess.id().0 as usize);
        Some(guess)
    }

    /// Third stage: whether the guess is right. No IPv6 packet's is, nor what is in a zone: those are found
    /// otherwise.
    #[inline(always)]
    pub fn is_ipv4(&self, at: FlowRef, headers: &Headers) -> bool {
        let Some(entry) = self.entries.get(at.id().0 as usize) else { return false };
        let (ends, h) = (&entry.ends[at.direction().index()], headers);
        // Compared as two words, where four fields would be read one by one.
        let addresses = |src: u32, dst: u32| u64::from(src) | u64::from(dst) << 32;
        let ports = |sport: u16, dport: u16| u32::from(sport) | u32::from(dport) << 16;
        addresses(ends.src, ends.dst) == addresses(h.src, h.dst)
            && ports(ends.sport, ends.dport) == ports(h.sport, h.dport)
            && entry.is_plainly(h.ipv4_protocol(), false)
    }

    /// As [`Store::is_ipv4`], with addresses as on the wire.
    #[inline]
    pub fn is_ipv6(
        &self,
        at: FlowRef,
        src: &[u8; 16],
        dst: &[u8; 16],
        sport: u16,
        dport: u16,
        protocol: u8,
    ) -> bool {
        let Some(entry) = self.entries.get(at.id().0 as usize) else { return false };
        let ends = &entry.ends[at.direction().index()];
        let Some(addresses) = self.addresses.get(entry.addresses as usize) else { return false };
        let [have_src, have_dst] = &addresses.ends[at.direction().index()];
        ends.sport == sport
            && ends.dport == dport
            && have_src == src
            && have_dst == dst
            && entry.is_plainly(protocol.into(), true)
    }

    /// All stages at once, of zone 0.
    pub fn find(&self, tuple: &Tuple) -> Option<FlowRef> {
        self.find_by(tuple, 0)
    }

    /// What has this tuple in this zone.
    pub fn find_by(&self, tuple: &Tuple, zone: u16) -> Option<FlowRef> {
        self.find_hashed(tuple.hash(self.hasher).in_zone(zone), tuple, zone)
    }

    /// What a packet is of that is in these zones: of the original direction in its zone, or of the reply
    /// direction in the other's.
    pub fn find_in(&self, tuple: &Tuple, zones: Zones) -> Option<FlowRef> {
        let of = |direction| {
            self.find_by(tuple, zones.of(direction)).filter(move |at| at.direction() == direction)
        };
        match zones.only() {
            None => self.find_by(tuple, zones.id()),
            Some(_) => of(Direction::Original).or_else(|| of(Direction::Reply)),
        }
    }

    #[inline(never)]
    fn find_hashed(&self, hash: FlowHash, tuple: &Tuple, zone: u16) -> Option<FlowRef> {
        self.index.find(hash, |at| {
            self.tuple(at.id(), at.direction()) == *tuple && self.zones(at.id()).of(at.direction()) == zone
        })
    }

    /// The zones that a connection is in.
    #[inline]
    pub fn zones(&self, id: FlowId) -> Zones {
        self.beside().zones(id)
    }

    /// Whether any connection is in a zone that is not 0.
    #[inline]
    pub fn has_zoned(&self) -> bool {
        self.zoned != 0
    }

    /// The hash of a tuple that is in the index.
    #[inline]
    fn hash_of(&self, at: FlowRef) -> FlowHash {
        let entry = &self.entries[at.id().0 as usize];
        entry.plain_hash(at.direction(), self.hasher).unwrap_or_else(|| self.beside().hash_of(at))
    }

    fn beside(&self) -> Beside<'_> {
        let Store { entries, addresses, more, edits, hasher, .. } = self;
        Beside { entries, addresses, more, edits, hasher: *hasher }
    }

    /// The rest of a look-up whose guess was wrong; or right, and of a connection into the other family,
    /// which the first look passes over.
    #[cold]
    pub fn find_ipv4(
        &self,
        hash: FlowHash,
        src: u32,
        dst: u32,
        sport: u16,
        dport: u16,
        protocol: u8,
    ) -> Option<FlowRef> {
        let (src, dst, protocol) =
            (Ipv4Addr::from(src).into(), Ipv4Addr::from(dst).into(), Protocol(protocol));
        self.find_hashed(hash, &Tuple { src, dst, sport, dport, protocol }, 0)
    }

    /// As [`Store::find_ipv4`].
    #[cold]
    pub fn find_ipv6(
        &self,
        hash: FlowHash,
        src: &[u8; 16],
        dst: &[u8; 16],
        sport: u16,
        dport: u16,
        protocol: u8,
    ) -> Option<FlowRef> {
        let (src, dst, protocol) =
            (Ipv6Addr::from(*src).into(), Ipv6Addr::from(*dst).into(), Protocol(protocol));
        self.find_hashed(hash, &Tuple { src, dst, sport, dport, protocol }, 0)
    }

    #[inline]
    pub fn entry(&self, id: FlowId) -> &Entry {
        &self.entries[id.0 as usize]
    }

    #[inline]
    pub fn entry_mut(&mut self, id: FlowId) -> &mut Entry {
        &mut self.entries[id.0 as usize]
    }

    /// New source and destination of an IPv6 packet that goes this way, as on the wire.
    #[inline]
    pub fn rewritten_ipv6(&self, at: FlowRef) -> Option<(&[u8; 16], &[u8; 16])> {
        let entry = &self.entries[at.id().0 as usize];
        let addresses = self.addresses.get(entry.addresses as usize)?;
        let [src, dst] = &addresses.ends[at.direction().index() ^ 1];
        Some((dst, src))
    }

    #[inline]
    pub fn tuple(&self, id: FlowId, direction: Direction) -> Tuple {
        let entry = &self.entries[id.0 as usize];
        entry.tuple(direction, self.addresses.get(entry.addresses as usize))
    }

    /// Whether the real server sees a local endpoint where masquerading shows the client; of a template,
    /// whether it is a call's.
    pub fn is_full_nat(&self, id: FlowId) -> bool {
        let (original, reply) = (self.tuple(id, Direction::Original), self.tuple(id, Direction::Reply));
        (original.src, original.sport) != (reply.dst, reply.dport)
    }

    /// Enters a connection; it has no timer yet.
    ///
    /// # Errors
    /// See [`InsertError`]; the table is as it was.
    pub(super) fn insert(&mut self, new: &NewFlow) -> Result<FlowId, InsertError> {
        let ways = indexed(new.method, templated(new.original.protocol).is_some());
        let tuple = |way: Direction| if way == Direction::Original { &new.original } else { &new.reply };
        let hash = |way| tuple(way).hash(self.hasher).in_zone(new.zones.of(way));
        let hashes = [hash(Direction::Original), hash(Direction::Reply)];
        // On its way while the entry is written and the other tuple entered.
        self.index.prefetch(hashes[1]);
        let id = self.allocate(new);
        let mut entered = 0;
        let result = ways.iter().try_for_each(|&way| {
            let hash = hashes[way.index()];
            // Mostly nothing has even the hash.
            let holder =
                self.index.guess(hash).and_then(|_| self.find_hashed(hash, tuple(way), new.zones.of(way)));
            // Both tuples may be the same.
            if let Some(holder) = holder.filter(|holder| Some(holder.id()) != id) {
                return Err(InsertError::Taken(holder.id()));
            }
            if let Some(id) = id {
                if !self.index_insert(hash, FlowRef::new(id, way)) {
                    return Err(InsertError::IndexFull);
                }
                entered += 1;
            }
            Ok(())
        });
        let Some(id) = id else { return Err(result.err().unwrap_or(InsertError::Full)) };
        if let Err(error) = result {
            for &way in &ways[..entered] {
                self.index.remove(hashes[way.index()], FlowRef::new(id, way));
            }
            self.free(id);
            return Err(error);
        }
        Ok(id)
    }

    /// Answers to a connection look otherwise from now on: nobody else's may look so. False: the index has no
    /// room for that, and the connection, whose answers nobody finds, is to be removed.
    #[must_use]
    pub fn exchange_reply(&mut self, id: FlowId, reply: &Tuple, deltas: [Deltas; 2]) -> bool {
        let at = FlowRef::new(id, Direction::Reply);
        let hash = self.beside().hash_of(at);
        self.index.remove(hash, at);
        let zone = self.zones(id).of(Direction::Reply);
        let entry = &mut self.entries[id.0 as usize];
        // As where it begins: a process that is killed here leaves none, never half of one.
        let in_use = entry.hide();
        compiler_fence(Ordering::SeqCst);
        entry.set_reply(reply, deltas);
        if let Some(addresses) = self.addresses.get_mut(entry.addresses as usize) {
            addresses.set_reply(reply);
        }
        compiler_fence(Ordering::SeqCst);
        entry.show(in_use);
        self.index_insert(reply.hash(self.hasher).in_zone(zone), at)
    }

    #[inline]
    fn index_insert(&mut self, hash: FlowHash, reference: FlowRef) -> bool {
        self.index.put(hash, reference) || self.index_insert_elsewhere(hash, reference)
    }

    #[cold]
    fn index_insert_elsewhere(&mut self, hash: FlowHash, reference: FlowRef) -> bool {
        let Store { index, entries, addresses, more, edits, hasher, .. } = self;
        let beside = Beside { entries, addresses, more, edits, hasher: *hasher };
        index.insert(hash, reference, |at| beside.hash_of(at))
    }

    fn allocate(&mut self, new: &NewFlow) -> Option<FlowId> {
        let header = &mut self.header[0];
        let entries = &self.entries;
        let id =
            header.entries.take(header.sizes.max_connections, |place| entries[place as usize].next_free())?;
        let mut addresses = Entry::NO_ADDRESSES;
        if new.original.dst.is_ipv6() || new.reply.src.is_ipv6() {
            let next = &self.next_addresses;
            let Some(place) = header.addresses.take(header.sizes.max_ipv6, |place| next[place as usize])
            else {
                let next_free = header.entries.give(id);
                self.entries[id as usize].set_next_free(next_free);
                return None;
            };
            addresses = place;
            self.addresses[place as usize] = Addresses::new(&new.original, &new.reply);
        }
        let entry = &mut self.entries[id as usize];
        *entry = Entry::new(new, addresses);
        let is_zoned = new.zones != Zones::NONE;
        if is_zoned {
            self.more[id as usize] = new.zones.to_bits();
            self.zoned += 1;
        }
        // A process that is killed here leaves a free entry, never half of one: it is in use when all of it
        // is there.
        compiler_fence(Ordering::SeqCst);
        entry.set_in_use(is_zoned);
        Some(FlowId(id))
    }

    fn free(&mut self, id: FlowId) {
        self.end_edit(id);
        self.end_beside(id);
        let header = &mut self.header[0];
        let entry = &mut self.entries[id.0 as usize];
        self.zoned -= u32::from(entry.is_zoned());
        entry.set_free();
        // The same the other way round.
        compiler_fence(Ordering::SeqCst);
        if let Some(next) = self.next_addresses.get_mut(entry.addresses as usize) {
            *next = header.addresses.give(entry.addresses);
        }
        entry.set_next_free(header.entries.give(id.0));
    }

    /// Takes a connection, whose timer is gone, out of the index and frees its place.
    pub(super) fn forget(&mut self, id: FlowId) {
        self.unindex(id);
        self.free(id);
    }

    fn unindex(&mut self, id: FlowId) {
        for &direction in self.entry(id).indexed() {
            let at = FlowRef::new(id, direction);
            self.index.remove(self.hash_of(at), at);
        }
    }

    /// A template binds no more: no look-up finds it. Its time runs on.
    pub fn invalidate(&mut self, id: FlowId) {
        self.unindex(id);
        self.entry_mut(id).invalidate();
    }

    /// Fetches what [`Store::forget`] will look at.
    pub(super) fn prefetch_buckets(&self, id: FlowId) {
        for &direction in self.entry(id).indexed() {
            let at = FlowRef::new(id, direction);
            self.index.prefetch(self.hash_of(at));
        }
    }

    pub(super) fn prefetch_entry(&self, id: u32) {
        self.entries.prefetch(id as usize);
    }

    /// Visits the connections in places `from..to`; places beyond the table's end are none.
    pub fn iter(&self, from: u32, to: u32) -> impl Iterator<Item = (FlowId, &Entry)> {
        let end = to.min(self.header[0].entries.never_used);
        (from..end)
            .map(|place| (FlowId(place), &self.entries[place as usize]))
            .filter(|(_, entry)| entry.is_in_use())
    }

    /// Whether a connection has this place.
    #[inline]
    pub fn is_live(&self, id: FlowId) -> bool {
        self.is_in_use(id.0)
    }

    pub(super) fn is_in_use(&self, id: u32) -> bool {
        self.entries[id as usize].is_in_use()
    }

    /// One more than the highest place that was ever in use.
    pub fn places(&self) -> u32 {
        self.header[0].entries.never_used
    }
}

/// What a connection is found by.
struct Beside<'s> {
    entries: &'s [Entry],
    addresses: &'s [Addresses],
    more: &'s [u32],
    edits: &'s [Edit],
    hasher: Hasher,
}

impl Beside<'_> {
    /// As [`Store::hash_of`], of any.
    #[inline(never)]
    fn hash_of(&self, at: FlowRef) -> FlowHash {
        let entry = &self.entries[at.id().0 as usize];
        let hash = entry.hash(at.direction(), self.addresses.get(entry.addresses as usize), self.hasher);
        if entry.is_zoned() { hash.in_zone(self.zones(at.id()).of(at.direction())) } else { hash }
    }

    #[inline]
    fn zones(&self, id: FlowId) -> Zones {
        match self.entries[id.0 as usize].is_zoned() {
            true => Zones::from_bits(self.more(id)).unwrap_or_default(),
            false => Zones::NONE,
        }
    }

    /// What is kept of a connection that is not edited; of one that is, its edit keeps it.
    fn more(&self, id: FlowId) -> u32 {
        let more = self.more[id.0 as usize];
        let edit = self.entries[id.0 as usize].is_edited().then(|| self.edits.get(more as usize)).flatten();
        edit.map_or(more, |edit| edit.more)
    }
}
