//! `connlabel`: a label of the connection, which it may set first.
//!
//! Source of the facts: Linux, `net/netfilter/xt_connlabel.c`; what is printed and refused: recorded from iptables 1.8.9.

use super::Match;
use crate::conntrack::Labels;
use crate::rule::names::Names;
use crate::rule::prelude::*;
use crate::rule::text::number;

#[derive(Clone, PartialEq, Debug, Default)]
pub struct ConnLabel {
    bit: u16,
    sets: bool,
    is_not: bool,
}

impl ConnLabel {
    /// A number, of which iptables keeps the last 16 bits; else a name.
    fn read(given: &Given<'_, '_>) -> Result<u16, Error> {
        if given.value.is_empty() {
            return Err(Error::parameter("Argument must have a minimum length of 1 characters\n"));
        }
        let unknown = || Error::parameter(format!("label '{}' not found or invalid value", given.value));
        match number(given.value) {
            Some(bit) if (bit as u32).cast_signed() < 0 => Err(unknown()),
            Some(bit) => Ok(bit as u16),
            None => given.around.names.label(given.value).ok_or_else(unknown),
        }
    }

    fn put(&self, out: &mut String, name: Option<String>) {
        let name = name.unwrap_or_else(|| self.bit.to_string());
        put!(out, "{} --label \"{name}\"{}", not(self.is_not), if self.sets { " --set" } else { "" });
    }
}

impl Extension for ConnLabel {
    const NAME: &'static str = "connlabel";
    const OPTIONS: &'static [Opt] = &[opt("label", 0).must().negatable(), flag("set", 1)];

    fn take(&mut self, given: &mut Given<'_, '_>) -> Result<(), Error> {
        match given.id() {
            0 => (self.bit, self.is_not) = (Self::read(given)?, given.is_negated),
            _ => self.sets = true,
        }
        Ok(())
    }

    fn check(&self, _: &Place<'_>) -> Result<(), Refused> {
        if self.bit < Labels::BITS.into() { Ok(()) } else { Err(Refused::OutOfRange) }
    }

    fn save(&self, out: &mut String, _: Family) {
        self.put(out, None);
    }

    fn save_named(&self, out: &mut String, _: Family, names: &dyn Names) {
        self.put(out, names.label_name(self.bit));
    }

    fn list(&self, out: &mut String, style: &Style<'_>, _: &Header) {
        let name = if style.is_numeric { None } else { style.names.label_name(self.bit) };
        let name = name.map_or_else(|| self.bit.to_string(), |name| format!("'{name}'"));
        put!(out, " connlabel{} {name}{}", not(self.is_not), if self.sets { " set" } else { "" });
    }
}

impl Match for ConnLabel {
    fn depends(&self) -> Depends {
        if self.sets { Depends::Memory } else { Depends::Packet }
    }

    fn matches(&self, view: &mut View<'_>) -> bool {
        let bit = self.bit as u8;
        let mut is_set = view.connection.is_some() && view.labels.get().has(bit);
        if !is_set && self.sets && view.connection.is_some() {
            is_set = view.labels.add(bit);
            view.effects.has_label |= is_set;
        }
        is_set != self.is_not
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rule::names::Numeric;
    use crate::rule::{Rule, text};

    /// Two labels with names, one of which looks like another number.
    struct Named;

    impl Names for Named {
        fn protocol(&self, name: &str) -> Option<u8> {
            Numeric.protocol(name)
        }
        fn protocol_name(&self, number: u8) -> Option<String> {
            Numeric.protocol_name(number)
        }
        fn service(&self, _: &str, _: &str) -> Option<u16> {
            None
        }
        fn service_name(&self, _: u16, _: &str) -> Option<String> {
            None
        }
        fn resolve(&self, _: &str, _: Family) -> Vec<std::net::IpAddr> {
            Vec::new()
        }
        fn host_name(&self, _: std::net::IpAddr) -> Option<String> {
            None
        }
        fn label(&self, name: &str) -> Option<u16> {
            [("three four", 3), ("5", 11), ("far", 300)]
                .iter()
                .find(|known| known.0 == name)
                .map(|known| known.1)
        }
        fn label_name(&self, bit: u16) -> Option<String> {
            [(3, "three four"), (11, "5")].iter().find(|known| known.0 == bit).map(|known| known.1.to_owned())
        }
    }

    fn read(value: &str) -> Result<Rule, Error> {
        let words = ["-m", "connlabel", "--label", value].map(str::to_owned);
        Rule::read(&words, &mut Around::new(Family::Ipv4, &Named)).map(|(mut rules, _)| rules.remove(0))
    }

    #[test]
    fn a_label_is_read_by_number_first_and_shown_by_name_where_names_are_wanted() {
        let style = |is_numeric| Style { family: Family::Ipv4, is_numeric, names: &Named };
        for (value, saved, number, name) in [
            ("three four", "three four", "3", "'three four'"),
            ("3", "three four", "3", "'three four'"),
            ("11", "5", "11", "'5'"),
            ("5", "5", "5", "5"),
            (" +0x7f", "127", "127", "127"),
            ("4294967299", "three four", "3", "'three four'"),
        ] {
            let rule = read(value).unwrap();
            let saved_as = |names| text::split(&rule.save(Family::Ipv4, names)).unwrap();
            assert_eq!(saved_as(&Named), ["-m", "connlabel", "--label", saved], "{value}");
            assert_eq!(saved_as(&Numeric), ["-m", "connlabel", "--label", number], "{value}");
            assert_eq!(rule.details(&style(true)), format!(" connlabel {number}"), "{value}");
            assert_eq!(rule.details(&style(false)), format!(" connlabel {name}"), "{value}");
        }
    }

    #[test]
    fn what_is_neither_a_number_nor_a_name_is_refused_and_what_is_no_bit_later() {
        for value in ["nobody", "-1", "4294967295", "18446744073709551616", "1x"] {
            let message = format!("label '{value}' not found or invalid value");
            assert_eq!(read(value), Err(Error::parameter(message)));
        }
        let message = "Argument must have a minimum length of 1 characters\n";
        assert_eq!(read(""), Err(Error::parameter(message)));
        let refused = |bit| {
            let place = Place {
                table: Table::Filter,
                hooks: 2,
                header: &Header::default(),
                is_of_syns: false,
            };
            ConnLabel { bit, ..ConnLabel::default() }.check(&place)
        };
        assert!(refused(127).is_ok());
        assert_eq!([128, 300].map(refused), [Err(Refused::OutOfRange), Err(Refused::OutOfRange)]);
    }
}
