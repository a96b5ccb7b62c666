//! `tcpmss`: the maximum segment size that a SYN or SYN-ACK names.

use super::Match;
use crate::rule::prelude::*;

use crate::wire::tcp;

#[derive(Clone, PartialEq, Debug, Default)]
pub struct TcpMss {
    min: u16,
    max: u16,
    is_not: bool,
}

impl TcpMss {
    fn put(&self, out: &mut String) {
        if self.min == self.max { put!(out, "{}", self.min) } else { put!(out, "{}:{}", self.min, self.max) }
    }
}

impl Extension for TcpMss {
    const NAME: &'static str = "tcpmss";
    const OPTIONS: &'static [Opt] = &[opt("mss", 0).must().negatable()];
    const PROTOCOL: Option<u8> = Some(6);

    fn take(&mut self, given: &mut Given<'_, '_>) -> Result<(), Error> {
        let (min, max) = given.range(u16::MAX.into())?;
        if max < min {
            return Err(Error::parameter("tcpmss: invalid range given"));
        }
        *self = TcpMss { min: min as u16, max: max as u16, is_not: given.is_negated };
        Ok(())
    }

    fn save(&self, out: &mut String, _: Family) {
        put!(out, "{} --mss ", not(self.is_not));
        self.put(out);
    }

    fn list(&self, out: &mut String, _: &Style<'_>, _: &Header) {
        put!(out, " tcpmss match {}", if self.is_not { "!" } else { "" });
        self.put(out);
    }
}

impl Match for TcpMss {
    fn depends(&self) -> Depends {
        Depends::Packet
    }

    fn matches(&self, view: &mut View<'_>) -> bool {
        let Some((_, &[high, low])) = view.tcp().and_then(|header| tcp::option(header, tcp::MSS)) else { return self.is_not };
        (self.min..=self.max).contains(&u16::from_be_bytes([high, low])) != self.is_not
    }
}
