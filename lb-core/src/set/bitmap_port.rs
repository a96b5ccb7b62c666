//! bitmap:port: ports of a range.

use super::types::{Method, Part, Parts, SetType};

pub(super) const TYPE: SetType = SetType {
    name: "bitmap:port",
    aliases: &["portmap"],
    revision: 3,
    method: Method::Bitmap,
    parts: Parts::of(&[Part::OnlyPort]),
    kernel_bytes: [0, 0],
    kernel_bytes_a_length: 0,
};
