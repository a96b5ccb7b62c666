//! `lb_tables_*`: what the control plane compiled.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::Family;
use super::moment::Moment;
use crate::daemon::Control;

/// Counts the real servers of each service.
pub(super) fn later(moment: &Moment) -> Vec<Family> {
    let servers: usize = moment.services().iter().map(|service| service.servers.len()).sum();
    vec![Family::gauge("lb_tables_servers", "Real servers.").with(&[], servers as u64)]
}

pub(super) fn gather(control: &Control) -> Vec<Family> {
    let tables = control.tables();
    let gauge = |name, help, value: usize| Family::gauge(name, help).with(&[], value as u64);
    let mut families = vec![
        gauge("lb_tables_generation", "Generation of the tables published last.", tables.generation as usize),
        gauge("lb_tables_services", "Virtual services.", tables.services.len()),
        gauge(
            "lb_tables_removed_servers",
            "Removed real servers whose ids are kept for their connections.",
            control.model().removed_servers().count(),
        ),
        gauge("lb_tables_routes", "Routes.", tables.routes.len()),
        gauge(
            "lb_tables_neighbours",
            "Neighbours, those included that do not answer.",
            tables.neighbours.len(),
        ),
        gauge("lb_tables_interfaces", "Interfaces: ports and their VLANs.", tables.interfaces.iter().count()),
    ];
    if let Some(counters) = control.keep_counters() {
        let counter =
            |name, help, value: &AtomicU64| Family::counter(name, help).with(&[], value.load(Relaxed));
        families.extend([
            counter(
                "lb_tables_saved_total",
                "Times that the model was saved for the next start.",
                &counters.written,
            ),
            counter(
                "lb_tables_not_saved_total",
                "Times that this failed, as the log says.",
                &counters.failed,
            ),
        ]);
    }
    families
}
