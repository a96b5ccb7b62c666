//! What `-v` says of a change: each rule in one line, and the chains that are emptied, removed or counted anew.
//!
//! Recorded from iptables 1.8.9: numbers but for the protocols that it knows itself, and before the change is done.

use lb_core::rule::names::{Names, Numeric};
use lb_core::rule::{Interface, Rule, Style};

use crate::api::rules::RuleCommand;

pub(super) fn rule(rule: &Rule, style: &Style<'_>) -> String {
    let style = &Style { is_numeric: true, ..*style };
    let header = &rule.header;
    let protocol = match header.protocol {
        0 => "all".to_owned(),
        number => Numeric.protocol_name(number).unwrap_or_else(|| number.to_string()),
    };
    let fragment = match header.fragment {
        None => "--",
        Some(true) => "-f",
        Some(false) => "!f",
    };
    let interface = |interface: &Interface| match interface.name.as_str() {
        "" => "*".to_owned(),
        name => format!("{}{name}", if interface.is_not { "!" } else { "" }),
    };
    let not = |is_not: bool| if is_not { '!' } else { ' ' };
    let [source, destination] = [&header.source, &header.destination]
        .map(|net| Rule::address(net, style).trim_start_matches('!').to_owned());
    format!(
        "{} {}{protocol} opt {fragment} in {} out {} {}{source} {}-> {destination}  {}\n",
        rule.target_name(),
        not(header.is_not_protocol),
        interface(&header.input),
        interface(&header.output),
        not(header.source.is_not),
        not(header.destination.is_not),
        rule.details(style)
    )
}

/// What is said of a command about whole chains; `all` are those of the table and whether they are the operator's.
pub(super) fn chains(command: &RuleCommand, all: &[(String, bool)]) -> String {
    let (verb, chain, is_own) = match command {
        RuleCommand::Flush { chain } => ("Flushing", chain, false),
        RuleCommand::Zero { chain, at: None } => ("Zeroing", chain, false),
        RuleCommand::DeleteChain { chain } => ("Deleting", chain, true),
        _ => return String::new(),
    };
    let said = |name: &String| format!("{verb} chain `{name}'\n");
    match chain {
        Some(name) => said(name),
        None => all.iter().filter(|(_, own)| *own || !is_own).map(|(name, _)| said(name)).collect(),
    }
}
