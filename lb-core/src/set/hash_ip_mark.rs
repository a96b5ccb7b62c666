//! hash:ip,mark: address and packet mark.

use super::types::{Method, Part, Parts, SetType};

pub(super) const TYPE: SetType = SetType {
    name: "hash:ip,mark",
    aliases: &["ipmarkhash"],
    revision: 3,
    method: Method::Hash,
    parts: Parts::of(&[Part::Address, Part::Mark]),
    kernel_bytes: [8, 20],
    kernel_bytes_a_length: 0,
};
