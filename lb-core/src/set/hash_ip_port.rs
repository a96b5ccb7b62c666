//! hash:ip,port: address and port, with the protocol.

use super::types::{Method, Part, Parts, SetType};

pub(super) const TYPE: SetType = SetType {
    name: "hash:ip,port",
    aliases: &["ipporthash"],
    revision: 6,
    method: Method::Hash,
    parts: Parts::of(&[Part::Address, Part::Port]),
    kernel_bytes: [8, 20],
    kernel_bytes_a_length: 0,
};
