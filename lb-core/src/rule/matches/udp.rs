//! `udp`: ports.

use super::Match;
use crate::rule::prelude::*;

use crate::rule::ports::Ports;

#[derive(Clone, PartialEq, Debug, Default)]
pub struct Udp {
    source: Ports,
    destination: Ports,
}

impl Extension for Udp {
    const NAME: &'static str = "udp";
    const OPTIONS: &'static [Opt] = &[
        opt("source-port", 0).negatable(),
        opt("sport", 0).negatable(),
        opt("destination-port", 1).negatable(),
        opt("dport", 1).negatable(),
    ];
    const PROTOCOL: Option<u8> = Some(17);

    fn take(&mut self, given: &mut Given<'_, '_>) -> Result<(), Error> {
        match given.id() {
            0 => self.source.take_any(given, "udp"),
            _ => self.destination.take_any(given, "udp"),
        }
    }

    fn save(&self, out: &mut String, _: Family) {
        self.source.save(out, "sport");
        self.destination.save(out, "dport");
    }

    fn list(&self, out: &mut String, style: &Style<'_>, _: &Header) {
        out.push_str(" udp");
        self.source.list(out, "spt", style, "udp");
        self.destination.list(out, "dpt", style, "udp");
    }
}

impl Match for Udp {
    fn depends(&self) -> Depends {
        Depends::Flow
    }

    fn narrow(&self, to: &mut Narrowed<'_>) {
        self.source.narrow(Field::SourcePort, to);
        self.destination.narrow(Field::DestinationPort, to);
    }

    fn matches(&self, view: &mut View<'_>) -> bool {
        view.ports()
            .is_some_and(|(source, destination)| self.source.holds(source) && self.destination.holds(destination))
    }
}
