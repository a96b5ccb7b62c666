//! From what the operator wrote and what Linux says to the tables that the workers use.
//!
//! Each publication is a new [`Tables`] that shares every part that did not change with the one before: a real server
//! that is edited rebuilds its service (the model does) and a few pieces of the index of services; the other pieces, routes,
//! neighbours, interfaces and the other services stay the same allocations. So what a change costs does not grow with the number of
//! services (`docs/decisions/0012-a-change-costs-what-it-changes.md`).

use std::sync::Arc;

use lb_core::rule::Rules;
use lb_core::rule::fingerprint::Fingerprints;
use lb_core::set::Sets;
use lb_core::syn_cookie::{Key, Secrets};
use lb_core::tables::{Interfaces, Marks, Neighbours, Routes, Service, ServiceKey, Settings, Tables, Zone};
use lb_core::trace::Trace;

use crate::model::Model;

/// What the Linux twin contributes: interfaces, routes, neighbours of one moment.
#[derive(Clone, Debug, Default)]
pub struct Network {
    pub interfaces: Arc<Interfaces>,
    pub routes: Arc<Routes>,
    pub neighbours: Arc<Neighbours>,
}

/// One virtual service, as it was and as it is; `None` where there was or is none with its key.
#[derive(Clone, Debug)]
pub struct ServiceChange {
    pub key: ServiceKey,
    pub old: Option<Arc<Service>>,
    pub new: Option<Arc<Service>>,
}

/// Builds one snapshot after the other.
#[derive(Debug, Default)]
pub struct Compiler {
    current: Arc<Tables>,
    marks: Arc<Marks>,
    rules: Arc<Rules>,
    sets: Arc<Sets>,
    fingerprints: Arc<Fingerprints>,
    trace: Option<Arc<Trace>>,
    zone: Arc<Zone>,
    cookies: Secrets,
}

impl Compiler {
    /// The snapshot that was built last.
    pub fn current(&self) -> &Arc<Tables> {
        &self.current
    }

    /// The firewall marks of the snapshots to come.
    pub fn set_marks(&mut self, marks: Marks) {
        self.marks = marks.into();
    }

    /// The rules of the snapshots to come.
    pub fn set_rules(&mut self, rules: Arc<Rules>) {
        self.rules = rules;
    }

    /// The IP sets of the snapshots to come.
    pub fn set_sets(&mut self, sets: Arc<Sets>) {
        self.sets = sets;
    }

    /// What operating systems' SYNs look like in the snapshots to come.
    pub fn set_fingerprints(&mut self, fingerprints: Arc<Fingerprints>) {
        self.fingerprints = fingerprints;
    }

    /// The time zone of the snapshots to come. True: it is another one than before.
    pub fn set_zone(&mut self, zone: Zone) -> bool {
        let is_other = *self.zone != zone;
        if is_other {
            self.zone = zone.into();
        }
        is_other
    }

    /// Has the snapshots to come make SYN cookies with another key.
    pub fn rotate_cookies(&mut self, key: Key) {
        let is_first = self.cookies == Secrets::default();
        self.cookies = if is_first { Secrets::new(key) } else { self.cookies.rotated(key) };
    }

    /// The packets that the workers of the snapshots to come watch.
    pub fn set_trace(&mut self, trace: Option<Arc<Trace>>) {
        self.trace = trace;
    }

    pub fn trace(&self) -> Option<&Arc<Trace>> {
        self.trace.as_ref()
    }

    /// Which of these services the model has otherwise than the snapshot that was built last.
    pub fn changes(&self, model: &Model, keys: impl IntoIterator<Item = ServiceKey>) -> Vec<ServiceChange> {
        let change = |key| {
            let (old, new) = (self.current.services.find(&key), model.at(&key));
            let is_same = old.map(Arc::as_ptr) == new.map(Arc::as_ptr);
            (!is_same).then(|| ServiceChange { key, old: old.cloned(), new: new.cloned() })
        };
        keys.into_iter().filter_map(change).collect()
    }

    /// A snapshot with the model's services and timeouts, whatever changed, and the marks.
    pub fn with_model(&mut self, model: &Model, settings: Settings) -> Arc<Tables> {
        let here = model.services().map(|service| service.key);
        let gone = self.current.services.iter().map(|service| service.key);
        let gone = gone.filter(|key| model.at(key).is_none());
        let changes = self.changes(model, here.chain(gone));
        self.set_fingerprints(model.fingerprints().clone());
        self.with_changes(&changes, model.settings(settings))
    }

    /// A snapshot with these changes of services, and the marks.
    pub fn with_changes(&mut self, changes: &[ServiceChange], settings: Settings) -> Arc<Tables> {
        let mut services = self.current.services.clone();
        for ServiceChange { key, new, .. } in changes {
            // Copied at the first change, and only then.
            let services = Arc::make_mut(&mut services);
            match new {
                Some(service) => services.put(service.clone()),
                None => services.remove(key),
            }
        }
        self.next(Tables {
            services,
            marks: self.marks.clone(),
            rules: self.rules.clone(),
            sets: self.sets.clone(),
            fingerprints: self.fingerprints.clone(),
            settings,
            trace: self.trace.clone(),
            zone: self.zone.clone(),
            cookies: self.cookies,
            ..Tables::clone(&self.current)
        })
    }

    /// A snapshot with the network as it is now; `None` when that is what the current one has.
    pub fn with_network(&mut self, network: &Network) -> Option<Arc<Tables>> {
        let Network { interfaces, routes, neighbours } = network.clone();
        let old = &self.current;
        let is_same = Arc::ptr_eq(&old.interfaces, &interfaces)
            && Arc::ptr_eq(&old.routes, &routes)
            && Arc::ptr_eq(&old.neighbours, &neighbours);
        (!is_same)
            .then(|| self.next(Tables { interfaces, routes, neighbours, ..Tables::clone(&self.current) }))
    }

    fn next(&mut self, tables: Tables) -> Arc<Tables> {
        // 0 is the generation of workers that have no tables yet.
        let generation = self.current.generation.checked_add(1).unwrap_or(1);
        self.current = Arc::new(Tables { generation, ..tables });
        self.current.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::types::{Command, ServerSpec, ServiceAddress, ServiceSpec};
    use crate::model::Limits;

    fn service(n: u8) -> ServiceAddress {
        format!("tcp/192.0.2.{n}:80").parse().expect("an address")
    }

    fn model(services: u8) -> Model {
        let mut model = Model::new(Limits { services: 100, servers: 100 });
        for n in 1..=services {
            model.apply(&Command::AddService(ServiceSpec::new(service(n), "rr"))).expect("right");
            let server = ServerSpec::new(format!("10.0.0.{n}:80").parse().expect("an address"));
            model.apply(&Command::AddServer { service: service(n), server }).expect("right");
        }
        model
    }

    #[test]
    fn a_changed_server_rebuilds_its_service_alone() {
        let (mut compiler, mut model) = (Compiler::default(), model(3));
        let settings = Settings::default();
        let before = compiler.with_model(&model, settings);
        let server = ServerSpec { weight: 9, ..ServerSpec::new("10.0.0.2:80".parse().expect("an address")) };
        model.apply(&Command::EditServer { service: service(2), server }).expect("right");
        let after = compiler.with_model(&model, settings);
        for n in 1..=3 {
            let key = crate::model::key(&service(n));
            let is_shared = Arc::ptr_eq(
                before.services.find(&key).expect("there"),
                after.services.find(&key).expect("there"),
            );
            assert_eq!(is_shared, n != 2, "service {n}");
        }
        assert!(Arc::ptr_eq(&before.routes, &after.routes));
        assert!(Arc::ptr_eq(&before.neighbours, &after.neighbours));
        assert!(Arc::ptr_eq(&before.interfaces, &after.interfaces));
        assert_eq!(after.generation, before.generation + 1);
    }

    #[test]
    fn a_changed_timeout_shares_all_services() {
        let (mut compiler, mut model) = (Compiler::default(), model(2));
        let settings = Settings { forwarding: false, ..Settings::default() };
        let before = compiler.with_model(&model, settings);
        let timeouts = crate::api::types::Timeouts { tcp: 5, tcp_fin: 0, udp: 0 };
        model.apply(&Command::SetTimeouts(timeouts)).expect("right");
        let after = compiler.with_model(&model, settings);
        assert!(Arc::ptr_eq(&before.services, &after.services));
        assert_eq!((after.settings.tcp.as_secs(), after.settings.forwarding), (5, false));
        assert_eq!(before.settings.tcp.as_secs(), 900);
    }

    #[test]
    fn a_new_route_shares_all_but_the_routes() {
        let mut compiler = Compiler::default();
        let before = compiler.with_model(&model(2), Settings::default());
        let same = Network {
            interfaces: before.interfaces.clone(),
            routes: before.routes.clone(),
            neighbours: before.neighbours.clone(),
        };
        assert!(compiler.with_network(&same).is_none(), "nothing new, nothing to publish");
        let after = compiler.with_network(&Network { routes: Arc::default(), ..same }).expect("new routes");
        assert!(Arc::ptr_eq(&before.services, &after.services));
        assert!(Arc::ptr_eq(&before.neighbours, &after.neighbours));
        assert!(!Arc::ptr_eq(&before.routes, &after.routes));
        assert_eq!(after.generation, before.generation + 1);
    }
}
