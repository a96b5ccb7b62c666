//! `ah`: the authentication header (RFC 4302 §2): its security parameters index, of IPv6 also its length and reserved field.

use super::Match;
use crate::rule::chain6::{AUTHENTICATION, Chain6};
use crate::rule::prelude::*;
use crate::rule::span::Span;
use crate::wire::array;

#[derive(Clone, PartialEq, Debug, Default)]
pub struct Ah {
    spi: Span,
    /// In bytes, and whether it is not to be that.
    len: Option<(u32, bool)>,
    has_no_reserved: bool,
    is_ipv6: bool,
}

impl Extension for Ah {
    const NAME: &'static str = "ah";
    const OPTIONS: &'static [Opt] =
        &[opt("ahspi", 0).negatable(), opt("ahlen", 1).negatable(), flag("ahres", 2)];

    fn take(&mut self, given: &mut Given<'_, '_>) -> Result<(), Error> {
        match given.id() {
            0 => self.spi = Span::take(given)?,
            _ if given.around.family == Family::Ipv4 => {
                return Err(Error::parameter(format!("unknown option \"--{}\"", given.option.name)));
            }
            1 => self.len = Some((given.u32()?, given.is_negated)),
            _ => self.has_no_reserved = true,
        }
        Ok(())
    }

    fn finish(&mut self, _: u32, around: &Around<'_>) -> Result<(), Error> {
        self.is_ipv6 = around.family == Family::Ipv6;
        Ok(())
    }

    fn check(&self, place: &Place<'_>) -> Result<(), Refused> {
        // In IPv6 it is one header of several, and no protocol.
        let is_protocol = place.header.protocol == AUTHENTICATION && !place.header.is_not_protocol;
        if is_protocol || self.is_ipv6 { Ok(()) } else { Err(Refused::Invalid) }
    }

    fn save(&self, out: &mut String, _: Family) {
        self.spi.save(out, "ahspi");
        if let Some((len, is_not)) = self.len {
            put!(out, "{} --ahlen {len}", not(is_not));
        }
        out.push_str(if self.has_no_reserved { " --ahres" } else { "" });
    }

    fn list(&self, out: &mut String, _: &Style<'_>, _: &Header) {
        out.push_str(" ah ");
        self.spi.list(out, "spi");
        if let Some((len, is_not)) = self.len {
            put!(out, "length:{}{len}", if is_not { "!" } else { "" });
        }
        out.push_str(if self.has_no_reserved { " reserved" } else { "" });
    }
}

impl Match for Ah {
    fn depends(&self) -> Depends {
        Depends::Packet
    }

    fn matches(&self, view: &mut View<'_>) -> bool {
        let header = if self.is_ipv6 { Chain6::find(view, AUTHENTICATION) } else { Some(view.transport()) };
        let Some(&[_, len, reserved, also_reserved, a, b, c, d]) = header.and_then(|header| array(header, 0))
        else {
            return false;
        };
        let len = (u32::from(len) + 2) * 4;
        self.spi.holds(u32::from_be_bytes([a, b, c, d]))
            && self.len.is_none_or(|(wanted, is_not)| (len == wanted) != is_not)
            && !(self.has_no_reserved && (reserved, also_reserved) != (0, 0))
    }
}
