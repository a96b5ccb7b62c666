//! `physdev`: the port of a bridge by which a packet came, or leaves. No packet here comes by a bridge: what is asked never holds, and its contrary always does, as
//! in the kernel of one that has not.
//!
//! Source of the facts: Linux, `net/netfilter/xt_physdev.c`; what is printed and refused: recorded from iptables 1.8.9.

use super::Match;
use crate::rule::prelude::*;
use crate::rule::text::quote_to;

#[derive(Clone, PartialEq, Debug, Default)]
pub struct PhysDev {
    /// By [`ASKED`].
    asked: [Option<Asked>; ASKED.len()],
}

#[derive(Clone, PartialEq, Debug)]
struct Asked {
    /// Of an interface, where one is asked for.
    name: String,
    is_not: bool,
}

/// In the order in which they are printed.
const ASKED: [&str; 5] =
    ["physdev-is-in", "physdev-in", "physdev-is-out", "physdev-out", "physdev-is-bridged"];
const IS_OUT: usize = 2;
const OUT: usize = 3;
const IS_BRIDGED: usize = 4;
const LONGEST_NAME: usize = 15;

impl Extension for PhysDev {
    const NAME: &'static str = "physdev";
    const OPTIONS: &'static [Opt] = &[
        flag("physdev-is-in", 0).negatable(),
        opt("physdev-in", 1).negatable(),
        flag("physdev-is-out", 2).negatable(),
        opt("physdev-out", 3).negatable(),
        flag("physdev-is-bridged", 4).negatable(),
    ];

    fn take(&mut self, given: &mut Given<'_, '_>) -> Result<(), Error> {
        let name = given.value;
        if name.len() > LONGEST_NAME {
            return Err(Error::parameter(format!("interface name `{name}' must be shorter than IFNAMSIZ (15)")));
        }
        if name.contains([' ', '/']) {
            given.around.warn(format!(
                "Warning: weird character in interface `{name}' ('/' and ' ' are not allowed by the kernel)."
            ));
        }
        self.asked[usize::from(given.id())] = Some(Asked { name: name.to_owned(), is_not: given.is_negated });
        Ok(())
    }

    fn finish(&mut self, seen: u32, _: &Around<'_>) -> Result<(), Error> {
        if seen == 0 { Err(Error::parameter("PHYSDEV: no physdev option specified")) } else { Ok(()) }
    }

    /// What the host sends leaves by no known port, unless it is bridged.
    fn check(&self, place: &Place<'_>) -> Result<(), Refused> {
        const OUTPUT: u8 = 8;
        let asks_for_way = self.asked[IS_OUT].is_some() || self.asked[OUT].is_some();
        let is_bridged = self.asked[IS_BRIDGED].as_ref().is_some_and(|asked| !asked.is_not);
        if asks_for_way && !is_bridged && place.hooks & OUTPUT != 0 { Err(Refused::Invalid) } else { Ok(()) }
    }

    fn save(&self, out: &mut String, _: Family) {
        self.put(out);
    }

    fn list(&self, out: &mut String, _: &Style<'_>, _: &Header) {
        out.push_str(" PHYSDEV match");
        self.put(out);
    }
}

impl PhysDev {
    fn put(&self, out: &mut String) {
        for ((asked, option), word) in self.asked.iter().zip(Self::OPTIONS).zip(ASKED) {
            let Some(Asked { name, is_not }) = asked else { continue };
            put!(out, "{} --{word}", not(*is_not));
            match name.as_str() {
                _ if !option.has_value => {}
                // iptables quotes none, and does not read these again.
                name if name.is_empty() || name.contains([' ', '"', '\\', '\'']) => quote_to(out, name),
                name => put!(out, " {name}"),
            }
        }
    }
}

impl Match for PhysDev {
    fn depends(&self) -> Depends {
        Depends::Flow
    }

    fn matches(&self, _: &mut View<'_>) -> bool {
        self.asked.iter().flatten().all(|asked| asked.is_not)
    }
}
