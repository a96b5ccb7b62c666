//! `eui64`: an IPv6 source whose interface identifier is made of the frame's source address (RFC 4291, appendix A).

use super::Match;
use crate::rule::prelude::*;
use crate::wire::array;

#[derive(Clone, PartialEq, Debug, Default)]
pub struct Eui64;

impl Extension for Eui64 {
    const NAME: &'static str = "eui64";
    const OPTIONS: &'static [Opt] = &[];
    const FAMILY: Option<Family> = Some(Family::Ipv6);
    /// PREROUTING, INPUT and FORWARD: of what came in.
    const HOOKS: u8 = 1 | 2 | 4;

    fn take(&mut self, _: &mut Given<'_, '_>) -> Result<(), Error> {
        Ok(())
    }

    fn save(&self, _: &mut String, _: Family) {}

    fn list(&self, out: &mut String, _: &Style<'_>, _: &Header) {
        out.push_str("eui64 ");
    }
}

impl Match for Eui64 {
    fn depends(&self) -> Depends {
        Depends::Packet
    }

    fn matches(&self, view: &mut View<'_>) -> bool {
        let Some(&[a, b, c, d, e, f]) = array(view.frame, 6) else { return false };
        let made = u64::from_be_bytes([a ^ 2, b, c, 0xff, 0xfe, d, e, f]);
        view.headers.is_ipv6 && view.source() as u64 == made
    }
}
