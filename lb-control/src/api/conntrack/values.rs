//! Values that are written as text: networks, marks, translations, statuses.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use lb_core::conntrack::Labels;
use lb_core::path::SoughtNat;
use serde::{Deserialize, Serialize};

use super::StatusBit;

/// Why a value of a filter is none.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{value}: {allowed}")]
pub struct BadValue {
    value: String,
    allowed: &'static str,
}

/// Written and read as text.
macro_rules! as_text {
    ($($name:ident),*) => {$(
        impl TryFrom<String> for $name {
            type Error = BadValue;
            fn try_from(text: String) -> Result<$name, BadValue> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> String {
                value.to_string()
            }
        }
    )*};
}

as_text!(Net, Masked, NatTo, Statuses, LabelBits);

/// A family of addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    Ipv4,
    Ipv6,
}

/// An address, and which of its bits count.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Net {
    pub address: IpAddr,
    pub mask: IpAddr,
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u32::from(address).into(),
        IpAddr::V6(address) => address.into(),
    }
}

/// The mask of a network's first `len` bits; `None`: addresses have not so many.
pub fn mask(of: IpAddr, len: u32) -> Option<IpAddr> {
    match of {
        IpAddr::V4(_) if len <= 32 => {
            Some(Ipv4Addr::from(u32::MAX.checked_shl(32 - len).unwrap_or(0)).into())
        }
        IpAddr::V6(_) if len <= 128 => {
            Some(Ipv6Addr::from(u128::MAX.checked_shl(128 - len).unwrap_or(0)).into())
        }
        _ => None,
    }
}

impl Net {
    pub fn contains(&self, address: IpAddr) -> bool {
        self.address.is_ipv4() == address.is_ipv4()
            && bits(self.mask) & bits(self.address) == bits(self.mask) & bits(address)
    }
}

impl FromStr for Net {
    type Err = BadValue;

    fn from_str(text: &str) -> Result<Net, BadValue> {
        let bad = || BadValue {
            value: text.to_owned(),
            allowed: "not an address, ADDRESS/LENGTH or ADDRESS/MASK of one family",
        };
        let (address, rest) =
            text.split_once('/').map_or((text, None), |(address, rest)| (address, Some(rest)));
        let address: IpAddr = address.parse().map_err(|_| bad())?;
        let mask = match rest {
            None => mask(address, if address.is_ipv4() { 32 } else { 128 }),
            Some(rest) => match rest.parse() {
                Ok(len) => mask(address, len),
                Err(_) => rest.parse().ok().filter(|mask: &IpAddr| mask.is_ipv4() == address.is_ipv4()),
            },
        };
        Ok(Net { address, mask: mask.ok_or_else(bad)? })
    }
}

impl fmt::Display for Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.mask)
    }
}

/// A mark, and which of its bits count.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Masked {
    pub value: u32,
    pub mask: u32,
}

impl FromStr for Masked {
    type Err = BadValue;

    fn from_str(text: &str) -> Result<Masked, BadValue> {
        let number = |text: &str| match text.strip_prefix("0x") {
            Some(digits) => u32::from_str_radix(digits, 16).ok(),
            None => text.parse().ok(),
        };
        let (value, mask) = text.split_once('/').unwrap_or((text, "0xffffffff"));
        number(value).zip(number(mask)).map(|(value, mask)| Masked { value, mask }).ok_or_else(|| BadValue {
            value: text.to_owned(),
            allowed: "not a mark, or a mark and a mask: 7, 0x7/0xff",
        })
    }
}

impl fmt::Display for Masked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}/{:#x}", self.value, self.mask)
    }
}

/// What an address is translated to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum NatTo {
    Any,
    Address(IpAddr),
}

impl NatTo {
    pub(super) fn is(self, address: IpAddr) -> bool {
        match self {
            NatTo::Any => true,
            NatTo::Address(wanted) => wanted == address,
        }
    }
}

impl NatTo {
    pub(super) fn sought(self) -> SoughtNat {
        match self {
            NatTo::Any => SoughtNat::Any,
            NatTo::Address(address) => SoughtNat::To(address),
        }
    }
}

impl FromStr for NatTo {
    type Err = BadValue;

    fn from_str(text: &str) -> Result<NatTo, BadValue> {
        if text == "any" {
            return Ok(NatTo::Any);
        }
        text.parse()
            .map(NatTo::Address)
            .map_err(|_| BadValue { value: text.to_owned(), allowed: "neither \"any\" nor an address" })
    }
}

impl fmt::Display for NatTo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NatTo::Any => f.write_str("any"),
            NatTo::Address(address) => address.fmt(f),
        }
    }
}

/// Several labels of a connection, by number.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct LabelBits(pub Labels);

impl FromStr for LabelBits {
    type Err = BadValue;

    fn from_str(text: &str) -> Result<LabelBits, BadValue> {
        let bit = |text: &str| text.parse().ok().filter(|&bit: &u8| bit < Labels::BITS);
        let bits: Option<Vec<u8>> = text.split(',').map(bit).collect();
        let bad = || BadValue { value: text.to_owned(), allowed: "not labels, which are 0 to 127: 5,127" };
        bits.map(|bits| LabelBits(Labels::of(bits))).ok_or_else(bad)
    }
}

impl fmt::Display for LabelBits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bits: Vec<String> = self.0.bits().map(|bit| bit.to_string()).collect();
        f.write_str(&bits.join(","))
    }
}

/// Several of what is known of a connection.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Statuses(pub Vec<StatusBit>);

impl FromStr for Statuses {
    type Err = BadValue;

    fn from_str(text: &str) -> Result<Statuses, BadValue> {
        let bit = |name: &str| {
            StatusBit::named(name).ok_or_else(|| BadValue {
                value: name.to_owned(),
                allowed: "not one of SEEN_REPLY, UNREPLIED, ASSURED, SRC_NAT, DST_NAT, EXPECTED, FIXED_TIMEOUT",
            })
        };
        let mut bits = Vec::new();
        for name in text.split(',') {
            let bit = bit(name)?;
            // Each once: a list is looked through for each connection.
            if !bits.contains(&bit) {
                bits.push(bit);
            }
        }
        Ok(Statuses(bits))
    }
}

impl fmt::Display for Statuses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> = self.0.iter().map(StatusBit::to_string).collect();
        f.write_str(&names.join(","))
    }
}
