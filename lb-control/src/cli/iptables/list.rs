//! Tables as `-L`, `-S` and `iptables-save` print them.

use std::fmt::Write;

use lb_core::rule::{Interface, Jump, Rule, Style, count};

use super::options::Request;
use super::read_back;
use crate::api::rules::{ChainView, RuleCounts, TableView};

/// How many rules lead to a chain.
fn references(table: &TableView, name: &str) -> usize {
    let leads = |words: &[String]| {
        words.windows(2).any(|pair| matches!(pair[0].as_str(), "-j" | "-g") && pair[1] == name)
    };
    table.chains.iter().flat_map(|chain| &chain.rules).filter(|view| leads(&view.rule)).count()
}

/// `-L`.
pub(super) fn columns(
    table: &TableView,
    request: &Request,
    only: Option<usize>,
    style: &Style<'_>,
) -> String {
    let mut out = String::new();
    let is_wanted = |chain: &&ChainView| request.chain.as_ref().is_none_or(|name| *name == chain.name);
    for (place, chain) in table.chains.iter().filter(is_wanted).enumerate() {
        if only.is_none() {
            if place != 0 {
                out.push('\n');
            }
            title(&mut out, table, chain, request);
        }
        for (view, number) in chain.rules.iter().zip(1..) {
            if only.is_some_and(|only| only != number) {
                continue;
            }
            let rule = read_back(&view.rule, style.family);
            if request.is_numbered {
                put(&mut out, format_args!("{number:<4} "));
            }
            line(&mut out, &rule, view.counts, request, style);
        }
    }
    out
}

fn put(out: &mut String, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("memory");
}

fn title(out: &mut String, table: &TableView, chain: &ChainView, request: &Request) {
    let short = |value: u64| {
        let mut text = String::new();
        count(&mut text, value, request.is_exact);
        text.trim().to_owned()
    };
    match &chain.policy {
        Some(policy) if request.is_verbose => {
            let RuleCounts { packets, bytes } = chain.counts;
            let (packets, bytes) = (short(packets), short(bytes));
            put(
                out,
                format_args!("Chain {} (policy {policy} {packets} packets, {bytes} bytes)\n", chain.name),
            );
        }
        Some(policy) => put(out, format_args!("Chain {} (policy {policy})\n", chain.name)),
        None => {
            let references = references(table, &chain.name);
            put(out, format_args!("Chain {} ({references} references)\n", chain.name));
        }
    }
    if request.is_numbered {
        out.push_str("num  ");
    }
    if request.is_verbose {
        out.push_str(if request.is_exact { "    pkts      bytes " } else { " pkts bytes " });
    }
    out.push_str("target     prot opt");
    if request.is_verbose {
        out.push_str(" in     out    ");
    }
    out.push_str(" source               destination         \n");
}

/// One rule in columns.
pub(super) fn line(out: &mut String, rule: &Rule, counts: RuleCounts, request: &Request, style: &Style<'_>) {
    if request.is_verbose {
        count(out, counts.packets, request.is_exact);
        if request.is_exact {
            put(out, format_args!("{:>8} ", counts.bytes));
        } else {
            count(out, counts.bytes, false);
        }
    }
    let header = &rule.header;
    put(out, format_args!("{:<9} ", rule.target_name()));
    let not = |is_not: bool| if is_not { '!' } else { ' ' };
    let protocol = match header.protocol {
        number if style.is_numeric => number.to_string(),
        0 => "all".to_owned(),
        number => style.names.protocol_name(number).unwrap_or_else(|| number.to_string()),
    };
    put(out, format_args!("{}{protocol:<4} ", not(header.is_not_protocol)));
    out.push_str(match header.fragment {
        None => "--",
        Some(true) => "-f",
        Some(false) => "!f",
    });
    out.push(' ');
    if request.is_verbose {
        let name = |interface: &Interface| match interface.name.as_str() {
            "" if style.is_numeric => "*".to_owned(),
            "" => "any".to_owned(),
            name => format!("{}{name}", if interface.is_not { "!" } else { "" }),
        };
        put(out, format_args!(" {:<6} {:<6} ", name(&header.input), name(&header.output)));
    }
    for net in [&header.source, &header.destination] {
        let text = Rule::address(net, style);
        let text = text.strip_prefix('!').unwrap_or(&text);
        put(out, format_args!("{}{text:<19} ", not(net.is_not)));
    }
    out.push_str(&rule.details(style));
    out.push('\n');
}

/// `-S`.
pub(super) fn lines(table: &TableView, request: &Request, only: Option<usize>, style: &Style<'_>) -> String {
    let mut out = String::new();
    let is_wanted = |chain: &&ChainView| request.chain.as_ref().is_none_or(|name| *name == chain.name);
    for chain in table.chains.iter().filter(is_wanted).filter(|_| only.is_none()) {
        match &chain.policy {
            Some(policy) => put(&mut out, format_args!("-P {} {policy}", chain.name)),
            None => put(&mut out, format_args!("-N {}", chain.name)),
        }
        if request.is_verbose && chain.policy.is_some() {
            put(&mut out, format_args!(" -c {} {}", chain.counts.packets, chain.counts.bytes));
        }
        out.push('\n');
    }
    for chain in table.chains.iter().filter(is_wanted) {
        for (view, number) in chain.rules.iter().zip(1..) {
            if only.is_none_or(|only| only == number) {
                let counts = request.is_verbose.then_some(view.counts);
                let rule = read_back(&view.rule, style.family);
                put(&mut out, format_args!("-A {}{}\n", chain.name, words(&rule, counts, style)));
            }
        }
    }
    out
}

/// A rule as a command line has it, its counts before the target. As in iptables `-i +` says nothing; better: `! -i +`, which never matches, is said.
fn words(rule: &Rule, counts: Option<RuleCounts>, style: &Style<'_>) -> String {
    let mut rule = rule.clone();
    let header = &mut rule.header;
    for interface in [&mut header.input, &mut header.output] {
        if interface.name == "+" && !interface.is_not {
            *interface = Interface::default();
        }
    }
    let whole = rule.save(style.family, style.names);
    let Some(RuleCounts { packets, bytes }) = counts else { return whole };
    let without = Rule { jump: Jump::Nowhere, ..rule.clone() }.save(style.family, style.names);
    format!("{without} -c {packets} {bytes}{}", whole.strip_prefix(&without).unwrap_or_default())
}

/// A table as `iptables-save` prints it.
pub(super) fn save(table: &TableView, has_counts: bool, style: &Style<'_>) -> String {
    let mut out = format!("*{}\n", table.table);
    for ChainView { name, policy, counts, .. } in &table.chains {
        let policy = policy.as_deref().unwrap_or("-");
        put(&mut out, format_args!(":{name} {policy} [{}:{}]\n", counts.packets, counts.bytes));
    }
    for chain in &table.chains {
        for view in &chain.rules {
            if has_counts {
                put(&mut out, format_args!("[{}:{}] ", view.counts.packets, view.counts.bytes));
            }
            let rule = read_back(&view.rule, style.family);
            put(&mut out, format_args!("-A {}{}\n", chain.name, words(&rule, None, style)));
        }
    }
    out.push_str("COMMIT\n");
    out
}
