//! hash:ip: addresses.

use super::types::{Method, Part, Parts, SetType};

pub(super) const TYPE: SetType = SetType {
    name: "hash:ip",
    aliases: &["iphash"],
    revision: 5,
    method: Method::Hash,
    parts: Parts::of(&[Part::Address]),
    kernel_bytes: [4, 16],
    kernel_bytes_a_length: 0,
};
