//! Persistence templates: which real server does a client keep?
//!
//! A template is an entry of the flow table like a connection, so that both share the room that there is: bound are
//! `(client under the service's mask, port 0)` and `(virtual address, port)`, or port 0 where the service takes every port. It
//! stands in the index once, because no packet answers it, and under a protocol number that no packet which is looked up has.
//!
//! A template belongs to one worker, its connections to any (docs/decisions/0010). What they must tell each other is one
//! word for each entry, shared by all workers ([`Uses`]): how many connections the template has, and whether one of them was ever
//! established. Asked for where a connection begins, ends or becomes established, not for each packet.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use crate::ids::WorkerId;
use crate::tables::Protocol;

/// Protocol numbers of the templates for SCTP, TCP and UDP, and for a firewall mark, which is of no protocol.
const OF: [(Protocol, Protocol); 4] = [
    (Protocol::SCTP, Protocol(252)),
    (Protocol::TCP, Protocol(253)),
    (Protocol::UDP, Protocol(254)),
    (Protocol::ANY, Protocol(255)),
];

/// The number under which a connection is looked up that is expected, from a client's port that is not known yet. It is no
/// template: it is for one connection, and does not outlive the process.
pub(crate) const EXPECTED: Protocol = Protocol(251);

/// The same for what says which worker has a connection whose answers come here (`path/signpost.rs`).
const SIGNPOSTS: [(Protocol, Protocol); 3] =
    [(Protocol::SCTP, Protocol(248)), (Protocol::TCP, Protocol(249)), (Protocol::UDP, Protocol(250))];

/// The number under which the worker of a connection of this protocol is looked up.
pub(crate) fn signpost(of: Protocol) -> Option<Protocol> {
    SIGNPOSTS.iter().find(|(protocol, _)| *protocol == of).map(|&(_, number)| number)
}

pub(crate) fn is_signpost(number: Protocol) -> bool {
    SIGNPOSTS.iter().any(|&(_, signpost)| signpost == number)
}

/// The number under which templates for `protocol` are looked up.
pub fn template_protocol(protocol: Protocol) -> Protocol {
    OF.iter().find(|(of, _)| *of == protocol).map_or(Protocol(255), |&(_, number)| number)
}

/// What a template with this number is for; `None`: it is a connection's.
pub fn templated(number: Protocol) -> Option<Protocol> {
    OF.get(usize::from(number.0).checked_sub(252)?).map(|&(of, _)| of)
}

/// What stands in the place of the client and its port where a call has a template of its own: a digest of the client and
/// the Call-ID. The port is never 0, by which such a template is known; the client itself stands in its reply tuple.
///
/// The same in every process, so that the next one finds the template. Two calls with one digest would get one real server.
pub fn of_call(client: IpAddr, call_id: &[u8]) -> (IpAddr, u16) {
    // FNV-1a of 128 bits.
    let next = |hash: u128, &byte: &u8| (hash ^ u128::from(byte)).wrapping_mul(1 << 88 | 0x13b);
    let start = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    match client {
        IpAddr::V4(client) => {
            let hash = client.octets().iter().chain(call_id).fold(start, next);
            let folded = (hash >> 64) as u64 ^ hash as u64;
            (Ipv4Addr::from(folded as u32).into(), ((folded >> 48) as u16).max(1))
        }
        IpAddr::V6(client) => {
            let hash = client.octets().iter().chain(call_id).fold(start, next);
            (Ipv6Addr::from(hash).into(), ((hash >> 48) as u16).max(1))
        }
    }
}

/// Bits of a template's state.
pub(crate) const ASSURED: u8 = 1;
pub(crate) const INVALID: u8 = 2;

/// A template as it was when a connection was bound by it, by its place among all workers'. Or a control connection of FTP, as it was when it
/// told of a data connection.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub struct TemplateId {
    place: u32,
    /// Tells it from those that had the place before.
    age: u8,
}

impl TemplateId {
    /// What a connection keeps: a template that has connections does not end.
    pub(crate) fn place(self) -> TemplatePlace {
        TemplatePlace(self.place)
    }

    /// What a data connection keeps besides: a control connection may be ended while it has some.
    pub(crate) fn age(self) -> u8 {
        self.age
    }
}

/// A place among all workers' entries: of a template, or of a control connection of FTP, which stays as long as its data connections.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TemplatePlace(pub(crate) u32);

impl TemplatePlace {
    pub(crate) fn of_age(self, age: u8) -> TemplateId {
        TemplateId { place: self.0, age }
    }
}

/// One word for each entry of each worker's table: connections of the template that it is, its age, whether it is assured. Of a control
/// connection: what it has told of.
///
/// A control connection may be ended while it has data connections: these are of another age than what comes to be in its place, and count nowhere.
#[derive(Debug)]
pub struct Uses {
    words: Box<[AtomicU32]>,
    /// Entries of one worker.
    stride: u32,
}

const COUNT: u32 = (1 << 24) - 1;
const AGE_AT: u32 = 24;
const ASSURED_WORD: u32 = 1 << 31;

impl Uses {
    /// For `workers` tables of `max_connections` each.
    ///
    /// # Panics
    /// When there are 2³² entries or more (at start-up).
    pub fn new(workers: usize, max_connections: u32) -> Uses {
        let places =
            u32::try_from(workers as u64 * u64::from(max_connections)).expect("fewer than 2^32 entries");
        Uses { words: (0..places).map(|_| AtomicU32::new(0)).collect(), stride: max_connections }
    }

    /// A template is made in entry `entry` of `worker`: it has no connection, and is unlike those that were there before.
    pub(crate) fn begin(&self, worker: WorkerId, entry: u32) {
        self.abandon(worker, entry);
    }

    /// What a connection that is to be bound by the template needs to know.
    pub(crate) fn id(&self, worker: WorkerId, entry: u32) -> TemplateId {
        let place = self.at(worker, entry);
        TemplateId { place: place.0, age: age(self.word(place).load(Relaxed)) }
    }

    /// A connection was bound by the template, or told of by the control connection. False: that ended meanwhile, or has more than can be counted.
    pub(crate) fn take(&self, template: TemplateId) -> bool {
        let one_more = |word: u32| (age(word) == template.age && word & COUNT < COUNT).then(|| word + 1);
        self.word(template.place()).fetch_update(Relaxed, Relaxed, one_more).is_ok()
    }

    /// A connection that was [taken](Uses::take) ended.
    pub(crate) fn give_back(&self, place: TemplatePlace) {
        self.word(place).fetch_sub(1, Relaxed);
    }

    /// The same of a data connection, whose control connection may have been [abandoned](Uses::abandon) since.
    pub(crate) fn give_back_if_there(&self, control: TemplateId) {
        let one_less = |word: u32| (age(word) == control.age && word & COUNT > 0).then(|| word - 1);
        let _ = self.word(control.place()).fetch_update(Relaxed, Relaxed, one_less);
    }

    /// A control connection is ended, whatever it has told of, and tells of nothing more.
    pub(crate) fn abandon(&self, worker: WorkerId, entry: u32) {
        let _ = self.word(self.at(worker, entry)).fetch_update(Relaxed, Relaxed, |word| Some(older(word)));
    }

    /// A connection that was taken was answered.
    pub(crate) fn assure(&self, place: TemplatePlace) {
        self.word(place).fetch_or(ASSURED_WORD, Relaxed);
    }

    pub(crate) fn is_assured(&self, worker: WorkerId, entry: u32) -> bool {
        self.word(self.at(worker, entry)).load(Relaxed) & ASSURED_WORD != 0
    }

    /// Whether it has connections.
    pub(crate) fn is_used(&self, worker: WorkerId, entry: u32) -> bool {
        self.word(self.at(worker, entry)).load(Relaxed) & COUNT != 0
    }

    /// The template's time is over. True: it has no connection and gets none any more. False: it has, and stays.
    pub(crate) fn end(&self, worker: WorkerId, entry: u32) -> bool {
        let next = |word: u32| (word & COUNT == 0).then(|| older(word));
        self.word(self.at(worker, entry)).fetch_update(Relaxed, Relaxed, next).is_ok()
    }

    /// Whether the template has no connection, and none of those that it had was answered.
    pub(crate) fn is_idle(&self, worker: WorkerId, entry: u32) -> bool {
        self.word(self.at(worker, entry)).load(Relaxed) & (COUNT | ASSURED_WORD) == 0
    }

    /// The entry of `worker` in which the template is; `None`: it is another worker's, or ended.
    pub(crate) fn entry_of(&self, worker: WorkerId, template: TemplateId) -> Option<u32> {
        let entry = template.place.checked_sub(self.at(worker, 0).0).filter(|&entry| entry < self.stride)?;
        (self.id(worker, entry) == template).then_some(entry)
    }

    pub(crate) fn at(&self, worker: WorkerId, entry: u32) -> TemplatePlace {
        TemplatePlace(u32::from(worker.0) * self.stride + entry)
    }

    fn word(&self, place: TemplatePlace) -> &AtomicU32 {
        &self.words[place.0 as usize]
    }
}

/// The word of the next one in a place, that has no connection.
fn older(word: u32) -> u32 {
    u32::from(age(word).wrapping_add(1) & 0x7f) << AGE_AT
}

fn age(word: u32) -> u8 {
    (word >> AGE_AT & 0x7f) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_protocol_has_a_number_for_its_templates_that_no_connection_has() {
        for protocol in [Protocol::TCP, Protocol::UDP, Protocol::SCTP, Protocol::ANY] {
            let number = template_protocol(protocol);
            assert_eq!(templated(number), Some(protocol));
            assert_eq!(templated(protocol), None);
        }
    }

    #[test]
    fn a_template_with_connections_does_not_end_and_one_that_ended_takes_none() {
        let uses = Uses::new(2, 10);
        let worker = WorkerId(1);
        uses.begin(worker, 3);
        let template = uses.id(worker, 3);
        assert!(uses.is_idle(worker, 3));
        assert_eq!((uses.entry_of(worker, template), uses.entry_of(WorkerId(0), template)), (Some(3), None));
        assert!(uses.take(template) && uses.take(template));
        assert!(!uses.is_idle(worker, 3), "it has connections");
        uses.assure(template.place());
        assert!(!uses.end(worker, 3));
        uses.give_back(template.place());
        assert!(!uses.end(worker, 3), "one is left");
        uses.give_back(template.place());
        assert!(uses.is_assured(worker, 3) && !uses.is_assured(WorkerId(0), 3));
        assert!(!uses.is_idle(worker, 3), "it is assured");
        assert!(uses.end(worker, 3));
        assert!(!uses.take(template), "it ended between two workers");
        uses.begin(worker, 3);
        assert!(!uses.take(template), "another one has its place");
        assert_eq!(uses.entry_of(worker, template), None);
        assert!(!uses.is_assured(worker, 3));
        assert!(uses.take(uses.id(worker, 3)));
    }

    #[test]
    fn data_connections_of_a_control_connection_that_was_ended_keep_nothing_that_has_its_place() {
        let (uses, worker) = (Uses::new(1, 10), WorkerId(0));
        let control = uses.id(worker, 3);
        assert!(uses.take(control) && uses.take(control) && uses.is_used(worker, 3));
        uses.abandon(worker, 3);
        assert!(!uses.is_used(worker, 3) && !uses.take(control), "it is told of no more");
        uses.begin(worker, 3);
        assert!(uses.is_idle(worker, 3) && uses.take(uses.id(worker, 3)));
        uses.give_back_if_there(control);
        assert!(!uses.end(worker, 3), "its own is left");
        uses.give_back(control.place());
        uses.give_back_if_there(control);
        assert!(!uses.is_used(worker, 3) && uses.end(worker, 3));
        let next = uses.id(worker, 3);
        assert!(uses.take(next));
        uses.give_back_if_there(control);
        assert!(uses.is_used(worker, 3));
        uses.give_back_if_there(next);
        uses.give_back_if_there(next);
        assert_eq!(
            (uses.is_used(worker, 3), uses.id(worker, 3)),
            (false, next),
            "it has no more than it had"
        );
    }
}
