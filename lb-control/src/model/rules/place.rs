//! Where a packet was: at a rule, or at the end of a chain.

use std::ops::Range;

use lb_core::rule::names::Numeric;
use lb_core::rule::{Family, Jump, Table};

use super::{Chain, policy_name};
use crate::api::explain::MetRule;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'r> {
    pub(super) of: Family,
    pub(super) table: Table,
    /// Of the table.
    pub(super) chains: &'r [Chain],
    pub(super) chain: &'r Chain,
    /// From 0; `None`: the end.
    pub(crate) rule: Option<usize>,
}

impl<'r> Place<'r> {
    /// The chain that the rule leads to; its end, for want of a beginning.
    pub(crate) fn entered(&self) -> Option<Place<'r>> {
        let rule = &self.chain.rules[self.rule?].rule;
        let chain = self.chains.iter().find(|chain| Some(&*chain.name) == rule.chain())?;
        Some(Place { chain, rule: None, ..*self })
    }

    /// As it is told: the rule as it is saved, or what is done at the end.
    pub(crate) fn met(&self) -> MetRule {
        let rule = match self.rule {
            Some(rule) => return self.told(rule, false),
            None if self.chain.hook.is_some() => policy_name(self.chain.drops),
            None => "RETURN",
        };
        MetRule { chain: self.chain.name.to_string(), rule: rule.to_owned(), ..MetRule::default() }
    }

    /// As netfilter's TRACE has it: table, chain, `rule`, or `policy` or `return` at the chain's end; and the number of the rule, from 1, or of the one
    /// behind the last.
    pub(crate) fn traced(&self) -> (Table, &str, &'static str, usize) {
        let (what, at) = match (self.rule, self.chain.hook) {
            (Some(rule), _) => ("rule", rule),
            (None, Some(_)) => ("policy", self.chain.rules.len()),
            (None, None) => ("return", self.chain.rules.len()),
        };
        (self.table, &self.chain.name, what, at + 1)
    }

    pub(crate) fn is_in_chain_of(&self, other: &Place<'_>) -> bool {
        std::ptr::eq(self.chain, other.chain)
    }

    /// Whether a packet that meets this rule is done with its chain.
    pub(crate) fn leaves(&self) -> bool {
        let rule = self.rule.map(|rule| &self.chain.rules[rule].rule.jump);
        matches!(rule, Some(Jump::Return | Jump::Chain { is_goto: true, .. }))
    }

    /// Rules of its chain, as such that did not match.
    pub(crate) fn rules(&self, which: Range<usize>) -> impl Iterator<Item = MetRule> {
        (which.start..which.end.min(self.chain.rules.len())).map(|rule| self.told(rule, true))
    }

    fn told(&self, rule: usize, missed: bool) -> MetRule {
        let words = self.chain.rules[rule].rule.save(self.of, &Numeric);
        MetRule {
            chain: self.chain.name.to_string(),
            number: Some(rule + 1),
            rule: words.trim_start().to_owned(),
            missed,
        }
    }
}
