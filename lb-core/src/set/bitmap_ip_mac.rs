//! bitmap:ip,mac: addresses of a range, each with a hardware address or without one; IPv4.

use super::types::{Method, Part, Parts, SetType};

pub(super) const TYPE: SetType = SetType {
    name: "bitmap:ip,mac",
    aliases: &["macipmap"],
    revision: 3,
    method: Method::Bitmap,
    parts: Parts::of(&[Part::Address, Part::MacValue]),
    kernel_bytes: [8, 8],
    kernel_bytes_a_length: 0,
};
