//! hash:ip,port,net: address, port with its protocol, and a network.

use super::types::{Method, Part, Parts, SetType};

pub(super) const TYPE: SetType = SetType {
    name: "hash:ip,port,net",
    aliases: &["ipportnethash"],
    revision: 8,
    method: Method::Hash,
    parts: Parts::of(&[Part::Address, Part::Port, Part::SecondNet]),
    kernel_bytes: [12, 36],
    kernel_bytes_a_length: 8,
};
