//! hash:ip,port,ip: address, port with its protocol, and a second address.

use super::types::{Method, Part, Parts, SetType};

pub(super) const TYPE: SetType = SetType {
    name: "hash:ip,port,ip",
    aliases: &["ipportiphash"],
    revision: 6,
    method: Method::Hash,
    parts: Parts::of(&[Part::Address, Part::Port, Part::SecondAddress]),
    kernel_bytes: [12, 36],
    kernel_bytes_a_length: 0,
};
