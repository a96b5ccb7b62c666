//! hash:net,port,net: network, port with its protocol, and a second network.

use super::types::{Method, Part, Parts, SetType};

pub(super) const TYPE: SetType = SetType {
    name: "hash:net,port,net",
    aliases: &["netportnethash"],
    revision: 3,
    method: Method::Hash,
    parts: Parts::of(&[Part::Net, Part::Port, Part::SecondNet]),
    kernel_bytes: [16, 40],
    kernel_bytes_a_length: 12,
};
