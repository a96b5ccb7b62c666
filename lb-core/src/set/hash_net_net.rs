//! hash:net,net: two networks.

use super::types::{Method, Part, Parts, SetType};

pub(super) const TYPE: SetType = SetType {
    name: "hash:net,net",
    aliases: &["netnethash"],
    revision: 3,
    method: Method::Hash,
    parts: Parts::of(&[Part::Net, Part::SecondNet]),
    kernel_bytes: [16, 36],
    kernel_bytes_a_length: 12,
};
