//! What a type of set is, and the table of them.

use std::ops::Deref;

use super::*;

/// How elements are kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Method {
    Hash,
    Bitmap,
    List,
}

/// What an element is made of, in the order in which it is written and in which `src`, `dst` name a packet's parts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    Address,
    Net,
    Port,
    /// A port without a protocol.
    OnlyPort,
    SecondAddress,
    SecondNet,
    Mac,
    /// Kept beside the address, and not there for each.
    MacValue,
    Mark,
    Interface,
    Set,
}

/// The parts of a type; a packet that is looked up asks for many of them.
#[derive(Clone, Copy, Debug)]
pub struct Parts {
    list: &'static [Part],
    /// Bit by bit, as [`Part`] counts them.
    bits: u16,
}

impl Parts {
    pub(super) const fn of(list: &'static [Part]) -> Parts {
        let (mut bits, mut i) = (0, 0);
        while i < list.len() {
            bits |= 1 << list[i] as u8;
            i += 1;
        }
        Parts { list, bits }
    }
}

impl Deref for Parts {
    type Target = [Part];

    #[inline]
    fn deref(&self) -> &[Part] {
        self.list
    }
}

/// A row of [`TYPES`].
#[derive(Clone, Copy, Debug)]
pub struct SetType {
    pub name: &'static str,
    /// Older names that `ipset create` takes.
    pub aliases: &'static [&'static str],
    /// As Linux 6.1 has it.
    pub revision: u8,
    pub method: Method,
    pub parts: Parts,
    /// Of an element in the kernel, IPv4 and IPv6, for the listing.
    pub kernel_bytes: [usize; 2],
    /// In the kernel, for each prefix length that there can be.
    pub kernel_bytes_a_length: usize,
}

/// Types are rows of one table: their name says which.
impl PartialEq for SetType {
    fn eq(&self, other: &SetType) -> bool {
        self.name == other.name
    }
}

impl Eq for SetType {}

impl SetType {
    #[inline]
    pub const fn has(&self, part: Part) -> bool {
        self.parts.bits >> part as u8 & 1 == 1
    }

    pub const fn is_hash(&self) -> bool {
        matches!(self.method, Method::Hash)
    }

    pub const fn is_bitmap(&self) -> bool {
        matches!(self.method, Method::Bitmap)
    }

    pub const fn is_list(&self) -> bool {
        matches!(self.method, Method::List)
    }

    /// It has networks: so elements may be marked nomatch.
    pub const fn has_nets(&self) -> bool {
        self.has(Part::Net) || self.has(Part::SecondNet)
    }

    /// It compares an address and nothing else.
    #[inline]
    pub(super) const fn is_address(&self) -> bool {
        self.parts.bits == 1 << Part::Address as u8
    }

    /// It has addresses, of one family.
    pub const fn has_family(&self) -> bool {
        self.is_hash() && !matches!(self.parts.list[0], Part::Mac)
    }

    /// Only packets of its family may be asked for: it has addresses.
    pub const fn is_of_one_family(&self) -> bool {
        self.has(Part::Address) || self.has(Part::Net)
    }

    /// By its name or an older one.
    pub fn named(name: &str) -> Option<&'static SetType> {
        TYPES.iter().find(|kind| kind.name == name || kind.aliases.contains(&name))
    }
}

pub static TYPES: &[SetType] = &[
    hash_ip::TYPE,
    hash_net::TYPE,
    hash_ip_port::TYPE,
    hash_net_port::TYPE,
    hash_ip_port_ip::TYPE,
    hash_ip_port_net::TYPE,
    hash_net_net::TYPE,
    hash_net_port_net::TYPE,
    hash_net_iface::TYPE,
    hash_mac::TYPE,
    hash_ip_mac::TYPE,
    hash_ip_mark::TYPE,
    bitmap_ip::TYPE,
    bitmap_ip_mac::TYPE,
    bitmap_port::TYPE,
    list_set::TYPE,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_has_its_row() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/set");
        for file in std::fs::read_dir(folder).unwrap() {
            let name = file.unwrap().file_name().into_string().unwrap();
            let name = name.trim_end_matches(".rs");
            let has_row = TYPES.iter().any(|row| row.name.replace([':', ','], "_") == name);
            assert!(
                has_row || ["mod", "key", "packet", "store", "types", "tests"].contains(&name),
                "{name}.rs has no row in TYPES"
            );
        }
    }

    #[test]
    fn a_type_is_found_by_each_of_its_names() {
        for kind in TYPES {
            assert_eq!(SetType::named(kind.name), Some(kind));
            assert!(kind.aliases.iter().all(|alias| SetType::named(alias) == Some(kind)));
        }
        assert_eq!(SetType::named("hash:nosuch"), None);
    }
}
