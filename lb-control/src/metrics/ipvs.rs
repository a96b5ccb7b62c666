//! `lb_ipvs_*`: virtual services and real servers, as node_exporter's ipvs collector shows the kernel's.
//!
//! As there, the totals have no labels and the `backend_` families one series a real server
//! (source: node_exporter, collector/ipvs_linux.go). The other `backend_` counters are ours: what `ipvsadm --stats` shows.

use lb_core::ipvs::limiter::Limit;
use lb_core::tables::{Server, Service};

use super::Family;
use crate::api::types::{CookieView, Counts};
use crate::daemon::Control;
use crate::model;
use crate::stats::{connections, templates};

type Row = (&'static str, &'static str, fn(&Counts) -> u64);

const TOTALS: &[Row] = &[
    ("lb_ipvs_connections_total", "Connections made.", |counts| counts.connections),
    ("lb_ipvs_incoming_packets_total", "Packets from clients.", |counts| counts.in_packets),
    ("lb_ipvs_outgoing_packets_total", "Packets to clients.", |counts| counts.out_packets),
    ("lb_ipvs_incoming_bytes_total", "Bytes from clients.", |counts| counts.in_bytes),
    ("lb_ipvs_outgoing_bytes_total", "Bytes to clients.", |counts| counts.out_bytes),
];

const BACKENDS: &[Row] = &[
    ("lb_ipvs_backend_connections_total", "Connections made to the real server.", |counts| {
        counts.connections
    }),
    ("lb_ipvs_backend_incoming_packets_total", "Packets from clients to the real server.", |counts| {
        counts.in_packets
    }),
    ("lb_ipvs_backend_outgoing_packets_total", "Packets from the real server to clients.", |counts| {
        counts.out_packets
    }),
    ("lb_ipvs_backend_incoming_bytes_total", "Bytes from clients to the real server.", |counts| {
        counts.in_bytes
    }),
    ("lb_ipvs_backend_outgoing_bytes_total", "Bytes from the real server to clients.", |counts| {
        counts.out_bytes
    }),
];

type CookieRow = (&'static str, &'static str, fn(&CookieView) -> u64);

const COOKIES: &[CookieRow] = &[
    ("lb_ipvs_syn_cookies_sent_total", "SYNs of a service's clients answered with a cookie.", |view| {
        view.sent
    }),
    ("lb_ipvs_syn_cookies_accepted_total", "Acknowledgements of a service's cookies.", |view| view.accepted),
    (
        "lb_ipvs_syn_cookies_rejected_total",
        "Packets of no connection to a service that acknowledge no cookie.",
        |view| view.rejected,
    ),
];

pub(super) fn gather(control: &Control) -> Vec<Family> {
    let workers = control.plane().counters();
    let total = control.statistics().total(workers);
    let mut families: Vec<Family> = TOTALS
        .iter()
        .map(|(name, help, count)| Family::counter(name, help).with(&[], count(&total)))
        .collect();

    let mut active = Family::gauge(
        "lb_ipvs_backend_connections_active",
        "Connections of the real server now: of TCP those that are established or being set up, of SCTP the established ones.",
    );
    let mut inactive = Family::gauge(
        "lb_ipvs_backend_connections_inactive",
        "All other connections of the real server now.",
    );
    let mut persistent =
        Family::gauge("lb_ipvs_backend_persistence_templates", "Clients that keep the real server now.");
    let mut weight = Family::gauge("lb_ipvs_backend_weight", "Weight of the real server; 0: quiesced.");
    let mut backends: Vec<Family> =
        BACKENDS.iter().map(|(name, help, _)| Family::counter(name, help)).collect();
    for service in control.model().services() {
        for server in &service.servers {
            with_labels(service, server, |labels| {
                let (now_active, now_inactive) = connections(workers, server.id);
                active.add(labels, now_active);
                inactive.add(labels, now_inactive);
                persistent.add(labels, templates(workers, server.id));
                weight.add(labels, service.wanted_weight(server).into());
                let (counts, _) = control.statistics().server(server.id, workers);
                for (family, (_, _, count)) in backends.iter_mut().zip(BACKENDS) {
                    family.add(labels, count(&counts));
                }
            });
        }
    }
    families.extend([active, inactive, persistent, weight]);
    families.extend(backends);
    families.extend(cookies(control));
    families.push(by_hash(control));
    families.extend(limited(control));
    families
}

/// Of virtual services whose clients may be answered with SYN cookies.
fn cookies(control: &Control) -> Vec<Family> {
    let mut families: Vec<_> = COOKIES.iter().map(|(name, help, _)| Family::counter(name, help)).collect();
    let mut on = Family::gauge(
        "lb_ipvs_syn_cookies",
        "Whether clients of a virtual service that may be answered with SYN cookies are, now.",
    );
    for service in control.model().services() {
        let Some(view) = control.cookie_view(service) else { continue };
        with_service_labels(service, |labels| {
            on.add(labels, view.on.into());
            for (family, (_, _, count)) in families.iter_mut().zip(COOKIES) {
                family.add(labels, count(&view));
            }
        });
    }
    families.push(on);
    families
}

/// Of virtual services whose scheduler picks by a hash alone.
fn by_hash(control: &Control) -> Family {
    let name = "lb_ipvs_by_hash_packets_total";
    let mut family =
        Family::counter(name, "Packets that went by hash alone, the flow table being short of room.");
    for service in control.model().services().filter(|service| service.is_stateless()) {
        let [.., hashed] = control.statistics().flood(service.id, control.plane().counters());
        with_service_labels(service, |labels| family.add(labels, hashed));
    }
    family
}

/// Of virtual services whose connections are limited.
fn limited(control: &Control) -> [Family; 3] {
    let mut refused = Family::counter(
        "lb_ipvs_limited_connections_total",
        "New connections of a virtual service that were not let in, by the limit that they would have exceeded.",
    );
    let mut now = Family::gauge(
        "lb_ipvs_conn_limit_connections",
        "Connections of a virtual service that its conn_limit counts now.",
    );
    for service in control.model().services().filter(|service| service.limiter.is_some()) {
        let counts = control.statistics().limited(service.id, control.plane().counters());
        with_service_labels(service, |[address, port, proto, mark]| {
            for limit in Limit::ALL {
                let labels = [*address, *port, *proto, *mark, ("limit", limit.name())];
                refused.add(&labels, counts[limit as usize]);
            }
        });
        if let Some(limiter) = service.limiter.as_ref().filter(|_| service.options.limits.connections != 0) {
            with_service_labels(service, |labels| now.add(labels, limiter.connections().into()));
        }
    }
    let without_room = control.plane().counters().iter().map(|worker| worker.flows.unlimited.get()).sum();
    let no_room = Family::counter(
        "lb_ipvs_limits_without_room_total",
        "Connections of limited services that were not counted, and sources whose rate was forgotten, for want of room.",
    );
    [refused, now, no_room.with(&[], without_room)]
}

/// node_exporter's label set.
fn with_labels(service: &Service, server: &Server, use_labels: impl FnOnce(&[(&str, &str)])) {
    with_service_labels(service, |[address, port, proto, mark]| {
        use_labels(&[
            *address,
            *port,
            ("remote_address", &server.address.to_string()),
            ("remote_port", &server.port.to_string()),
            *proto,
            *mark,
        ]);
    });
}

/// What of it is the virtual service's.
fn with_service_labels(service: &Service, use_labels: impl FnOnce(&[(&str, &str); 4])) {
    let key = service.key;
    // node_exporter has the mark from /proc/net/ip_vs, and no address with it.
    let (proto, address, mark) = match key.mark() {
        Some(mark) => ("FWM".to_owned(), String::new(), format!("{mark:08X}")),
        None => {
            let proto = model::transport(key.protocol).name().to_uppercase();
            let (address, len) = (key.address, key.prefix_len);
            (
                proto,
                if key.is_prefix() { format!("{address}/{len}") } else { address.to_string() },
                String::new(),
            )
        }
    };
    use_labels(&[
        ("local_address", &address),
        ("local_port", &key.port.to_string()),
        ("proto", &proto),
        ("local_mark", &mark),
    ]);
}
