//! Who is overloaded without reason? A real server's thresholds are the workers' to watch, each by the tables that it uses. A worker
//! that ends a connection by tables in which the server had no threshold yet, or another flag, leaves the flag that counts now as it
//! is; were it the last connection, nothing would ever clear it. So the control plane looks once more when all workers use the
//! tables: from then on each end of a connection clears what it must.

use std::sync::Arc;

use lb_core::counters::WorkerCounters;
use lb_core::ids::ServerId;
use lb_core::tables::Services;

use crate::stats;

/// Lets connections in again where fewer are left than the lower threshold. All of `workers` must use these services by now.
/// Calls `relieved` for each real server that was looked at because it is overloaded.
pub fn relieve(services: &Services, workers: &[Arc<WorkerCounters>], mut relieved: impl FnMut(ServerId)) {
    for service in services.iter() {
        for server in service.servers.iter().filter(|server| server.is_overloaded()) {
            server.after_unbind(|| {
                let (active, inactive) = stats::connections(workers, server.id);
                active.wrapping_add(inactive)
            });
            relieved(server.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use lb_core::ipvs::SchedulerKind;
    use lb_core::tables::{Forward, Protocol, Server, Service, ServiceKey};

    use super::*;

    const ID: ServerId = ServerId(3);

    fn services(upper_threshold: u32) -> (Services, Server) {
        let address = std::net::IpAddr::from([10, 0, 0, 1]);
        let server = Server {
            upper_threshold,
            lower_threshold: u32::from(upper_threshold > 0),
            ..Server::new(ID, (address, 80), 1, Forward::Masq)
        };
        let key = ServiceKey::new(Protocol::TCP, address, 80);
        let id = lb_core::ids::ServiceId(0);
        let service = Service::new(None, id, key, SchedulerKind::Rr, vec![server.clone()], 1);
        (Services::new([Arc::new(service)]), server)
    }

    #[test]
    fn a_server_whose_last_connection_ended_under_the_tables_before_its_threshold_is_relieved() {
        let workers: [_; 2] = std::array::from_fn(|_| Arc::new(WorkerCounters::new(8, 0)));
        let connections = || workers.iter().map(|worker| worker.server(ID).active.get()).sum();
        let ((_, before), (services, after)) = (services(0), services(2));
        // The second worker has no threshold yet, the first one binds by one.
        workers[1].server(ID).active.set(1);
        workers[0].server(ID).active.set(1);
        after.after_bind(connections);
        relieve(&services, &workers, drop);
        assert!(after.is_overloaded(), "two connections are two");
        workers[0].server(ID).active.set(0);
        after.after_unbind(connections);
        workers[1].server(ID).active.set(0);
        before.after_unbind(connections);
        assert!(after.is_overloaded(), "who ended the last one knew of no threshold");
        relieve(&services, &workers, |id| assert_eq!(id, ID));
        assert!(!after.is_overloaded());
    }
}
