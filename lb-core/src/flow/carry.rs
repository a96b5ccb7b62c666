//! What a later process reads of the flow memory of one that is dead, however that ended.
//!
//! Nothing is used in place. The header says only what sizes the arrays have; then each entry that is in use is read
//! and believed as far as it proves itself: what can be computed again (hashes, checksum differences, the list of free
//! places, timers, counts) is not even looked at. So the memory may hold anything: a connection may be lost by
//! it, but none is wrong in a way that a new one could not be.

use std::fmt;
use std::net::IpAddr;

use zerocopy::FromBytes;

use super::edit::Edit;
use super::entry::{Entry, Method};
use super::header::{LAYOUT_VERSION, Sizes};
use super::store::max_sets;
use super::template::{ASSURED, EXPECTED, INVALID, is_signpost, templated};
use super::tuple::{Addresses, Direction, Tuple};
use crate::conntrack::{Labels, Status, Tracked, Zones};
use crate::ipvs::state;
use crate::tables::{FIRST_LOCAL_PORT, Protocol};
use crate::time::{Tick, Timeout};

/// One worker's flow memory, to be read.
#[derive(Clone, Copy)]
pub struct Salvage<'m> {
    hash_seed: u64,
    entries: &'m [u8],
    addresses: &'m [u8],
    more: &'m [u8],
    edits: &'m [u8],
    tracked: &'m [u8],
    labels: &'m [u8],
}

/// Why flow memory is not read at all.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// It does not begin as flow memory does.
    Foreign,
    /// Of another version of the program.
    Version(u32),
    /// The header's checksum is wrong.
    Header,
    /// There are fewer bytes than the header says.
    Short { has: usize, needed: usize },
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refused::Foreign => write!(f, "it is no flow memory"),
            Refused::Version(version) => {
                write!(f, "its layout is version {version}, this program's is {LAYOUT_VERSION}")
            }
            Refused::Header => write!(f, "its header is damaged"),
            Refused::Short { has, needed } => write!(f, "it has {has} bytes, its header says {needed}"),
        }
    }
}

impl std::error::Error for Refused {}

/// A connection that was read and is as it could have been.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Salvaged {
    pub original: Tuple,
    pub reply: Tuple,
    pub method: Method,
    pub state: u8,
    pub timeout: Timeout,
    /// Time of its last packet, not later than now.
    pub seen: Tick,
    pub edit: Option<Edit>,
    /// It is of no virtual service.
    pub is_tracked: bool,
    /// What rules and tracking knew of it.
    pub known: Option<Tracked>,
    pub labels: Labels,
    pub zones: Zones,
}

/// An entry that no connection could have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Damaged;

/// The clock of a run is measured, so a process may have written times that are not over yet for the next one. Up to
/// so far ahead they are taken for now; what is later is damage.
const CLOCKS_DIFFER: u32 = 600 * Tick::PER_SECOND;

impl<'m> Salvage<'m> {
    /// Reads the header of a worker's flow memory, at any alignment.
    ///
    /// # Errors
    /// See [`Refused`].
    pub fn of(memory: &'m [u8]) -> Result<Salvage<'m>, Refused> {
        let (sizes, _) = Sizes::read_from_prefix(memory).map_err(|_| Refused::Foreign)?;
        if sizes.magic != Sizes::MAGIC {
            return Err(Refused::Foreign);
        }
        if sizes.version != LAYOUT_VERSION {
            return Err(Refused::Version(sizes.version));
        }
        if sizes.checksum != sizes.sum() || sizes.max_connections > Sizes::MOST_CONNECTIONS {
            return Err(Refused::Header);
        }
        let [entries, addresses, more, edits, tracked, labels, end] = sizes.places();
        let short = Refused::Short { has: memory.len(), needed: end };
        let array = |from: usize, bytes: usize| memory.get(from..end)?.get(..bytes);
        Ok(Salvage {
            hash_seed: sizes.hash_seed,
            entries: array(entries, sizes.max_connections as usize * size_of::<Entry>()).ok_or(short)?,
            addresses: array(addresses, sizes.max_ipv6 as usize * size_of::<Addresses>()).ok_or(short)?,
            more: array(more, sizes.max_connections as usize * size_of::<u32>()).ok_or(short)?,
            edits: array(edits, sizes.max_edits() as usize * size_of::<Edit>()).ok_or(short)?,
            tracked: array(tracked, sizes.max_connections as usize * size_of::<Tracked>()).ok_or(short)?,
            labels: array(labels, max_sets(sizes.max_connections) as usize * size_of::<Labels>())
                .ok_or(short)?,
        })
    }

    /// What keyed the hashes. A worker that goes on with it owns the same connections, if there are as many workers.
    pub fn hash_seed(&self) -> u64 {
        self.hash_seed
    }

    /// Every entry that is in use, or says something else than that it is free.
    pub fn connections(&self, now: Tick) -> impl Iterator<Item = Result<Salvaged, Damaged>> {
        let entries = self.entries.chunks_exact(size_of::<Entry>());
        entries.enumerate().filter_map(move |(place, bytes)| {
            let entry = Entry::read_from_bytes(bytes).ok();
            let entry = entry.filter(|entry| !entry.is_free() && !is_of_this_process(entry.protocol()))?;
            Some(self.connection(place, &entry, now).ok_or(Damaged))
        })
    }

    /// `None`: it is damaged.
    fn connection(&self, place: usize, entry: &Entry, now: Tick) -> Option<Salvaged> {
        let addresses = match entry.addresses {
            Entry::NO_ADDRESSES => None,
            place => Some(self.addresses(place)?),
        };
        let edit = if entry.is_edited() { Some(self.edit(place)?) } else { None };
        let (known, labels) = match entry.is_known() {
            true => self.tracked(place).map(|(known, labels)| (Some(known), labels))?,
            false => (None, Labels::NONE),
        };
        let zones = if entry.is_zoned() { self.zones(place, edit.as_ref())? } else { Zones::NONE };
        let tuple = |direction| entry.tuple(direction, addresses.as_ref());
        let (original, reply) = (tuple(Direction::Original), tuple(Direction::Reply));
        let seen = entry.seen();
        let ahead = seen.since(now);
        let is_sound = entry.is_in_use()
            && entry.has_sound_flags()
            && (entry.is_tracked() || is_state(entry.protocol(), entry.state()))
            && (entry.is_template() || is_unicast(original.src))
            && (templated(entry.protocol()) == Some(Protocol::ANY) || is_unicast(original.dst))
            && is_unicast(reply.src)
            && (entry.is_template() || entry.method().is_one_way() || is_of_its_family(entry, &reply))
            && (entry.is_tracked() && is_tracked(entry, &reply)
                || (reply.dst, reply.dport) == (original.src, original.sport)
                || is_full_nat(entry, &reply)
                || entry.is_template() && original.sport != 0)
            && (!entry.is_template() || reply.dport == 0)
            && reply != original
            && (1..=Timeout::from_secs(Timeout::MAX_SECS).0).contains(&entry.timeout().0)
            && ahead <= CLOCKS_DIFFER;
        let seen = if ahead > 0 { now } else { seen };
        is_sound.then(|| Salvaged {
            original,
            reply,
            method: entry.method(),
            state: entry.state(),
            timeout: entry.timeout(),
            seen,
            edit,
            is_tracked: entry.is_tracked(),
            known,
            labels,
            zones,
        })
    }

    fn addresses(&self, place: u32) -> Option<Addresses> {
        let bytes = self.addresses.chunks_exact(size_of::<Addresses>()).nth(place as usize)?;
        Addresses::read_from_bytes(bytes).ok()
    }

    /// What was known of the connection in this place, and its labels. Its counts are gone.
    fn tracked(&self, place: usize) -> Option<(Tracked, Labels)> {
        let bytes = self.tracked.chunks_exact(size_of::<Tracked>()).nth(place)?;
        let mut tracked = Tracked::read_from_bytes(bytes).ok()?;
        tracked.status.clear(Status::COUNTED);
        let labels = tracked.label_set().map_or(Labels::NONE, |set| self.labels(set));
        tracked.set_label_set(None);
        Some((tracked, labels))
    }

    fn labels(&self, set: u16) -> Labels {
        let bytes = self.labels.chunks_exact(size_of::<Labels>()).nth(set.into());
        bytes.and_then(|bytes| Labels::read_from_bytes(bytes).ok()).unwrap_or_default()
    }

    fn more(&self, place: usize) -> Option<u32> {
        u32::read_from_bytes(self.more.chunks_exact(size_of::<u32>()).nth(place)?).ok()
    }

    /// The zones of the connection in this place, one of which at least is not 0.
    fn zones(&self, place: usize, edit: Option<&Edit>) -> Option<Zones> {
        let bits = edit.map_or_else(|| self.more(place), |edit| Some(edit.more))?;
        Zones::from_bits(bits).filter(|&zones| zones != Zones::NONE)
    }

    /// The edit of the connection in this place: each must name the other.
    fn edit(&self, place: usize) -> Option<Edit> {
        let at = self.more(place)?;
        let bytes = self.edits.chunks_exact(size_of::<Edit>()).nth(at as usize)?;
        Edit::read_from_bytes(bytes).ok().filter(|edit| edit.flow as usize == place && edit.is_sound())
    }
}

/// Whether answers could come to this address, of a connection of no virtual service. Any number is a state of its protocol.
fn is_tracked(entry: &Entry, reply: &Tuple) -> bool {
    entry.method() == Method::Masq && !entry.is_template() && !entry.is_edited() && is_unicast(reply.dst)
}

/// Whether answers are of the family in which they are looked up.
fn is_of_its_family(entry: &Entry, reply: &Tuple) -> bool {
    let is_ipv6 = entry.comes_as_ipv6(Direction::Reply);
    reply.src.is_ipv6() == is_ipv6 && reply.dst.is_ipv6() == is_ipv6
}

/// Whether answers could come to a local endpoint instead of to the client.
fn is_full_nat(entry: &Entry, reply: &Tuple) -> bool {
    !entry.method().is_one_way()
        && entry.protocol().has_ports()
        && is_unicast(reply.dst)
        && reply.dport >= FIRST_LOCAL_PORT
}

/// Whether it is no connection, and means nothing to another process.
fn is_of_this_process(protocol: Protocol) -> bool {
    protocol == EXPECTED || is_signpost(protocol)
}

fn is_state(protocol: Protocol, state: u8) -> bool {
    state::is_state(protocol, state) || templated(protocol).is_some() && state <= ASSURED | INVALID
}

pub(crate) fn is_unicast(address: IpAddr) -> bool {
    let is_broadcast = matches!(address, IpAddr::V4(address) if address.is_broadcast());
    !address.is_unspecified() && !address.is_multicast() && !is_broadcast
}
