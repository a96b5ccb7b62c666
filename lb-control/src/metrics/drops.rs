//! `lb_drops_total`, `lb_rule_drops_total`: packets that were not sent, by reason and hook, and by the chain that said so.

use super::Family;
use super::moment::Moment;
use crate::api::rules::RuleFamily;
use crate::daemon::Control;

pub(super) fn gather(control: &Control) -> Vec<Family> {
    let mut drops = Family::counter("lb_drops_total", "Packets that were not sent, by reason and hook.");
    for view in control.drop_views() {
        drops.add(&[("reason", &view.reason), ("hook", &view.hook)], view.packets);
    }
    vec![drops]
}

/// Takes a look at each rule.
pub(super) fn later(moment: &Moment) -> Vec<Family> {
    let help =
        "Packets that rules with DROP or REJECT and policies with DROP matched; iptables -Z begins anew.";
    let mut by_rules = Family::counter("lb_rule_drops_total", help);
    for (family, table, chain, packets) in moment.rules.dropped(&moment.workers) {
        let family = match family {
            RuleFamily::Ipv4 => "ipv4",
            RuleFamily::Ipv6 => "ipv6",
        };
        by_rules.add(&[("family", family), ("table", table.name()), ("chain", chain)], packets);
    }
    vec![by_rules]
}
