//! list:set: other sets, in their order: what is in one of them is in this one.

use super::types::{Method, Part, Parts, SetType};

pub(super) const TYPE: SetType = SetType {
    name: "list:set",
    aliases: &["setlist"],
    revision: 3,
    method: Method::List,
    parts: Parts::of(&[Part::Set]),
    kernel_bytes: [48, 48],
    kernel_bytes_a_length: 0,
};
