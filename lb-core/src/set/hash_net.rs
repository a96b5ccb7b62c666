//! hash:net: networks of different sizes: the longest that an address is in decides, and says no when it is marked nomatch.

use super::types::{Method, Part, Parts, SetType};

pub(super) const TYPE: SetType = SetType {
    name: "hash:net",
    aliases: &["nethash"],
    revision: 7,
    method: Method::Hash,
    parts: Parts::of(&[Part::Net]),
    kernel_bytes: [8, 20],
    kernel_bytes_a_length: 8,
};
