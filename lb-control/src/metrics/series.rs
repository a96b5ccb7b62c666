//! Families of as many samples as there are virtual services or real servers: written straight into the text.

use std::fmt::Write;

use lb_core::tables::{Protocol, Server, Service};

use super::moment::Moment;
use crate::api::types::Transport;
use crate::model;

/// A metric of virtual services or real servers.
pub(super) struct Series {
    pub(super) name: &'static str,
    pub(super) help: &'static str,
    pub(super) kind: Kind,
    pub(super) of: Of,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Counter,
    Gauge,
}

pub(super) enum Of {
    Servers(fn(&Moment, &Service, &Server) -> u64),
    /// Of those that it gives a value for.
    Services(fn(&Moment, &Service) -> Option<u64>),
    /// The same with a label's value for each sample.
    Parts(&'static str, Parts),
}

type Parts = fn(&Moment, &Service, &mut dyn FnMut(&str, u64));

impl Series {
    /// Counts upwards; its name ends in `_total`.
    pub(super) const fn counter(name: &'static str, help: &'static str, of: Of) -> Series {
        Series { name, help, kind: Kind::Counter, of }
    }

    pub(super) const fn gauge(name: &'static str, help: &'static str, of: Of) -> Series {
        Series { name, help, kind: Kind::Gauge, of }
    }
}

/// How far the samples of a list of series are written.
#[derive(Default)]
pub(super) struct Place {
    series: usize,
    service: usize,
    server: usize,
    /// The series has a sample, and so its head stands.
    has_begun: bool,
}

impl Place {
    /// Writes on until there are so many bytes or more, or all is written; then it says `false`.
    pub(super) fn write(
        &mut self,
        all: &[&[Series]],
        moment: &Moment,
        text: &mut String,
        bytes: usize,
    ) -> bool {
        while let Some(series) = all.iter().copied().flatten().nth(self.series) {
            while let Some(service) = moment.services().get(self.service) {
                self.of_service(series, moment, service, text, bytes);
                if text.len() >= bytes {
                    return true;
                }
            }
            *self = Place { series: self.series + 1, ..Place::default() };
        }
        false
    }

    /// Writes the service's samples of one series, or some of them.
    fn of_service(
        &mut self,
        series: &Series,
        moment: &Moment,
        service: &Service,
        text: &mut String,
        bytes: usize,
    ) {
        let mut samples = Samples { series, service, text, has_begun: &mut self.has_begun };
        match series.of {
            Of::Servers(value) => {
                for server in &service.servers[self.server..] {
                    samples.of_server(server, value(moment, service, server));
                    self.server += 1;
                    if samples.text.len() >= bytes && self.server < service.servers.len() {
                        return;
                    }
                }
            }
            Of::Services(value) => {
                if let Some(value) = value(moment, service) {
                    samples.of_service(None, value);
                }
            }
            Of::Parts(label, parts) => {
                parts(moment, service, &mut |part, value| samples.of_service(Some((label, part)), value));
            }
        }
        (self.service, self.server) = (self.service + 1, 0);
    }
}

/// As in `/proc/net/ip_vs`.
fn proto(protocol: Protocol) -> &'static str {
    match model::transport(protocol) {
        Transport::Tcp => "TCP",
        Transport::Udp => "UDP",
        Transport::Sctp => "SCTP",
    }
}

struct Samples<'s> {
    series: &'s Series,
    service: &'s Service,
    text: &'s mut String,
    has_begun: &'s mut bool,
}

/// To a string.
macro_rules! put {
    ($text:expr, $($what:tt)*) => {
        // Writing to a string does not fail.
        let _ = write!($text, $($what)*);
    };
}

// No value has what would have to be escaped: addresses, numbers, names of ours.
impl Samples<'_> {
    /// node_exporter's label set.
    fn of_server(&mut self, server: &Server, value: u64) {
        self.begin();
        let Server { address, port, .. } = server;
        put!(self.text, r#",remote_address="{address}",remote_port="{port}""#);
        self.end(None, value);
    }

    /// What of it is the virtual service's, and perhaps one label more.
    fn of_service(&mut self, more: Option<(&str, &str)>, value: u64) {
        self.begin();
        self.end(more, value);
    }

    fn begin(&mut self) {
        let Series { name, help, kind, .. } = self.series;
        if !std::mem::replace(self.has_begun, true) {
            let kind = match kind {
                Kind::Counter => "counter",
                Kind::Gauge => "gauge",
            };
            put!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
        }
        let key = &self.service.key;
        put!(self.text, r#"{name}{{local_address=""#);
        match key.mark() {
            // node_exporter has the mark from /proc/net/ip_vs, and no address with it. The same mark may have a service of each family.
            Some(_) if key.address.is_ipv6() => {
                put!(self.text, "::");
            }
            Some(_) => {}
            None if key.is_prefix() => {
                put!(self.text, "{}/{}", key.address, key.prefix_len);
            }
            None => {
                put!(self.text, "{}", key.address);
            }
        }
        put!(self.text, r#"",local_port="{}""#, key.port);
    }

    fn end(&mut self, more: Option<(&str, &str)>, value: u64) {
        let key = &self.service.key;
        match key.mark() {
            Some(mark) => {
                put!(self.text, r#",proto="FWM",local_mark="{mark:08X}""#);
            }
            None => {
                put!(self.text, r#",proto="{}",local_mark="""#, proto(key.protocol));
            }
        }
        if let Some((label, part)) = more {
            put!(self.text, r#",{label}="{part}""#);
        }
        put!(self.text, "}} {value}\n");
    }
}
