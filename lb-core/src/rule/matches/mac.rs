//! `mac`: the Ethernet source address of what came in.

use super::Match;
use crate::rule::prelude::*;

use crate::tables::Mac as Address;
use crate::wire::array;

#[derive(Clone, PartialEq, Debug, Default)]
pub struct Mac {
    address: Address,
    is_not: bool,
}

impl Mac {
    fn put(&self, out: &mut String) {
        let [a, b, c, d, e, f] = self.address;
        put!(out, " {a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}");
    }
}

impl Extension for Mac {
    const NAME: &'static str = "mac";
    const OPTIONS: &'static [Opt] = &[opt("mac-source", 0).must().negatable()];
    const HOOKS: u8 = 0b00111;

    fn take(&mut self, given: &mut Given<'_, '_>) -> Result<(), Error> {
        let parts: Option<Vec<u8>> = given
            .value
            .split(':')
            .map(|part| if part.len() <= 2 { u8::from_str_radix(part, 16).ok() } else { None })
            .collect();
        self.address = parts
            .and_then(|parts| parts.try_into().ok())
            .ok_or_else(|| Error::parameter("Invalid MAC address specified."))?;
        self.is_not = given.is_negated;
        Ok(())
    }

    fn save(&self, out: &mut String, _: Family) {
        put!(out, "{} --mac-source", not(self.is_not));
        self.put(out);
    }

    fn list(&self, out: &mut String, _: &Style<'_>, _: &Header) {
        put!(out, " MAC{}", not(self.is_not));
        self.put(out);
    }
}

impl Match for Mac {
    fn depends(&self) -> Depends {
        Depends::Packet
    }

    fn matches(&self, view: &mut View<'_>) -> bool {
        view.input.is_some()
            && array(view.frame, 6).is_some_and(|source: &Address| (*source == self.address) != self.is_not)
    }
}
