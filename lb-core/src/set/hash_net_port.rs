//! hash:net,port: network and port, with the protocol.

use super::types::{Method, Part, Parts, SetType};

pub(super) const TYPE: SetType = SetType {
    name: "hash:net,port",
    aliases: &["netporthash"],
    revision: 8,
    method: Method::Hash,
    parts: Parts::of(&[Part::Net, Part::Port]),
    kernel_bytes: [8, 20],
    kernel_bytes_a_length: 8,
};
