//! `[[mark]]`: which new connections have which firewall mark.

use std::ops::RangeInclusive;

use toml::de::DeTable;

use lb_core::tables::{MarkRule, Marks, Prefix};

use super::read::{Errors, Found, Table};
use super::{PROTOCOLS, PortAddress, keys, sections};
use crate::sets::MAX_NAME;

/// Most rules: a packet of a new connection is held against one after the other.
const MAX_RULES: usize = 1024;

/// The sets that a rule names: the client's, and that of what it asks for.
pub type MarkSets = [Option<String>; 2];

/// The rules, and the sets that each of them names, which are found when there are such.
pub(super) fn marks(errors: &mut Errors<'_>, document: &DeTable<'_>) -> (Marks, Vec<MarkSets>) {
    let (mut rules, mut sets) = (Vec::new(), Vec::new());
    for (index, table) in sections(errors, document, &keys::MARK, "mark").into_iter().enumerate() {
        if index == MAX_RULES {
            errors.add(&table.at, format!("mark: there is room for {MAX_RULES} rules"));
            break;
        }
        let protocol = table.choice(errors, "protocol", PROTOCOLS, &[]);
        let source = prefix(errors, &table, "source");
        let destination = prefix(errors, &table, "destination");
        let destination_ports = ports(errors, &table);
        if let (Some(source), Some(destination)) = (source, destination)
            && source.address.is_ipv4() != destination.address.is_ipv4()
        {
            let at = table.get("source").map_or(0..0, |value| value.span());
            table.error(errors, &at, "source", "is of another address family than destination");
        }
        let named = [set(errors, &table, "source_set"), set(errors, &table, "destination_set")];
        if table.get("mark").is_none() {
            table.missing(errors, "mark");
        }
        let Some(mark) = table.integer(errors, "mark", 1..=u32::MAX) else { continue };
        let (source_set, destination_set) = (None, None);
        rules.push(MarkRule {
            mark,
            protocol,
            source,
            destination,
            destination_ports,
            source_set,
            destination_set,
        });
        sets.push(named);
    }
    (Marks(rules), sets)
}

fn set(errors: &mut Errors<'_>, table: &Table<'_>, key: &str) -> Option<String> {
    let Found { value, at } = table.string(errors, key)?;
    if value.is_empty() || value.len() > MAX_NAME || value.contains(char::is_whitespace) {
        let text = format!("\"{value}\" is no name of a set: 1 to {MAX_NAME} bytes without white space");
        table.error(errors, &at, key, text);
    }
    Some(value.to_owned())
}

/// An address alone is a prefix of its whole length.
fn prefix(errors: &mut Errors<'_>, table: &Table<'_>, key: &str) -> Option<Prefix> {
    let Found { value, at } = table.string(errors, key)?;
    let whole = || {
        let address: std::net::IpAddr = value.parse().ok()?;
        Some(PortAddress { address, len: if address.is_ipv4() { 32 } else { 128 } })
    };
    let found = PortAddress::parse(value).or_else(whole);
    if found.is_none() {
        let text = format!("\"{value}\" is no prefix, such as \"192.0.2.0/24\" or \"2001:db8::/64\"");
        table.error(errors, &at, key, text);
    }
    found.map(|PortAddress { address, len }| Prefix { address, len })
}

/// `"80"` or `"8000-8999"`.
fn ports(errors: &mut Errors<'_>, table: &Table<'_>) -> RangeInclusive<u16> {
    const ANY: RangeInclusive<u16> = 0..=u16::MAX;
    let Some(Found { value, at }) = table.string(errors, "destination_ports") else { return ANY };
    let (first, last) = value.split_once('-').unwrap_or((value, value));
    match (first.parse::<u16>(), last.parse::<u16>()) {
        (Ok(first), Ok(last)) if first <= last => first..=last,
        _ => {
            let text = format!("\"{value}\" is no port or range of ports, such as \"80\" or \"8000-8999\"");
            table.error(errors, &at, "destination_ports", text);
            ANY
        }
    }
}
