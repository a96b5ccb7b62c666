//! Rules: netfilter's tables and chains, the matches and targets in them, and what becomes of a packet that walks through.
//!
//! A rule is read from its words ([`Rule::read`]), checked for the place where it is put ([`Rule::check`]), and printed as it is listed and saved.
//! The control plane builds [`Rules`] of whole tables; a worker asks them at each hook ([`Rules::run`]): one rule after the other, as written, and in a long
//! chain those alone that can match (`index.rs`). One file a match
//! (`matches/`), one a target (`targets/`): data, syntax, printing and evaluation together.
//!
//! Source of the facts: iptables(8), iptables-extensions(8), Linux `net/netfilter/xt_*.c` and `net/ipv4/netfilter/ip_tables.c`, and recorded command lines.

mod account;
mod bpf;
mod bucket;
pub mod capture;
mod chain6;
pub(crate) mod copies;
pub mod counted;
pub(crate) mod edit;
mod estimator;
pub mod event;
mod extension;
pub mod fingerprint;
mod header;
mod icmp;
mod idle_timer;
mod index;
mod jhash;
mod labelled;
mod line;
mod list;
mod matches;
mod met;
pub mod names;
pub(crate) mod options;
pub(crate) mod per_key;
mod ports;
mod prelude;
mod rate;
mod seen;
mod set_use;
mod span;
pub(crate) mod state;
mod targets;
pub mod text;
mod tos;
mod translation;
mod view;
mod walk;

pub use account::{Account, AccountQuota, LONGEST_ACCOUNT_NAME, MOST_ACCOUNTS};
use extension::Depends;
pub use header::{Header, Interface, Net};
pub use idle_timer::IdleTimer;
pub use labelled::Labelled;
pub use line::{Counts, Jump, Rule, option_has_value};
pub use list::{Style, count};
pub(crate) use met::Met;
pub use options::{Around, Cursor};
pub use set_use::SetUse;
pub use state::{KnownSet, Named};
pub use targets::Refusal;
pub use text::{Error, Kind};
pub(crate) use view::tos;
pub use view::{Connection, Effects, Service, Verdict, View};
pub(crate) use walk::place_bits;
pub use walk::{BadTable, ChainSource, RuleSource, Rules, reached_from};

pub use crate::counters::{MOST_RULE_NUMBERS, MOST_RULES};
use crate::hook::Hook;

#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Family {
    Ipv4,
    Ipv6,
}

impl Family {
    pub const ALL: [Family; 2] = [Family::Ipv4, Family::Ipv6];

    /// Of an address.
    pub const fn bits(self) -> u32 {
        match self {
            Family::Ipv4 => 32,
            Family::Ipv6 => 128,
        }
    }
}

/// A table, in the order in which a hook asks them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Table {
    Raw,
    Mangle,
    Nat,
    Filter,
    Security,
}

impl Table {
    pub const ALL: [Table; 5] = [Table::Raw, Table::Mangle, Table::Nat, Table::Filter, Table::Security];

    pub const fn name(self) -> &'static str {
        match self {
            Table::Raw => "raw",
            Table::Mangle => "mangle",
            Table::Nat => "nat",
            Table::Filter => "filter",
            Table::Security => "security",
        }
    }

    pub fn named(name: &str) -> Option<Table> {
        Table::ALL.into_iter().find(|table| table.name() == name)
    }

    /// The hooks at which it is asked, in the order of its built-in chains.
    pub const fn hooks(self) -> &'static [Hook] {
        match self {
            Table::Raw => &[Hook::Prerouting, Hook::Output],
            Table::Mangle => &[Hook::Prerouting, Hook::Input, Hook::Forward, Hook::Output, Hook::Postrouting],
            Table::Nat => &[Hook::Prerouting, Hook::Input, Hook::Output, Hook::Postrouting],
            Table::Filter | Table::Security => &[Hook::Input, Hook::Forward, Hook::Output],
        }
    }
}

/// The built-in chain of a hook.
pub const fn chain_name(hook: Hook) -> &'static str {
    match hook {
        Hook::Prerouting => "PREROUTING",
        Hook::Input => "INPUT",
        Hook::Forward => "FORWARD",
        Hook::Output => "OUTPUT",
        Hook::Postrouting => "POSTROUTING",
        Hook::Ingress | Hook::Egress => "",
    }
}

/// A hook as a bit: PREROUTING 1, INPUT 2, FORWARD 4, OUTPUT 8, POSTROUTING 16.
pub const fn hook_bit(hook: Hook) -> u8 {
    match hook {
        Hook::Prerouting => 1,
        Hook::Input => 2,
        Hook::Forward => 4,
        Hook::Output => 8,
        Hook::Postrouting => 16,
        Hook::Ingress | Hook::Egress => 0,
    }
}

/// Why a rule may not stand where it was to be put: as the kernel says it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// "Invalid argument".
    Invalid,
    /// "Numerical result out of range".
    OutOfRange,
    /// "No such file or directory": an IP set, an algorithm, an estimator that is not there.
    NotThere,
    /// "Operation not supported".
    NotSupported,
}

#[cfg(test)]
mod tests;
