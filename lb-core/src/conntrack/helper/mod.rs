//! Helpers: what a tracked connection says of others that will begin. One file each, one row in [`HELPERS`].
//!
//! A connection has one because a rule says so (`-t raw -j CT --helper`). It reads along; what it reads is rewritten, where the connection is
//! translated, by `path/reworded.rs` and, of SIP, `path/signalled.rs`.

pub mod ftp;
pub mod sip;
mod tftp;

use std::net::IpAddr;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::flow::{Direction, Tuple};
use crate::tables::Protocol;
use crate::time::Timeout;

/// A helper.
#[derive(Debug)]
pub struct Helper {
    /// As rules and listings call it.
    pub name: &'static str,
    /// The protocols of the connections that can have it.
    pub protocols: &'static [Protocol],
    /// Kinds of connections that it announces.
    pub classes: &'static [Class],
    /// What is done to its connections' packets where they are translated, as of [`Edit::wants`](crate::flow::edit::Edit::wants); 0: nothing. Where
    /// it hears of calls by TCP, also where they are not.
    pub edits: u8,
    pub reads: Reads,
}

/// A kind of connections that are announced.
#[derive(Debug)]
pub struct Class {
    /// How long they may take to come.
    pub patience: Timeout,
    /// Most that one connection may announce at a time: the oldest goes.
    pub most: u16,
}

/// What a helper does with a packet that it reads.
#[derive(Debug)]
pub enum Reads {
    /// It may tell of a connection, of the first class.
    Announcement(fn(&Heard<'_>) -> Option<Announced>),
    /// It may begin, change or end calls.
    Calls,
}

/// All of them. What stands beside a connection is the place here and one more: it outlives the process, so a row keeps its place.
pub const HELPERS: &[Helper] = &[tftp::HELPER, ftp::HELPER, sip::HELPER];

/// A connection's helper, as it stands beside it; any number may.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct HelperId(pub u8);

impl HelperId {
    pub const NONE: HelperId = HelperId(0);
    /// The second row's.
    pub const FTP: HelperId = HelperId(2);

    pub fn named(name: &str) -> Option<HelperId> {
        HELPERS.iter().position(|helper| helper.name == name).map(|place| HelperId(place as u8 + 1))
    }

    pub fn get(self) -> Option<&'static Helper> {
        HELPERS.get(usize::from(self.0).checked_sub(1)?)
    }

    /// Its name; `None`: there is none.
    pub fn name(self) -> Option<&'static str> {
        self.get().map(|helper| helper.name)
    }
}

/// A packet's data, and the connection that it is of.
#[derive(Clone, Copy, Debug)]
pub struct Heard<'a> {
    pub data: &'a [u8],
    pub direction: Direction,
    pub original: Tuple,
    pub reply: Tuple,
    /// Packets of both directions were seen.
    pub is_answered: bool,
}

/// A connection that will begin.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Announced {
    /// Its first packet, as it comes; source port 0: from any.
    pub tuple: Tuple,
    /// Where it goes to, and as from whom, where the connection that tells of it is translated.
    pub follows: Follows,
}

/// A translation by that of the connection which told of it, as netfilter's `nf_nat_follow_master` does it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Follows {
    pub source: IpAddr,
    pub destination: (IpAddr, u16),
}

impl Helper {
    /// What is done to the packets of such a connection.
    pub fn edits_of(&self, protocol: Protocol, is_translated: bool) -> u8 {
        let is_in_stream = matches!(self.reads, Reads::Calls) && protocol == Protocol::TCP;
        if is_translated || is_in_stream { self.edits } else { 0 }
    }

    /// What it thinks of connections of that class; of one that it does not know there is none.
    pub fn class(&self, class: u8) -> &'static Class {
        const NONE: Class = Class { patience: Timeout::from_secs(0), most: 1 };
        self.classes.get(usize::from(class)).unwrap_or(&NONE)
    }
}
