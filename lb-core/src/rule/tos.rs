//! Names of types of service (RFC 1349) and of classes of differentiated services.

use super::options::Given;
use super::text::{Error, leading_number, number};

const NAMES: [(&str, u8); 5] = [
    ("Minimize-Delay", 0x10),
    ("Maximize-Throughput", 0x08),
    ("Maximize-Reliability", 0x04),
    ("Minimize-Cost", 0x02),
    ("Normal-Service", 0x00),
];

pub(super) fn name(value: u8) -> Option<&'static str> {
    NAMES.iter().find(|(_, known)| *known == value).map(|(name, _)| *name)
}

/// `value[/mask]` or a name, whose mask is `mask`.
pub(super) fn read(given: &Given<'_, '_>, mask: u8) -> Result<(u8, u8), Error> {
    let text = given.value;
    if let Some((value, rest)) = leading_number(text) {
        let byte = |value: u64| u8::try_from(value).map_err(|_| unknown(text));
        let mask = match rest.strip_prefix('/') {
            None if rest.is_empty() => 0xff,
            Some(mask) => {
                let mask = number(mask).and_then(|mask| u8::try_from(mask).ok());
                mask.ok_or_else(|| Error::parameter(format!("Illegal value: \"{text}\"")))?
            }
            None => return Err(Error::parameter(format!("Illegal value: \"{text}\""))),
        };
        return Ok((byte(value)?, mask));
    }
    match NAMES.iter().find(|(name, _)| name.eq_ignore_ascii_case(text)) {
        Some((_, value)) => Ok((*value, mask)),
        None => Err(unknown(text)),
    }
}

/// The value of a class: `CS0`…`CS7`, `BE`, `AF11`…`AF43`, `EF`.
pub(super) fn class(text: &str) -> Result<u8, Error> {
    let upper = text.to_ascii_uppercase();
    let digits = |text: &str| text.bytes().map(|digit| digit.wrapping_sub(b'0')).collect::<Vec<u8>>();
    let found = match upper.as_str() {
        "BE" => Some(0),
        "EF" => Some(0x2e),
        _ => match (upper.get(..2), digits(upper.get(2..).unwrap_or("")).as_slice()) {
            (Some("CS"), [class @ 0..=7]) => Some(class << 3),
            (Some("AF"), [class @ 1..=4, drop @ 1..=3]) => Some(class << 3 | drop << 1),
            _ => None,
        },
    };
    found.ok_or_else(|| Error::parameter(format!("Invalid DSCP value `{text}'")))
}

fn unknown(text: &str) -> Error {
    Error::parameter(format!("Symbolic name \"{text}\" is unknown"))
}
