//! Rules as operators have many of: a black list of hosts, and services that some nets may use. None but the last is for the generator's packets.

use std::sync::Arc;

use lb_core::hook::Hook;
use lb_core::rule::names::Numeric;
use lb_core::rule::{Around, ChainSource, Family, Rule, RuleSource, Rules, Table, text};

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
pub fn rules(count: u32) -> Arc<Rules> {
    let rule = |(line, counter): (String, u32)| {
        let words = text::split(&line).expect("words");
        let (rules, _) = Rule::read(&words, &mut Around::new(Family::Ipv4, &Numeric)).expect("a rule");
        rules.into_iter().map(move |rule| RuleSource { rule: Arc::new(rule), counter })
    };
    let input = ChainSource {
        name: "INPUT".into(),
        hook: Some(Hook::Input),
        drops: false,
        counter: 0,
        rules: lines(count).into_iter().zip(1..).flat_map(rule).collect(),
    };
    Arc::new(Rules::default().with_table(Family::Ipv4, Table::Filter, &[input]).expect("a table"))
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
