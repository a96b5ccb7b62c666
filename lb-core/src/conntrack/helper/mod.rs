//! Helpers: what a tracked connection says of others that will begin. One file each, one row in [`HELPERS`].
//!
//! A connection has one because a rule says so (`-t raw -j CT --helper`). It reads along; what it reads is rewritten, where the connection is
//! translated, by `path/reworded.rs`.

pub mod ftp;
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
    /// The protocol of the connections that can have it.
    pub protocol: Protocol,
    /// How long what it announces may take to come.
    pub patience: Timeout,
    /// Most that one connection may announce at a time: the oldest goes.
    pub most: u16,
    /// What is done to the streams of its connections where they are translated, as of [`Edit::wants`](crate::flow::edit::Edit::wants); 0: nothing.
    pub edits: u8,
    announces: fn(&Heard<'_>) -> Option<Announced>,
}

/// All of them. What stands beside a connection is the place here and one more: it outlives the process, so a row keeps its place.
pub const HELPERS: &[Helper] = &[tftp::HELPER, ftp::HELPER];

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
    /// Reads a packet.
    pub fn announces(&self, heard: &Heard<'_>) -> Option<Announced> {
        (self.announces)(heard)
    }
}
