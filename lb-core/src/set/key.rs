//! An element in the words of its set's type, and the same packed into a [`Key`].
//!
//! ```text
//! word 0, IPv4: state 2 │ length 6 │ protocol 8 │ port 16 │ address 32
//! word 0, IPv6: state 2 │          │ protocol 8 │ port 16 │ length 8, second length 8
//!         then the address (2 words)
//! then, as the type has: second address (IPv4: 1 word with its length; IPv6: 2) │ mark or MAC (1) │ interface (2)
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::store::{KEY_WORDS, Key};
use super::types::{Part, SetType};

/// The addresses of a set are of one family.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Family {
    Ipv4,
    Ipv6,
}

impl Family {
    pub const fn bits(self) -> u8 {
        match self {
            Family::Ipv4 => 32,
            Family::Ipv6 => 128,
        }
    }

    pub const fn of(address: IpAddr) -> Family {
        if address.is_ipv4() { Family::Ipv4 } else { Family::Ipv6 }
    }

    /// `inet`, `inet6`.
    pub const fn name(self) -> &'static str {
        match self {
            Family::Ipv4 => "inet",
            Family::Ipv6 => "inet6",
        }
    }

    /// The network part of an address that is given by its bits.
    #[inline]
    pub const fn network(self, address: u128, len: u8) -> u128 {
        let host = self.bits() - if len > self.bits() { self.bits() } else { len };
        if host == 128 { 0 } else { address >> host << host }
    }

    pub fn address(self, bits: u128) -> IpAddr {
        match self {
            Family::Ipv4 => Ipv4Addr::from(bits as u32).into(),
            Family::Ipv6 => Ipv6Addr::from(bits).into(),
        }
    }
}

/// An address as a number.
#[inline]
pub fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u32::from(address).into(),
        IpAddr::V6(address) => address.into(),
    }
}

/// The name of an interface, as hash:net,iface has it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Interface {
    /// Padded with 0; 15 bytes at most.
    pub name: [u8; 15],
    pub is_physdev: bool,
    /// Names that begin so.
    pub is_wildcard: bool,
}

impl Interface {
    /// `None`: longer than 15 bytes.
    #[inline]
    pub fn new(text: &str) -> Option<Interface> {
        let mut name = [0; 15];
        name.get_mut(..text.len())?.copy_from_slice(text.as_bytes());
        Some(Interface { name, ..Interface::default() })
    }

    pub fn len(&self) -> usize {
        self.name.iter().position(|&byte| byte == 0).unwrap_or(self.name.len())
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.name[..self.len()]).unwrap_or_default()
    }

    /// The names that begin with its first `len` bytes.
    #[inline]
    pub fn beginning(mut self, len: usize) -> Interface {
        self.name[len.min(15)..].fill(0);
        Interface { is_wildcard: true, ..self }
    }

    fn words(self) -> [u64; 2] {
        let mut bytes = [0; 16];
        bytes[..15].copy_from_slice(&self.name);
        bytes[15] = u8::from(self.is_physdev) | u8::from(self.is_wildcard) << 1;
        let word = u128::from_be_bytes(bytes);
        [(word >> 64) as u64, word as u64]
    }

    fn of_words([a, b]: [u64; 2]) -> Interface {
        let bytes = (u128::from(a) << 64 | u128::from(b)).to_be_bytes();
        let mut name = [0; 15];
        name.copy_from_slice(&bytes[..15]);
        Interface { name, is_physdev: bytes[15] & 1 != 0, is_wildcard: bytes[15] & 2 != 0 }
    }
}

/// What a set of some type may hold; of what the type does not have, nothing counts.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Element {
    /// Address or network: its number in the low bits.
    pub address: u128,
    pub len: u8,
    /// 0 where the type's ports have no protocol.
    pub protocol: u8,
    /// Or an ICMP type and code: `type << 8 | code`.
    pub port: u16,
    pub second: u128,
    pub second_len: u8,
    pub mark: u32,
    /// All 0: none.
    pub mac: [u8; 6],
    pub interface: Interface,
    /// Of list:set.
    pub set: u32,
}

fn mac_word(mac: [u8; 6]) -> u64 {
    mac.into_iter().fold(0, |word, byte| word << 8 | u64::from(byte))
}

fn mac_of(word: u64) -> [u8; 6] {
    std::array::from_fn(|i| (word >> (40 - 8 * i)) as u8)
}

impl Element {
    /// The MAC as a store's value.
    pub fn mac_value(&self) -> u64 {
        mac_word(self.mac)
    }

    /// The lengths by which a store of the type is searched; 255 where it is not.
    pub fn lens(&self, kind: &SetType) -> [u8; 2] {
        let wildcard = || if self.interface.is_wildcard { self.interface.len() as u8 } else { 255 };
        [
            if kind.has(Part::Net) { self.len } else { 255 },
            if kind.has(Part::SecondNet) {
                self.second_len
            } else if kind.has(Part::Interface) {
                wildcard()
            } else {
                255
            },
        ]
    }

    /// Packs what the type compares.
    #[inline]
    pub fn key(&self, kind: &SetType, family: Family) -> Key {
        let mut key = [0; KEY_WORDS];
        let mut words = 1;
        let mut push = |word| {
            key[words] = word;
            words += 1;
        };
        let ports = u64::from(self.protocol) << 48 | u64::from(self.port) << 32;
        let first = match family {
            _ if kind.has(Part::Set) => self.set.into(),
            Family::Ipv4 if kind.has(Part::OnlyPort) => u64::from(self.port),
            Family::Ipv4 => u64::from(self.len) << 56 | ports | u64::from(self.address as u32),
            Family::Ipv6 => {
                push((self.address >> 64) as u64);
                push(self.address as u64);
                ports | u64::from(self.len) << 8 | u64::from(self.second_len)
            }
        };
        if kind.has(Part::SecondAddress) || kind.has(Part::SecondNet) {
            match family {
                Family::Ipv4 => push(u64::from(self.second_len) << 32 | u64::from(self.second as u32)),
                Family::Ipv6 => {
                    push((self.second >> 64) as u64);
                    push(self.second as u64);
                }
            }
        }
        if kind.has(Part::Mark) {
            push(self.mark.into());
        }
        if kind.has(Part::Mac) {
            push(mac_word(self.mac));
        }
        if kind.has(Part::Interface) {
            let [a, b] = self.interface.words();
            push(a);
            push(b);
        }
        key[0] = first;
        key
    }

    /// Words of such a key.
    pub const fn key_words(kind: &SetType, family: Family) -> u8 {
        let address = match family {
            Family::Ipv4 => 0,
            Family::Ipv6 => 2,
        };
        let second = if kind.has(Part::SecondAddress) || kind.has(Part::SecondNet) {
            match family {
                Family::Ipv4 => 1,
                Family::Ipv6 => 2,
            }
        } else {
            0
        };
        let rest =
            kind.has(Part::Mark) as u8 + kind.has(Part::Mac) as u8 + 2 * kind.has(Part::Interface) as u8;
        1 + address + second + rest
    }

    /// What [`Element::key`] packed; `value` is the store's.
    pub fn of_key(key: &Key, value: u64, kind: &SetType, family: Family) -> Element {
        let mut element = Element::default();
        let mut words = key[1..].iter().copied();
        let mut next = || words.next().unwrap_or(0);
        let first = key[0];
        if kind.has(Part::Set) {
            element.set = first as u32;
            return element;
        }
        if kind.has(Part::OnlyPort) {
            element.port = first as u16;
            return element;
        }
        (element.protocol, element.port) = ((first >> 48) as u8, (first >> 32) as u16);
        match family {
            Family::Ipv4 => (element.address, element.len) = ((first as u32).into(), (first >> 56) as u8),
            Family::Ipv6 => {
                element.address = u128::from(next()) << 64 | u128::from(next());
                (element.len, element.second_len) = ((first >> 8) as u8, first as u8);
            }
        }
        if kind.has(Part::SecondAddress) || kind.has(Part::SecondNet) {
            match family {
                Family::Ipv4 => {
                    let word = next();
                    (element.second, element.second_len) = ((word as u32).into(), (word >> 32) as u8);
                }
                Family::Ipv6 => element.second = u128::from(next()) << 64 | u128::from(next()),
            }
        }
        if kind.has(Part::Mark) {
            element.mark = next() as u32;
        }
        if kind.has(Part::Mac) {
            element.mac = mac_of(next());
        }
        if kind.has(Part::MacValue) {
            element.mac = mac_of(value);
        }
        if kind.has(Part::Interface) {
            element.interface = Interface::of_words([next(), next()]);
        }
        element
    }
}
