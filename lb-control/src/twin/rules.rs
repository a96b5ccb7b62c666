//! `ip rule` → the order in which tables are looked up.
//!
//! A rule without selectors is what can be mirrored: every packet passes it. One that looks at the source, a mark,
//! an interface or the like is left out and said once in the log: our route lookup knows the destination only.

use hashbrown::HashSet;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage};

/// What one rule does with each packet that comes to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Lookup {
    Table(u32),
    /// blackhole, unreachable, prohibit.
    Forbidden,
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
        match lookup(message) {
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
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Table(number) => table = *number,
            RuleAttribute::Priority(_) | RuleAttribute::Protocol(_) | RuleAttribute::FwMask(_) => {}
            RuleAttribute::SuppressPrefixLen(u32::MAX) | RuleAttribute::SuppressIfGroup(u32::MAX) => {}
            RuleAttribute::L3MDev(false) | RuleAttribute::FwMark(0) => {}
            RuleAttribute::Iifname(_) => return Err("`iif` is not mirrored"),
            RuleAttribute::Oifname(_) => return Err("`oif` is not mirrored"),
            RuleAttribute::FwMark(_) => return Err("`fwmark` is not mirrored"),
            RuleAttribute::L3MDev(true) => return Err("`l3mdev` is not mirrored"),
            RuleAttribute::SuppressPrefixLen(_) => return Err("`suppress_prefixlength` is not mirrored"),
            _ => return Err("its selector is not mirrored"),
        }
    }
    match header.action {
        RuleAction::ToTable => Ok(Lookup::Table(table)),
        RuleAction::Blackhole | RuleAction::Unreachable | RuleAction::Prohibit => Ok(Lookup::Forbidden),
        _ => Err("its action is not mirrored"),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

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

    #[test]
    fn tables_are_looked_up_in_the_order_of_the_priorities() {
        let mut rules = Rules::default();
        for (priority, table) in [(32766, 254), (0, 255), (100, 1000), (32767, 253), (100, 1001)] {
            rules.add(&rule(priority, table));
        }
        let order: Vec<_> = rules.order(false).collect();
        assert_eq!(order, [255, 1000, 1001, 254, 253].map(Lookup::Table));
        assert_eq!(rules.order(true).count(), 0, "IPv6 has rules of its own");
    }

    #[test]
    fn a_rule_with_a_selector_is_left_out_by_name() {
        let mut rules = Rules::default();
        let mut marked = rule(50, 100);
        marked.attributes.push(RuleAttribute::FwMark(7));
        rules.add(&marked);
        let mut from = rule(51, 100);
        from.header.src_len = 24;
        rules.add(&from);
        assert_eq!(rules.order(false).count(), 0);
        assert!(rules.left_out().contains("IPv4 rule 50: `fwmark` is not mirrored"));
        assert!(rules.left_out().contains("IPv4 rule 51: `from` is not mirrored"));
    }

    #[test]
    fn a_rule_that_forbids_is_kept_in_its_place() {
        let mut rules = Rules::default();
        rules.add(&rule(10, 254));
        let mut forbid = rule(5, 0);
        forbid.header.action = RuleAction::Prohibit;
        rules.add(&forbid);
        assert_eq!(rules.order(false).collect::<Vec<_>>(), [Lookup::Forbidden, Lookup::Table(254)]);
    }
}
