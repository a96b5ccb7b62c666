//! What of a connection is told to those who read events, and what `CT --ctevents` leaves of it.
//!
//! Source of the facts: Linux, `enum ip_conntrack_events`; iptables-extensions(8).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::Status;

/// Several kinds of events, with netfilter's bits.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct Told(pub u16);

impl Told {
    pub const NONE: Told = Told(0);
    pub const NEW: Told = Told(1);
    /// It begins, and another connection announced it.
    pub const RELATED: Told = Told(1 << 1);
    pub const DESTROY: Told = Told(1 << 2);
    /// Packets of both directions were seen.
    pub const REPLY: Told = Told(1 << 3);
    pub const ASSURED: Told = Told(1 << 4);
    /// The protocol's state is another one.
    pub const PROTOINFO: Told = Told(1 << 5);
    pub const HELPER: Told = Told(1 << 6);
    pub const MARK: Told = Told(1 << 7);
    pub const NATSEQINFO: Told = Told(1 << 8);
    pub const SECMARK: Told = Told(1 << 9);
    /// Ours: rules and operators choose its labels. No rule has a word for it.
    pub const LABEL: Told = Told(1 << 12);
    /// Ours: it announces another connection.
    pub const EXPECT_NEW: Told = Told(1 << 10);
    /// Ours: one that it announced is expected no more.
    pub const EXPECT_DESTROY: Told = Told(1 << 11);

    /// Of a connection whose status and state are others than before.
    pub fn of_change(before: Status, after: Status, has_new_state: bool) -> Told {
        let is_new = |bit| after.has(bit) && !before.has(bit);
        let kinds = [
            (is_new(Status::SEEN_REPLY), Told::REPLY),
            (is_new(Status::ASSURED), Told::ASSURED),
            (has_new_state, Told::PROTOINFO),
        ];
        kinds.iter().filter(|(is, _)| *is).fold(Told::NONE, |all, &(_, kind)| all.and(kind))
    }

    /// A change from outside is told as all that it may be.
    pub const FROM_OUTSIDE: Told = Told::REPLY
        .and(Told::ASSURED)
        .and(Told::PROTOINFO)
        .and(Told::HELPER)
        .and(Told::MARK)
        .and(Told::NATSEQINFO)
        .and(Told::LABEL);

    /// By the names of rules, in their order there.
    pub const NAMES: [(&'static str, Told); 10] = [
        ("new", Told::NEW),
        ("related", Told::RELATED),
        ("destroy", Told::DESTROY),
        ("reply", Told::REPLY),
        ("assured", Told::ASSURED),
        ("protoinfo", Told::PROTOINFO),
        ("helper", Told::HELPER),
        ("mark", Told::MARK),
        ("natseqinfo", Told::NATSEQINFO),
        ("secmark", Told::SECMARK),
    ];

    pub const fn has(self, all: Told) -> bool {
        self.0 & all.0 == all.0
    }

    #[must_use]
    pub const fn and(self, other: Told) -> Told {
        Told(self.0 | other.0)
    }

    /// All that these are not.
    #[must_use]
    pub const fn others(self) -> Told {
        Told(!self.0)
    }

    /// Those of them that are among `these`.
    #[must_use]
    pub const fn only(self, these: Told) -> Told {
        Told(self.0 & these.0)
    }

    #[must_use]
    pub const fn without(self, others: Told) -> Told {
        Told(self.0 & !others.0)
    }
}
