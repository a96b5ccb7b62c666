//! Rules as operators have many of: a black list of hosts, and services that some nets may use. None but the last is for the generator's packets.

use std::sync::Arc;

use lb_core::hook::Hook;
use lb_core::rule::names::Numeric;
use lb_core::rule::{Around, ChainSource, Family, Rule, RuleSource, Rules, Table, text};

use super::director::LOCAL;

/// So many lines for chain INPUT, as behind `iptables -A INPUT`. The last one lets all pass.
pub fn lines(count: u32) -> Vec<String> {
    let line = |n: u32| {
        let (high, low) = (n >> 8 & 0xff, n & 0xff);
        match n {
            _ if n + 1 == count => "-j ACCEPT".to_owned(),
            _ if n.is_multiple_of(2) => format!("-s 198.{}.{high}.{low}/32 -j DROP", 18 + (n >> 16)),
            _ => format!("-s 172.{}.{low}.0/24 -p tcp -m tcp --dport {} -j ACCEPT", 16 + high % 16, 1024 + n),
        }
    };
    (0..count).map(line).collect()
}

/// The same for the path.
///
/// # Panics
/// When they are no rules.
pub fn rules(count: u32) -> Rules {
    let input = chain("INPUT", Hook::Input, 0, lines(count));
    Rules::default().with_table(Family::Ipv4, Table::Filter, &[input]).expect("a table")
}

/// One more, which exchanges the source of what leaves for the real servers.
///
/// # Panics
/// When it is none.
pub fn with_snat(rules: &Rules, count: u32) -> Rules {
    let [first, .., last] = LOCAL;
    let line = format!("-o lan -j SNAT --to-source {first}-{last}");
    let postrouting = chain("POSTROUTING", Hook::Postrouting, count + 1, vec![line]);
    rules.with_table(Family::Ipv4, Table::Nat, &[postrouting]).expect("a table")
}

/// `counter`: the chain's; its rules have those behind it.
fn chain(name: &str, hook: Hook, counter: u32, lines: Vec<String>) -> ChainSource {
    let rule = |(line, counter): (String, u32)| {
        let words = text::split(&line).expect("words");
        let (rules, _) = Rule::read(&words, &mut Around::new(Family::Ipv4, &Numeric)).expect("a rule");
        rules.into_iter().map(move |rule| RuleSource { rule: Arc::new(rule), counter })
    };
    let rules = lines.into_iter().zip(counter + 1..).flat_map(rule).collect();
    ChainSource { name: name.into(), hook: Some(hook), drops: false, counter, rules }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn there_are_as_many_different_ones_as_asked_for() {
        for count in [0, 10, 10_000] {
            assert_eq!(lines(count).into_iter().collect::<BTreeSet<_>>().len(), count as usize);
            assert_eq!(rules(count).are_active(), count > 0);
        }
    }
}
