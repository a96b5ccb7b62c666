//! What every rule may look at: addresses, interfaces, protocol, fragments.

use std::fmt::Write;
use std::net::{IpAddr, Ipv6Addr};

use super::Family;
use super::list::Style;
use super::names;
use super::options::{Around, address, bits, ip};
use super::text::{Error, number};
use super::view::View;

/// Addresses that agree with one in the bits of a mask. IPv4 is the low 32 bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Net {
    pub address: u128,
    pub mask: u128,
    pub is_not: bool,
}

impl Net {
    #[inline]
    fn matches(&self, address: u128) -> bool {
        ((address ^ self.address) & self.mask == 0) != self.is_not
    }

    /// Any address.
    pub fn is_any(&self) -> bool {
        self.mask == 0 && !self.is_not
    }
}

/// The name of an interface, or with a `+` at its end the beginning of one.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Interface {
    pub name: String,
    pub is_not: bool,
}

impl Interface {
    #[inline]
    fn matches(&self, name: &str) -> bool {
        if self.name.is_empty() {
            return !self.is_not;
        }
        let is_same = match self.name.as_bytes().split_last() {
            Some((b'+', start)) => name.as_bytes().starts_with(start),
            _ => name == self.name,
        };
        is_same != self.is_not
    }
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Header {
    pub source: Net,
    pub destination: Net,
    pub input: Interface,
    pub output: Interface,
    /// 0: any.
    pub protocol: u8,
    pub is_not_protocol: bool,
    /// `-f`: fragments but the first; `Some(false)` with `!`.
    pub fragment: Option<bool>,
}

impl Header {
    #[inline]
    pub(crate) fn matches(&self, view: &View<'_>) -> bool {
        self.source.matches(view.source())
            && self.destination.matches(view.destination())
            && (self.input.name.is_empty() || self.input.matches(view.input_name()))
            && (self.output.name.is_empty() || self.output.matches(view.output_name()))
            && (self.protocol == 0 || (self.protocol == view.protocol()) != self.is_not_protocol)
            && self.fragment.is_none_or(|later| later == view.is_later_fragment())
    }

    /// Appends it as `-S` prints it.
    pub(crate) fn save(&self, out: &mut String, family: Family, names: &dyn names::Names) {
        save_net(out, "-s", &self.source, family);
        save_net(out, "-d", &self.destination, family);
        save_interface(out, "-i", &self.input);
        save_interface(out, "-o", &self.output);
        if self.protocol != 0 {
            let not = if self.is_not_protocol { " !" } else { "" };
            match names::protocol_name(self.protocol, names) {
                Some(name) => write!(out, "{not} -p {name}"),
                None => write!(out, "{not} -p {}", self.protocol),
            }
            .expect("memory");
        }
        if let Some(later) = self.fragment {
            out.push_str(if later { " -f" } else { " ! -f" });
        }
    }
}

fn save_net(out: &mut String, option: &str, net: &Net, family: Family) {
    if net.is_any() {
        return;
    }
    let not = if net.is_not { " !" } else { "" };
    write!(out, "{not} {option} {}/", ip(net.address, family)).expect("memory");
    match prefix_len(net.mask, family) {
        Some(len) => write!(out, "{len}"),
        None => write!(out, "{}", ip(net.mask, family)),
    }
    .expect("memory");
}

fn save_interface(out: &mut String, option: &str, interface: &Interface) {
    if interface.name.is_empty() {
        return;
    }
    out.push_str(if interface.is_not { " ! " } else { " " });
    out.push_str(option);
    out.push(' ');
    out.push_str(&interface.name);
}

fn all(family: Family) -> u128 {
    match family {
        Family::Ipv4 => u32::MAX.into(),
        Family::Ipv6 => u128::MAX,
    }
}

/// Leading ones of a mask that has no others.
pub(crate) fn prefix_len(mask: u128, family: Family) -> Option<u32> {
    let width = family.bits();
    let ones = mask.count_ones();
    (mask == prefix_mask(ones, family)).then_some(ones.min(width))
}

pub(crate) fn prefix_mask(len: u32, family: Family) -> u128 {
    let rest = family.bits() - len.min(family.bits());
    all(family).checked_shr(rest).unwrap_or(0).checked_shl(rest).unwrap_or(0) & all(family)
}

/// A mask by its length or as an address.
pub(crate) fn mask(text: &str, family: Family) -> Result<u128, Error> {
    let bad = || Error::parameter(format!("invalid mask `{text}' specified"));
    if let Some(mask) = address(text, family) {
        return Ok(mask);
    }
    if family == Family::Ipv4 && text.matches('.').count() == 3 {
        return short_ipv4(text).map(u128::from).ok_or_else(bad);
    }
    let len = number(text).filter(|len| *len <= family.bits().into()).ok_or_else(bad)?;
    Ok(prefix_mask(len as u32, family))
}

/// All that `-s` and `-d` may say: `address[/mask][,…]`, hosts by name. What is beyond the mask is cut off.
pub(crate) fn nets(text: &str, is_not: bool, around: &Around<'_>) -> Result<Vec<Net>, Error> {
    let mut nets = Vec::new();
    for part in text.split(',') {
        let (host, given_mask) = match part.split_once('/') {
            Some((host, text)) => (host, mask(text, around.family)?),
            None => (part, all(around.family)),
        };
        for address in hosts(host, around)? {
            let net = Net { address: address & given_mask, mask: given_mask, is_not };
            if !nets.contains(&net) {
                nets.push(net);
            }
        }
    }
    if is_not && nets.len() > 1 {
        return Err(Error::parameter("! not allowed with multiple source or destination IP addresses"));
    }
    Ok(nets)
}

/// The addresses of a host. IPv4 may be short: `10.1` is 10.1.0.0.
fn hosts(text: &str, around: &Around<'_>) -> Result<Vec<u128>, Error> {
    if let Some(found) = address(text, around.family) {
        return Ok(vec![found]);
    }
    if around.family == Family::Ipv4
        && let Some(found) = short_ipv4(text)
    {
        return Ok(vec![found.into()]);
    }
    let found = around.names.resolve(text, around.family);
    if found.is_empty() {
        return Err(Error::parameter(format!("host/network `{text}' not found")));
    }
    let mut all: Vec<u128> = found.into_iter().map(bits).collect();
    all.dedup();
    Ok(all)
}

/// One to four numbers as C reads them; of fewer the rest is 0.
pub(crate) fn short_ipv4(text: &str) -> Option<u32> {
    let part = |part: &str| number(part).and_then(|part| u8::try_from(part).ok());
    let parts: Vec<u8> = text.split('.').map(part).collect::<Option<_>>()?;
    if parts.len() > 4 {
        return None;
    }
    let mut bytes = [0; 4];
    bytes[..parts.len()].copy_from_slice(&parts);
    Some(u32::from_be_bytes(bytes))
}

/// The address column of a listing: 19 wide, its mask, `anywhere`.
pub(crate) fn list_net(net: &Net, style: &Style<'_>) -> String {
    let not = if net.is_not { "!" } else { "" };
    if net.mask == 0 && !style.is_numeric {
        return format!("{not}anywhere");
    }
    let address = ip(net.address, style.family);
    // As ip6tables has it, whatever the mask.
    if address == Ipv6Addr::UNSPECIFIED && !style.is_numeric {
        return format!("{not}anywhere");
    }
    let mut text = format!("{not}{}", host(address, style));
    if net.mask != all(style.family) {
        match prefix_len(net.mask, style.family) {
            Some(len) => write!(text, "/{len}"),
            None => write!(text, "/{}", ip(net.mask, style.family)),
        }
        .expect("memory");
    }
    text
}

/// A host by name, where names are wanted and there is one.
fn host(address: IpAddr, style: &Style<'_>) -> String {
    let name = if style.is_numeric {
        None
    } else {
        style.names.host_name(address).or_else(|| style.names.network_name(address))
    };
    name.unwrap_or_else(|| address.to_string())
}

#[cfg(test)]
mod tests {
    use super::super::names::Numeric;
    use super::*;

    #[test]
    fn masks_of_both_families() {
        for family in [Family::Ipv4, Family::Ipv6] {
            for len in 0..=family.bits() {
                let mask = prefix_mask(len, family);
                assert_eq!((mask.count_ones(), prefix_len(mask, family)), (len, Some(len)));
            }
        }
        assert_eq!(prefix_len(0xff00_ff00, Family::Ipv4), None);
        assert_eq!(mask("255.0.255.0", Family::Ipv4).unwrap(), 0xff00_ff00);
        assert_eq!(mask("33", Family::Ipv4).unwrap_err().text, "invalid mask `33' specified");
    }

    #[test]
    fn short_addresses_are_filled_with_zeros() {
        let around = Around::new(Family::Ipv4, &Numeric);
        let net = |text: &str| nets(text, false, &around).unwrap()[0].address as u32;
        assert_eq!(net("10"), 0x0a00_0000);
        assert_eq!(net("10.1"), 0x0a01_0000);
        assert_eq!(net("10.1.2.3/8"), 0x0a00_0000);
        assert!(nets("10.0.0.1,10.0.0.2", true, &around).is_err());
    }

    #[test]
    fn a_plus_stands_for_any_end_of_a_name() {
        let interface = |name: &str| Interface { name: name.to_owned(), is_not: false };
        assert!(interface("eth+").matches("eth0") && interface("eth+").matches("eth"));
        assert!(!interface("eth+").matches("lan0") && !interface("eth").matches("eth0"));
        assert!(interface("+").matches("") && !Interface { is_not: true, ..interface("lo") }.matches("lo"));
    }
}
