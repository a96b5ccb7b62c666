//! Where connections are kept: index, entries and addresses, without the timers.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{Ordering, compiler_fence};

use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::edit::Edit;
use super::entry::{Addresses, Deltas, Direction, Entry, FlowId, FlowRef, NewFlow, Tuple, indexed};
use super::hash::{FlowHash, Hasher};
use super::index::Index;
use super::template::{TemplatePlace, templated};
use crate::conntrack::{Accounting, Status, Tracked, Zones};
use crate::mem::{Region, Slab};
use crate::tables::Protocol;
use crate::wire::parse::Headers;

/// Changes with every change of what is in the region, or of what its values mean.
pub const LAYOUT_VERSION: u32 = 16;

/// One in so many connections may be edited.
const CONNECTIONS_AN_EDIT: u32 = 5;
/// One in so many connections may be counted.
const CONNECTIONS_A_COUNT: u32 = 4;

/// What the region begins with: that it is ours, for what sizes, and the few values that are not in an array.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Header {
    sizes: Sizes,
    /// Entries and IPv6 addresses in use.
    entries: PoolHead,
    addresses: PoolHead,
    edits: PoolHead,
    counts: PoolHead,
}

/// The part of the header that stays as it was written, and that a later process goes by.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub(super) struct Sizes {
    pub(super) magic: u64,
    pub(super) version: u32,
    pub(super) max_connections: u32,
    pub(super) max_ipv6: u32,
    /// Of all others: a header that was damaged is not believed.
    pub(super) checksum: u32,
    pub(super) hash_seed: u64,
}

impl Sizes {
    pub(super) const MAGIC: u64 = u64::from_be_bytes(*b"lbflows\0");
    /// A flow's reference has 31 bits.
    pub(super) const MOST_CONNECTIONS: u32 = (1 << 31) - 1;

    fn new(max_connections: u32, max_ipv6: u32, hash_seed: u64) -> Sizes {
        let (magic, version) = (Self::MAGIC, LAYOUT_VERSION);
        let sizes = Sizes { magic, version, max_connections, max_ipv6, checksum: 0, hash_seed };
        Sizes { checksum: sizes.sum(), ..sizes }
    }

    /// What the checksum should be.
    pub(super) fn sum(&self) -> u32 {
        let low = u64::from(self.version) << 32 | u64::from(self.max_connections);
        Hasher::new(self.magic ^ self.hash_seed).checksum(low, self.max_ipv6.into())
    }

    /// Connections that may be edited at one time.
    pub(super) fn max_edits(&self) -> u32 {
        self.max_connections.div_ceil(CONNECTIONS_AN_EDIT)
    }

    /// Where the entries, the IPv6 addresses, the places of more, the edits, and what tracking knows begin in the region, and where the
    /// latter ends.
    pub(super) fn places(&self) -> [usize; 6] {
        let entries = Region::bytes_for::<Header>(1) + Index::bytes_for(self.max_connections);
        let addresses = entries + Region::bytes_for::<Entry>(self.max_connections as usize);
        let more = addresses + Region::bytes_for::<Addresses>(self.max_ipv6 as usize);
        let edits = more + Region::bytes_for::<u32>(self.max_connections as usize);
        let tracked = edits + Region::bytes_for::<Edit>(self.max_edits() as usize);
        let end = tracked + Region::bytes_for::<Tracked>(self.max_connections as usize);
        [entries, addresses, more, edits, tracked, end]
    }
}

/// A pool of numbered places: those once used and free now are a list, the rest was never used.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct PoolHead {
    free: u32,
    never_used: u32,
    used: u32,
}

const NONE: u32 = u32::MAX;

impl PoolHead {
    const EMPTY: PoolHead = PoolHead { free: NONE, never_used: 0, used: 0 };

    fn take(&mut self, capacity: u32, next: impl Fn(u32) -> u32) -> Option<u32> {
        let place = if self.free != NONE {
            let place = self.free;
            self.free = next(place);
            place
        } else if self.never_used < capacity {
            self.never_used += 1;
            self.never_used - 1
        } else {
            return None;
        };
        self.used += 1;
        Some(place)
    }

    /// Returns what the freed place must remember: the next free one.
    fn give(&mut self, place: u32) -> u32 {
        self.used -= 1;
        std::mem::replace(&mut self.free, place)
    }

    /// Whether the list of free places and the counts agree; marks in `is_free` those that are not in use.
    fn check(&self, capacity: u32, is_free: &mut [bool], next: impl Fn(u32) -> u32) -> Result<(), String> {
        if self.never_used > capacity {
            return Err(format!("{} of {capacity} places were used", self.never_used));
        }
        is_free[self.never_used as usize..].fill(true);
        let mut place = self.free;
        while place != NONE {
            if place >= self.never_used || std::mem::replace(&mut is_free[place as usize], true) {
                return Err(format!("free place {place} is listed twice, or was never used"));
            }
            place = next(place);
        }
        let used = is_free.iter().filter(|&&is_free| !is_free).count();
        if used != self.used as usize {
            Err(format!("{used} places are in use, not {}", self.used))
        } else {
            Ok(())
        }
    }
}

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
    /// Of a connection that is edited: where its edit is, which then says the following. Of one that is counted at its
    /// persistence template: where that is. Of one that is in zones: these.
    more: Slab<u32>,
    edits: Slab<Edit>,
    /// By connection whose packets are counted: where.
    counted_at: Slab<u32>,
    accounting: Slab<Accounting>,
    /// By connection: what rules and tracking know of it.
    tracked: Slab<Tracked>,
    /// How many are in zones.
    zoned: u32,
    hasher: Hasher,
}

impl Store {
    pub(super) fn bytes_for(max_connections: u32, max_ipv6_connections: u32) -> usize {
        let [.., end] = Sizes::new(max_connections, max_ipv6_connections, 0).places();
        end + Region::bytes_for::<u32>(max_ipv6_connections as usize)
            + Region::bytes_for::<u32>(max_connections as usize)
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

    /// Third stage: whether the guess is right. No IPv6 packet's is, nor what is in a zone: those are found otherwise.
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

    /// What a packet is of that is in these zones: of the original direction in its zone, or of the reply direction in the other's.
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

    /// The rest of a look-up whose guess was wrong; or right, and of a connection into the other family, which the first look passes over.
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

    /// Whether the real server sees a local endpoint where masquerading shows the client; of a template, whether it is a call's.
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

    /// Answers to a connection look otherwise from now on: nobody else's may look so. False: the index has no room for that, and the connection,
    /// whose answers nobody finds, is to be removed.
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
        // A process that is killed here leaves a free entry, never half of one: it is in use when all of it is there.
        compiler_fence(Ordering::SeqCst);
        entry.set_in_use(is_zoned);
        Some(FlowId(id))
    }

    fn free(&mut self, id: FlowId) {
        self.end_edit(id);
        self.end_count(id);
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

    /// The template at which a connection is counted.
    pub(crate) fn template(&self, id: FlowId) -> Option<TemplatePlace> {
        self.entry(id).is_counted().then(|| TemplatePlace(self.beside().more(id)))
    }

    pub(crate) fn set_template(&mut self, id: FlowId, template: TemplatePlace) {
        match self.edit_mut(id) {
            Some(edit) => edit.more = template.0,
            None => self.more[id.0 as usize] = template.0,
        }
        self.entry_mut(id).set_counted();
    }

    /// Connections that are edited, and how many can be.
    pub fn edits(&self) -> (u32, u32) {
        (self.header[0].edits.used, self.edits.len() as u32)
    }

    /// What is done to a connection's packets besides the rewrite.
    #[inline]
    pub fn edit(&self, id: FlowId) -> Option<&Edit> {
        let place = self.more[id.0 as usize] as usize;
        self.entry(id).is_edited().then(|| self.edits.get(place)).flatten()
    }

    #[inline]
    pub fn edit_mut(&mut self, id: FlowId) -> Option<&mut Edit> {
        let place = self.more[id.0 as usize] as usize;
        if self.entry(id).is_edited() { self.edits.get_mut(place) } else { None }
    }

    /// A connection, which has none yet, is edited from now on. Returns false when there is no room.
    #[must_use]
    pub fn begin_edit(&mut self, id: FlowId, edit: Edit) -> bool {
        debug_assert!(!self.entry(id).is_edited());
        let (header, edits) = (&mut self.header[0], &self.edits);
        let Some(place) = header.edits.take(edits.len() as u32, |place| edits[place as usize].more) else {
            return false;
        };
        let more = std::mem::replace(&mut self.more[id.0 as usize], place);
        self.edits[place as usize] = Edit { flow: id.0, more, ..edit };
        // As with the entry: never half of one.
        compiler_fence(Ordering::SeqCst);
        self.entry_mut(id).set_edited(true);
        true
    }

    /// The other way round; a connection that has none stays as it is.
    pub fn end_edit(&mut self, id: FlowId) {
        let Some(&Edit { more, .. }) = self.edit(id) else { return };
        self.entry_mut(id).set_edited(false);
        compiler_fence(Ordering::SeqCst);
        let place = std::mem::replace(&mut self.more[id.0 as usize], more);
        let next_free = self.header[0].edits.give(place);
        self.edits[place as usize] = Edit { flow: Edit::NOBODY, more: next_free, ..Edit::default() };
    }

    /// What rules and tracking know of a connection: nothing of one that neither has come by.
    #[inline]
    pub fn tracked(&self, id: FlowId) -> &Tracked {
        if self.entry(id).is_known() { &self.tracked[id.0 as usize] } else { &Tracked::NOTHING }
    }

    #[inline]
    pub fn prefetch_tracked(&self, id: FlowId) {
        self.tracked.prefetch(id.0 as usize);
    }

    #[inline]
    pub fn tracked_mut(&mut self, id: FlowId) -> &mut Tracked {
        let tracked = &mut self.tracked[id.0 as usize];
        let entry = &mut self.entries[id.0 as usize];
        if !entry.is_known() {
            // What is there is of a connection that had this place before.
            *tracked = Tracked::NOTHING;
            entry.set_known();
        }
        tracked
    }

    /// What was counted of a connection's packets; `None`: nothing is.
    pub fn accounting(&self, id: FlowId) -> Option<&Accounting> {
        let place = || self.counted_at[id.0 as usize] as usize;
        self.is_counted(id).then(|| self.accounting.get(place())).flatten()
    }

    /// The same, from 0 on when nothing was counted yet. `None`: there is no room.
    pub fn accounting_mut(&mut self, id: FlowId) -> Option<&mut Accounting> {
        if !self.is_counted(id) {
            let (header, accounting) = (&mut self.header[0], &self.accounting);
            let next = |place| accounting[place as usize].next_free();
            let place = header.counts.take(accounting.len() as u32, next)?;
            self.accounting[place as usize] = Accounting::default();
            self.counted_at[id.0 as usize] = place;
            self.tracked_mut(id).status.set(Status::COUNTED);
        }
        self.accounting.get_mut(self.counted_at[id.0 as usize] as usize)
    }

    fn is_counted(&self, id: FlowId) -> bool {
        self.tracked(id).status.has(Status::COUNTED)
    }

    fn end_count(&mut self, id: FlowId) {
        if self.is_counted(id) {
            self.tracked_mut(id).status.clear(Status::COUNTED);
            let place = self.counted_at[id.0 as usize];
            self.accounting[place as usize] = Accounting::free(self.header[0].counts.give(place));
        }
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

    /// See [`FlowTable::check`](super::FlowTable::check).
    pub(super) fn check(&self) -> Result<(), String> {
        let Header { sizes, entries, addresses, edits, counts } = self.header[0];
        let mut is_free = vec![false; self.entries.len()];
        entries
            .check(sizes.max_connections, &mut is_free, |place| self.entries[place as usize].next_free())?;
        let mut is_free_address = vec![false; self.addresses.len()];
        addresses.check(sizes.max_ipv6, &mut is_free_address, |place| self.next_addresses[place as usize])?;
        let mut is_free_edit = vec![false; self.edits.len()];
        edits.check(sizes.max_edits(), &mut is_free_edit, |place| self.edits[place as usize].more)?;
        let mut is_free_count = vec![false; self.accounting.len()];
        let next_count = |place| self.accounting[place as usize].next_free();
        counts.check(self.accounting.len() as u32, &mut is_free_count, next_count)?;
        for (id, _) in self.iter(0, u32::MAX).filter(|&(id, _)| self.is_counted(id)) {
            if std::mem::replace(&mut is_free_count[self.counted_at[id.0 as usize] as usize], true) {
                return Err(format!("the counts of {} are free, or another connection's", id.0));
            }
        }
        if is_free_count.contains(&false) {
            return Err("counts are no connection's".to_owned());
        }
        for (place, (entry, &is_free)) in self.entries.iter().zip(&is_free).enumerate() {
            if entry.is_in_use() == is_free {
                return Err(format!("entry {place}: free={is_free}"));
            }
            if entry.is_edited() {
                let edit = self.more[place] as usize;
                let is_its_own = self.edits.get(edit).is_some_and(|edit| edit.flow as usize == place);
                if !is_its_own || std::mem::replace(&mut is_free_edit[edit], true) {
                    return Err(format!("edit {edit} is free, or another connection's than {place}"));
                }
            }
            if !is_free && (entry.is_ipv6() || entry.addresses != Entry::NO_ADDRESSES) {
                let place = entry.addresses as usize;
                if is_free_address.get(place).is_none_or(|&is_free| is_free) {
                    return Err(format!("IPv6 addresses {place} are free, or another entry's"));
                }
                is_free_address[place] = true;
            }
        }
        if is_free_edit.contains(&false) {
            return Err("an edit is no connection's".to_owned());
        }
        if is_free_address.contains(&false) {
            return Err("IPv6 addresses are in use by no entry".to_owned());
        }
        if self.iter(0, u32::MAX).filter(|(_, entry)| entry.is_zoned()).count() != self.zoned as usize {
            return Err(format!("{} connections are in zones, it says", self.zoned));
        }
        let mut references = 0;
        for (id, entry) in self.iter(0, u32::MAX) {
            for &direction in entry.indexed() {
                references += 1;
                let zone = self.zones(id).of(direction);
                if self.find_by(&self.tuple(id, direction), zone) != Some(FlowRef::new(id, direction)) {
                    return Err(format!("entry {}: not found by its {direction:?} tuple", id.0));
                }
            }
        }
        self.index.check(references, |at| self.beside().hash_of(at))
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

/// What a later process relies on, in words.
#[cfg(test)]
pub(super) fn layout() -> String {
    use std::mem::offset_of;

    use super::template;
    use crate::ipvs::state::TcpState;

    let [entries, addresses, more, edits, tracked, end] = Sizes::new(1000, 100, 0).places();
    let templates: Vec<_> = [Protocol::SCTP, Protocol::TCP, Protocol::UDP, Protocol::ANY]
        .map(|protocol| format!("{}={}", protocol.0, template::template_protocol(protocol).0))
        .into();
    let states: Vec<_> =
        TcpState::ALL.iter().map(|&state| format!("{}={}", state.name(), state as u8)).collect();
    format!(
        "header of {}: magic at {}, version at {}, max_connections at {}, max_ipv6 at {}, checksum at {}, hash_seed at {}\n\
         for 1000 connections and 100 IPv6 ones: entries at {entries}, addresses at {addresses}, more at {more}, edits at {edits}, tracked at {tracked}, up to {end}\n\
         {}\n{}\n{}\nstates: {}\ntemplates: protocols {}, assured={}, invalid={}",
        size_of::<Header>(),
        offset_of!(Sizes, magic),
        offset_of!(Sizes, version),
        offset_of!(Sizes, max_connections),
        offset_of!(Sizes, max_ipv6),
        offset_of!(Sizes, checksum),
        offset_of!(Sizes, hash_seed),
        super::entry::layout(),
        super::edit::layout(),
        crate::conntrack::layout(),
        states.join(", "),
        templates.join(", "),
        template::ASSURED,
        template::INVALID,
    )
}
