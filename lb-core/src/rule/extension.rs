//! What matches and targets have in common: options, checks, both ways of being printed.

use std::fmt::Debug;

use super::header::Header;
use super::list::Style;
use super::names::Names;
use super::options::{Around, Given, Opt};
use super::set_use::SetUse;
use super::state::Named;
use super::text::Error;
use super::{Family, Refused, Table};

/// Hooks as bits: PREROUTING 1, INPUT 2, FORWARD 4, OUTPUT 8, POSTROUTING 16.
pub(crate) const ALL_HOOKS: u8 = 0x1f;

/// What a match's answer, or what a target does, hangs on.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Depends {
    /// What is the same for all packets of a connection that go one way: ends, protocol, interfaces, what the packet is to its connection,
    /// the virtual service, the mark that rules gave it, the tables. A target that is so does nothing but that.
    Flow,
    /// The packet itself, or what may change at any time. A match that is so changes nothing.
    Packet,
    /// What was before, and that it was asked now: it counts, or takes note.
    Memory,
}

/// Where a rule stands, or wants to.
#[derive(Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) table: Table,
    /// The hooks from which its chain is reached.
    pub(crate) hooks: u8,
    pub(crate) header: &'a Header,
    /// The rule's packets are SYNs: a `tcp` of it asks for the flag.
    pub(crate) is_of_syns: bool,
}

/// A match or a target: data, syntax, printing.
pub(crate) trait Extension: Default + Clone + PartialEq + Debug {
    const NAME: &'static str;
    /// Other names by which `-m` or `-j` finds it.
    const ALIASES: &'static [&'static str] = &[];
    const OPTIONS: &'static [Opt];
    /// `None`: both.
    const FAMILY: Option<Family> = None;
    /// What the rule's protocol must be.
    const PROTOCOL: Option<u8> = None;
    /// The tables that it may stand in; empty: all.
    const TABLES: &'static [Table] = &[];
    const HOOKS: u8 = ALL_HOOKS;

    /// Reads one option.
    fn take(&mut self, given: &mut Given<'_, '_>) -> Result<(), Error>;

    /// All options are read; `seen` has their bits.
    fn finish(&mut self, _seen: u32, _around: &Around<'_>) -> Result<(), Error> {
        Ok(())
    }

    /// What the kernel would look at when the rule is put in.
    fn check(&self, _place: &Place<'_>) -> Result<(), Refused> {
        Ok(())
    }

    /// The IP sets that it names.
    fn sets(&self) -> Vec<&SetUse> {
        Vec::new()
    }

    /// Takes the state that it keeps.
    fn bind(&mut self, _named: &mut Named) -> Result<(), Refused> {
        Ok(())
    }

    /// Appends its options as `-S` prints them, each after a space.
    fn save(&self, out: &mut String, family: Family);

    /// The same with the names of what has some.
    fn save_named(&self, out: &mut String, family: Family, _names: &dyn Names) {
        self.save(out, family);
    }

    /// Appends itself as `-L` prints it, after a space.
    fn list(&self, out: &mut String, style: &Style<'_>, header: &Header);
}

/// What is known of an extension without one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct About {
    pub(crate) name: &'static str,
    pub(crate) aliases: &'static [&'static str],
    pub(crate) options: &'static [Opt],
    pub(crate) family: Option<Family>,
    pub(crate) protocol: Option<u8>,
    pub(crate) tables: &'static [Table],
    pub(crate) hooks: u8,
}

impl About {
    pub(crate) const fn of<E: Extension>() -> About {
        About {
            name: E::NAME,
            aliases: E::ALIASES,
            options: E::OPTIONS,
            family: E::FAMILY,
            protocol: E::PROTOCOL,
            tables: E::TABLES,
            hooks: E::HOOKS,
        }
    }

    pub(crate) fn is_called(&self, name: &str, family: Family) -> bool {
        self.family.is_none_or(|only| only == family) && (self.name == name || self.aliases.contains(&name))
    }

    /// The checks that need no data.
    pub(crate) fn check(&self, place: &Place<'_>) -> Result<(), Refused> {
        let is_table = self.tables.is_empty() || self.tables.contains(&place.table);
        let is_hook = place.hooks & !self.hooks == 0;
        let is_protocol = self
            .protocol
            .is_none_or(|protocol| protocol == place.header.protocol && !place.header.is_not_protocol);
        if is_table && is_hook && is_protocol { Ok(()) } else { Err(Refused::Invalid) }
    }

    /// What must hold of the options that were given.
    pub(crate) fn check_options(&self, seen: u32) -> Result<(), Error> {
        let name_of = |bits: u32| {
            self.options.iter().find(|option| bits & (1 << option.id) != 0).map_or("", |option| option.name)
        };
        for option in self.options {
            let is_given = seen & (1 << option.id) != 0;
            if option.must_be_given && !is_given {
                return Err(Error::parameter(format!(
                    "{}: option \"--{}\" must be specified\n",
                    self.name, option.name
                )));
            }
            if !is_given {
                continue;
            }
            if option.needs & !seen != 0 {
                return Err(Error::parameter(format!(
                    "{}: option \"--{}\" also requires \"--{}\".\n",
                    self.name,
                    option.name,
                    name_of(option.needs & !seen)
                )));
            }
            if option.excludes & seen != 0 {
                return Err(Error::parameter(format!(
                    "{}: option \"--{}\" cannot be used together with \"--{}\".\n",
                    self.name,
                    option.name,
                    name_of(option.excludes & seen)
                )));
            }
        }
        Ok(())
    }
}

/// Makes an enum of all extensions of a kind, with the dispatch to each.
macro_rules! extensions {
    ($(#[$doc:meta])* pub enum $any:ident: $kind:ident { $($variant:ident = $module:ident,)* }) => {
        $(mod $module;)*

        $(#[$doc])*
        #[derive(Clone, PartialEq, Debug)]
        pub enum $any { $($variant(Box<$module::$variant>),)* }

        macro_rules! dispatch {
            ($self:expr, $found:ident => $do:expr) => {
                match $self { $($any::$variant($found) => $do,)* }
            };
        }

        impl $any {
            #[cfg(test)]
            pub(crate) const FILES: &'static [&'static str] = &[$(stringify!($module),)*];

            pub(crate) const ALL: &'static [$crate::rule::extension::About] =
                &[$($crate::rule::extension::About::of::<$module::$variant>(),)*];

            /// One with nothing said yet, of the row of [`ALL`](Self::ALL) with this name.
            pub(crate) fn begin(name: &str) -> Option<$any> {
                use $crate::rule::extension::Extension;
                $(if name == $module::$variant::NAME {
                    return Some($any::$variant(Box::default()));
                })*
                None
            }

            pub(crate) fn about(&self) -> $crate::rule::extension::About {
                match self {
                    $($any::$variant(_) => $crate::rule::extension::About::of::<$module::$variant>(),)*
                }
            }

            pub(crate) fn take(
                &mut self,
                given: &mut $crate::rule::options::Given<'_, '_>,
            ) -> Result<(), $crate::rule::text::Error> {
                use $crate::rule::extension::Extension;
                dispatch!(self, found => found.take(given))
            }

            pub(crate) fn finish(
                &mut self,
                seen: u32,
                around: &$crate::rule::options::Around<'_>,
            ) -> Result<(), $crate::rule::text::Error> {
                use $crate::rule::extension::Extension;
                dispatch!(self, found => found.finish(seen, around))?;
                self.about().check_options(seen)
            }

            pub(crate) fn check(
                &self,
                place: &$crate::rule::extension::Place<'_>,
            ) -> Result<(), $crate::rule::Refused> {
                use $crate::rule::extension::Extension;
                self.about().check(place)?;
                dispatch!(self, found => found.check(place))
            }

            pub(crate) fn sets(&self) -> Vec<&$crate::rule::SetUse> {
                use $crate::rule::extension::Extension;
                dispatch!(self, found => found.sets())
            }

            pub(crate) fn bind(
                &mut self,
                named: &mut $crate::rule::state::Named,
            ) -> Result<(), $crate::rule::Refused> {
                use $crate::rule::extension::Extension;
                dispatch!(self, found => found.bind(named))
            }

            pub(crate) fn save(
                &self,
                out: &mut String,
                family: $crate::rule::Family,
                names: &dyn $crate::rule::names::Names,
            ) {
                use $crate::rule::extension::Extension;
                dispatch!(self, found => found.save_named(out, family, names))
            }

            pub(crate) fn list(
                &self,
                out: &mut String,
                style: &$crate::rule::list::Style<'_>,
                header: &$crate::rule::header::Header,
            ) {
                use $crate::rule::extension::Extension;
                dispatch!(self, found => found.list(out, style, header))
            }
        }
    };
}

pub(crate) use extensions;

/// Text for an option that was negated.
pub(crate) fn not(is_not: bool) -> &'static str {
    if is_not { " !" } else { "" }
}
