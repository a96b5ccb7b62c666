//! hash:net,iface: network and the interface that a packet came in by or leaves by.

use super::types::{Method, Part, Parts, SetType};

pub(super) const TYPE: SetType = SetType {
    name: "hash:net,iface",
    aliases: &["netifacehash"],
    revision: 8,
    method: Method::Hash,
    parts: Parts::of(&[Part::Net, Part::Interface]),
    kernel_bytes: [28, 40],
    kernel_bytes_a_length: 8,
};
