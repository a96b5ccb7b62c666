//! bitmap:ip: addresses of a range, or networks of one size in it; IPv4.

use super::types::{Method, Part, Parts, SetType};

pub(super) const TYPE: SetType = SetType {
    name: "bitmap:ip",
    aliases: &["ipmap"],
    revision: 3,
    method: Method::Bitmap,
    parts: Parts::of(&[Part::Address]),
    kernel_bytes: [0, 0],
    kernel_bytes_a_length: 0,
};
