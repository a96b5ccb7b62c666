//! hash:mac: hardware addresses.

use super::types::{Method, Part, Parts, SetType};

pub(super) const TYPE: SetType = SetType {
    name: "hash:mac",
    aliases: &["machash"],
    revision: 1,
    method: Method::Hash,
    parts: Parts::of(&[Part::Mac]),
    kernel_bytes: [8, 8],
    kernel_bytes_a_length: 0,
};
