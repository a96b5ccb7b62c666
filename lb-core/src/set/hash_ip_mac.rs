//! hash:ip,mac: address and hardware address.

use super::types::{Method, Part, Parts, SetType};

pub(super) const TYPE: SetType = SetType {
    name: "hash:ip,mac",
    aliases: &["ipmachash"],
    revision: 1,
    method: Method::Hash,
    parts: Parts::of(&[Part::Address, Part::Mac]),
    kernel_bytes: [12, 24],
    kernel_bytes_a_length: 0,
};
