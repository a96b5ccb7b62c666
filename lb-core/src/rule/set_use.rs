//! How a rule names an IP set: by its name and, for each part of the set's type, the end of the packet that it is taken from.
//!
//! A rule holds the set's identity from when it is put in: what is swapped under the name is found there, and a set that a rule names
//! can be neither destroyed nor renamed.
//!
//! Source of the facts: iptables-extensions(8), iptables' `extensions/libxt_set.h`, Linux `net/netfilter/xt_set.c`.

use arrayvec::ArrayVec;

use super::options::Given;
use super::prelude::*;
use super::text::name_to;
use super::view::View;
use crate::set::{Facts, SetId, Side};
use crate::wire::array;

/// Ends that can be named.
const MOST_SIDES: usize = 6;
/// Longest name of a set, bytes.
const LONGEST_NAME: usize = 31;

/// A set that a rule names.
#[derive(Clone, Debug, Default)]
pub struct SetUse {
    /// Empty: none is named.
    name: String,
    pub(crate) sides: ArrayVec<Side, MOST_SIDES>,
    /// Once the rule is put in.
    pub(crate) id: Option<SetId>,
}

/// Rules are the same that say the same.
impl PartialEq for SetUse {
    fn eq(&self, other: &SetUse) -> bool {
        (&self.name, &self.sides) == (&other.name, &other.sides)
    }
}

impl SetUse {
    /// Reads a name and the ends behind it. `option`: which is given, without dashes.
    pub(crate) fn take(&mut self, given: &mut Given<'_, '_>, option: &str) -> Result<(), Error> {
        if self.is_named() {
            return Err(Error::parameter(format!("--{option} can be specified only once")));
        }
        let ends = given.more.next_value();
        let ends = ends.ok_or_else(|| Error::parameter(format!("--{option} requires two args.")))?;
        if given.value.len() > LONGEST_NAME {
            return Err(Error::parameter(format!(
                "setname `{}' too long, max {LONGEST_NAME} characters.",
                given.value
            )));
        }
        given.value.clone_into(&mut self.name);
        for end in ends.split(',') {
            let side = if end.starts_with("src") {
                Side::Source
            } else if end.starts_with("dst") {
                Side::Destination
            } else {
                return Err(Error::parameter(
                    "You must spefify (the comma separated list of) 'src' or 'dst'.",
                ));
            };
            let too_many = |_| Error::parameter(format!("Can't be more src/dst options than {MOST_SIDES}."));
            self.sides.try_push(side).map_err(too_many)?;
        }
        Ok(())
    }

    pub(crate) fn is_named(&self) -> bool {
        !self.name.is_empty()
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// The set, once the rule is put in.
    pub fn id(&self) -> Option<SetId> {
        self.id
    }

    /// Takes the set's identity.
    pub(crate) fn bind(&mut self, named: &Named) -> Result<(), Refused> {
        if self.is_named() {
            self.id = Some(named.sets.get(&self.name).ok_or(Refused::NotThere)?.id);
        }
        Ok(())
    }

    /// Appends a space, the option (without dashes: of a listing), the name and the ends; nothing where no set is named.
    pub(crate) fn put(&self, out: &mut String, option: &str) {
        if !self.is_named() {
            return;
        }
        put!(out, " {option}");
        name_to(out, &self.name);
        for (i, side) in self.sides.iter().enumerate() {
            out.push(if i == 0 { ' ' } else { ',' });
            out.push_str(if *side == Side::Source { "src" } else { "dst" });
        }
    }
}

/// A packet as sets see it.
pub(crate) fn facts<'v>(view: &'v View<'_>) -> Facts<'v> {
    // The kernel keeps the link's header of what came in.
    let mac = |at| view.input.and_then(|_| array(view.frame, at)).copied().unwrap_or_default();
    Facts {
        source: view.tuple.src,
        destination: view.tuple.dst,
        protocol: view.protocol(),
        ports: ports(view),
        mark: view.mark,
        in_interface: view.input_name(),
        out_interface: view.output_name(),
        macs: (mac(6), mac(0)),
        len: view.headers.ip_len.into(),
    }
}

/// Ports, or ICMP's type and code at both ends. Protocols that have neither have 0.
///
/// Source: Linux, `net/netfilter/ipset/ip_set_getport.c`.
fn ports(view: &View<'_>) -> Option<(u16, u16)> {
    let protocol = view.protocol();
    if view.is_later_fragment() && (view.headers.is_ipv6 || matches!(protocol, 1 | 6 | 17 | 132 | 136)) {
        return None;
    }
    match protocol {
        6 | 17 | 132 | 136 => view.ports(),
        1 | 58 => {
            let kind = u16::from_be_bytes(*array(view.transport(), 0)?);
            Some((kind, kind))
        }
        _ => Some((0, 0)),
    }
}
