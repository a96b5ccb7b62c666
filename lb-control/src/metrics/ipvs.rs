//! `lb_ipvs_*`: virtual services and real servers, as node_exporter's ipvs collector shows the kernel's.
//!
//! As there, the totals have no labels and the `backend_` families one series a real server
//! (source: node_exporter, collector/ipvs_linux.go). The other `backend_` counters are ours: what `ipvsadm --stats` shows.

use lb_core::ipvs::limiter::Limit;
use lb_core::tables::{Server, Service};

use super::Family;
use super::moment::Moment;
use super::series::{Of, Series};
use crate::api::types::{CookieView, Counts};
use crate::daemon::{self, Control};
use crate::stats::{connections, templates};

type Row = (&'static str, &'static str, fn(&Counts) -> u64);

const TOTALS: &[Row] = &[
    ("lb_ipvs_connections_total", "Connections made.", |counts| counts.connections),
    ("lb_ipvs_incoming_packets_total", "Packets from clients.", |counts| counts.in_packets),
    ("lb_ipvs_outgoing_packets_total", "Packets to clients.", |counts| counts.out_packets),
    ("lb_ipvs_incoming_bytes_total", "Bytes from clients.", |counts| counts.in_bytes),
    ("lb_ipvs_outgoing_bytes_total", "Bytes to clients.", |counts| counts.out_bytes),
];

/// One sample a real server, or a virtual service of a kind.
pub(super) const SERIES: &[Series] = &[
    Series::gauge(
        "lb_ipvs_backend_connections_active",
        "Connections of the real server now: of TCP those that are established or being set up, of SCTP the established ones.",
        Of::Servers(|moment, _, server| connections(&moment.workers, server.id).0),
    ),
    Series::gauge(
        "lb_ipvs_backend_connections_inactive",
        "All other connections of the real server now.",
        Of::Servers(|moment, _, server| connections(&moment.workers, server.id).1),
    ),
    Series::gauge(
        "lb_ipvs_backend_persistence_templates",
        "Clients that keep the real server now.",
        Of::Servers(|moment, _, server| templates(&moment.workers, server.id)),
    ),
    Series::gauge(
        "lb_ipvs_backend_weight",
        "Weight of the real server; 0: quiesced.",
        Of::Servers(|_, service, server| service.wanted_weight(server).into()),
    ),
    Series::counter(
        "lb_ipvs_backend_connections_total",
        "Connections made to the real server.",
        Of::Servers(|moment, _, server| counts(moment, server).connections),
    ),
    Series::counter(
        "lb_ipvs_backend_incoming_packets_total",
        "Packets from clients to the real server.",
        Of::Servers(|moment, _, server| counts(moment, server).in_packets),
    ),
    Series::counter(
        "lb_ipvs_backend_outgoing_packets_total",
        "Packets from the real server to clients.",
        Of::Servers(|moment, _, server| counts(moment, server).out_packets),
    ),
    Series::counter(
        "lb_ipvs_backend_incoming_bytes_total",
        "Bytes from clients to the real server.",
        Of::Servers(|moment, _, server| counts(moment, server).in_bytes),
    ),
    Series::counter(
        "lb_ipvs_backend_outgoing_bytes_total",
        "Bytes from the real server to clients.",
        Of::Servers(|moment, _, server| counts(moment, server).out_bytes),
    ),
    Series::counter(
        "lb_ipvs_syn_cookies_sent_total",
        "SYNs of a service's clients answered with a cookie.",
        Of::Services(|moment, service| Some(cookies(moment, service)?.sent)),
    ),
    Series::counter(
        "lb_ipvs_syn_cookies_accepted_total",
        "Acknowledgements of a service's cookies.",
        Of::Services(|moment, service| Some(cookies(moment, service)?.accepted)),
    ),
    Series::counter(
        "lb_ipvs_syn_cookies_rejected_total",
        "Packets of no connection to a service that acknowledge no cookie.",
        Of::Services(|moment, service| Some(cookies(moment, service)?.rejected)),
    ),
    Series::gauge(
        "lb_ipvs_syn_cookies",
        "Whether clients of a virtual service that may be answered with SYN cookies are, now.",
        Of::Services(|moment, service| Some(cookies(moment, service)?.on.into())),
    ),
    Series::counter(
        "lb_ipvs_by_hash_packets_total",
        "Packets that went by hash alone, the flow table being short of room.",
        Of::Services(by_hash),
    ),
    Series::counter(
        "lb_ipvs_limited_connections_total",
        "New connections of a virtual service that were not let in, by the limit that they would have exceeded.",
        Of::Parts("limit", limited),
    ),
    Series::gauge(
        "lb_ipvs_conn_limit_connections",
        "Connections of a virtual service that its conn_limit counts now.",
        Of::Services(limited_now),
    ),
];

pub(super) fn gather(control: &Control) -> Vec<Family> {
    let without_room = control.plane().counters().iter().map(|worker| worker.flows.unlimited.get()).sum();
    let no_room = Family::counter(
        "lb_ipvs_limits_without_room_total",
        "Connections of limited services that were not counted, and sources whose rate was forgotten, for want of room.",
    );
    vec![no_room.with(&[], without_room)]
}

/// Adds up what all real servers counted.
pub(super) fn later(moment: &Moment) -> Vec<Family> {
    let total = moment.baselines.total(&moment.workers);
    let family = |(name, help, count): &Row| Family::counter(name, help).with(&[], count(&total));
    TOTALS.iter().map(family).collect()
}

fn counts(moment: &Moment, server: &Server) -> Counts {
    moment.baselines.server(server.id, &moment.workers)
}

/// Of a virtual service whose clients may be answered with SYN cookies.
fn cookies(moment: &Moment, service: &Service) -> Option<CookieView> {
    daemon::cookie_view(service, &moment.baselines, &moment.workers)
}

/// Of a virtual service whose scheduler picks by a hash alone.
fn by_hash(moment: &Moment, service: &Service) -> Option<u64> {
    let [.., hashed] = service.is_stateless().then(|| moment.baselines.flood(service.id, &moment.workers))?;
    Some(hashed)
}

/// Of a virtual service whose connections are limited, by limit.
fn limited(moment: &Moment, service: &Service, sample: &mut dyn FnMut(&str, u64)) {
    if service.limiter.is_some() {
        let counts = moment.baselines.limited(service.id, &moment.workers);
        Limit::ALL.into_iter().for_each(|limit| sample(limit.name(), counts[limit as usize]));
    }
}

fn limited_now(_: &Moment, service: &Service) -> Option<u64> {
    let limiter = service.limiter.as_ref().filter(|_| service.options.limits.connections != 0)?;
    Some(limiter.connections().into())
}
