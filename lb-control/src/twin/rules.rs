//! `ip rule` → the order in which tables are looked up.
//!
//! A rule without selectors is what can be mirrored: every packet passes it. One that looks at a mark and at nothing besides is mirrored for the local routes
//! of its table ([`MarkedRoutes`](lb_core::tables::MarkedRoutes)); its realms are not, since they would count for what it sends elsewhere. One that looks at the source, an interface or the like is left out and said once in the log:
//! our route lookup knows the destination only.
//!
//! Source of the facts: Linux, `net/core/fib_rules.c` (`fib_nl_fill_rule`), ip-rule(8).

use hashbrown::HashSet;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::RouteRealm;
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage};

/// What one rule does with each packet that comes to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Lookup {
    Table {
        table: u32,
        /// Those that it gives routes without (`FRA_FLOW`).
        realms: u32,
    },
    /// With packets that have this mark, in the bits of the mask.
    MarkedTable { mark: u32, mask: u32, table: u32 },
    /// blackhole, unreachable, prohibit.
    Forbidden,
}

/// Rules by mark of one family. The workers ask one after the other.
const MARKED_MAX: usize = 64;

impl Lookup {
    fn is_marked(self) -> bool {
        matches!(self, Lookup::MarkedTable { .. })
    }
}

/// The rules of both families in ascending order of priority.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(super) struct Rules {
    ipv4: Vec<(u32, Lookup)>,
    ipv6: Vec<(u32, Lookup)>,
    /// Rules that are left out, as a log line names them.
    left_out: HashSet<String>,
}

impl Rules {
    pub(super) fn add(&mut self, message: &RuleMessage) {
        let (list, family) = match message.header.family {
            AddressFamily::Inet => (&mut self.ipv4, "IPv4"),
            AddressFamily::Inet6 => (&mut self.ipv6, "IPv6"),
            _ => return,
        };
        let priority = priority(message);
        let is_full = || list.iter().filter(|(_, other)| other.is_marked()).count() == MARKED_MAX;
        let lookup = match lookup(message) {
            Ok(lookup) if lookup.is_marked() && is_full() => {
                Err(format!("of rules with `fwmark` {MARKED_MAX} are mirrored"))
            }
            lookup => lookup.map_err(str::to_owned),
        };
        match lookup {
            Ok(lookup) => {
                // The kernel keeps rules of the same priority in the order in which they were made.
                let at = list.partition_point(|&(p, _)| p <= priority);
                list.insert(at, (priority, lookup));
            }
            Err(why) => {
                self.left_out.insert(format!("{family} rule {priority}: {why}"));
            }
        }
    }

    /// `other` is of the other family.
    pub(super) fn absorb(&mut self, other: Rules) {
        self.ipv4.extend(other.ipv4);
        self.ipv6.extend(other.ipv6);
        self.left_out.extend(other.left_out);
    }

    pub(super) fn order(&self, is_ipv6: bool) -> impl Iterator<Item = Lookup> {
        let list = if is_ipv6 { &self.ipv6 } else { &self.ipv4 };
        list.iter().map(|&(_, lookup)| lookup)
    }

    pub(super) fn left_out(&self) -> &HashSet<String> {
        &self.left_out
    }
}

fn priority(message: &RuleMessage) -> u32 {
    let of = |a: &RuleAttribute| if let RuleAttribute::Priority(p) = a { Some(*p) } else { None };
    message.attributes.iter().find_map(of).unwrap_or(0)
}

/// # Errors
/// What keeps the rule from being mirrored.
fn lookup(message: &RuleMessage) -> Result<Lookup, &'static str> {
    let header = &message.header;
    if header.flags.contains(RuleFlags::Invert) {
        return Err("`not` is not mirrored");
    }
    if header.src_len != 0 {
        return Err("`from` is not mirrored");
    }
    if header.dst_len != 0 {
        return Err("`to` is not mirrored");
    }
    if header.tos != 0 {
        return Err("`tos` is not mirrored");
    }
    let mut table = u32::from(header.table);
    let (mut mark, mut mask, mut realms) = (0, u32::MAX, 0);
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Table(number) => table = *number,
            RuleAttribute::Priority(_) | RuleAttribute::Protocol(_) => {}
            // A rule with a mask alone (`fwmark 0/0xff`) is for what has no mark, as nearly all packets.
            RuleAttribute::FwMark(said) => mark = *said,
            RuleAttribute::FwMask(said) => mask = *said,
            RuleAttribute::Realm(said) => realms = realm_bits(*said),
            RuleAttribute::SuppressPrefixLen(u32::MAX) | RuleAttribute::SuppressIfGroup(u32::MAX) => {}
            RuleAttribute::L3MDev(false) => {}
            RuleAttribute::Iifname(_) => return Err("`iif` is not mirrored"),
            RuleAttribute::Oifname(_) => return Err("`oif` is not mirrored"),
            RuleAttribute::L3MDev(true) => return Err("`l3mdev` is not mirrored"),
            RuleAttribute::SuppressPrefixLen(_) => return Err("`suppress_prefixlength` is not mirrored"),
            _ => return Err("its selector is not mirrored"),
        }
    }
    match header.action {
        RuleAction::ToTable if mark != 0 => Ok(Lookup::MarkedTable { mark, mask, table }),
        RuleAction::ToTable => Ok(Lookup::Table { table, realms }),
        _ if mark != 0 => Err("`fwmark` is mirrored with a table alone"),
        RuleAction::Blackhole | RuleAction::Unreachable | RuleAction::Prohibit => Ok(Lookup::Forbidden),
        _ => Err("its action is not mirrored"),
    }
}

/// As one number, as the kernel has them.
pub(super) fn realm_bits(realms: RouteRealm) -> u32 {
    u32::from(realms.source) << 16 | u32::from(realms.destination)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    fn plain(table: u32) -> Lookup {
        Lookup::Table { table, realms: 0 }
    }

    pub(in crate::twin) fn rule(priority: u32, table: u32) -> RuleMessage {
        let mut message = RuleMessage::default();
        message.header.family = AddressFamily::Inet;
        message.header.action = RuleAction::ToTable;
        message.attributes = vec![
            RuleAttribute::Priority(priority),
            RuleAttribute::Table(table),
            RuleAttribute::SuppressPrefixLen(u32::MAX),
        ];
        message
    }

    pub(in crate::twin) fn marked_rule(priority: u32, table: u32, mark: u32) -> RuleMessage {
        let mut message = rule(priority, table);
        message.attributes.push(RuleAttribute::FwMark(mark));
        message
    }

    #[test]
    fn tables_are_looked_up_in_the_order_of_the_priorities() {
        let mut rules = Rules::default();
        for (priority, table) in [(32766, 254), (0, 255), (100, 1000), (32767, 253), (100, 1001)] {
            rules.add(&rule(priority, table));
        }
        let order: Vec<_> = rules.order(false).collect();
        assert_eq!(order, [255, 1000, 1001, 254, 253].map(plain));
        assert_eq!(rules.order(true).count(), 0, "IPv6 has rules of its own");
    }

    #[test]
    fn a_rules_realms_are_kept_with_its_table() {
        let mut rules = Rules::default();
        let mut message = rule(100, 254);
        message.attributes.push(RuleAttribute::Realm(RouteRealm { source: 0x11, destination: 0x12 }));
        rules.add(&message);
        message.attributes.push(RuleAttribute::FwMark(7));
        rules.add(&message);
        let order = [
            Lookup::Table { table: 254, realms: 0x11_0012 },
            Lookup::MarkedTable { mark: 7, mask: u32::MAX, table: 254 },
        ];
        assert_eq!(rules.order(false).collect::<Vec<_>>(), order);
        assert!(rules.left_out().is_empty());
    }

    #[test]
    fn a_rule_with_a_selector_is_left_out_by_name() {
        let mut rules = Rules::default();
        let mut marked = marked_rule(50, 100, 7);
        marked.header.action = RuleAction::Blackhole;
        rules.add(&marked);
        let mut from = rule(51, 100);
        from.header.src_len = 24;
        rules.add(&from);
        assert_eq!(rules.order(false).count(), 0);
        assert!(rules.left_out().contains("IPv4 rule 50: `fwmark` is mirrored with a table alone"));
        assert!(rules.left_out().contains("IPv4 rule 51: `from` is not mirrored"));
    }

    #[test]
    fn a_rule_by_mark_keeps_its_place_and_there_are_so_many_of_them() {
        let mut rules = Rules::default();
        rules.add(&rule(0, 255));
        rules.add(&rule(32766, 254));
        rules.add(&marked_rule(60, 100, 7));
        let mut masked = marked_rule(50, 101, 0x10);
        masked.attributes.push(RuleAttribute::FwMask(0xf0));
        rules.add(&masked);
        let mut unmarked = rule(55, 102);
        unmarked.attributes.push(RuleAttribute::FwMask(0xff));
        rules.add(&unmarked);
        let marked = |mark, mask, table| Lookup::MarkedTable { mark, mask, table };
        let order = [plain(255), marked(0x10, 0xf0, 101), plain(102), marked(7, u32::MAX, 100), plain(254)];
        assert_eq!(rules.order(false).collect::<Vec<_>>(), order);
        assert!(rules.left_out().is_empty());
        (0..MARKED_MAX as u32 - 1).for_each(|n| rules.add(&marked_rule(100 + n, 100, 8)));
        assert_eq!(rules.order(false).count(), MARKED_MAX + 3);
        assert!(rules.left_out().contains("IPv4 rule 162: of rules with `fwmark` 64 are mirrored"));
    }

    #[test]
    fn a_rule_that_forbids_is_kept_in_its_place() {
        let mut rules = Rules::default();
        rules.add(&rule(10, 254));
        let mut forbid = rule(5, 0);
        forbid.header.action = RuleAction::Prohibit;
        rules.add(&forbid);
        assert_eq!(rules.order(false).collect::<Vec<_>>(), [Lookup::Forbidden, plain(254)]);
    }
}
