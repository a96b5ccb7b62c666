//! `rpfilter`: whether the way back to the source is the interface that the packet came by (RFC 3704).
//!
//! Source of the facts: Linux, `net/ipv4/netfilter/ipt_rpfilter.c`, `net/ipv6/netfilter/ip6t_rpfilter.c`.

use std::net::IpAddr;

use super::Match;
use crate::rule::prelude::*;
use crate::tables::Route;

#[derive(Clone, PartialEq, Debug, Default)]
pub struct RpFilter {
    flags: u8,
}

/// Any interface will do.
const LOOSE: u8 = 1;
/// The packet's mark chooses the way back: as everywhere here there is one way for all marks.
const BY_MARK: u8 = 1 << 1;
/// So will an address of this host.
const ACCEPTS_LOCAL: u8 = 1 << 2;
const IS_NOT: u8 = 1 << 3;

const FLAGS: [(&str, u8); 4] =
    [("loose", LOOSE), ("validmark", BY_MARK), ("accept-local", ACCEPTS_LOCAL), ("invert", IS_NOT)];

impl RpFilter {
    fn put(&self, out: &mut String, dashes: &str) {
        for (name, _) in FLAGS.iter().filter(|(_, bit)| self.flags & bit != 0) {
            put!(out, " {dashes}{name}");
        }
    }

    fn comes_right(&self, view: &View<'_>) -> bool {
        let source = view.tuple.src;
        let (is_right, is_wrong) = match (source, view.tuple.dst) {
            // Who has no address yet asks all for one: DHCP.
            (IpAddr::V4(source), IpAddr::V4(to)) => (
                source.is_unspecified() && (to.is_broadcast() || to.is_multicast()),
                source.is_multicast() || source.is_broadcast(),
            ),
            // Duplicate address detection; and whoever has a link-local address is on this link.
            (IpAddr::V6(source), _) => {
                (source.is_unspecified() || source.is_unicast_link_local(), source.is_multicast())
            }
            _ => (false, false),
        };
        if is_right || is_wrong {
            return is_right;
        }
        match view.tables.routes.lookup(source) {
            Some(Route::Via { interface, .. }) => self.flags & LOOSE != 0 || view.input == Some(interface),
            Some(Route::Linux) => self.flags & LOOSE != 0,
            Some(Route::Local) => self.flags & ACCEPTS_LOCAL != 0,
            Some(Route::Forbidden) | None => false,
        }
    }
}

impl Extension for RpFilter {
    const NAME: &'static str = "rpfilter";
    const OPTIONS: &'static [Opt] =
        &[flag("loose", 0), flag("validmark", 1), flag("accept-local", 2), flag("invert", 3)];
    const TABLES: &'static [Table] = &[Table::Raw, Table::Mangle];
    /// PREROUTING.
    const HOOKS: u8 = 1;

    fn take(&mut self, given: &mut Given<'_, '_>) -> Result<(), Error> {
        self.flags |= FLAGS[usize::from(given.id())].1;
        Ok(())
    }

    fn save(&self, out: &mut String, _: Family) {
        self.put(out, "--");
    }

    fn list(&self, out: &mut String, _: &Style<'_>, _: &Header) {
        out.push_str(" rpfilter");
        self.put(out, "");
    }
}

impl Match for RpFilter {
    fn depends(&self) -> Depends {
        Depends::Flow
    }

    fn matches(&self, view: &mut View<'_>) -> bool {
        self.comes_right(view) != (self.flags & IS_NOT != 0)
    }
}
